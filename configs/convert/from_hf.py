"""A Hugging Face directory becomes a checkpoint that every entry point takes as `init_from`.

python -m experiments.convert --config=configs/convert/from_hf.py --workdir=runs/r1 \
  --config.source=DeepSeek-R1
The model's shape is then in runs/r1/config.json, its weights in runs/r1/convert/checkpoints.
`--config.dry_run=true` only prints which tensor becomes which parameter, and what does not fit.
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
      "to": "orbax",
      "source": placeholder(str),
      "tokenizer": placeholder(str),  # folder of its files; by default the source
      "param_dtype": placeholder(str),  # by default that of the source
      "max_shard_gb": 5.0,
      "parallel": parallel,
      "dry_run": False,
    }
  )
