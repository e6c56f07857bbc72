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
  window: int | None = None,
) -> jax.Array:
  r"""Softmax attention in which a token sees itself and the earlier tokens of its own document.

  .. math:: o_t = \sum_{t - w < s \le t,\; seg_s = seg_t}
    \mathrm{softmax}_s(\mathrm{scale} \; q_t \cdot k_s) \, v_s

  Scores and softmax are float32.

  Args:
    q_BxTxHxK: queries.
    k_BxSxNxK: keys, S = T; the row order is the causal order. Head n serves the H / N consecutive
      query heads from n H / N on (grouped-query attention, arXiv 2305.13245).
    v_BxSxNxV: values; V may differ from K.
    segment_BxT: int32 document number of each token; 0 marks padding.
    scale: factor on query-key products.
    window: w, the newest tokens that a token sees, itself included; None for all.

  Returns: `[B, T, H, V]` in the dtype of the values.

  Raises:
    ValueError: if queries and keys differ in length, or N does not divide H.

  Source: arXiv 1706.03762, Eq. 1.
  """
  _check_lengths(q_BxTxHxK, k_BxSxNxK)
  q_BxQxNxK = _fold(q_BxTxHxK, k_BxSxNxK.shape[2])
  score_BxNxQxS = _masked_scores(q_BxQxNxK, k_BxSxNxK, segment_BxT, scale, window)
  return _unfold(_mix(score_BxNxQxS, v_BxSxNxV), q_BxTxHxK.shape[1])


