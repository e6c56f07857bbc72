"""Coconut on left-to-right arithmetic modulo 10: three steps become three continuous thoughts.

python -m experiments.coconut --config=configs/coconut/chain.py --workdir=runs/coconut
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config() -> ConfigDict:
  first = common.pretrain(steps=500, microbatches=1, rows=64, row_length=40)
  first.loss.mtp = 0.0
  first.loss.balance = 0.0
  first.bias_rate = 0.0
  later = first.copy_and_resolve_references()
  later.loop.steps = 400
  later.optim.learning_rate = 5e-3
  later.optim.warmup_steps = 20
  task = common.chain_task()
  task.options.update({"min_operations": 3, "max_operations": 3})
  task.options.update({"direct_share": 0.0, "noise": 0.0})
  model = common.model(vocab_size=32)
  model.update({"num_dense_layers": 3, "num_routed_experts": 0, "num_mtp_modules": 0})
  sampling = {"max_new_tokens": 24, "samples": 1, "temperature": 0.0}
  sampling |= {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
  return ConfigDict(
    {
      "init_from": placeholder(str),
      "data": placeholder(str),
      "examples": 50_000,
      "separator": ";",
      "problems": 512,
      "prompt_length": 10,
      "parallel": common.parallel(),
      "task": task,
      "model": model,
      "coconut": {
        "curriculum": {"stages": 2, "latents_per_step": 1, "mixing": 0.0},
        "first": first,
        "later": later,
        "text_length": 25,
      },
      "sampling": sampling,
    }
  )
