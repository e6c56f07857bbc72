"""Weights stored in 8-bit floats with one scale a block."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def scale_shape(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
  """Blocks along each dimension of a matrix; the last may be partial.

  >>> scale_shape((576, 7168), (128, 128))
  (5, 56)
  """
  return tuple(-(-size // width) for size, width in zip(shape, block, strict=True))


def dequantize(value: jax.Array, scale: jax.Array, block: tuple[int, int]) -> jax.Array:
  r"""Multiplies every block of a matrix by its scale, :math:`W_{rc} = q_{rc} \; s_{r / b, c / b}`.

  Args:
    value: `[..., out, in]` 8-bit floats.
    scale: `[..., ceil(out / b), ceil(in / b)]` float32. Checkpoints call it `scale_inv`, but it is
      the factor itself.
    block: rows and columns of a block.

  Returns: `[..., out, in]` float32.

  Source: weights of the DeepSeek-V3 release.
  """
  row, column = (jnp.arange(n) // b for n, b in zip(value.shape[-2:], block, strict=True))
  return value.astype(jnp.float32) * jnp.take(jnp.take(scale, row, axis=-2), column, axis=-1)
