"""Attention to chosen blocks of rows: one signature, the cheaper of two forms behind it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from reasonjax.kernels.attention import masked_softmax

# Key rows that one step gathers for each sequence and chooser: what bounds the memory in use.
GATHERED_ROWS = 2**15


def block_attention(
  q_BxTxHxK: jax.Array,
  k_BxSxNxK: jax.Array,
  v_BxSxNxV: jax.Array,
  segment_BxT: jax.Array,
  chosen_BxTxJxI: jax.Array,
  *,
  block: int,
  scale: float,
) -> jax.Array:
  """`reference_block_attention` at the cost of the rows that are chosen, where they are fewer.

  Args, Returns and Raises: as `reference_block_attention`.
  """
  arrays = (q_BxTxHxK, k_BxSxNxK, v_BxSxNxV, segment_BxT, chosen_BxTxJxI)
  rows = chosen_BxTxJxI.shape[-1] * block
  if rows >= k_BxSxNxK.shape[1]:
    return reference_block_attention(*arrays, block=block, scale=scale)
  chunk = max(GATHERED_ROWS // rows, 1)
  return gathered_block_attention(*arrays, block=block, scale=scale, chunk=chunk)


def reference_block_attention(
  q_BxTxHxK: jax.Array,
  k_BxSxNxK: jax.Array,
  v_BxSxNxV: jax.Array,
  segment_BxT: jax.Array,
  chosen_BxTxJxI: jax.Array,
  *,
  block: int,
  scale: float,
) -> jax.Array:
  r"""Softmax attention in which a token sees the earlier tokens of its document in chosen blocks.

  .. math:: o_{t,h} = \sum_{s \in \mathcal{S}_{t,h}}
    \mathrm{softmax}_s(\mathrm{scale} \; q_{t,h} \cdot k_s) \, v_s, \qquad
    \mathcal{S}_{t,h} = \{s \le t : seg_s = seg_t, \; \lfloor s / block \rfloor \in
    \mathcal{I}_{t,h}\}

  Scores and softmax are float32. A token that sees nothing, as on padding, gets 0.

  Args:
    q_BxTxHxK: queries.
    k_BxSxNxK: keys, S = T; the row order is the causal order. Head n serves the H / N consecutive
      query heads from n H / N on.
    v_BxSxNxV: values; V may differ from K.
    segment_BxT: int32 document number of each token; 0 marks padding.
    chosen_BxTxJxI: int32 numbers of the I row blocks that each token chose, in any order, -1 where
      there is none. Chooser j serves the H / J consecutive query heads from j H / J on.
    block: rows of a block; blocks are counted from row 0.
    scale: factor on query-key products.

  Returns: `[B, T, H, V]` in the dtype of the values.

  Raises:
    ValueError: if queries and keys differ in length, or N or J does not divide H.

  Source: NSA (arXiv 2502.11089), selection; MoBA (arXiv 2502.13189).
  """
  _check(q_BxTxHxK, k_BxSxNxK, chosen_BxTxJxI)
  S, H = k_BxSxNxK.shape[1], q_BxTxHxK.shape[2]
  block_S = jnp.arange(S, dtype=jnp.int32) // block
  chosen_BxTxJxS = (chosen_BxTxJxI[..., None] == block_S[None, None, None, None]).any(axis=3)
  seen_BxTxS = _same_document(segment_BxT[:, :, None], segment_BxT[:, None, :])
  seen_BxTxS &= jnp.tril(jnp.ones((S, S), bool))[None]
  seen_BxTxHxS = _spread(chosen_BxTxJxS, H) & seen_BxTxS[:, :, None]
  k_BxSxHxK, v_BxSxHxV = _spread(k_BxSxNxK, H), _spread(v_BxSxNxV, H)
  score_BxTxHxS = _dot("bthk,bshk->bths", q_BxTxHxK, k_BxSxHxK) * scale
  prob_BxTxHxS = jnp.where(seen_BxTxHxS, masked_softmax(score_BxTxHxS, seen_BxTxHxS), 0.0)
  return jnp.einsum("bths,bshv->bthv", prob_BxTxHxS.astype(v_BxSxHxV.dtype), v_BxSxHxV)


def gathered_block_attention(
  q_BxTxHxK: jax.Array,
  k_BxSxNxK: jax.Array,
  v_BxSxNxV: jax.Array,
  segment_BxT: jax.Array,
  chosen_BxTxJxI: jax.Array,
  *,
  block: int,
  scale: float,
  chunk: int,
) -> jax.Array:
  """Gathers the chosen blocks and nothing else, for `chunk` queries at a time.

  What is kept for the backward pass is linear in the length: every chunk is gathered anew there.

  Args:
    chunk: queries whose blocks are gathered together; the others as in the reference.

  Twin of: reference_block_attention
  """
  _check(q_BxTxHxK, k_BxSxNxK, chosen_BxTxJxI)
  (B, T, H, K), N, J = q_BxTxHxK.shape, k_BxSxNxK.shape[2], chosen_BxTxJxI.shape[2]
  M = math.lcm(N, J)  # runs of query heads that share both their key head and their chooser
  q_BxTxMxGxK = q_BxTxHxK.reshape(B, T, M, H // M, K)
  chosen_BxTxMxI = _spread(_without_repeats(chosen_BxTxJxI), M)
  row_BxT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
  # Float32, so that the gradients of a key that many chunks read add up in float32.
  key, value = (_blocks(x.astype(jnp.float32), block) for x in (k_BxSxNxK, v_BxSxNxV))
  of_row = (jnp.arange(B)[:, None, None, None], (jnp.arange(M) * N // M)[None, None, :, None])
  segment_BxS = jnp.pad(segment_BxT, ((0, 0), (0, -T % block)))

  def attend(q, segment_BxC, row_BxC, chosen_BxCxMxI):
    at = jnp.maximum(chosen_BxCxMxI, 0)

    def gather(blocks_BxNxXxYxK, dtype):
      rows = blocks_BxNxXxYxK[*of_row, at]
      return rows.reshape(*at.shape[:3], -1, rows.shape[-1]).astype(dtype)

    row = at[..., None] * block + jnp.arange(block, dtype=jnp.int32)[None, None, None, None]
    seen = (chosen_BxCxMxI[..., None] >= 0) & (row <= row_BxC[:, :, None, None, None])
    seen, row = (x.reshape(*at.shape[:3], -1) for x in (seen, row))
    seen &= _same_document(segment_BxC[:, :, None, None], segment_BxS[of_row[0], row])
    score = _dot("bcmgk,bcmsk->bcmgs", q, gather(key, q.dtype)) * scale
    seen = seen[:, :, :, None]
    prob = jnp.where(seen, masked_softmax(score, seen), 0.0).astype(v_BxSxNxV.dtype)
    return jnp.einsum("bcmgs,bcmsv->bcmgv", prob, gather(value, prob.dtype))

  out = over_queries(attend, (q_BxTxMxGxK, segment_BxT, row_BxT, chosen_BxTxMxI), chunk)
  return out.reshape(B, T, H, -1)


def over_queries(function: Callable, arrays: tuple[jax.Array, ...], chunk: int):
  """`function(*arrays)`, computed for `chunk` queries at a time, here and in the backward pass.

  Args:
    function: of arrays `[B, C, ...]`, giving arrays `[B, C, ...]`; each query by itself. The last
      chunk is filled up with zeros, whose results are dropped.
    arrays: `[B, T, ...]`.
    chunk: C.

  Returns: the tree of arrays `[B, T, ...]` that `function` gives.
  """
  B, T = arrays[0].shape[:2]
  function = jax.checkpoint(function)
  if chunk >= T:
    return function(*arrays)

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, -T % chunk), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(B, -1, chunk, *x.shape[2:]), 1, 0)

  def join(x):
    return jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :T]

  chunks = jax.lax.map(lambda some: function(*some), tuple(map(cut, arrays)))
  return jax.tree.map(join, chunks)


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _check(q_BxTxHxK, k_BxSxNxK, chosen_BxTxJxI):
  (T, H), (S, N), J = q_BxTxHxK.shape[1:3], k_BxSxNxK.shape[1:3], chosen_BxTxJxI.shape[2]
  if T != S:
    raise ValueError(f"block attention is over one sequence: got {T} queries and {S} keys.")
  if H % N or H % J:
    raise ValueError(f"{H} query heads do not divide over {N} key heads and {J} choosers.")


def _same_document(query_segment, key_segment):
  return (query_segment == key_segment) & (query_segment != 0)


def _spread(x_BxTxNxK: jax.Array, heads: int) -> jax.Array:
  """`[B, T, heads, K]`: each head's array once for every query head it serves."""
  return jnp.repeat(x_BxTxNxK, heads // x_BxTxNxK.shape[2], axis=2)


def _blocks(x_BxSxNxK: jax.Array, block: int) -> jax.Array:
  """`[B, N, S / block, block, K]`, the last block filled up with zeros."""
  B, S, N, K = x_BxSxNxK.shape
  x = jnp.pad(x_BxSxNxK, ((0, 0), (0, -S % block), (0, 0), (0, 0)))
  return jnp.moveaxis(x.reshape(B, -1, block, N, K), 3, 1)


def _without_repeats(chosen_BxTxJxI: jax.Array) -> jax.Array:
  """-1 in place of a block that stands further left already, as a block is seen once."""
  same = chosen_BxTxJxI[..., :, None] == chosen_BxTxJxI[..., None, :]
  earlier = jnp.tril(jnp.ones(same.shape[-2:], bool), -1)[None, None, None]
  return jnp.where((same & earlier).any(axis=-1), -1, chosen_BxTxJxI)
