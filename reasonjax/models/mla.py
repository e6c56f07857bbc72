"""Multi-head latent attention: expanded for training and prefill, absorbed over the cache."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.kernels.attention import attention
from reasonjax.models import rope
from reasonjax.models.cache import Memory, attend
from reasonjax.models.config import ModelConfig
from reasonjax.models.mask import Place
from reasonjax.models.norm import RMSNorm
from reasonjax.models.weights import add_bias, declare
from reasonjax.sharding.logical import constrain
from reasonjax.sharding.rules import Rules


def expanded_attention(
  q_BxTxHxK: jax.Array,
  latent_BxTxC: jax.Array,
  kv_b_RxHxX: jax.Array,
  segment_BxT: jax.Array,
  *,
  nope_dim: int,
  scale: float,
) -> jax.Array:
  r"""MLA with keys and values expanded per head from the latent.

  .. math::
    k_{s,h} &= [W^{UK}_h c_s ; k^R_s], \quad v_{s,h} = W^{UV}_h c_s \\
    o_{t,h} &= \sum_{s \le t} \mathrm{softmax}_s(q_{t,h} \cdot k_{s,h} \; \mathrm{scale}) v_{s,h}

  Args:
    q_BxTxHxK: queries, `nope_dim` unrotated dimensions first, then the rotated ones.
    latent_BxTxC: `[c | k_rope]`: normalised latent (R) and rotated shared key.
    kv_b_RxHxX: `[W^UK | W^UV]` per head, `nope_dim` key columns first, then V value columns.
    segment_BxT: int32 document numbers, 0 for padding.
    nope_dim: unrotated key width.
    scale: softmax scale, see `rope.softmax_scale`.

  Returns: `[B, T, H, V]`.

  Implements: DSV3 Eq. 10
  """
  rank, heads = kv_b_RxHxX.shape[:2]
  kv_BxTxHxX = jnp.einsum("btr,rhx->bthx", latent_BxTxC[..., :rank], kv_b_RxHxX)
  k_nope, v = kv_BxTxHxX[..., :nope_dim], kv_BxTxHxX[..., nope_dim:]
  k_rope = latent_BxTxC[:, :, None, rank:]
  k_rope = jnp.broadcast_to(k_rope, (*k_nope.shape[:2], heads, k_rope.shape[-1]))
  k = jnp.concatenate([k_nope, k_rope], axis=-1)
  return attention(q_BxTxHxK, k, v, segment_BxT, scale)


def absorbed_attention(
  q_BxTxHxK: jax.Array,
  kv_b_RxHxX: jax.Array,
  memories: Sequence[Memory],
  *,
  nope_dim: int,
  scale: float,
) -> jax.Array:
  r"""MLA that attends to cached latents directly; equal to the expanded form up to rounding.

  .. math::
    \tilde q_{t,h} &= [(W^{UK}_h)^\top q^C_{t,h} ; q^R_{t,h}], \quad
    u_{t,h} = \sum_s \mathrm{softmax}_s(\tilde q_{t,h} \cdot [c_s ; k^R_s] \; \mathrm{scale}) c_s \\
    o_{t,h} &= W^{UV}_h u_{t,h}

  Args:
    q_BxTxHxK: queries, unrotated dimensions first.
    kv_b_RxHxX: `[W^UK | W^UV]` per head.
    memories: of latents `[c | k_rope]`, read as one sequence.
    nope_dim: unrotated key width.
    scale: the same as in the expanded form (of the full head width, not of C).

  Returns: `[B, T, H, V]`.

  Twin of: expanded_attention
  """
  rank = kv_b_RxHxX.shape[0]
  key_b, value_b = kv_b_RxHxX[..., :nope_dim], kv_b_RxHxX[..., nope_dim:]
  q_latent = jnp.einsum("bthn,rhn->bthr", q_BxTxHxK[..., :nope_dim], key_b)
  q_BxTxHxC = jnp.concatenate([q_latent, q_BxTxHxK[..., nope_dim:]], axis=-1)
  # One key head serves all queries. Its rotated columns are mixed as values too and dropped:
  # cheaper than copying the latent columns out.
  shared = [(memory.entry_PxSxC, memory.entry_PxSxC) for memory in memories]
  seen = [memory.seen_BxTxS for memory in memories]
  mixed_BxTxHxR = attend(q_BxTxHxC, shared, seen, scale)[..., :rank]
  return jnp.einsum("bthr,rhv->bthv", mixed_BxTxHxR, value_b)


class MLA(nn.Module):
  """Multi-head latent attention (DSV3 Eqs. 1-11): weights, and the choice between the two forms."""

  config: ModelConfig
  rules: Rules | None = None

  def setup(self):
    cfg, sizes = self.config, self.config.attention
    heads = cfg.num_heads

    def weight(name, shape, axes, std=cfg.init_std):
      return declare(self, name, shape, axes, std=std, dtype=cfg.param_dtype)

    def bias(name, size, axis):
      return weight(name, (size,), (axis,), std=0.0) if sizes.bias else None

    if sizes.q_lora_rank is None:
      q_shape = (cfg.hidden_size, heads, sizes.qk_head_dim)
      self.q_proj = weight("q", q_shape, ("embed", "heads", "head_dim"))
    else:
      q_shape = (sizes.q_lora_rank, heads, sizes.qk_head_dim)
      self.q_a = weight("q_a", (cfg.hidden_size, sizes.q_lora_rank), ("embed", "q_lora"))
      self.q_a_bias = bias("q_a_bias", sizes.q_lora_rank, "q_lora")
      self.q_norm = self._norm(sizes.q_lora_rank)
      self.q_b = weight("q_b", q_shape, ("q_lora", "heads", "head_dim"))
    self.kv_a = weight("kv_a", (cfg.hidden_size, sizes.cache_width), ("embed", "kv_lora"))
    self.kv_a_bias = bias("kv_a_bias", sizes.cache_width, "kv_lora")
    self.kv_norm = self._norm(sizes.kv_lora_rank)
    kv_shape = (sizes.kv_lora_rank, heads, sizes.qk_nope_head_dim + sizes.v_head_dim)
    self.kv_b = weight("kv_b", kv_shape, ("kv_lora", "heads", "head_dim"))
    out_shape = (heads, sizes.v_head_dim, cfg.hidden_size)
    self.o = weight("o", out_shape, ("heads", "head_dim", "embed"))
    self.o_bias = bias("o_bias", cfg.hidden_size, "embed")

  def _norm(self, size):
    eps = self.config.attention.latent_norm_eps
    return RMSNorm(size, eps, param_dtype=self.config.param_dtype)

  def queries(self, x_BxTxD: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """`[B, T, H, K]` queries, the last `qk_rope_head_dim` dimensions rotated (DSV3 Eqs. 6-9)."""
    dtype, nope = x_BxTxD.dtype, self.config.attention.qk_nope_head_dim
    if self.config.attention.q_lora_rank is None:
      q = jnp.einsum("btd,dhk->bthk", x_BxTxD, self.q_proj.astype(dtype))
    else:
      compressed = self.q_norm(add_bias(x_BxTxD @ self.q_a.astype(dtype), self.q_a_bias))
      q = jnp.einsum("btr,rhk->bthk", compressed, self.q_b.astype(dtype))
    q = constrain(q, ("batch", "length", "act_heads", None), self.rules)
    return jnp.concatenate([q[..., :nope], rope.rotate(q[..., nope:], *cos_sin)], axis=-1)

  def latents(self, x_BxTxD: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """`[B, T, C]`, what the cache stores: `[norm(c) | RoPE(k_rope)]` (DSV3 Eqs. 1 and 3)."""
    rank = self.config.attention.kv_lora_rank
    joint = add_bias(x_BxTxD @ self.kv_a.astype(x_BxTxD.dtype), self.kv_a_bias)
    k_rope = rope.rotate(joint[:, :, None, rank:], *cos_sin)[:, :, 0]
    return jnp.concatenate([self.kv_norm(joint[..., :rank]), k_rope], axis=-1)

  def _output(self, heads_BxTxHxV: jax.Array) -> jax.Array:
    out = jnp.einsum("bthv,hvd->btd", heads_BxTxHxV, self.o.astype(heads_BxTxHxV.dtype))
    return add_bias(out, self.o_bias)

  def _sizes(self):
    sizes = self.config.attention
    scale = rope.softmax_scale(sizes.qk_head_dim, self.config.rope_scaling)
    return {"nope_dim": sizes.qk_nope_head_dim, "scale": scale}

  def __call__(self, x_BxTxD: jax.Array, place: Place) -> tuple[jax.Array, jax.Array]:
    """Expanded form over one packed batch.

    Args:
      x_BxTxD: normalised residual stream.
      place: of its tokens.

    Returns: `[B, T, D]` and the latents `[B, T, C]` for a cache.
    """
    latent_BxTxC = self.latents(x_BxTxD, place.cos_sin)
    out = expanded_attention(
      self.queries(x_BxTxD, place.cos_sin),
      latent_BxTxC,
      self.kv_b.astype(x_BxTxD.dtype),
      place.segment_BxT,
      **self._sizes(),
    )
    return self._output(out), latent_BxTxC

  def decode(self, x_BxTxD: jax.Array, place: Place, write) -> tuple[jax.Array, jax.Array]:
    """Absorbed form over cached latents.

    Args:
      x_BxTxD: normalised residual stream of the new tokens.
      place: of its tokens.
      write: function of the new latents `[B, T, C]`, giving the updated cache and all memories
        that the tokens attend to.

    Returns: `[B, T, D]` and the updated cache.
    """
    cache, memories = write(self.latents(x_BxTxD, place.cos_sin))
    out = absorbed_attention(
      self.queries(x_BxTxD, place.cos_sin),
      self.kv_b.astype(x_BxTxD.dtype),
      memories,
      **self._sizes(),
    )
    return self._output(out), cache
