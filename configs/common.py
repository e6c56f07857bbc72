"""Building blocks of configs. Every value a run uses stands here or in the file that is run."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def parallel() -> ConfigDict:
  """All devices share the batch; on a CPU every core is a device."""
  mesh = {"data": -1, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
  return ConfigDict({"mesh": mesh, "rules": "data"})


def model(vocab_size: int) -> ConfigDict:
  """A DeepSeek-V3 in miniature: 0.28 M parameters at 32 symbols, 0.08 M of them in the MTP module.

  MLA, group-limited routing over 8 experts, a shared expert, one MTP module. `q_lora_rank=None`
  projects queries directly, as V2-Lite does.
  """
  return ConfigDict(
    {
      "vocab_size": vocab_size,
      "hidden_size": 64,
      "num_layers": 3,
      "num_dense_layers": 1,
      "num_heads": 4,
      "attention": {
        "q_lora_rank": placeholder(int),
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "latent_norm_eps": 1e-6,
        "bias": False,
      },
      "dense_ffn_size": 192,
      "moe_ffn_size": 32,
      "num_routed_experts": 8,
      "num_shared_experts": 1,
      "experts_per_token": 2,
      "num_expert_groups": 4,
      "num_limited_groups": 2,
      "score_function": "sigmoid",
      "normalize_weights": True,
      "routed_scale": 1.0,
      "num_mtp_modules": 1,
      "mtp_hidden": "post",
      "rope_theta": 10000.0,
      "rope_scaling": placeholder(ConfigDict),
      "max_length": 4096,
      "norm_eps": 1e-6,
      "block_norms": "pre",
      "embedding_scale": 1.0,
      "recurrent": placeholder(ConfigDict),
      "tie_embeddings": False,
      "init_std": 0.05,
      "dtype": "float32",
      "param_dtype": "float32",
      "remat": "none",
      "scan_unroll": 2,
      "moe_implementation": "grouped",
    }
  )


def optim(name: str, learning_rate: float, schedule: str, warmup_steps: int) -> ConfigDict:
  return ConfigDict(
    {
      "name": name,
      "learning_rate": learning_rate,
      "schedule": schedule,
      "warmup_steps": warmup_steps,
      "final_fraction": 0.05,
      "b1": 0.9,
      "b2": 0.95,
      "eps": 1e-8,
      "weight_decay": 0.0,
      "clip_norm": 1.0,
      "muon_momentum": 0.95,
    }
  )


def loop(steps: int, log_every: int, eval_every: int, checkpoint_every: int) -> ConfigDict:
  return ConfigDict(
    {
      "steps": steps,
      "log_every": log_every,
      "eval_every": eval_every,
      "checkpoint_every": checkpoint_every,
      "tensorboard": False,
    }
  )


def lm_loss(mtp: float, balance: float) -> ConfigDict:
  """Cross entropy with the given terms; the other balance losses are those of other routers."""
  return ConfigDict(
    {
      "mtp": mtp,
      "z": 0.0,
      "balance": balance,
      "chunk": placeholder(int),
      "balance_routed": False,
      "device_balance": 0.0,
      "communication_balance": 0.0,
      "importance": 0.0,
      "load": 0.0,
    }
  )


def pretrain(steps: int, microbatches: int, rows: int, row_length: int) -> ConfigDict:
  """Muon on packed documents, with MTP loss, bias balancing and sequence-wise balance loss."""
  return ConfigDict(
    {
      "seed": 0,
      "loop": loop(steps, log_every=10, eval_every=0, checkpoint_every=500),
      "batch": {"microbatches": microbatches, "rows": rows, "row_length": row_length},
      "optim": optim("muon", 1e-2, "linear", warmup_steps=50),
      "loss": lm_loss(mtp=0.1, balance=1e-4),
      "bias_rate": 1e-3,
    }
  )


def rl(steps: int, prompt_length: int, max_new_tokens: int, row_length: int) -> ConfigDict:
  """GRPO with clip-higher, token-level loss and flat groups filtered (the "dapo" preset).

  `options` replace single values of the preset; None keeps the preset's.
  """
  return ConfigDict(
    {
      "seed": 0,
      "preset": "dapo",
      "options": {
        "baseline": placeholder(str),
        "scale": placeholder(str),
        "ddof": placeholder(int),
        "eps": placeholder(float),
        "whiten": placeholder(str),
        "drop_flat_groups": placeholder(bool),
        "surrogate": placeholder(str),
        "ratio_level": placeholder(str),
        "clip_low": placeholder(float),
        "clip_high": placeholder(float),
        "dual_clip": placeholder(float),
        "mirror_tau": placeholder(float),
        "aggregation": placeholder(str),
        "correction": placeholder(str),
        "correction_low": placeholder(float),
        "correction_high": placeholder(float),
        "kl_estimator": placeholder(str),
        "kl_coefficient": placeholder(float),
        "entropy_coefficient": placeholder(float),
      },
      "loop": loop(steps, log_every=1, eval_every=10, checkpoint_every=20),
      "optim": optim("adamw", 1e-3, "linear", warmup_steps=5),
      "prompts": 32,
      "samples": 8,
      "prompt_length": prompt_length,
      "max_new_tokens": max_new_tokens,
      "temperature": 1.0,
      "minibatches": 1,
      "epochs": 1,
      "reward_weights": {"accuracy": 1.0, "format": 0.0},
      "rows": 8,
      "row_length": row_length,
      "chunk": placeholder(int),
      "bias_rate": 0.0,
    }
  )


def evaluation(problems: int, samples: int) -> ConfigDict:
  """Held-out problems, `samples` of each at temperature 1; fewer problems during training."""
  return ConfigDict(
    {
      "problems": problems,
      "samples": samples,
      "training_problems": 128,
      "vote_sizes": (1, 2, 4, 8, 16),
      "seed": 0,
    }
  )


def chain_task() -> ConfigDict:
  """Left-to-right arithmetic modulo 10; 45 % of the corpus is written by people who think."""
  options = {"min_operations": 3, "max_operations": 8, "direct_share": 0.55, "noise": 0.05}
  return ConfigDict({"name": "chain", "options": options, "tokenizer": "symbols"})


def countdown_task() -> ConfigDict:
  """Three numbers up to 12; 20 % of the corpus is written by people who search."""
  options = {
    "max_number": 12,
    "max_result": 99,
    "direct_share": 0.8,
    "lucky": 0.3,
    "closeness": 8.0,
    "stray": 0.1,
    "overlook": 0.1,
    "max_rejected": 12,
    "noise": 0.02,
  }
  return ConfigDict({"name": "countdown", "options": options, "tokenizer": "symbols"})
