"""Mixture of block attention: each head of a query reads the few blocks whose keys it fits best.

No weight is added to grouped-query attention, so a trained model may change from one to the other.
Shape letters of this file: Y blocks, I blocks that a query reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from reasonjax.core.config import require
from reasonjax.kernels.sparse_attention import block_attention
from reasonjax.models import mask
from reasonjax.models.cache import EMPTY, Memory
from reasonjax.models.gqa import GQA, split
from reasonjax.models.mask import Place


def block_means(k_BxTxNxK: jax.Array, block: int) -> jax.Array:
  """`[B, Y, N, K]` float32 means of the keys in each block of rows.

  The last block is filled up with zeros: it is behind no query, so its mean counts nowhere.

  >>> block_means(jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 4, 1, 1), 2).ravel().tolist()
  [2.0, 6.0]
  """
  padded = jnp.pad(k_BxTxNxK, ((0, 0), (0, -k_BxTxNxK.shape[1] % block), (0, 0), (0, 0)))
  B, T, N, K = padded.shape
  return padded.reshape(B, T // block, block, N, K).astype(jnp.float32).mean(axis=2)


def cached_block_means(
  memories: Sequence[tuple[jax.Array, jax.Array]], batch: int, block: int
) -> jax.Array:
  """`block_means` of cached keys, wherever in the cache the tokens of a block lie.

  Args:
    memories: keys `[P, S, N, K]` and positions `[P, S]`, read as one sequence whose filled slots
      have the positions 0, 1, 2, ...
    batch: B; row p of a memory serves B / P consecutive rows.
    block: tokens.

  Returns: `[B, Y, N, K]` float32, Y blocks for as many tokens as there are slots.

  Twin of: block_means
  """
  blocks = -(-sum(position.shape[1] for _, position in memories) // block)
  total_BxYxNxK, count_BxY = 0.0, 0.0
  for key_PxSxNxK, position_PxS in memories:
    P, _, N, K = key_PxSxNxK.shape
    of_row = jnp.arange(P)[:, None]
    at_PxS = jnp.where(position_PxS == EMPTY, blocks, position_PxS // block)  # `blocks` is dropped
    key_PxSxNxK = key_PxSxNxK.astype(jnp.float32)
    total = jnp.zeros((P, blocks, N, K)).at[of_row, at_PxS].add(key_PxSxNxK, mode="drop")
    count = jnp.zeros((P, blocks)).at[of_row, at_PxS].add(1.0, mode="drop")
    total_BxYxNxK += jnp.repeat(total, batch // P, axis=0)
    count_BxY += jnp.repeat(count, batch // P, axis=0)
  return total_BxYxNxK / jnp.maximum(count_BxY, 1.0)[:, :, None, None]


def gate(q_BxTxHxK: jax.Array, mean_BxYxNxK: jax.Array) -> jax.Array:
  r"""How well each head of a query fits each block: :math:`s_{t,h,i} = q_{t,h} \cdot \bar k_i`.

  Args:
    q_BxTxHxK: queries, as they are multiplied with keys; no softmax scale.
    mean_BxYxNxK: mean keys of the blocks; head n serves H / N consecutive query heads.

  Returns: `[B, T, H, Y]` float32.

  Source: MoBA (arXiv 2502.13189), section 2.2, the affinity score of the gate.
  """
  (B, T, H, K), (Y, N) = q_BxTxHxK.shape, mean_BxYxNxK.shape[1:3]
  score_BxTxNxGxY = jnp.einsum(
    "btngk,bynk->btngy",
    q_BxTxHxK.reshape(B, T, N, H // N, K).astype(jnp.float32),
    mean_BxYxNxK,
    precision=jax.lax.Precision.HIGHEST,
  )
  return score_BxTxNxGxY.reshape(B, T, H, Y)


def choose_blocks(
  gate_BxTxHxY: jax.Array, first_BxT: jax.Array, last_BxT: jax.Array, count: int
) -> jax.Array:
  """The block of the query itself, and of those behind it in its document the ones that fit best.

  Args:
    gate_BxTxHxY: from `gate`.
    first_BxT: int32 block in which the query's document starts.
    last_BxT: int32 block of the query.
    count: blocks to choose, the query's own included.

  Returns: `[B, T, H, I]` int32, I = min(count, Y), the own block first; -1 where there are no more.

  Source: MoBA (arXiv 2502.13189), section 2.2, top-k gating and the two rules of causality.
  """
  Y = gate_BxTxHxY.shape[-1]
  block_Y = jnp.arange(Y, dtype=jnp.int32)[None, None, None]
  first, last = first_BxT[:, :, None, None], last_BxT[:, :, None, None]
  behind = (first <= block_Y) & (block_Y < last)
  score_BxTxHxY = jnp.where(behind, gate_BxTxHxY, -jnp.inf)
  score_BxTxHxY = jnp.where(block_Y == last, jnp.inf, score_BxTxHxY)
  best, chosen = jax.lax.top_k(score_BxTxHxY, min(count, Y))
  return jnp.where(best == -jnp.inf, -1, chosen)


class MoBA(GQA):
  """Grouped-query attention to chosen blocks; the last layers may see all; see `MoBAConfig`.

  No gradient passes through the choice. Blocks of packed documents are cut from the array's rows,
  so documents must start at multiples of the block; those that do not get NaN.

  Decoding averages the keys of all blocks anew at every step: correct whatever the slots' order,
  but linear in the length.
  """

  def setup(self):
    super().setup()
    full, layers = self.config.attention.full_layers, self.config.num_layers
    require(full <= layers, "full_layers", full, f"choose 0..num_layers={layers}")

  def _sees_all(self, place: Place) -> jax.Array:
    """Whether this layer is one of the last; MTP modules are as the main model's last layer."""
    last = self.config.num_layers - 1
    return jnp.minimum(place.layer, last) > last - self.config.attention.full_layers

  def _choose(self, q_BxTxHxK, mean_BxYxNxK, first_BxT, last_BxT) -> jax.Array:
    gate_BxTxHxY = gate(jax.lax.stop_gradient(q_BxTxHxK), jax.lax.stop_gradient(mean_BxYxNxK))
    return choose_blocks(gate_BxTxHxY, first_BxT, last_BxT, self.config.attention.top_k)

  def mix(self, q_BxTxHxK, k_BxTxNxK, v_BxTxNxK, place: Place) -> jax.Array:
    """`[B, T, H, K]` attention to chosen blocks of packed documents."""
    block = self.config.attention.block
    row_BxT = jnp.arange(q_BxTxHxK.shape[1], dtype=jnp.int32)[None]
    first_BxT = (row_BxT - place.position_BxT) // block
    last_BxT = jnp.broadcast_to(row_BxT // block, first_BxT.shape)

    def sparse(q, k, v):
      chosen_BxTxHxI = self._choose(q, block_means(k, block), first_BxT, last_BxT)
      sizes = {"block": block, "scale": self.scale}
      return block_attention(q, k, v, place.segment_BxT, chosen_BxTxHxI, **sizes)

    if not self.config.attention.full_layers:
      return sparse(q_BxTxHxK, k_BxTxNxK, v_BxTxNxK)
    full = lambda *qkv: GQA.mix(self, *qkv, place)
    return jax.lax.cond(self._sees_all(place), full, sparse, q_BxTxHxK, k_BxTxNxK, v_BxTxNxK)

  def __call__(self, x_BxTxD: jax.Array, place: Place) -> tuple[jax.Array, jax.Array]:
    """Over one packed batch; arguments and results as in `MLA.__call__`."""
    out_BxTxD, entry_BxTxC = super().__call__(x_BxTxD, place)
    return mask.nan_where_misaligned(out_BxTxD, place, self.config.attention.block), entry_BxTxC

  def seen(self, q_BxTxHxK, place: Place, memories: Sequence[Memory]) -> list[jax.Array]:
    """`[B, T, H, S]`: the slots of chosen blocks up to the query itself."""
    block, position_BxT = self.config.attention.block, place.position_BxT
    heads = self.config.attention.num_kv_heads
    keys = [(split(memory, heads)[0], memory.position_PxS) for memory in memories]
    mean_BxYxNxK = cached_block_means(keys, len(q_BxTxHxK), block)
    first_BxT, last_BxT = jnp.zeros_like(position_BxT), position_BxT // block
    chosen_BxTxHxI = self._choose(q_BxTxHxK, mean_BxYxNxK, first_BxT, last_BxT)
    sees_all, seen = self._sees_all(place), super().seen(q_BxTxHxK, place, memories)

    def restrict(seen_BxTxS, position_PxS):
      position_BxS = jnp.repeat(position_PxS, len(q_BxTxHxK) // len(position_PxS), axis=0)
      of_slot = (position_BxS // block)[:, None, None, None]
      chosen_BxTxHxS = (chosen_BxTxHxI[..., None] == of_slot).any(axis=3)
      return seen_BxTxS[:, :, None] & (chosen_BxTxHxS | sees_all)

    return [restrict(s, memory.position_PxS) for s, memory in zip(seen, memories, strict=True)]
