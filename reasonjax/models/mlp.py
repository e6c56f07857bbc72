"""The gated feed-forward network."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.models.weights import declare


def swiglu(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
  r"""Gated feed-forward network, :math:`(\mathrm{silu}(x W_g) \odot x W_u) W_d`.

  Args:
    x: `[..., D]`.
    gate: `[D, F]`.
    up: `[D, F]`.
    down: `[F, D]`.

  Returns: `[..., D]`.

  Implements: GLU-variants Eq. 6
  """
  return (nn.silu(x @ gate) * (x @ up)) @ down


class SwiGLU(nn.Module):
  """`swiglu` with its three weights."""

  hidden_size: int
  ffn_size: int
  std: float
  dtype: str
  param_dtype: str

  @nn.compact
  def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
    def weight(name, shape, axes):
      value = declare(self, name, shape, axes, std=self.std, dtype=self.param_dtype)
      return value.astype(self.dtype)

    wide, narrow = (self.hidden_size, self.ffn_size), (self.ffn_size, self.hidden_size)
    gate = weight("gate", wide, ("embed", "mlp"))
    up = weight("up", wide, ("embed", "mlp"))
    down = weight("down", narrow, ("mlp", "embed"))
    return swiglu(x_BxTxD.astype(jnp.dtype(self.dtype)), gate, up, down)
