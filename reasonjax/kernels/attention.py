"""Causal attention over packed documents: one signature, XLA behind it on every backend."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key gives a uniform softmax instead of NaN.
MASKED_SCORE = -1e30


def reference_attention(
  q_BxTxHxK: jax.Array,
  k_BxSxHxK: jax.Array,
  v_BxSxHxV: jax.Array,
  segment_BxT: jax.Array,
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
  score_BxHxTxS = _masked_scores(q_BxTxHxK, k_BxSxHxK, segment_BxT, scale)
  prob_BxHxTxS = jax.nn.softmax(score_BxHxTxS, axis=-1)
  return jnp.einsum("bhts,bshv->bthv", prob_BxHxTxS.astype(v_BxSxHxV.dtype), v_BxSxHxV)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(q_BxTxHxK, k_BxSxHxK, v_BxSxHxV, segment_BxT, scale: float) -> jax.Array:
  """`reference_attention` that keeps no `[T, S]` array for the backward pass.

  The probabilities are recomputed from the log-normaliser of each query, as in FlashAttention
  (arXiv 2205.14135, Algorithm 4), so what is kept is linear in the length.

  Args and Returns: as `reference_attention`.

  Twin of: reference_attention
  """
  return _forward(q_BxTxHxK, k_BxSxHxK, v_BxSxHxV, segment_BxT, scale)[0]


def _forward(q, k, v, segment, scale):
  score_BxHxTxS = _masked_scores(q, k, segment, scale)
  max_BxHxTx1 = score_BxHxTxS.max(axis=-1, keepdims=True)
  weight_BxHxTxS = jnp.exp(score_BxHxTxS - max_BxHxTx1)
  sum_BxHxTx1 = weight_BxHxTxS.sum(axis=-1, keepdims=True)
  mixed = jnp.einsum(
    "bhts,bshv->bhtv", weight_BxHxTxS.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  out_BxHxTxV = mixed / sum_BxHxTx1
  log_z_BxHxTx1 = max_BxHxTx1 + jnp.log(sum_BxHxTx1)
  kept = (q, k, v, segment, out_BxHxTxV.astype(v.dtype), log_z_BxHxTx1)
  return out_BxHxTxV.swapaxes(1, 2).astype(v.dtype), kept


def _backward(scale, kept, grad_BxTxHxV):
  q, k, v, segment, out_BxHxTxV, log_z_BxHxTx1 = kept
  grad_BxHxTxV = grad_BxTxHxV.swapaxes(1, 2)
  prob_BxHxTxS = jnp.exp(_masked_scores(q, k, segment, scale) - log_z_BxHxTx1)
  dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  d_prob_BxHxTxS = dot("bhtv,bshv->bhts", grad_BxHxTxV, v)
  grad32, out32 = grad_BxHxTxV.astype(jnp.float32), out_BxHxTxV.astype(jnp.float32)
  mean_BxHxTx1 = (grad32 * out32).sum(axis=-1, keepdims=True)
  d_score = (prob_BxHxTxS * (d_prob_BxHxTxS - mean_BxHxTx1) * scale).astype(q.dtype)
  d_q = dot("bhts,bshk->bthk", d_score, k).astype(q.dtype)
  d_k = dot("bhts,bthk->bshk", d_score, q).astype(k.dtype)
  d_v = dot("bhts,bhtv->bshv", prob_BxHxTxS.astype(v.dtype), grad_BxHxTxV).astype(v.dtype)
  return d_q, d_k, d_v, None


attention.defvjp(_forward, _backward)


def _masked_scores(q_BxTxHxK, k_BxSxHxK, segment_BxT, scale) -> jax.Array:
  T, S = q_BxTxHxK.shape[1], k_BxSxHxK.shape[1]
  if T != S:
    raise ValueError(f"attention is over one sequence: got {T} queries and {S} keys.")
  visible_BxTxS = segment_BxT[:, :, None] == segment_BxT[:, None, :]
  visible_BxTxS &= jnp.tril(jnp.ones((T, S), bool))[None]
  score_BxHxTxS = jnp.einsum(
    "bthk,bshk->bhts", q_BxTxHxK, k_BxSxHxK, preferred_element_type=jnp.float32
  )
  return jnp.where(visible_BxTxS[:, None], score_BxHxTxS * scale, MASKED_SCORE)


def masked_softmax(score: jax.Array, visible: jax.Array) -> jax.Array:
  """Float32 softmax over the last axis of the scores where `visible`; the rest gets 0.

  Args:
    score: `[..., S]` float32.
    visible: bool, broadcastable to `score` with equal rank.

  Returns: `[..., S]` float32. Rows that see nothing are uniform, never NaN.
  """
  return jax.nn.softmax(jnp.where(visible, score, MASKED_SCORE), axis=-1)
