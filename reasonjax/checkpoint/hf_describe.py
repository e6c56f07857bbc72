"""From ModelConfig to Hugging Face's config.json, refusing whatever a reader would miss."""

from __future__ import annotations

from typing import Any

from reasonjax.checkpoint import hf_config
from reasonjax.core import config as config_lib
from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import ModelConfig, RopeScaling, YarnConfig


def family_of(config: ModelConfig) -> str:
  """The family that a model would be saved as.

  Raises:
    ValueError: naming the attention, if no family has it.
  """
  kind = type(config.attention)
  if kind is MLAConfig:
    return "deepseek_v2" if config.score_function == "softmax" else "deepseek_v3"
  if kind is not GQAConfig:
    raise ValueError(f"attention={kind.__name__}: no Hugging Face family here has it.")
  return "qwen2" if config.attention.qkv_bias and not config.attention.out_bias else "llama"


def describe(config: ModelConfig, dtype: str) -> dict[str, Any]:
  """Fields of config.json that old and new versions of transformers read as this model.

  Args:
    config: the model's.
    dtype: of the weights.

  Raises:
    ValueError: listing what of the model config.json cannot tell.
  """
  family = family_of(config)
  values = {
    "architectures": [hf_config.ARCHITECTURES[family]],
    "model_type": family,
    "vocab_size": config.vocab_size,
    "hidden_size": config.hidden_size,
    "intermediate_size": config.dense_ffn_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": getattr(config.attention, "num_kv_heads", config.num_heads),
    "hidden_act": "silu",
    "max_position_embeddings": config.max_length,
    "initializer_range": config.init_std,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "rope_scaling": _describe_scaling(config.rope_scaling),
    "tie_word_embeddings": config.tie_embeddings,
    "torch_dtype": dtype,
    "use_cache": True,
  }
  values |= _describe_deepseek(config) if family.startswith("deepseek") else {}
  if family in ("qwen2", "llama"):
    values["head_dim"] = config.attention.head_dim
  if family == "qwen2":
    values["use_sliding_window"] = False
  if family == "llama":
    values["attention_bias"] = config.attention.qkv_bias
  told = _essence(hf_config.parse(values).model)
  lost = config_lib.differences(_essence(config), told)
  if lost:
    raise ValueError(
      f"the config.json of a {family} model cannot tell all of this model; what was asked -> what "
      "a reader would find:\n  " + "\n  ".join(lost)
    )
  return values


def _describe_deepseek(config: ModelConfig) -> dict[str, Any]:
  sizes = config.attention
  values = {
    "q_lora_rank": sizes.q_lora_rank,
    "kv_lora_rank": sizes.kv_lora_rank,
    "qk_nope_head_dim": sizes.qk_nope_head_dim,
    "qk_rope_head_dim": sizes.qk_rope_head_dim,
    "v_head_dim": sizes.v_head_dim,
    "attention_bias": sizes.bias,
    "first_k_dense_replace": config.num_dense_layers,
    "moe_layer_freq": 1,
    "moe_intermediate_size": config.moe_ffn_size,
    "n_routed_experts": config.num_routed_experts,
    "n_shared_experts": config.num_shared_experts,
    "num_experts_per_tok": config.experts_per_token,
    "n_group": config.num_expert_groups,
    "topk_group": config.num_limited_groups,
    "norm_topk_prob": config.normalize_weights,
    "routed_scaling_factor": config.routed_scale,
    "scoring_func": config.score_function,
  }
  if config.score_function == "softmax":
    limited = config.num_expert_groups > 1
    return values | {"topk_method": "group_limited_greedy" if limited else "greedy"}
  values |= {"topk_method": "noaux_tc", "rope_interleave": True}
  values |= {"num_nextn_predict_layers": config.num_mtp_modules}
  return values | ({"mtp_hidden": "pre"} if config.mtp_hidden == "pre" else {})


def _describe_scaling(scaling: RopeScaling) -> dict[str, Any] | None:
  if scaling is None:
    return None
  kind = "yarn" if isinstance(scaling, YarnConfig) else "llama3"
  values = {
    "type": kind,
    "rope_type": kind,
    "factor": scaling.factor,
    "original_max_position_embeddings": scaling.original_length,
  }
  if kind == "llama3":
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return values | {"low_freq_factor": low, "high_freq_factor": high}
  values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
  told = {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
  return values | {name: value for name, value in told.items() if value}


_COMPUTATION = ("dtype", "param_dtype", "remat", "scan_unroll", "moe_implementation")
_OF_EXPERTS = (
  "moe_ffn_size",
  "num_shared_experts",
  "experts_per_token",
  "num_expert_groups",
  "num_limited_groups",
  "score_function",
  "normalize_weights",
  "routed_scale",
)


def _essence(config: ModelConfig) -> dict[str, Any]:
  """What decides the model's output: neither how it is computed nor sizes of parts it lacks."""
  idle = set(_COMPUTATION)
  if not config.num_routed_experts:
    idle |= set(_OF_EXPERTS)
  if not config.num_dense_layers:
    idle |= {"dense_ffn_size"}
  if not config.num_mtp_modules:
    idle |= {"mtp_hidden"}
  values = config_lib.to_dict(config)
  return {name: value for name, value in values.items() if name not in idle}
