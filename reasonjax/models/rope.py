"""Rotary position embedding over half-split pairs, with YaRN and Llama-3 context extension.

Dimension i is paired with i + d/2. Checkpoints that pair neighbours (DeepSeek) have the rows of
their rotated projections put into this order when they are loaded, in checkpoint/hf.py only.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.models.config import Llama3RopeConfig, RopeScaling, YarnConfig


def inverse_frequencies(dim: int, theta: float, scaling: RopeScaling = None) -> np.ndarray:
  r"""Rotation per position of each pair of dimensions, radians: :math:`f_i = \theta^{-2i/d}`.

  Args:
    dim: d, number of rotated dimensions; even.
    theta: base.
    scaling: context extension, or None.

  Returns: `[d / 2]` float64 (a constant of the program, not traced).

  Implements: RoFormer Eq. 15
  """
  plain = theta ** (-2.0 * np.arange(dim // 2, dtype=np.float64) / dim)
  if isinstance(scaling, YarnConfig):
    return yarn_frequencies(plain, theta, scaling)
  if isinstance(scaling, Llama3RopeConfig):
    return llama3_frequencies(plain, scaling)
  return plain


def yarn_frequencies(plain: np.ndarray, theta: float, yarn: YarnConfig) -> np.ndarray:
  r"""Slow pairs are slowed by the factor s, fast ones left alone, those between blended.

  .. math:: f_i^{yarn} = f_i \, ((1 - \gamma_i) + \gamma_i / s), \qquad
    \gamma_i = \mathrm{clip}((i - low) / (high - low), 0, 1)

  where low and high are the pairs that turn `beta_fast` and `beta_slow` times over the original
  context: `low = floor(c(beta_fast))`, `high = ceil(c(beta_slow))`,
  `c(r) = d ln(L0 / (2 pi r)) / (2 ln theta)`.

  Args:
    plain: `[d / 2]` float64 frequencies.
    theta: their base.
    yarn: the extension.

  Implements: YaRN Eq. 20
  """
  dim = 2 * len(plain)

  def pair_of(rotations: float) -> float:
    turns = yarn.original_length / (2.0 * math.pi * rotations)
    return dim * math.log(turns) / (2.0 * math.log(theta))

  low = max(math.floor(pair_of(yarn.beta_fast)), 0)
  high = min(math.ceil(pair_of(yarn.beta_slow)), dim - 1)
  pair = np.arange(len(plain), dtype=np.float64)
  ramp = np.clip((pair - low) / (high - low if high > low else 0.001), 0.0, 1.0)
  return plain * ((1.0 - ramp) + ramp / yarn.factor)


def llama3_frequencies(plain: np.ndarray, llama3: Llama3RopeConfig) -> np.ndarray:
  r"""Wavelengths beyond the original context are stretched, short ones kept, the rest blended.

  .. math:: f_i^{llama3} = (1 - \sigma_i) f_i / s + \sigma_i f_i, \qquad
    \sigma_i = \mathrm{clip}((L_0 / \lambda_i - low) / (high - low), 0, 1), \quad
    \lambda_i = 2 \pi / f_i

  Args:
    plain: `[d / 2]` float64 frequencies.
    llama3: the extension.

  Source: Llama-3.1's reference code (arXiv 2407.21783 gives no formula).
  """
  turns = llama3.original_length * plain / (2.0 * math.pi)
  span = llama3.high_frequency_factor - llama3.low_frequency_factor
  keep = np.clip((turns - llama3.low_frequency_factor) / span, 0.0, 1.0)
  return (1.0 - keep) * plain / llama3.factor + keep * plain


def temperature(factor: float, coefficient: float) -> float:
  r"""Attention temperature of YaRN, `m = 0.1 c ln(s) + 1` (1 where the context is not extended).

  Implements: YaRN Eq. 22

  >>> round(temperature(40.0, 1.0), 6)
  1.368888
  """
  return 1.0 if factor <= 1.0 else 0.1 * coefficient * math.log(factor) + 1.0


def table_scale(scaling: RopeScaling) -> float:
  """Factor on cos and sin: 1 whenever `mscale == mscale_all_dim`, as in all DeepSeek releases."""
  if not isinstance(scaling, YarnConfig):
    return 1.0
  yarn = scaling
  if yarn.mscale and yarn.mscale_all_dim:
    return temperature(yarn.factor, yarn.mscale) / temperature(yarn.factor, yarn.mscale_all_dim)
  return temperature(yarn.factor, 1.0)


def softmax_scale(head_dim: int, scaling: RopeScaling) -> float:
  r"""Factor on query-key products, :math:`m^2 / \sqrt{d_h + d_h^R}`.

  YaRN's temperature enters squared and acts on all dimensions, rotated or not.

  Args:
    head_dim: full query width per head, rotated and unrotated.
    scaling: context extension; m = 1 unless it is YaRN's.

  >>> round(softmax_scale(192, YarnConfig()), 10)
  0.1352337789
  """
  m = 1.0
  if isinstance(scaling, YarnConfig) and scaling.mscale_all_dim:
    m = temperature(scaling.factor, scaling.mscale_all_dim)
  return m * m / math.sqrt(head_dim)


def cos_sin(
  positions: jax.Array, dim: int, theta: float, scaling: RopeScaling = None
) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of every pair's angle at every position, always float32.

  Args:
    positions: `[B, T]` int32, position of each token inside its own document.
    dim: rotated dimensions.
    theta: base.
    scaling: context extension, or None.

  Returns: two `[B, T, dim / 2]` float32 arrays.
  """
  frequency = jnp.asarray(inverse_frequencies(dim, theta, scaling), jnp.float32)
  angle = positions.astype(jnp.float32)[..., None] * frequency[None, None, :]
  scale = table_scale(scaling)
  return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def rotate(x_BxTxHxK: jax.Array, cos_BxTxK: jax.Array, sin_BxTxK: jax.Array) -> jax.Array:
  r"""Rotates the pairs (i, i + d/2) by their angle.

  .. math:: (x_i, x_{i+d/2}) \mapsto
    (x_i \cos - x_{i+d/2} \sin, \; x_i \sin + x_{i+d/2} \cos)

  Args:
    x_BxTxHxK: queries or keys; H = 1 for MLA's one shared key.
    cos_BxTxK: `[B, T, K / 2]` float32 from `cos_sin`.
    sin_BxTxK: the same for the sine.

  Returns: `[B, T, H, K]` in the dtype of `x_BxTxHxK`.

  Implements: RoFormer Eq. 34
  """
  first, second = jnp.split(x_BxTxHxK.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos_BxTxK[:, :, None, :], sin_BxTxK[:, :, None, :]
  out = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
  return out.astype(x_BxTxHxK.dtype)
