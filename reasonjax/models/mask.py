"""Segments, and the positions and prediction targets that follow from them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Place:
  """Where the tokens of a batch stand, as every layer's attention needs to know.

  Attributes:
    position_BxT: int32, counted inside each document; in decoding EMPTY (-1) on padding.
    segment_BxT: int32 document numbers, 0 for padding; None in decoding, where a row is one
      document.
    cos_sin: from `rope.cos_sin`.
    layer: int32, number of the layer; None outside the layers.
  """

  position_BxT: jax.Array
  segment_BxT: jax.Array | None
  cos_sin: tuple[jax.Array, jax.Array]
  layer: jax.Array | None = None


def positions(segment_BxT: jax.Array) -> jax.Array:
  """Position of each token inside its own document.

  Args:
    segment_BxT: int32 document numbers; a document's tokens are consecutive. 0 is padding.

  Returns: `[B, T]` int32, counted from 0 at each document's first token.

  >>> positions(jnp.array([[1, 1, 2, 2, 2, 0]])).tolist()
  [[0, 1, 0, 1, 2, 0]]
  """
  index_BxT = jnp.broadcast_to(jnp.arange(segment_BxT.shape[1])[None], segment_BxT.shape)
  before = jnp.pad(segment_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  start_BxT = jnp.where(segment_BxT != before, index_BxT, 0)
  return index_BxT - jax.lax.cummax(start_BxT, axis=1)


def shift_left(x_BxT: jax.Array, by: int) -> jax.Array:
  """Row t holds what stood at t + by; zeros enter at the end.

  >>> shift_left(jnp.array([[1, 2, 3]]), 1).tolist()
  [[2, 3, 0]]
  """
  return jnp.pad(x_BxT[:, by:], ((0, 0), (0, min(by, x_BxT.shape[1]))))


def targets(ids_BxT: jax.Array, segment_BxT: jax.Array, ahead: int) -> tuple[jax.Array, jax.Array]:
  """The token `ahead` places on, and whether it exists in the same document.

  Returns: `[B, T]` token ids and `[B, T]` bool.

  >>> ids, real = targets(jnp.array([[5, 6, 7, 8]]), jnp.array([[1, 1, 2, 2]]), 1)
  >>> ids.tolist(), real.tolist()
  ([[6, 7, 8, 0]], [[True, False, True, False]])
  """
  same_BxT = (segment_BxT != 0) & (shift_left(segment_BxT, ahead) == segment_BxT)
  return shift_left(ids_BxT, ahead), same_BxT


def nan_where_misaligned(x_BxTxD: jax.Array, place: Place, alignment: int) -> jax.Array:
  """NaN for documents that do not start at a multiple of `alignment`, so that nobody trusts them.

  Where attention cuts rows into blocks, such a document would share a block with another. From the
  next layer on, the other documents of its row may be NaN, too; other rows never are.

  Args:
    x_BxTxD: any values of the tokens.
    place: of the tokens.
    alignment: rows, see `models/attention_config.py`.

  >>> place = Place(jnp.array([[0, 0, 1, 0]]), jnp.array([[1, 2, 2, 0]]), cos_sin=None)
  >>> nan_where_misaligned(jnp.ones((1, 4, 1)), place, 2)[..., 0].tolist()
  [[1.0, nan, nan, 1.0]]
  """
  row_T = jnp.arange(x_BxTxD.shape[1], dtype=jnp.int32)
  wrong_BxT = (place.position_BxT - row_T[None]) % alignment != 0
  wrong_BxT &= place.segment_BxT != 0
  return jnp.where(wrong_BxT[..., None], jnp.nan, x_BxTxD)