def attention(
  q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale: float, window: int | None = None
) -> jax.Array:
  """`reference_attention` that keeps no `[T, S]` array for the backward pass.

  The probabilities are recomputed from the log-normaliser of each query, as in FlashAttention
  (arXiv 2205.14135, Algorithm 4), so what is kept is linear in the length.

  Args and Returns: as `reference_attention`.

  Twin of: reference_attention
  """
  _check_lengths(q_BxTxHxK, k_BxSxNxK)
  q_BxQxNxK = _fold(q_BxTxHxK, k_BxSxNxK.shape[2])
  out_BxQxNxV = _folded(q_BxQxNxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale, window)
  return _unfold(out_BxQxNxV, q_BxTxHxK.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _folded(q_BxQxNxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale, window) -> jax.Array:
  """`attention` of folded queries."""
  return _forward(q_BxQxNxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale, window)[0]


def _forward(q, k, v, segment, scale, window):
  score_BxNxQxS = _masked_scores(q, k, segment, scale, window)
  max_BxNxQx1 = score_BxNxQxS.max(axis=-1, keepdims=True)
  weight_BxNxQxS = jnp.exp(score_BxNxQxS - max_BxNxQx1)
  sum_BxNxQx1 = weight_BxNxQxS.sum(axis=-1, keepdims=True)
  mixed = jnp.einsum(
    "bnqs,bsnv->bnqv", weight_BxNxQxS.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  out_BxNxQxV = mixed / sum_BxNxQx1
  log_z_BxNxQx1 = max_BxNxQx1 + jnp.log(sum_BxNxQx1)
  kept = (q, k, v, segment, out_BxNxQxV.astype(v.dtype), log_z_BxNxQx1)
  return out_BxNxQxV.swapaxes(1, 2).astype(v.dtype), kept


def _backward(scale, window, kept, grad_BxQxNxV):
  q, k, v, segment, out_BxNxQxV, log_z_BxNxQx1 = kept
  grad_BxNxQxV = grad_BxQxNxV.swapaxes(1, 2)
  prob_BxNxQxS = jnp.exp(_masked_scores(q, k, segment, scale, window) - log_z_BxNxQx1)
  dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  d_prob_BxNxQxS = dot("bnqv,bsnv->bnqs", grad_BxNxQxV, v)
  grad32, out32 = grad_BxNxQxV.astype(jnp.float32), out_BxNxQxV.astype(jnp.float32)
  mean_BxNxQx1 = (grad32 * out32).sum(axis=-1, keepdims=True)
  d_score = (prob_BxNxQxS * (d_prob_BxNxQxS - mean_BxNxQx1) * scale).astype(q.dtype)
  d_q = dot("bnqs,bsnk->bqnk", d_score, k).astype(q.dtype)
  d_k = dot("bnqs,bqnk->bsnk", d_score, q).astype(k.dtype)
  d_v = dot("bnqs,bnqv->bsnv", prob_BxNxQxS.astype(v.dtype), grad_BxNxQxV).astype(v.dtype)
  return d_q, d_k, d_v, None


_folded.defvjp(_forward, _backward)


def window_attention(
  q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale: float, window: int
) -> jax.Array:
  """`reference_attention` with a window, in time and memory linear in the length.

  Rows are cut into blocks of `window` tokens, so that all a token sees is in its own block and the
  one before. The backward pass recomputes the probabilities.

  Args, Returns and Raises: as `reference_attention`.

  Twin of: reference_attention
  """
  B, T = segment_BxT.shape
  if 3 * window > T:  # too short for pairs of blocks to be less
    return attention(q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, scale, window)
  _check_lengths(q_BxTxHxK, k_BxSxNxK)
  blocks = -(-T // window)

  def cut(x):
    """`[B, blocks, window, ...]`: rows cut into blocks, the last one filled up."""
    x = jnp.pad(x, [(0, 0), (0, -T % window), *[(0, 0)] * (x.ndim - 2)])
    return x.reshape(B, blocks, window, *x.shape[2:])

  def own(x):
    return cut(x).reshape(B * blocks, window, *x.shape[2:])

  def pair(x):
    """`[B * blocks, 2 window, ...]`: every block behind the one before it."""
    after = cut(x)
    before = jnp.pad(after[:, :-1], [(0, 0), (1, 0), *[(0, 0)] * (x.ndim - 1)])
    return jnp.concatenate([before, after], axis=2).reshape(B * blocks, -1, *x.shape[2:])

  @jax.checkpoint
  def mix(q, k, v):
    visible = own(segment_BxT)[:, :, None] == pair(segment_BxT)[:, None, :]
    visible &= _band(window, 2 * window, window, offset=window)[None]
    q_BxQxNxK = _fold(own(q), k.shape[2])
    return _unfold(_mix(_scores(q_BxQxNxK, pair(k), visible, scale), pair(v)), window)

  out = mix(q_BxTxHxK, k_BxSxNxK, v_BxSxNxV)
  return out.reshape(B, blocks * window, *out.shape[2:])[:, :T]


def _fold(x_BxTxHxK: jax.Array, kv_heads: int) -> jax.Array:
  """`[B, Q, N, K]`: the G = H / N query heads of a key head, as G queries t G + g of one head."""
  B, T, H, K = x_BxTxHxK.shape
  if H % kv_heads:
    raise ValueError(f"{H} query heads do not divide over {kv_heads} key heads.")
  x_BxTxNxGxK = x_BxTxHxK.reshape(B, T, kv_heads, H // kv_heads, K)
  return x_BxTxNxGxK.swapaxes(2, 3).reshape(B, -1, kv_heads, K)


def _unfold(x_BxQxNxV: jax.Array, length: int) -> jax.Array:
  """`[B, T, H, V]`, the inverse of `_fold`."""
  B, Q, N, V = x_BxQxNxV.shape
  return x_BxQxNxV.reshape(B, length, Q // length, N, V).swapaxes(2, 3).reshape(B, length, -1, V)


def _band(queries: int, keys: int, window: int | None, offset: int = 0) -> jax.Array:
  """`[T, S]` bool: whether key s is one of the `window` newest up to t + offset, query t's own."""
  seen_TxS = jnp.tril(jnp.ones((queries, keys), bool), offset)
  return seen_TxS if window is None else jnp.triu(seen_TxS, offset - window + 1)


def _check_lengths(q_BxTxHxK, k_BxSxNxK):
  T, S = q_BxTxHxK.shape[1], k_BxSxNxK.shape[1]
  if T != S:
    raise ValueError(f"attention is over one sequence: got {T} queries and {S} keys.")


def _masked_scores(q_BxQxNxK, k_BxSxNxK, segment_BxT, scale, window) -> jax.Array:
  visible_BxTxS = segment_BxT[:, :, None] == segment_BxT[:, None, :]
  visible_BxTxS &= _band(*visible_BxTxS.shape[1:], window)[None]
  return _scores(q_BxQxNxK, k_BxSxNxK, visible_BxTxS, scale)


def _scores(q_BxQxNxK, k_BxSxNxK, visible_BxTxS, scale) -> jax.Array:
  """`[B, N, Q, S]` float32."""
  queries_a_token = q_BxQxNxK.shape[1] // visible_BxTxS.shape[1]
  visible_BxQxS = jnp.repeat(visible_BxTxS, queries_a_token, axis=1)
  score_BxNxQxS = jnp.einsum(
    "bqnk,bsnk->bnqs", q_BxQxNxK, k_BxSxNxK, preferred_element_type=jnp.float32
  )
  return jnp.where(visible_BxQxS[:, None], score_BxNxQxS * scale, MASKED_SCORE)


def _mix(score_BxNxQxS, v_BxSxNxV) -> jax.Array:
  """`[B, Q, N, V]` in the dtype of the values."""
  prob_BxNxQxS = jax.nn.softmax(score_BxNxQxS, axis=-1).astype(v_BxSxNxV.dtype)
  return jnp.einsum("bnqs,bsnv->bqnv", prob_BxNxQxS, v_BxSxNxV)


def masked_softmax(score: jax.Array, visible: jax.Array) -> jax.Array:
  """Float32 softmax over the last axis of the scores where `visible`; the rest gets 0.

  Args:
    score: `[..., S]` float32.
    visible: bool, broadcastable to `score` with equal rank.

  Returns: `[..., S]` float32. Rows that see nothing are uniform, never NaN.
  """
  return jax.nn.softmax(jnp.where(visible, score, MASKED_SCORE), axis=-1)
