"""Model shapes by name. A family is a row here; sizes are those of the released checkpoints."""

from __future__ import annotations

import dataclasses

from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig

# How released models are computed; the weights are in bfloat16.
_RELEASED = {"init_std": 0.02, "dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full"}

# DeepSeek-V3 (arXiv 2412.19437), as its config.json has it.
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
  **_RELEASED,
)

# DeepSeek-V2 (arXiv 2405.04434): the paper's temperature sqrt(t) = 0.0707 ln s + 1 is mscale 0.707.
_DEEPSEEK_V2 = ModelConfig(
  vocab_size=102400,
  hidden_size=5120,
  num_layers=60,
  num_dense_layers=1,
  num_heads=128,
  attention=MLAConfig(
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
  ),
  dense_ffn_size=12288,
  moe_ffn_size=1536,
  num_routed_experts=160,
  num_shared_experts=2,
  experts_per_token=6,
  num_expert_groups=8,
  num_limited_groups=3,
  score_function="softmax",
  normalize_weights=False,
  routed_scale=16.0,
  rope_scaling=YarnConfig(mscale=0.707, mscale_all_dim=0.707),
  max_length=163840,
  **_RELEASED,
)

_DEEPSEEK_V2_LITE = _DEEPSEEK_V2.replace(
  hidden_size=2048,
  num_layers=27,
  num_heads=16,
  attention=MLAConfig(
    q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
  ),
  dense_ffn_size=10944,
  moe_ffn_size=1408,
  num_routed_experts=64,
  num_expert_groups=1,
  num_limited_groups=1,
  routed_scale=1.0,
)


def _dense(D, F, L, H, N, V, *, head_dim=128, qkv_bias, **other) -> ModelConfig:
  """D width, F FFN width, L layers, H query heads, N key heads, V tokens."""
  sizes = {"vocab_size": V, "hidden_size": D, "num_layers": L, "num_dense_layers": L}
  sizes |= {"num_heads": H, "dense_ffn_size": F}
  attention = GQAConfig(num_kv_heads=N, head_dim=head_dim, qkv_bias=qkv_bias)
  return ModelConfig(**sizes, attention=attention, **(_RELEASED | other))


def _qwen(D, F, L, H, N, V, *, theta=1e6, length=131072, **other) -> ModelConfig:
  """Qwen2.5 (arXiv 2412.15115), base models. The 14B and larger have a norm epsilon of 1e-5."""
  other = {"norm_eps": 1e-5 if D >= 5120 else 1e-6} | other
  return _dense(D, F, L, H, N, V, qkv_bias=True, rope_theta=theta, max_length=length, **other)


def _llama(D, F, L, H, N, *, factor=None, **other) -> ModelConfig:
  """Llama 3 (arXiv 2407.21783); a factor is that of 3.1's and 3.2's context extension."""
  scaling = {"rope_scaling": Llama3RopeConfig(factor), "max_length": 131072} if factor else {}
  other = {"rope_theta": 5e5, "norm_eps": 1e-5, "max_length": 8192} | scaling | other
  return _dense(D, F, L, H, N, 128256, qkv_bias=False, **other)


_TIED = {"tie_embeddings": True}
# Students keep the shape of their base model, but none ties its head: (D, F, L, H, N, V).
_QWEN_1_5B = (1536, 8960, 28, 12, 2, 151936)
_QWEN_7B = (3584, 18944, 28, 28, 4, 152064)
_QWEN_14B = (5120, 13824, 48, 40, 8, 152064)
_QWEN_32B = (5120, 27648, 64, 40, 8, 152064)
_LLAMA_8B = (4096, 14336, 32, 32, 8)
_LLAMA_70B = (8192, 28672, 80, 64, 8)

_DEEPSEEK = {
  "deepseek_v3_671b": _DEEPSEEK_V3,
  # As pretrained: the paper's initialisation, and 4K context before YaRN.
  "deepseek_v3_671b_paper": _DEEPSEEK_V3.replace(init_std=0.006, rope_scaling=None),
  "deepseek_r1": _DEEPSEEK_V3,
  "deepseek_r1_zero": _DEEPSEEK_V3,
  # config.json and paper agree on mscale 0.707; the inference code in DeepSeek-V3's repository
  # leaves it out of its config_236B.json, which there means 1.
  "deepseek_v2_236b": _DEEPSEEK_V2,
  "deepseek_v2_236b_paper": _DEEPSEEK_V2.replace(init_std=0.006, rope_scaling=None),
  "deepseek_v2_lite": _DEEPSEEK_V2_LITE,
}

