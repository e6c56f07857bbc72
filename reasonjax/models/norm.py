"""Root-mean-square normalisation."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.models.weights import declare


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  r"""Normalises the last axis by its root mean square.

  .. math:: y = g \odot x / \sqrt{\mathrm{mean}(x^2) + \epsilon}

  Statistics are float32; the normalised value is cast to the input dtype before the scale, as the
  published DeepSeek checkpoints expect.

  Args:
    x: `[..., D]`, any float dtype.
    scale: `[D]`, g.
    eps: added to the mean square.

  Returns: `[..., D]` in the dtype of `x`.

  Source: arXiv 1910.07467, Eq. 4.

  >>> print(rms_norm(jnp.array([1.0, 7.0]), jnp.full(2, 5.0), 0.0).round(4))
  [1. 7.]
  """
  x32 = x.astype(jnp.float32)
  normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  scale = scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + scale.shape)
  return normed.astype(x.dtype) * scale


class RMSNorm(nn.Module):
  """`rms_norm` with a learned scale of the given size."""

  size: int
  eps: float
  param_dtype: str = "float32"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = declare(self, "scale", (self.size,), ("norm",), dtype=self.param_dtype)
    return rms_norm(x, scale, self.eps)
