"""Surrogate objectives, as losses to minimise."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def ppo_clip(
  ratio: jax.Array,
  advantage: jax.Array,
  *,
  low: float,
  high: float,
  dual_clip: float | None = None,
) -> jax.Array:
  r"""Clipped surrogate with separate lower and upper bounds, negated.

  .. math:: -\min(\rho A, \; \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A)

  With `dual_clip` c the objective of a negative advantage is at least c A, whatever the ratio.

  Args:
    ratio: rho, any shape.
    advantage: A, same shape.
    low: epsilon_low.
    high: epsilon_high; above `low` it is DAPO's clip-higher.
    dual_clip: c > 1, or None.

  Returns: same shape.

  Implements: PPO Eq. 7; DAPO Eq. 10

  >>> print(ppo_clip(jnp.array([0.5, 1.5]), jnp.array([-1.0, 1.0]), low=0.2, high=0.28))
  [ 0.8  -1.28]
  """
  clipped = jnp.clip(ratio, 1.0 - low, 1.0 + high)
  objective = jnp.minimum(ratio * advantage, clipped * advantage)
  if dual_clip is not None:
    floor = jnp.maximum(objective, dual_clip * advantage)
    objective = jnp.where(advantage < 0, floor, objective)
  return -objective


def clipped_low(ratio: jax.Array, advantage: jax.Array, low: float) -> jax.Array:
  """Bool: the lower bound binds and stops the gradient (negative advantage, ratio below it)."""
  return (advantage < 0) & (ratio < 1.0 - low)


def clipped_high(ratio: jax.Array, advantage: jax.Array, high: float) -> jax.Array:
  """Bool: the upper bound binds and stops the gradient (positive advantage, ratio above it)."""
  return (advantage > 0) & (ratio > 1.0 + high)
