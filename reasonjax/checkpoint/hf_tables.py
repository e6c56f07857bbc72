"""Hugging Face's name and layout of every parameter: one table a family, used in both directions.

Hugging Face stores each layer, and each expert, as tensors of their own, and matrices as
`[out, in]`. Here layers are stacked, experts are stacked, matrices are `[in, out]`, and heads have
an axis of their own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from reasonjax.models.config import ModelConfig

AS_IS = -1


@dataclasses.dataclass(frozen=True)
class Row:
  """How one parameter is stored.

  Attributes:
    name: of the tensor, without the prefix of its layer; `{expert}` where each expert has its own.
    inputs: leading axes of our array that a matrix multiplies; 0 for a vector over all axes, AS_IS
      for a table that is stored as it is.
    rotated: whether its last axis ends with the dimensions that RoPE rotates.
  """

  name: str
  inputs: int = 1
  rotated: bool = False


def _below(prefix: str, rows: Mapping[str, Row]) -> dict[str, Row]:
  return {f"{prefix}/{path}": row for path, row in rows.items()}


def _mlp(prefix: str) -> dict[str, Row]:
  return {name: Row(f"mlp.{prefix}{name}_proj.weight") for name in ("gate", "up", "down")}


_MODEL = {
  "params/embedding": Row("model.embed_tokens.weight", AS_IS),
  "params/final_norm/scale": Row("model.norm.weight", 0),
  "params/head": Row("lm_head.weight", AS_IS),
}
_NORMS = {
  "attention_norm/scale": Row("input_layernorm.weight", 0),
  "ffn_norm/scale": Row("post_attention_layernorm.weight", 0),
}
_MLA = {
  "q": Row("self_attn.q_proj.weight", rotated=True),
  "q_a": Row("self_attn.q_a_proj.weight"),
  "q_a_bias": Row("self_attn.q_a_proj.bias", 0),
  "q_norm/scale": Row("self_attn.q_a_layernorm.weight", 0),
  "q_b": Row("self_attn.q_b_proj.weight", rotated=True),
  "kv_a": Row("self_attn.kv_a_proj_with_mqa.weight", rotated=True),
  "kv_a_bias": Row("self_attn.kv_a_proj_with_mqa.bias", 0, rotated=True),
  "kv_norm/scale": Row("self_attn.kv_a_layernorm.weight", 0),
  "kv_b": Row("self_attn.kv_b_proj.weight"),
  "o": Row("self_attn.o_proj.weight", 2),
  "o_bias": Row("self_attn.o_proj.bias", 0),
}
_GQA = {
  "q": Row("self_attn.q_proj.weight"),
  "q_bias": Row("self_attn.q_proj.bias", 0),
  "k": Row("self_attn.k_proj.weight"),
  "k_bias": Row("self_attn.k_proj.bias", 0),
  "v": Row("self_attn.v_proj.weight"),
  "v_bias": Row("self_attn.v_proj.bias", 0),
  "o": Row("self_attn.o_proj.weight", 2),
  "o_bias": Row("self_attn.o_proj.bias", 0),
}
_EXPERTS = {
  "router": Row("mlp.gate.weight"),
  **_mlp("experts.{expert}."),
  **_below("shared", _mlp("shared_experts.")),
}
_MLA_DENSE = _NORMS | _below("attention", _MLA) | _below("ffn", _mlp(""))
_MLA_MOE = _NORMS | _below("attention", _MLA) | _below("ffn", _EXPERTS)
_BIAS = Row("mlp.gate.e_score_correction_bias", 0)
_MTP = {
  "embedding_norm/scale": Row("enorm.weight", 0),
  "hidden_norm/scale": Row("hnorm.weight", 0),
  "project": Row("eh_proj.weight"),
  "final_norm/scale": Row("shared_head.norm.weight", 0),
  **_below("block", _MLA_MOE),
}
# What an MTP module shares with the main model; its layer holds copies all the same.
_MTP_COPIES = {
  "params/embedding": Row("embed_tokens.weight", AS_IS),
  "params/head": Row("shared_head.head.weight", AS_IS),
}
_DEEPSEEK_V2 = {
  **_MODEL,
  **_below("params/dense_layers", _MLA_DENSE),
  **_below("params/moe_layers", _MLA_MOE),
}
_DEEPSEEK_V3 = {
  **_DEEPSEEK_V2,
  "router/layers": _BIAS,
  **_below("params/mtp", _MTP),
  "router/mtp": _BIAS,
}
_DENSE = _NORMS | _below("attention", _GQA) | _below("ffn", _mlp(""))
_QWEN2 = _LLAMA = _MODEL | _below("params/dense_layers", _DENSE)

TABLES: dict[str, dict[str, Row]] = {
  "deepseek_v2": _DEEPSEEK_V2,
  "deepseek_v3": _DEEPSEEK_V3,
  "llama": _LLAMA,
  "qwen2": _QWEN2,
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """One tensor, ours and theirs; both may have leading axes in common (experts).

  Attributes:
    shape: ours, of one layer and one expert.
    inputs: as in Row.
    rotated: trailing dimensions of the last axis of which they keep the pairs (i, i + d/2), that
      RoPE rotates together, side by side.
  """

  shape: tuple[int, ...]
  inputs: int
  rotated: int

  @property
  def stored_shape(self) -> tuple[int, ...]:
    """Theirs."""
    return self._merge(self.shape, math.prod)

  def _merge(self, values: tuple, merge) -> tuple:
    """From one value an axis of ours to one value a dimension of theirs."""
    if self.inputs == AS_IS:
      return values
    parts = values[self.inputs :], values[: self.inputs]
    return tuple(merge(part) for part in parts if part)

  def to_ours(self, stored: jax.Array) -> jax.Array:
    """From their layout to ours."""
    lead = stored.shape[: stored.ndim - len(self.stored_shape)]
    if self.inputs > 0:
      stored = stored.swapaxes(-1, -2)
    return self._regroup(stored.reshape(*lead, *self.shape), 2)

  def to_stored(self, ours: jax.Array) -> jax.Array:
    """From our layout to theirs: the inverse of `to_ours`."""
    lead = ours.shape[: ours.ndim - len(self.shape)]
    ours = self._regroup(ours, self.rotated // 2)
    if self.inputs <= 0:
      return ours.reshape(*lead, *self.stored_shape)
    return ours.reshape(*lead, *self.stored_shape[::-1]).swapaxes(-1, -2)

  def _regroup(self, x: jax.Array, group: int) -> jax.Array:
    """Takes every `group`-th of the rotated dimensions, then the next of every group, ...

    With group 2, (0, 1, 2, 3, 4, 5) becomes (0, 2, 4, 1, 3, 5); with half the dimensions, back.
    """
    if not self.rotated:
      return x
    fixed, tail = jnp.split(x, [x.shape[-1] - self.rotated], axis=-1)
    grouped = tail.reshape(*tail.shape[:-1], self.rotated // group, group)
    return jnp.concatenate([fixed, grouped.swapaxes(-1, -2).reshape(tail.shape)], axis=-1)

  def stored_spec(self, spec: tuple) -> tuple:
    """Partition of their layout under which a device holds the part that it needs of ours.

    Args:
      spec: mesh axes of each axis of ours. Where they split an axis that is merged into another,
        their dimension is left whole.
    """
    return self._merge(spec, lambda axes: None if any(axes[1:]) else axes[0])


@dataclasses.dataclass(frozen=True)
class Piece:
  """What is read, or written, at once: one parameter of one layer.

  Attributes:
    names: of the tensors, one an expert.
    path: of our array, "/" between names.
    layer: along its first axis; None if it has no such axis.
    experts: whether the next axis runs over experts, each a tensor of its own.
    layout: of each tensor.
    copy: a second copy of what is stored elsewhere: written, but not read.
  """

  names: tuple[str, ...]
  path: str
  layer: int | None
  experts: bool
  layout: Layout
  copy: bool = False

  def __str__(self) -> str:
    """Their name and shape, and ours."""
    first, last = self.names[0], self.names[-1]
    name = first if first == last else f"{first} .. {last}"
    layer = "" if self.layer is None else f"[{self.layer}]"
    experts = [len(self.names)] if self.experts else []
    ours = [*experts, *self.layout.shape]
    return f"{name} {list(self.layout.stored_shape)} -> {self.path}{layer} {ours}"

  def stored_sharding(self, sharding: NamedSharding | None) -> NamedSharding | None:
    """Sharding of the stored tensors, stacked if they are experts', from that of our array."""
    if sharding is None:
      return None
    rank = (self.layer is not None) + self.experts + len(self.layout.shape)
    spec = (*sharding.spec, *[None] * rank)[:rank][self.layer is not None :]
    lead = spec[: self.experts]
    return NamedSharding(
      sharding.mesh, PartitionSpec(*lead, *self.layout.stored_spec(spec[self.experts :]))
    )


