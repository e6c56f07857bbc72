"""Statistics of the masked part of an array, and sums over the segments of packed rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `x` where `mask` is 1, float32; 0 where nothing is.

  >>> print(mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0])))
  2.0
  """
  mask = mask.astype(jnp.float32)
  return (x.astype(jnp.float32) * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def variance(x: jax.Array, mask: jax.Array, ddof: int = 0) -> jax.Array:
  """Variance of `x` where `mask` is 1, float32, in two passes; `ddof` is taken off the count.

  >>> print(variance(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0]), ddof=1))
  2.0
  """
  square = jnp.square(x.astype(jnp.float32) - mean(x, mask)) * mask.astype(jnp.float32)
  return square.sum() / jnp.maximum(mask.astype(jnp.float32).sum() - ddof, 1.0)


def whiten(x: jax.Array, mask: jax.Array, *, ddof: int = 1, eps: float = 1e-8) -> jax.Array:
  r"""Zero mean and unit variance over everything that is masked, exactly 0 elsewhere.

  .. math:: (x - \mu) / \sqrt{\sigma^2 + \epsilon}

  Args:
    x: any shape; as a rule `[B, T]` token advantages, or `[B]` one a sequence.
    mask: same shape, 1 where `x` counts.
    ddof: degrees of freedom taken off in the variance.
    eps: added to the variance.

  >>> print(whiten(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0]), ddof=0).round(4))
  [-1.  1.  0.]
  """
  centred = x.astype(jnp.float32) - mean(x, mask)
  return centred * jax.lax.rsqrt(variance(x, mask, ddof) + eps) * mask.astype(jnp.float32)


def segment_sum(x_BxT: jax.Array, segment_BxT: jax.Array) -> jax.Array:
  """Each token gets the sum of `x` over its own segment of its row.

  Args:
    x_BxT: values, 0 wherever they are not to count.
    segment_BxT: int32 segment numbers in 0 ... T.

  Returns: `[B, T]` float32, constant within a segment.

  >>> print(segment_sum(jnp.array([[1.0, 2.0, 4.0]]), jnp.array([[1, 1, 2]])))
  [[3. 3. 4.]]
  """
  T = x_BxT.shape[1]
  add = lambda x, segment: jax.ops.segment_sum(x, segment, num_segments=T + 1)
  total_BxS = jax.vmap(add)(x_BxT.astype(jnp.float32), segment_BxT)
  return jnp.take_along_axis(total_BxS, segment_BxT, axis=1)
