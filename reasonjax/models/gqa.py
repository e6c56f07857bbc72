"""Grouped-query attention, as in Qwen2.5 and Llama 3: few key heads, each for several queries."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.kernels.attention import attention
from reasonjax.models import rope
from reasonjax.models.cache import Memory, attend_grouped
from reasonjax.models.config import ModelConfig
from reasonjax.models.mask import Place
from reasonjax.models.weights import add_bias, declare
from reasonjax.sharding.logical import constrain
from reasonjax.sharding.rules import Rules


class GQA(nn.Module):
  """Projections around the attention kernel; a cache entry is `[k after RoPE | v]`.

  Kinds of attention with the same projections say in `positioned` what a position does to queries
  and keys, in `mix` and `seen` which keys a query attends to: among packed documents, in a cache.
  """

  config: ModelConfig
  rules: Rules | None = None

  def setup(self):
    cfg, sizes = self.config, self.config.attention

    def weight(name, shape, axes, std=cfg.init_std):
      return declare(self, name, shape, axes, std=std, dtype=cfg.param_dtype)

    def project(name, heads, axis):
      """Weight and bias of one input projection."""
      shape = (heads, sizes.head_dim)
      kernel = weight(name, (cfg.hidden_size, *shape), ("embed", axis, "head_dim"))
      bias = weight(f"{name}_bias", shape, (axis, "head_dim"), 0.0) if sizes.qkv_bias else None
      return kernel, bias

    self.q_proj = project("q", cfg.num_heads, "heads")
    self.k_proj = project("k", sizes.num_kv_heads, "kv_heads")
    self.v_proj = project("v", sizes.num_kv_heads, "kv_heads")
    out_shape = (cfg.num_heads, sizes.head_dim, cfg.hidden_size)
    self.o = weight("o", out_shape, ("heads", "head_dim", "embed"))
    self.o_bias = weight("o_bias", (cfg.hidden_size,), ("embed",), 0.0) if sizes.out_bias else None

  def _project(self, x_BxTxD, projection, axis: str):
    kernel, bias = projection
    out = jnp.einsum("btd,dhk->bthk", x_BxTxD, kernel.astype(x_BxTxD.dtype))
    return constrain(add_bias(out, bias), ("batch", "length", axis, None), self.rules)

  def queries_keys_values(self, x_BxTxD: jax.Array, place: Place):
    """`[B, T, H, K]` queries, `[B, T, N, K]` keys, both `positioned`, and `[B, T, N, K]` values."""
    q = self._project(x_BxTxD, self.q_proj, "act_heads")
    k = self._project(x_BxTxD, self.k_proj, "act_kv_heads")
    return *self.positioned(q, k, place), self._project(x_BxTxD, self.v_proj, "act_kv_heads")

  def positioned(self, q_BxTxHxK, k_BxTxNxK, place: Place) -> tuple[jax.Array, jax.Array]:
    """Queries and keys with their positions in them: rotated."""
    return rope.rotate(q_BxTxHxK, *place.cos_sin), rope.rotate(k_BxTxNxK, *place.cos_sin)

  def mix(self, q_BxTxHxK, k_BxTxNxK, v_BxTxNxK, place: Place) -> jax.Array:
    """`[B, T, H, K]` attention over packed documents."""
    return attention(q_BxTxHxK, k_BxTxNxK, v_BxTxNxK, place.segment_BxT, self.scale)

  def seen(self, q_BxTxHxK, place: Place, memories: Sequence[Memory]) -> list[jax.Array]:
    """Which slots of each memory a query attends to, as `cache.attend` takes it."""
    return [memory.seen_BxTxS for memory in memories]

  def _output(self, heads_BxTxHxK: jax.Array) -> jax.Array:
    out = jnp.einsum("bthk,hkd->btd", heads_BxTxHxK, self.o.astype(heads_BxTxHxK.dtype))
    return add_bias(out, self.o_bias)

  @property
  def scale(self) -> float:
    """Factor on query-key products."""
    return rope.softmax_scale(self.config.attention.head_dim, self.config.rope_scaling)

  def __call__(self, x_BxTxD: jax.Array, place: Place) -> tuple[jax.Array, jax.Array]:
    """Over one packed batch; arguments and results as in `MLA.__call__`."""
    q, k, v = self.queries_keys_values(x_BxTxD, place)
    return self._output(self.mix(q, k, v, place)), join(k, v)

  def decode(self, x_BxTxD: jax.Array, place: Place, write) -> tuple[jax.Array, jax.Array]:
    """Over a cache; arguments and results as in `MLA.decode`."""
    q, k, v = self.queries_keys_values(x_BxTxD, place)
    cache, memories = write(join(k, v))
    kv = [split(memory, k.shape[2]) for memory in memories]
    return self._output(attend_grouped(q, kv, self.seen(q, place, memories), self.scale)), cache


def join(k_BxTxNxK: jax.Array, v_BxTxNxK: jax.Array) -> jax.Array:
  """`[B, T, C]` cache entries `[keys of all heads | values of all heads]`."""
  B, T = k_BxTxNxK.shape[:2]
  return jnp.concatenate([k_BxTxNxK.reshape(B, T, -1), v_BxTxNxK.reshape(B, T, -1)], axis=-1)


def split(memory: Memory, heads: int) -> tuple[jax.Array, jax.Array]:
  """Keys and values `[P, S, N, K]` of a memory of `join`ed entries."""
  P, S, _ = memory.entry_PxSxC.shape
  key, value = jnp.split(memory.entry_PxSxC, 2, axis=-1)
  return key.reshape(P, S, heads, -1), value.reshape(P, S, heads, -1)
