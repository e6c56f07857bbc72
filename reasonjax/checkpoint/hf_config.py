"""From Hugging Face's config.json, of old and new transformers, to ModelConfig."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, RopeScaling, YarnConfig

FILE = "config.json"
ARCHITECTURES = {
  "deepseek_v2": "DeepseekV2ForCausalLM",
  "deepseek_v3": "DeepseekV3ForCausalLM",
  "llama": "LlamaForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
}
# Epsilon of the norms on MLA's latents, which no config.json mentions.
_LATENT_NORM_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Source:
  """What a config.json tells.

  Attributes:
    model: the model; its dtypes are `dtype`, or float32 if that is None.
    family: a key of ARCHITECTURES.
    interleaved: whether RoPE rotates neighbouring dimensions together.
    block: rows and columns that share a scale, where weights are 8-bit floats.
    dtype: of the weights; None if not told.
  """

  model: ModelConfig
  family: str
  interleaved: bool
  block: tuple[int, int]
  dtype: str | None


class _Fields:
  """Values of a JSON object, checked as they are taken."""

  def __init__(self, values: Any, inside: str = ""):
    """Args:
    values: the object.
    inside: path of the object in its file, for messages.
    """
    if not isinstance(values, dict):
      raise ValueError(f"{inside or 'content'}={values!r} should be a JSON object.")
    self.values, self._prefix = values, f"{inside}." if inside else ""

  def take(self, name: str, kind: type, *default: Any) -> Any:
    """The value, or the default if it is absent or null; without default it must be there."""
    value = self.values.get(name)
    if value is None:
      if not default:
        raise ValueError(f"{self._prefix}{name} is missing; the model cannot be built without it.")
      return default[0]
    if kind is float and type(value) is int:
      value = float(value)
    if type(value) is not kind:
      raise ValueError(f"{self._prefix}{name}={value!r} should be {kind.__name__}.")
    return value

  def only(self, name: str, known: Sequence[Any], default: Any = None) -> Any:
    """The value, or the default if it is absent or null; it must be one of those known."""
    value = self.values.get(name)
    value = default if value is None else value
    if value not in known:
      choices = " or ".join(map(repr, known))
      raise ValueError(
        f"{self._prefix}{name}={value!r} is not supported; choose a model with {choices}."
      )
    return value


def read(directory: str | Path) -> Source:
  """Reads a directory's config.json.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: naming file, field and value, for whatever is missing or not supported.
  """
  path = Path(directory) / FILE
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; give a folder with config.json and weights.")
  try:
    return parse(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def parse(values: dict[str, Any]) -> Source:
  """What the content of a config.json tells.

  Raises:
    ValueError: naming field and value, for whatever is missing or not supported.
  """
  fields = _Fields(values)
  family = fields.only("model_type", tuple(ARCHITECTURES))
  fields.only("hidden_act", ("silu",), "silu")
  fields.only("mlp_bias", (False,), False)
  fields.only("use_sliding_window", (False,), False)
  for index, kind in enumerate(fields.take("layer_types", list, [])):
    _Fields({"kind": kind}, f"layer_types[{index}]").only("kind", ("full_attention",))
  deepseek = family.startswith("deepseek")
  theta, scaling = _read_rope(fields, softmax_temperature=deepseek)
  dtype = fields.take("torch_dtype", str, None) or fields.take("dtype", str, None)
  common = {
    "vocab_size": fields.take("vocab_size", int),
    "hidden_size": fields.take("hidden_size", int),
    "num_layers": fields.take("num_hidden_layers", int),
    "num_heads": fields.take("num_attention_heads", int),
    "dense_ffn_size": fields.take("intermediate_size", int),
    "rope_theta": theta,
    "rope_scaling": scaling,
    "max_length": fields.take("max_position_embeddings", int),
    "norm_eps": fields.take("rms_norm_eps", float, 1e-6),
    "tie_embeddings": fields.take("tie_word_embeddings", bool, False),
    "init_std": fields.take("initializer_range", float, 0.02),
    "dtype": dtype or "float32",
    "param_dtype": dtype or "float32",
  }
  own = _read_deepseek(fields, family) if deepseek else _read_dense(fields, family)
  interleaved = deepseek and fields.take("rope_interleave", bool, True)
  return Source(ModelConfig(**(common | own)), family, interleaved, _read_block(fields), dtype)


def _read_dense(fields: _Fields, family: str) -> dict[str, Any]:
  heads, width = fields.take("num_attention_heads", int), fields.take("hidden_size", int)
  bias = family == "qwen2" or fields.take("attention_bias", bool, False)
  attention = GQAConfig(
    num_kv_heads=fields.take("num_key_value_heads", int, heads),
    head_dim=fields.take("head_dim", int, width // heads),
    qkv_bias=bias,
    out_bias=bias and family == "llama",
  )
  return {"attention": attention, "num_dense_layers": fields.take("num_hidden_layers", int)}


def _read_deepseek(fields: _Fields, family: str) -> dict[str, Any]:
  if "q_lora_rank" not in fields.values:
    raise ValueError("q_lora_rank is missing; null stands for a direct projection.")
  attention = MLAConfig(
    q_lora_rank=fields.take("q_lora_rank", int, None),
    kv_lora_rank=fields.take("kv_lora_rank", int),
    qk_nope_head_dim=fields.take("qk_nope_head_dim", int),
    qk_rope_head_dim=fields.take("qk_rope_head_dim", int),
    v_head_dim=fields.take("v_head_dim", int),
    latent_norm_eps=_LATENT_NORM_EPS,
    bias=fields.take("attention_bias", bool, False),
  )
  layers, experts = fields.take("num_hidden_layers", int), fields.take("n_routed_experts", int, 0)
  fields.only("moe_layer_freq", (1,), 1)
  routing = _read_v3_routing if family == "deepseek_v3" else _read_v2_routing
  first = min(fields.take("first_k_dense_replace", int), layers) if experts else layers
  return {
    "attention": attention,
    "num_dense_layers": first,
    "moe_ffn_size": fields.take("moe_intermediate_size", int) if experts else 0,
    "num_routed_experts": experts,
    "num_shared_experts": fields.take("n_shared_experts", int, 0) if experts else 0,
    "experts_per_token": fields.take("num_experts_per_tok", int) if experts else 0,
    **(routing(fields) if experts else {}),
  }


def _read_v3_routing(fields: _Fields) -> dict[str, Any]:
  fields.only("topk_method", ("noaux_tc",), "noaux_tc")
  fields.only("scoring_func", ("sigmoid",), "sigmoid")
  mtp = {fields.take(name, int, None) for name in ("num_nextn_predict_layers", "num_mtp_layers")}
  mtp -= {None}
  if len(mtp) > 1:
    raise ValueError("num_nextn_predict_layers and num_mtp_layers differ; delete the wrong one.")
  return {
    "score_function": "sigmoid",
    "num_expert_groups": fields.take("n_group", int, 1),
    "num_limited_groups": fields.take("topk_group", int, 1),
    "normalize_weights": fields.take("norm_topk_prob", bool, True),
    "routed_scale": fields.take("routed_scaling_factor", float),
    "num_mtp_modules": mtp.pop() if mtp else 0,
    # A key of our own, for the rare model that was trained the other way.
    "mtp_hidden": fields.only("mtp_hidden", ("post", "pre"), "post"),
  }


def _read_v2_routing(fields: _Fields) -> dict[str, Any]:
  method = fields.only("topk_method", ("greedy", "group_limited_greedy"), "greedy")
  fields.only("scoring_func", ("softmax",), "softmax")
  normalize = fields.take("norm_topk_prob", bool, False)
  limited = method == "group_limited_greedy"
  return {
    "score_function": "softmax",
    "num_expert_groups": fields.take("n_group", int) if limited else 1,
    "num_limited_groups": fields.take("topk_group", int) if limited else 1,
    "normalize_weights": normalize,
    # V2's published code either normalises or scales.
    "routed_scale": 1.0 if normalize else fields.take("routed_scaling_factor", float),
  }


def _read_rope(fields: _Fields, softmax_temperature: bool) -> tuple[float, RopeScaling]:
  """Base and context extension.

  Args:
    fields: of config.json.
    softmax_temperature: whether the family applies `mscale_all_dim` to the softmax.
  """
  name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
  rope = _Fields(fields.values.get(name) or {}, name)
  theta = rope.take("rope_theta", float, fields.take("rope_theta", float, 10000.0))
  for where in (fields, rope):
    where.only("partial_rotary_factor", (1.0,), 1.0)
  known = ("default", "yarn", "llama3")
  kind = rope.only("rope_type", known, rope.only("type", known, "default"))
  if any(isinstance(value, dict) for value in rope.values.values()):
    raise ValueError(f"{name} has an object a kind of layer; only one for all is supported.")
  if kind == "default":
    return theta, None
  original = "original_max_position_embeddings"
  length = rope.take(original, int, fields.take("max_position_embeddings", int))
  if kind == "llama3":
    return theta, Llama3RopeConfig(
      factor=rope.take("factor", float),
      low_frequency_factor=rope.take("low_freq_factor", float),
      high_frequency_factor=rope.take("high_freq_factor", float),
      original_length=length,
    )
  rope.only("truncate", (True,), True)
  rope.only("attention_factor", (None,), None)
  mscale, all_dim = rope.take("mscale", float, 0.0), rope.take("mscale_all_dim", float, 0.0)
  if not softmax_temperature:
    # These families leave the softmax alone, and look at the two only if both are there.
    if mscale and all_dim:
      raise ValueError(f"{name}.mscale_all_dim={all_dim} is supported for DeepSeek only.")
    mscale = all_dim = 0.0
  return theta, YarnConfig(
    factor=rope.take("factor", float),
    original_length=length,
    beta_fast=rope.take("beta_fast", float, 32.0),
    beta_slow=rope.take("beta_slow", float, 1.0),
    mscale=mscale,
    mscale_all_dim=all_dim,
  )


def _read_block(fields: _Fields) -> tuple[int, int]:
  default = [128, 128]
  if fields.values.get("quantization_config") is None:
    return tuple(default)
  quantization = _Fields(fields.values["quantization_config"], "quantization_config")
  quantization.only("quant_method", ("fp8",))
  quantization.only("fmt", ("e4m3",), "e4m3")
  block = quantization.values.get("weight_block_size", default)
  pair = isinstance(block, list) and len(block) == 2
  if not pair or not all(type(size) is int and size > 0 for size in block):
    raise ValueError(
      f"quantization_config.weight_block_size={block!r} should be two positive integers."
    )
  return tuple(block)
