"""A Hugging Face directory becomes a checkpoint to start from, or the other way around.

python -m experiments.convert --config=configs/convert/from_hf.py --workdir=runs/r1 \
  --config.source=DeepSeek-R1
python -m experiments.convert --config=configs/convert/to_hf.py --workdir=exported \
  --config.source=runs/r1/convert/checkpoints
"""

from experiments import launch


def main(config, workdir: str) -> None:
  from reasonjax.core import config as config_lib
  from reasonjax.pipelines import convert

  convert.run(config_lib.build(convert.ConvertConfig, config.to_dict()), workdir)


if __name__ == "__main__":
  launch.run(main)
