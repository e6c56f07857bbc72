"""A checkpoint of any run becomes a Hugging Face directory, at the workdir itself.

python -m experiments.convert --config=configs/convert/to_hf.py --workdir=exported \
  --config.source=runs/r1/convert/checkpoints --config.param_dtype=bfloat16
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config() -> ConfigDict:
  parallel = common.parallel()
  parallel.mesh.update({"data": 1, "fsdp": -1})
  parallel.rules = "full"
  return ConfigDict(
    {
      "to": "hf",
      "source": placeholder(str),
      "tokenizer": placeholder(str),  # folder of its files; by default that beside the source
      "param_dtype": placeholder(str),  # of the weights; by default the model's
      "max_shard_gb": 5.0,
      "parallel": parallel,
      "dry_run": False,
    }
  )
