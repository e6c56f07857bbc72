"""Rotary position embedding, interleaved pairs, with YaRN context extension."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.models.config import YarnConfig


def inverse_frequencies(dim: int, theta: float, yarn: YarnConfig | None = None) -> np.ndarray:
  r"""Rotation per position of each pair of dimensions, radians.

  .. math:: f_i = \theta^{-2i/d}, \qquad
    f_i^{yarn} = f_i \, ((1 - \gamma_i) + \gamma_i / s), \qquad
    \gamma_i = \mathrm{clip}((i - low) / (high - low), 0, 1)

  where low and high are the pairs that turn `beta_fast` and `beta_slow` times over the original
  context: `low = floor(c(beta_fast))`, `high = ceil(c(beta_slow))`,
  `c(r) = d ln(L0 / (2 pi r)) / (2 ln theta)`.

  Args:
    dim: d, number of rotated dimensions; even.
    theta: base.
    yarn: context extension, or None.

  Returns: `[d / 2]` float64 (a constant of the program, not traced).

  Implements: RoFormer Eq. 15; YaRN Eq. 20
  """
  pair = np.arange(dim // 2, dtype=np.float64)
  plain = theta ** (-2.0 * pair / dim)
  if yarn is None:
    return plain

  def pair_of(rotations: float) -> float:
    turns = yarn.original_length / (2.0 * math.pi * rotations)
    return dim * math.log(turns) / (2.0 * math.log(theta))

  low = max(math.floor(pair_of(yarn.beta_fast)), 0)
  high = min(math.ceil(pair_of(yarn.beta_slow)), dim - 1)
  ramp = np.clip((pair - low) / (high - low if high > low else 0.001), 0.0, 1.0)
  return plain * ((1.0 - ramp) + ramp / yarn.factor)


def temperature(factor: float, coefficient: float) -> float:
  r"""Attention temperature of YaRN, `m = 0.1 c ln(s) + 1` (1 where the context is not extended).

  Implements: YaRN Eq. 22

  >>> round(temperature(40.0, 1.0), 6)
  1.368888
  """
  return 1.0 if factor <= 1.0 else 0.1 * coefficient * math.log(factor) + 1.0


def table_scale(yarn: YarnConfig | None) -> float:
  """Factor on cos and sin: 1 whenever `mscale == mscale_all_dim`, as in all DeepSeek releases."""
  if yarn is None:
    return 1.0
  if yarn.mscale and yarn.mscale_all_dim:
    return temperature(yarn.factor, yarn.mscale) / temperature(yarn.factor, yarn.mscale_all_dim)
  return temperature(yarn.factor, 1.0)


def softmax_scale(head_dim: int, yarn: YarnConfig | None) -> float:
  r"""Factor on query-key products, :math:`m^2 / \sqrt{d_h + d_h^R}`.

  YaRN's temperature enters squared and acts on all dimensions, rotated or not.

  Args:
    head_dim: full query width per head, rotated and unrotated.
    yarn: context extension, or None for m = 1.

  >>> round(softmax_scale(192, YarnConfig()), 10)
  0.1352337789
  """
  m = temperature(yarn.factor, yarn.mscale_all_dim) if yarn and yarn.mscale_all_dim else 1.0
  return m * m / math.sqrt(head_dim)


def cos_sin(
  positions: jax.Array, dim: int, theta: float, yarn: YarnConfig | None = None
) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of every pair's angle at every position, always float32.

  Args:
    positions: `[B, T]` int32, position of each token inside its own document.
    dim: rotated dimensions.
    theta: base.
    yarn: context extension, or None.

  Returns: two `[B, T, dim / 2]` float32 arrays.
  """
  frequency = jnp.asarray(inverse_frequencies(dim, theta, yarn), jnp.float32)
  angle = positions.astype(jnp.float32)[..., None] * frequency[None, None, :]
  scale = table_scale(yarn)
  return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def rotate(x_BxTxHxK: jax.Array, cos_BxTxK: jax.Array, sin_BxTxK: jax.Array) -> jax.Array:
  r"""Rotates interleaved pairs (2i, 2i + 1) by their angle.

  .. math:: (x_{2i}, x_{2i+1}) \mapsto
    (x_{2i} \cos - x_{2i+1} \sin, \; x_{2i} \sin + x_{2i+1} \cos)

  Args:
    x_BxTxHxK: queries, or the one shared key with H = 1.
    cos_BxTxK: `[B, T, K / 2]` float32 from `cos_sin`.
    sin_BxTxK: the same for the sine.

  Returns: `[B, T, H, K]` in the dtype of `x_BxTxHxK`.

  Implements: RoFormer Eq. 34
  """
  x32 = x_BxTxHxK.astype(jnp.float32)
  even, odd = x32[..., 0::2], x32[..., 1::2]
  cos, sin = cos_BxTxK[:, :, None, :], sin_BxTxK[:, :, None, :]
  out = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
  return out.reshape(x_BxTxHxK.shape).astype(x_BxTxHxK.dtype)
