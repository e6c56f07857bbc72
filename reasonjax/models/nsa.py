"""Native sparse attention: a token reads compressed blocks, the best ones whole, and a window.

Shape letters of this file: X compressed blocks, Y selection blocks, Z tokens of a compressed block,
I blocks that a token selects.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.kernels.attention import masked_softmax, window_attention
from reasonjax.kernels.sparse_attention import block_attention, over_queries
from reasonjax.models import mask, rope
from reasonjax.models.cache import EMPTY, attend_grouped
from reasonjax.models.config import ModelConfig
from reasonjax.models.mask import Place
from reasonjax.models.weights import declare
from reasonjax.sharding.logical import constrain
from reasonjax.sharding.rules import Rules

BRANCHES = ("cmp", "slc", "win")  # compression, selection, sliding window
FIRST_BLOCKS, NEWEST_BLOCKS = 1, 2  # always selected
# Queries whose scores of all compressed blocks are held at once.
QUERIES = 512


def compress(
  x_BxTxNxK: jax.Array,
  place_ZxK: jax.Array,
  up_WxF: jax.Array,
  down_FxK: jax.Array,
  stride: int,
) -> jax.Array:
  r"""One key (or value) for the Z tokens from every `stride`-th on.

  .. math:: \tilde k_i = \varphi(k_{i d}, ..., k_{i d + l - 1}), \qquad
    \varphi(k) = \mathrm{silu}(\mathrm{flatten}(k + p) \, W_1) \, W_2

  The paper says of :math:`\varphi` that it is a learned network that knows the place of a token in
  its block; it is the same for all key heads here.

  Args:
    x_BxTxNxK: keys before RoPE, or values.
    place_ZxK: p, embedding of the places in a block.
    up_WxF: first layer, W = Z K.
    down_FxK: second layer.
    stride: d, a divisor of Z.

  Returns: `[B, X, N, K]`, X = T / d rounded up; blocks that reach beyond T are filled up with zeros
    and not to be used.

  Implements: NSA Eq. 7
  """
  (B, T, N, _), Z = x_BxTxNxK.shape, len(place_ZxK)
  X = -(-T // stride)
  x = jnp.pad(x_BxTxNxK, ((0, 0), (0, (X - 1) * stride + Z - T), (0, 0), (0, 0)))
  strides = x.reshape(B, -1, stride, *x.shape[2:])
  block_BxXxZxNxK = jnp.concatenate([strides[:, i : X + i] for i in range(Z // stride)], axis=2)
  block_BxXxNxZxK = jnp.moveaxis(block_BxXxZxNxK + place_ZxK[None, None, :, None], 2, 3)
  return nn.silu(block_BxXxNxZxK.reshape(B, X, N, -1) @ up_WxF) @ down_FxK


def compressed_attention(
  q_BxTxHxK: jax.Array,
  k_BxXxNxK: jax.Array,
  v_BxXxNxV: jax.Array,
  visible_BxTxX: jax.Array,
  scale: float,
) -> tuple[jax.Array, jax.Array]:
  r"""Attention to compressed blocks, and its probabilities, from which blocks are selected.

  .. math:: p^{cmp}_t = \mathrm{softmax}_i(\mathrm{scale} \; q_t \cdot \tilde k_i)

  Args:
    q_BxTxHxK: queries.
    k_BxXxNxK: compressed keys.
    v_BxXxNxV: compressed values.
    visible_BxTxX: whether all of a block is behind the query, in its own document.
    scale: factor on query-key products (the paper leaves it out).

  Returns: `[B, T, H, V]`, 0 where no block is visible, and `[B, T, N, G, X]` float32.

  Implements: NSA Eq. 8
  """
  (B, T, H, K), N = q_BxTxHxK.shape, k_BxXxNxK.shape[2]
  q_BxTxNxGxK = q_BxTxHxK.reshape(B, T, N, H // N, K)
  score_BxTxNxGxX = scale * jnp.einsum(
    "btngk,bxnk->btngx", q_BxTxNxGxK, k_BxXxNxK, preferred_element_type=jnp.float32
  )
  seen = visible_BxTxX[:, :, None, None]
  prob_BxTxNxGxX = jnp.where(seen, masked_softmax(score_BxTxNxGxX, seen), 0.0)
  out = jnp.einsum("btngx,bxnv->btngv", prob_BxTxNxGxX.astype(v_BxXxNxV.dtype), v_BxXxNxV)
  return out.reshape(B, T, H, -1), prob_BxTxNxGxX


def selection_scores(prob_BxTxNxGxX: jax.Array, strides: int, overlap: int) -> jax.Array:
  r"""Worth of each selection block: the probability of the compressed blocks that overlap it.

  .. math:: p^{slc}_t[j] = \sum_h \sum_{m=0}^{l'/d - 1} \sum_{n=0}^{l/d - 1}
    p^{cmp}_{t,h}[\tfrac{l'}{d} j + m + n - (\tfrac{l}{d} - 1)]

  over the heads h of one group, which therefore select the same blocks. Compressed block i starts
  at token i d, so it counts once for every stride that it shares with block j. (The paper counts
  from 1, where no shift is needed.)

  Args:
    prob_BxTxNxGxX: from `compressed_attention`.
    strides: l' / d, strides in a selection block.
    overlap: l / d, strides in a compressed block.

  Returns: `[B, T, N, Y]`, Y = X d / l' rounded up.

  >>> selection_scores(jnp.arange(1.0, 5.0).reshape(1, 1, 1, 1, 4), 2, 2).tolist()
  [[[[4.0, 12.0]]]]

  Implements: NSA Eq. 9; NSA Eq. 10
  """
  prob_BxTxNxX = prob_BxTxNxGxX.sum(axis=3)
  X = prob_BxTxNxX.shape[-1]
  Y = -(-X // strides)
  before, after = overlap - 1, strides * Y - X
  padded = jnp.pad(prob_BxTxNxX, ((0, 0), (0, 0), (0, 0), (before, after)))
  terms = [padded[..., m + n :: strides][..., :Y] for m in range(strides) for n in range(overlap)]
  return sum(terms)


def choose_blocks(
  score_BxTxNxY: jax.Array, first_BxT: jax.Array, last_BxT: jax.Array, count: int
) -> jax.Array:
  """The first block, the newest two, and the best of the others up to the query's own.

  Args:
    score_BxTxNxY: from `selection_scores`.
    first_BxT: int32 block in which the query's document starts.
    last_BxT: int32 block of the query itself.
    count: n, blocks to choose.

  Returns: `[B, T, N, I]` int32, I = min(n, Y), the best first; -1 where there are no more blocks.

  Implements: NSA Eq. 11
  """
  Y = score_BxTxNxY.shape[-1]
  block_Y = jnp.arange(Y, dtype=jnp.int32)[None, None, None]
  first, last = first_BxT[:, :, None, None], last_BxT[:, :, None, None]
  possible = (first <= block_Y) & (block_Y <= last)
  always = (block_Y < first + FIRST_BLOCKS) | (block_Y > last - NEWEST_BLOCKS)
  score_BxTxNxY = jnp.where(always, jnp.inf, score_BxTxNxY)
  best, chosen = jax.lax.top_k(jnp.where(possible, score_BxTxNxY, -jnp.inf), min(count, Y))
  return jnp.where(best == -jnp.inf, -1, chosen)


def combine(gate_BxTxHx3: jax.Array, branches: Sequence[jax.Array]) -> jax.Array:
  r"""Sum of the branches, each weighted by its own gate, :math:`o_t = \sum_c g^c_t o^c_t`.

  Args:
    gate_BxTxHx3: in (0, 1); they need not add up to 1.
    branches: three arrays `[B, T, H, V]`.

  Returns: `[B, T, H, V]`.

  Implements: NSA Eq. 5
  """
  return sum(gate_BxTxHx3[..., i, None] * out for i, out in enumerate(branches))


def in_order(entries: Sequence[jax.Array], positions: Sequence[jax.Array], batch: int) -> jax.Array:
  """Entries of all memories with position p in row p: what blocks are made of.

  Args:
    entries: `[P, S, C]` of each memory.
    positions: `[P, S]` of each memory; the filled slots of all together have the positions 0, 1,
      2, ... in any order.
    batch: B.

  Returns: `[B, S, C]`, S slots of all memories together; rows without a token hold no meaning.

  >>> prompt, own = jnp.array([[[5.0], [6.0], [0.0]]]), jnp.array([[[7.0]], [[8.0]]])
  >>> positions = jnp.array([[0, 1, EMPTY]]), jnp.array([[2], [2]])
  >>> in_order((prompt, own), positions, 2)[:, :3, 0].tolist()
  [[5.0, 6.0, 7.0], [5.0, 6.0, 8.0]]
  """
  each = lambda x: jnp.repeat(x, batch // len(x), axis=0)
  entry_BxSxC = jnp.concatenate([each(entry) for entry in entries], axis=1)
  position_BxS = jnp.concatenate([each(position) for position in positions], axis=1)
  S = position_BxS.shape[1]
  row_BxS = jnp.where(position_BxS == EMPTY, S, position_BxS)
  slot_BxS = jnp.argsort(row_BxS, axis=1)
  return jnp.take_along_axis(entry_BxSxC, slot_BxS[..., None], axis=1)


class NSA(nn.Module):
  """Native sparse attention on grouped query heads; see `NSAConfig`.

  A cache entry is `[k | v]` of the three branches one after the other, keys after RoPE except in
  the compression branch: there keys are compressed as they are, and the compressed key is rotated
  by the position of its block's first token. (The paper does not say where RoPE acts.)

  Blocks of packed documents are cut from the array's rows, so documents must start at multiples of
  `NSAConfig.alignment`. Those that do not get NaN.

  Decoding makes the compressed blocks anew from the whole cache at every step: correct whatever the
  slots' order, but linear in the length even where little is read.
  """

  config: ModelConfig
  rules: Rules | None = None

  def setup(self):
    cfg, sizes = self.config, self.config.attention
    D, H, N, F = cfg.hidden_size, cfg.num_heads, sizes.num_kv_heads, sizes.compress_size

    def weight(name, shape, axes):
      return declare(self, name, shape, axes, std=cfg.init_std, dtype=cfg.param_dtype)

    def compression(name, width):
      """Place embedding and two layers of one compression network."""
      return (
        weight(f"{name}_place", (sizes.block, width), ("norm", "head_dim")),
        weight(f"{name}_up", (sizes.block * width, F), ("head_dim", "mlp")),
        weight(f"{name}_down", (F, width), ("mlp", "head_dim")),
      )

    self.q_proj = weight("q", (D, H, sizes.head_dim), ("embed", "heads", "head_dim"))
    self.kv_proj = [
      weight(f"{name}_{branch}", (D, N, width), ("embed", "kv_heads", "head_dim"))
      for branch in BRANCHES
      for name, width in (("k", sizes.head_dim), ("v", sizes.v_head_dim))
    ]
    self.compress_k = compression("k", sizes.head_dim)
    self.compress_v = compression("v", sizes.v_head_dim)
    self.gate = weight("gate", (D, 3 * H), ("embed", "heads"))
    self.o = weight("o", (H, sizes.v_head_dim, D), ("heads", "head_dim", "embed"))

  def _project(self, x_BxTxD, kernel_DxHxK, axis: str) -> jax.Array:
    out = jnp.einsum("btd,dhk->bthk", x_BxTxD, kernel_DxHxK.astype(x_BxTxD.dtype))
    return constrain(out, ("batch", "length", axis, None), self.rules)

  def _queries_entries(self, x_BxTxD: jax.Array, place: Place) -> tuple[jax.Array, jax.Array]:
    """Rotated queries `[B, T, H, K]`, and cache entries `[B, T, C]`."""
    B, T, _ = x_BxTxD.shape
    q = rope.rotate(self._project(x_BxTxD, self.q_proj, "act_heads"), *place.cos_sin)
    kv = [self._project(x_BxTxD, kernel, "act_kv_heads") for kernel in self.kv_proj]
    for i in (2, 4):  # keys of selection and window
      kv[i] = rope.rotate(kv[i], *place.cos_sin)
    return q, jnp.concatenate([part.reshape(B, T, -1) for part in kv], axis=-1)

  def _split(self, entry_PxSxC: jax.Array) -> list[jax.Array]:
    """Keys and values `[P, S, N, K or V]` of the branches; of the first ones where C is less."""
    sizes, parts, start = self.config.attention, [], 0
    while start < entry_PxSxC.shape[-1]:
      width = sizes.v_head_dim if len(parts) % 2 else sizes.head_dim
      part = entry_PxSxC[..., start : start + sizes.num_kv_heads * width]
      parts.append(part.reshape(*part.shape[:2], sizes.num_kv_heads, width))
      start += part.shape[-1]
    return parts

  def _compress(self, k_BxTxNxK, v_BxTxNxV, cos_sin_of_blocks) -> tuple[jax.Array, jax.Array]:
    """Compressed keys, rotated, and values."""
    stride, dtype = self.config.attention.stride, k_BxTxNxK.dtype
    key_net, value_net = (
      [weight.astype(dtype) for weight in net] for net in (self.compress_k, self.compress_v)
    )
    k = rope.rotate(compress(k_BxTxNxK, *key_net, stride), *cos_sin_of_blocks)
    return k, compress(v_BxTxNxV, *value_net, stride)

  def _select(self, q_BxTxHxK, compressed, visible_BxTxX, first_BxT, last_BxT):
    """Output of the compression branch, and the blocks that its probabilities select."""
    sizes = self.config.attention
    out, prob = compressed_attention(q_BxTxHxK, *compressed, visible_BxTxX, self.scale)
    strides, overlap = sizes.selection_block // sizes.stride, sizes.block // sizes.stride
    score = selection_scores(jax.lax.stop_gradient(prob), strides, overlap)
    return out, choose_blocks(score, first_BxT, last_BxT, sizes.num_selected)

  def _output(self, x_BxTxD, branches: Sequence[jax.Array]) -> jax.Array:
    logit = (x_BxTxD @ self.gate.astype(x_BxTxD.dtype)).astype(jnp.float32)
    gate_BxTxHx3 = jax.nn.sigmoid(logit).reshape(*branches[0].shape[:3], len(BRANCHES))
    out = combine(gate_BxTxHx3.astype(x_BxTxD.dtype), branches)
    return jnp.einsum("bthv,hvd->btd", out, self.o.astype(out.dtype))

  @property
  def scale(self) -> float:
    """Factor on query-key products."""
    return rope.softmax_scale(self.config.attention.head_dim, self.config.rope_scaling)

  def __call__(self, x_BxTxD: jax.Array, place: Place) -> tuple[jax.Array, jax.Array]:
    """Over one packed batch; arguments and results as in `MLA.__call__`."""
    sizes, segment_BxT = self.config.attention, place.segment_BxT
    q, entry_BxTxC = self._queries_entries(x_BxTxD, place)
    k_cmp, v_cmp, k_slc, v_slc, k_win, v_win = self._split(entry_BxTxC)
    at_blocks = tuple(table[:, :: sizes.stride] for table in place.cos_sin)
    compressed = self._compress(k_cmp, v_cmp, at_blocks)
    start_X = jnp.arange(compressed[0].shape[1], dtype=jnp.int32)[None, None] * sizes.stride
    segment_BxX = segment_BxT[:, :: sizes.stride]

    def select(q, row_BxT, position_BxT, segment_BxT):
      seen = (segment_BxT[:, :, None] == segment_BxX[:, None]) & (segment_BxT[:, :, None] != 0)
      seen &= start_X + sizes.block <= row_BxT[:, :, None] + 1
      first_BxT = (row_BxT - position_BxT) // sizes.selection_block
      return self._select(q, compressed, seen, first_BxT, row_BxT // sizes.selection_block)

    row_BxT = jnp.broadcast_to(jnp.arange(q.shape[1], dtype=jnp.int32)[None], segment_BxT.shape)
    arrays = (q, row_BxT, place.position_BxT, segment_BxT)
    out_cmp, chosen = over_queries(select, arrays, QUERIES)
    block = {"block": sizes.selection_block, "scale": self.scale}
    out_slc = block_attention(q, k_slc, v_slc, segment_BxT, chosen, **block)
    out_win = window_attention(q, k_win, v_win, segment_BxT, self.scale, sizes.window)
    out = self._output(x_BxTxD, (out_cmp, out_slc, out_win))
    return mask.nan_where_misaligned(out, place, sizes.alignment), entry_BxTxC

  def decode(self, x_BxTxD: jax.Array, place: Place, write) -> tuple[jax.Array, jax.Array]:
    """Over a cache; arguments and results as in `MLA.decode`."""
    sizes, position_BxT = self.config.attention, place.position_BxT
    q, entry_BxTxC = self._queries_entries(x_BxTxD, place)
    cache, memories = write(entry_BxTxC)
    width = entry_BxTxC.shape[-1] // len(BRANCHES)
    uncompressed = [memory.entry_PxSxC[..., :width] for memory in memories]
    positions = [memory.position_PxS for memory in memories]
    k_cmp, v_cmp = self._split(in_order(uncompressed, positions, len(q)))
    start_1xX = jnp.arange(0, k_cmp.shape[1], sizes.stride, dtype=jnp.int32)[None]
    cfg = self.config
    at_blocks = rope.cos_sin(start_1xX, sizes.rope_dim, cfg.rope_theta, cfg.rope_scaling)
    compressed = self._compress(k_cmp, v_cmp, at_blocks)
    seen = start_1xX[:, None] + sizes.block <= position_BxT[:, :, None] + 1
    first_BxT, last_BxT = jnp.zeros_like(position_BxT), position_BxT // sizes.selection_block
    out_cmp, chosen = self._select(q, compressed, seen, first_BxT, last_BxT)

    seen_slc, seen_win, slc, win = [], [], [], []
    for memory in memories:
      seen_BxTxS = memory.seen_BxTxS
      slot_BxS = jnp.repeat(memory.position_PxS, len(q) // len(memory.position_PxS), axis=0)
      block_BxS = slot_BxS // sizes.selection_block
      chosen_BxTxNxS = (chosen[..., None] == block_BxS[:, None, None, None]).any(axis=3)
      chosen_BxTxHxS = jnp.repeat(chosen_BxTxNxS, q.shape[2] // chosen.shape[2], axis=2)
      seen_slc.append(seen_BxTxS[:, :, None] & chosen_BxTxHxS)
      seen_win.append(seen_BxTxS & (position_BxT[..., None] < slot_BxS[:, None] + sizes.window))
      _, _, k_slc, v_slc, k_win, v_win = self._split(memory.entry_PxSxC)
      slc.append((k_slc, v_slc))
      win.append((k_win, v_win))
    out_slc = attend_grouped(q, slc, seen_slc, self.scale)
    out_win = attend_grouped(q, win, seen_win, self.scale)
    return self._output(x_BxTxD, (out_cmp, out_slc, out_win)), cache
