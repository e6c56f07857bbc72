"""Causal attention over packed documents: one signature, XLA behind it on every backend."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

# Finite, so that a row without any visible key gives a uniform softmax instead of NaN.
MASKED_SCORE = -1e30


def reference_attention(
  q_BxTxHxK: jax.Array,
  k_BxSxNxK: jax.Array,
  v_BxSxNxV: jax.Array,
  segment_BxT: jax.Array,
  scale: float,
) -> jax.Array:
  r"""Softmax attention in which a token sees itself and the earlier tokens of its own document.

  .. math:: o_t = \sum_{s \le t,\; seg_s = seg_t}
    \mathrm{softmax}_s(\mathrm{scale} \; q_t \cdot k_s) \, v_s

  Scores and softmax are float32.

  Args:
    q_BxTxHxK: queries.
    k_BxSxNxK: keys, S = T; the row order is the causal order. Head n serves the H / N consecutive
      query heads from n H / N on (grouped-query attention, arXiv 2305.13245).
    v_BxSxNxV: values; V may differ from K.
    segment_BxT: int32 document number of each token; 0 marks padding.
    scale: factor on query-key products.

  Returns: `[B, T, H, V]` in the dtype of the values.

  Raises:
    ValueError: if queries and keys differ in length, or N does not divide H.

  Source: arXiv 1706.03762, Eq. 1.
  """
  score_BxNxGxTxS = _masked_scores(q_BxTxHxK, k_BxSxNxK, segment_BxT, scale)
  prob_BxNxGxTxS = jax.nn.softmax(score_BxNxGxTxS, axis=-1)
  out = jnp.einsum("bngts,bsnv->btngv", prob_BxNxGxTxS.astype(v_BxSxNxV.dtype), v_BxSxNxV)
  return out.reshape(*q_BxTxHxK.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale: float) -> jax.Array:
  """`reference_attention` that keeps no `[T, S]` array for the backward pass.

  The probabilities are recomputed from the log-normaliser of each query, as in FlashAttention
  (arXiv 2205.14135, Algorithm 4), so what is kept is linear in the length.

  Args and Returns: as `reference_attention`.

  Twin of: reference_attention
  """
  return _forward(q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale)[0]


def _forward(q, k, v, segment, scale):
  score_BxNxGxTxS = _masked_scores(q, k, segment, scale)
  max_BxNxGxTx1 = score_BxNxGxTxS.max(axis=-1, keepdims=True)
  weight_BxNxGxTxS = jnp.exp(score_BxNxGxTxS - max_BxNxGxTx1)
  sum_BxNxGxTx1 = weight_BxNxGxTxS.sum(axis=-1, keepdims=True)
  mixed = jnp.einsum(
    "bngts,bsnv->bngtv", weight_BxNxGxTxS.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  out_BxNxGxTxV = (mixed / sum_BxNxGxTx1).astype(v.dtype)
  log_z_BxNxGxTx1 = max_BxNxGxTx1 + jnp.log(sum_BxNxGxTx1)
  kept = (q, k, v, segment, out_BxNxGxTxV, log_z_BxNxGxTx1)
  return jnp.moveaxis(out_BxNxGxTxV, 3, 1).reshape(*q.shape[:3], -1), kept


def _backward(scale, kept, grad_BxTxHxV):
  q, k, v, segment, out_BxNxGxTxV, log_z_BxNxGxTx1 = kept
  q_BxTxNxGxK = _group_heads(q, k.shape[2])
  grad_BxNxGxTxV = jnp.moveaxis(_group_heads(grad_BxTxHxV, k.shape[2]), 1, 3)
  prob_BxNxGxTxS = jnp.exp(_masked_scores(q, k, segment, scale) - log_z_BxNxGxTx1)
  dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  d_prob_BxNxGxTxS = dot("bngtv,bsnv->bngts", grad_BxNxGxTxV, v)
  grad32, out32 = grad_BxNxGxTxV.astype(jnp.float32), out_BxNxGxTxV.astype(jnp.float32)
  mean_BxNxGxTx1 = (grad32 * out32).sum(axis=-1, keepdims=True)
  d_score = (prob_BxNxGxTxS * (d_prob_BxNxGxTxS - mean_BxNxGxTx1) * scale).astype(q.dtype)
  d_q = dot("bngts,bsnk->btngk", d_score, k).reshape(q.shape).astype(q.dtype)
  d_k = dot("bngts,btngk->bsnk", d_score, q_BxTxNxGxK).astype(k.dtype)
  d_v = dot("bngts,bngtv->bsnv", prob_BxNxGxTxS.astype(v.dtype), grad_BxNxGxTxV).astype(v.dtype)
  return d_q, d_k, d_v, None


attention.defvjp(_forward, _backward)


def _group_heads(x_BxTxHxK: jax.Array, kv_heads: int) -> jax.Array:
  """`[B, T, N, G, K]`: query heads by the key head that serves them."""
  B, T, H, K = x_BxTxHxK.shape
  if H % kv_heads:
    raise ValueError(f"{H} query heads do not divide over {kv_heads} key heads.")
  return x_BxTxHxK.reshape(B, T, kv_heads, H // kv_heads, K)


def _masked_scores(q_BxTxHxK, k_BxSxNxK, segment_BxT, scale) -> jax.Array:
  T, S = q_BxTxHxK.shape[1], k_BxSxNxK.shape[1]
  if T != S:
    raise ValueError(f"attention is over one sequence: got {T} queries and {S} keys.")
  visible_BxTxS = segment_BxT[:, :, None] == segment_BxT[:, None, :]
  visible_BxTxS &= jnp.tril(jnp.ones((T, S), bool))[None]
  q_BxTxNxGxK = _group_heads(q_BxTxHxK, k_BxSxNxK.shape[2])
  score_BxNxGxTxS = jnp.einsum(
    "btngk,bsnk->bngts", q_BxTxNxGxK, k_BxSxNxK, preferred_element_type=jnp.float32
  )
  return jnp.where(visible_BxTxS[:, None, None], score_BxNxGxTxS * scale, MASKED_SCORE)


def masked_softmax(score: jax.Array, visible: jax.Array) -> jax.Array:
  """Float32 softmax over the last axis of the scores where `visible`; the rest gets 0.

  Args:
    score: `[..., S]` float32.
    visible: bool, broadcastable to `score` with equal rank.

  Returns: `[..., S]` float32. Rows that see nothing are uniform, never NaN.
  """
  return jax.nn.softmax(jnp.where(visible, score, MASKED_SCORE), axis=-1)
