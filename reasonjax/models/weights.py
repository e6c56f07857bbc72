"""How every module declares a parameter: shape, logical axis names and initialiser together."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def declare(
  module: nn.Module,
  name: str,
  shape: Sequence[int],
  axes: Sequence[str],
  *,
  std: float | None = None,
  dtype: str = "float32",
) -> jax.Array:
  """Declares one parameter of `module`.

  Args:
    module: the linen module that owns it (call from `setup` or a compact method).
    name: its name in the parameter tree.
    shape: its shape.
    axes: one logical axis name a dimension; sharding/rules.py maps them to mesh axes.
    std: standard deviation of the normal initialiser, or None for ones (norm scales).
    dtype: parameter dtype.

  Returns: the parameter, an array of `shape`.

  Raises:
    ValueError: if `axes` does not name every dimension.
  """
  if len(shape) != len(axes):
    raise ValueError(f"{name}: shape {tuple(shape)} needs {len(shape)} axis names, got {axes}.")
  init = nn.initializers.ones if std is None else nn.initializers.normal(std)
  boxed = nn.with_logical_partitioning(init, tuple(axes))
  return module.param(name, boxed, tuple(shape), jnp.dtype(dtype))


def add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
  """`x` plus a bias over its last dimensions, in the dtype of `x`; None adds nothing."""
  if bias is None:
    return x
  return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - bias.ndim) + bias.shape)
