"""Causal attention over packed documents: one signature, the XLA reference behind it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key gives a uniform softmax instead of NaN.
MASKED_SCORE = -1e30


def attention(
  q_BxTxHxK: jax.Array,
  k_BxSxHxK: jax.Array,
  v_BxSxHxV: jax.Array,
  segment_BxT: jax.Array,
  *,
  scale: float,
) -> jax.Array:
  r"""Softmax attention in which a token sees itself and the earlier tokens of its own document.

  .. math:: o_t = \sum_{s \le t,\; seg_s = seg_t}
    \mathrm{softmax}_s(\mathrm{scale} \; q_t \cdot k_s) \, v_s

  Scores and softmax are float32.

  Args:
    q_BxTxHxK: queries.
    k_BxSxHxK: keys, S = T; the row order is the causal order.
    v_BxSxHxV: values; V may differ from K.
    segment_BxT: int32 document number of each token; 0 marks padding.
    scale: factor on query-key products.

  Returns: `[B, T, H, V]` in the dtype of the values.

  Raises:
    ValueError: if queries and keys differ in length.

  Source: arXiv 1706.03762, Eq. 1.
  """
  T, S = q_BxTxHxK.shape[1], k_BxSxHxK.shape[1]
  if T != S:
    raise ValueError(f"attention is over one sequence: got {T} queries and {S} keys.")
  visible_BxTxS = segment_BxT[:, :, None] == segment_BxT[:, None, :]
  visible_BxTxS &= jnp.tril(jnp.ones((T, S), bool))[None]
  score_BxHxTxS = jnp.einsum(
    "bthk,bshk->bhts", q_BxTxHxK, k_BxSxHxK, preferred_element_type=jnp.float32
  )
  prob_BxHxTxS = masked_softmax(score_BxHxTxS * scale, visible_BxTxS[:, None])
  return jnp.einsum("bhts,bshv->bthv", prob_BxHxTxS.astype(v_BxSxHxV.dtype), v_BxSxHxV)


def masked_softmax(score: jax.Array, visible: jax.Array) -> jax.Array:
  """Float32 softmax over the last axis of the scores where `visible`; the rest gets 0.

  Args:
    score: `[..., S]` float32.
    visible: bool, broadcastable to `score` with equal rank.

  Returns: `[..., S]` float32. Rows that see nothing are uniform, never NaN.
  """
  return jax.nn.softmax(jnp.where(visible, score, MASKED_SCORE), axis=-1)
