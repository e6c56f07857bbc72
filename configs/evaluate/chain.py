"""Any checkpoint of the chain task on held-out problems.

python -m experiments.evaluate --config=configs/evaluate/chain.py --workdir=runs/chain_evaluation \
  --config.init_from=runs/chain/3_rl/checkpoints
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config() -> ConfigDict:
  sampling = {"max_new_tokens": 64, "samples": 16, "temperature": 1.0}
  sampling |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
  return ConfigDict(
    {
      "init_from": placeholder(str),
      "split": "test",
      "problems": 256,
      "vote_sizes": (1, 2, 4, 8, 16),
      "prompt_length": 24,
      "rows": 256,
      "seed": 0,
      "sampling": sampling,
      "parallel": common.parallel(),
      "task": common.chain_task(),
      "model": common.model(vocab_size=32),
    }
  )
