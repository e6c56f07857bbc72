"""Model shapes by name. A family is a row here; sizes are those of the released checkpoints."""

from __future__ import annotations

from reasonjax.models.attention_config import MLAConfig
from reasonjax.models.config import ModelConfig, YarnConfig

_DEEPSEEK_V3 = ModelConfig(
  vocab_size=129280,
  hidden_size=7168,
  num_layers=61,
  num_dense_layers=3,
  num_heads=128,
  attention=MLAConfig(
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
  ),
  dense_ffn_size=18432,
  moe_ffn_size=2048,
  num_routed_experts=256,
  num_shared_experts=1,
  experts_per_token=8,
  num_expert_groups=8,
  num_limited_groups=4,
  routed_scale=2.5,
  num_mtp_modules=1,
  rope_scaling=YarnConfig(),
  max_length=163840,
  init_std=0.02,
  dtype="bfloat16",
  param_dtype="bfloat16",
  remat="full",
)

_PRESETS: dict[str, ModelConfig] = {
  # DeepSeek-V3 and R1 (2412.19437) with the released config.json's initializer_range.
  "deepseek_v3_671b": _DEEPSEEK_V3,
  # As pretrained: the paper's initialisation, and 4K context before YaRN.
  "deepseek_v3_671b_paper": _DEEPSEEK_V3.replace(init_std=0.006, rope_scaling=None),
  # Everything V3 has, at a size for tests: both stacks, query latent, groups, MTP, YaRN.
  "deepseek_v3_tiny": ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=4,
    num_dense_layers=1,
    num_heads=4,
    attention=MLAConfig(
      q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16
    ),
    dense_ffn_size=64,
    moe_ffn_size=24,
    num_routed_experts=8,
    num_shared_experts=1,
    experts_per_token=2,
    num_expert_groups=4,
    num_limited_groups=2,
    routed_scale=2.5,
    num_mtp_modules=1,
    rope_scaling=YarnConfig(factor=4.0, original_length=64),
    init_std=0.1,
  ),
}


def names() -> list[str]:
  """All preset names, sorted."""
  return sorted(_PRESETS)


def get(name: str) -> ModelConfig:
  """The named model.

  Raises:
    ValueError: for an unknown name.

  >>> get("deepseek_v3_671b").num_layers
  61
  """
  if name not in _PRESETS:
    raise ValueError(f"preset={name!r}: choose from {names()}.")
  return _PRESETS[name]