_R1_DISTILL = {
  "r1_distill_qwen_1.5b": _qwen(*_QWEN_1_5B, theta=1e4),  # of Qwen2.5-Math
  "r1_distill_qwen_7b": _qwen(*_QWEN_7B, theta=1e4),  # of Qwen2.5-Math
  "r1_distill_qwen_14b": _qwen(*_QWEN_14B),
  "r1_distill_qwen_32b": _qwen(*_QWEN_32B),
  "r1_distill_llama_8b": _llama(*_LLAMA_8B, factor=8.0),  # of Llama 3.1
  "r1_distill_llama_70b": _llama(*_LLAMA_70B, factor=8.0),  # of Llama 3.3
}

_QWEN = {
  "qwen2.5_0.5b": _qwen(896, 4864, 24, 14, 2, 151936, head_dim=64, length=32768, **_TIED),
  "qwen2.5_1.5b": _qwen(*_QWEN_1_5B, **_TIED),
  "qwen2.5_3b": _qwen(2048, 11008, 36, 16, 2, 151936, length=32768, **_TIED),
  "qwen2.5_7b": _qwen(*_QWEN_7B),
  "qwen2.5_14b": _qwen(*_QWEN_14B),
  "qwen2.5_32b": _qwen(*_QWEN_32B),
  "qwen2.5_72b": _qwen(8192, 29568, 80, 64, 8, 152064),
  "qwen2.5_math_1.5b": _qwen(*_QWEN_1_5B, theta=1e4, length=4096, **_TIED),
  "qwen2.5_math_7b": _qwen(*_QWEN_7B, theta=1e4, length=4096),
}

_LLAMA = {
  "llama3_8b": _llama(*_LLAMA_8B),
  "llama3_70b": _llama(*_LLAMA_70B),
  "llama3.1_8b": _llama(*_LLAMA_8B, factor=8.0),
  "llama3.1_70b": _llama(*_LLAMA_70B, factor=8.0),
  "llama3.1_405b": _llama(16384, 53248, 126, 128, 8, factor=8.0),
  "llama3.2_1b": _llama(2048, 8192, 16, 32, 8, head_dim=64, factor=32.0, **_TIED),
  "llama3.2_3b": _llama(3072, 8192, 28, 24, 8, factor=32.0, **_TIED),
}

# Tiny twins for tests: everything that the family has, in two to four narrow layers.
_TINY_SIZES = {
  "vocab_size": 64,
  "hidden_size": 32,
  "num_heads": 4,
  "dense_ffn_size": 64,
  "max_length": 4096,
  "init_std": 0.1,
  "dtype": "float32",
  "param_dtype": "float32",
  "remat": "none",
}
_TINY_MOE = _TINY_SIZES | {
  "num_layers": 4,
  "num_dense_layers": 1,
  "moe_ffn_size": 24,
  "num_routed_experts": 8,
  "experts_per_token": 2,
}
_TINY_GROUPS = {"num_expert_groups": 4, "num_limited_groups": 2}
_TINY_DENSE = _TINY_SIZES | {"num_layers": 3, "num_dense_layers": 3}
_TINY_MLA = MLAConfig(
  q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=16
)
_TINY_V2_YARN = YarnConfig(factor=4.0, original_length=64, mscale=0.707, mscale_all_dim=0.707)

_TINY = {
  "deepseek_v3_tiny": _DEEPSEEK_V3.replace(
    **_TINY_MOE,
    **_TINY_GROUPS,
    attention=_TINY_MLA,
    rope_scaling=YarnConfig(factor=4.0, original_length=64),
  ),
  "deepseek_v2_tiny": _DEEPSEEK_V2.replace(
    **_TINY_MOE, **_TINY_GROUPS, attention=_TINY_MLA, rope_scaling=_TINY_V2_YARN
  ),
  "deepseek_v2_lite_tiny": _DEEPSEEK_V2_LITE.replace(
    **_TINY_MOE,
    attention=dataclasses.replace(_TINY_MLA, q_lora_rank=None),
    rope_scaling=_TINY_V2_YARN,
  ),
  "qwen2_tiny": _QWEN["qwen2.5_1.5b"].replace(
    **_TINY_DENSE, attention=GQAConfig(num_kv_heads=2, head_dim=8, qkv_bias=True)
  ),
  "llama3_tiny": _LLAMA["llama3.1_8b"].replace(
    **_TINY_DENSE,
    attention=GQAConfig(num_kv_heads=2, head_dim=8),
    rope_scaling=Llama3RopeConfig(factor=8.0, original_length=64),
  ),
}

_PRESETS: dict[str, ModelConfig] = _DEEPSEEK | _R1_DISTILL | _QWEN | _LLAMA | _TINY


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
