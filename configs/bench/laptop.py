"""Fast paths against their references at the size of the laptop pipelines, on one device.

python -m experiments.bench --config=configs/bench/laptop.py --workdir=runs/bench --cpu_devices=1
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
  return ConfigDict(
    {
      "rows": 32,
      "length": 64,
      "group": 8,
      "repeats": 15,
      "vocab": 32768,
      "parallel": common.parallel(),
      "task": common.chain_task(),
      "model": common.model(vocab_size=32),
    }
  )
