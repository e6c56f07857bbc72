"""iRoPE, the attention of Llama 4: layers with RoPE see one chunk, some without RoPE see all."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from reasonjax.kernels.attention import attention, window_attention
from reasonjax.models.cache import Memory, visible
from reasonjax.models.gqa import GQA
from reasonjax.models.mask import Place
from reasonjax.models.norm import rms_norm


def without_rope(layer: jax.Array, every: int) -> jax.Array:
  """Whether a layer, counted from 0, has no RoPE: the last of every `every` layers.

  Source: Llama-4's reference code (config `nope_layer_interval`).

  >>> without_rope(jnp.arange(8), 4).tolist()
  [False, False, False, True, False, False, False, True]
  """
  return (layer + 1) % every == 0


def temperature(position: jax.Array, attn_scale: float, floor_scale: int) -> jax.Array:
  r"""Factor on queries without RoPE, so that a long context does not flatten their softmax.

  .. math:: 1 + a \ln\left(1 + \lfloor (t + 1) / f \rfloor\right)

  Args:
    position: int32 positions t, any shape.
    attn_scale: a.
    floor_scale: f, tokens.

  Returns: float32, the shape of `position`.

  Source: Llama-4's reference code (`attn_temperature_tuning`), after arXiv 2501.19399.

  >>> [round(float(factor), 4) for factor in temperature(jnp.array([0, 8190, 8191]), 0.1, 8192)]
  [1.0, 1.0, 1.0693]
  """
  return 1.0 + attn_scale * jnp.log1p(((position + 1) // floor_scale).astype(jnp.float32))


def chunks(position_BxT: jax.Array, segment_BxT: jax.Array, size: int) -> jax.Array:
  r"""Numbers the chunks :math:`\lfloor t / size \rfloor` of all documents, row by row.

  Args:
    position_BxT: int32 position t of each token inside its document.
    segment_BxT: int32 document numbers, 0 for padding.
    size: tokens in a chunk.

  Returns: `[B, T]` int32, segments for the attention kernel: 0 for padding.

  Source: Llama-4's reference code (`attention_chunk_size`).

  >>> chunks(jnp.array([[0, 1, 2, 0, 1, 0]]), jnp.array([[1, 1, 1, 2, 2, 0]]), size=2).tolist()
  [[1, 1, 2, 3, 3, 0]]
  """
  both_BxTx2 = jnp.stack([position_BxT // size, segment_BxT], axis=-1)
  before_BxTx2 = jnp.pad(both_BxTx2[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1)
  first_BxT = (both_BxTx2 != before_BxTx2).any(axis=-1)
  return jnp.where(segment_BxT != 0, jnp.cumsum(first_BxT, axis=1, dtype=jnp.int32), 0)


class IRoPE(GQA):
  """Grouped-query attention whose layers differ by their number; see `IRoPEConfig`."""

  def _without_rope(self, place: Place) -> jax.Array:
    return without_rope(place.layer, self.config.attention.nope_every)

  def positioned(self, q_BxTxHxK, k_BxTxNxK, place: Place) -> tuple[jax.Array, jax.Array]:
    """Rotated, then normalised without a weight; in layers without RoPE only grown queries."""
    sizes = self.config.attention
    q_rope, k_rope = super().positioned(q_BxTxHxK, k_BxTxNxK, place)
    if sizes.qk_norm:
      one_K = jnp.ones(sizes.head_dim)
      q_rope, k_rope = (rms_norm(x, one_K, self.config.norm_eps) for x in (q_rope, k_rope))
    growth_BxT = temperature(place.position_BxT, sizes.attn_scale, sizes.floor_scale)
    q_nope = (q_BxTxHxK.astype(jnp.float32) * growth_BxT[..., None, None]).astype(q_BxTxHxK.dtype)
    nope = self._without_rope(place)
    return jnp.where(nope, q_nope, q_rope), jnp.where(nope, k_BxTxNxK, k_rope)

  def mix(self, q_BxTxHxK, k_BxTxNxK, v_BxTxNxK, place: Place) -> jax.Array:
    """`[B, T, H, K]` attention inside chunks, or in layers without RoPE inside documents."""
    size, nope = self.config.attention.chunk, self._without_rope(place)
    chunk_BxT = chunks(place.position_BxT, place.segment_BxT, size)
    if 3 * size > chunk_BxT.shape[1]:  # `window_attention` could save nothing: one form for both
      segment_BxT = jnp.where(nope, place.segment_BxT, chunk_BxT)
      return attention(q_BxTxHxK, k_BxTxNxK, v_BxTxNxK, segment_BxT, self.scale)
    return jax.lax.cond(
      nope,
      lambda *qkv: attention(*qkv, place.segment_BxT, self.scale),
      # No token has more of its chunk behind it than a window holds.
      lambda *qkv: window_attention(*qkv, chunk_BxT, self.scale, size),
      *(q_BxTxHxK, k_BxTxNxK, v_BxTxNxK),
    )

  def seen(self, q_BxTxHxK, place: Place, memories: Sequence[Memory]) -> list[jax.Array]:
    """The slots from the query's chunk, or in layers without RoPE from the start, up to itself."""
    position_BxT = place.position_BxT
    first_BxT = position_BxT - position_BxT % self.config.attention.chunk
    first_BxT = jnp.where(self._without_rope(place), 0, first_BxT)
    return [memory.seen_BxTxS & ~visible(first_BxT - 1, memory.position_PxS) for memory in memories]