def pieces(
  config: ModelConfig, family: str, shapes: Mapping[str, tuple[int, ...]], interleaved: bool
) -> list[Piece]:
  """Everything that a checkpoint of this model holds, layer by layer.

  Args:
    config: the model's.
    family: a key of TABLES.
    shapes: of our arrays, by path.
    interleaved: whether the checkpoint pairs neighbouring dimensions in RoPE.

  Raises:
    ValueError: naming the parameters that the family has no place for.
  """

  def piece(row: Row, path: str, shape, layer: int | None, number: int | None) -> Piece:
    experts = "{expert}" in row.name
    name = row.name if number is None else f"model.layers.{number}.{row.name}"
    names = tuple(name.format(expert=e) for e in range(shape[0])) if experts else (name,)
    rotated = config.attention.rope_dim if row.rotated and interleaved else 0
    layout = Layout(tuple(shape[1:] if experts else shape), row.inputs, rotated)
    return Piece(names, path, layer, experts, layout)

  stacks, found, homeless = _stacks(config), [], []
  for path, shape in shapes.items():
    row = TABLES[family].get(re.sub(r"/mtp_\d+/", "/mtp/", path))
    if row is None:
      homeless.append(path)
      continue
    first, stacked = next((v for k, v in stacks.items() if path.startswith(k)), (None, False))
    if stacked:
      for i in range(shape[0]):
        found.append((first + i, piece(row, path, shape[1:], i, first + i)))
    else:
      outside = -1 if path == "params/embedding" else math.inf
      order = outside if first is None else first
      found.append((order, piece(row, path, shape, None, first)))
  if homeless:
    raise ValueError(
      f"a {family} checkpoint has no place for {', '.join(homeless[:10])}; the model has parts "
      "that this family lacks."
    )
  for number in range(config.num_layers, config.num_layers + config.num_mtp_modules):
    for path, row in _MTP_COPIES.items():
      path = path if path in shapes else "params/embedding"
      copy = piece(row, path, shapes[path], None, number)
      found.append((number, dataclasses.replace(copy, copy=True)))
  return [piece for _, piece in sorted(found, key=lambda item: item[0])]


def _stacks(config: ModelConfig) -> dict[str, tuple[int, bool]]:
  """Parts of the tree: Hugging Face's number of the first layer, and whether layers are stacked."""
  dense, layers = config.num_dense_layers, config.num_layers
  stacks = {
    "params/dense_layers/": (0, True),
    "params/moe_layers/": (dense, True),
    "router/layers": (dense, True),
    "router/mtp": (layers, True),
  }
  for k in range(config.num_mtp_modules):
    stacks[f"params/mtp_{k}/"] = (layers + k, False)
  return stacks
