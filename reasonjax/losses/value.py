"""Losses and diagnostics of a critic."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reasonjax.core import masked


def value_loss(
  value: jax.Array, old_value: jax.Array, target: jax.Array, *, clip: float | None
) -> jax.Array:
  r"""Half the squared error of every token's value, optionally the worse of two.

  .. math:: \tfrac12 \max\big( (V - R)^2,\; (\mathrm{clip}(V, V_{old} \pm \epsilon) - R)^2 \big)

  Args:
    value: V, current prediction; gradients flow through it.
    old_value: prediction at rollout time, same shape.
    target: R, the lambda-return; as a rule `advantage.gae(...) + old_value`, before whitening.
    clip: epsilon, or None for the plain squared error.

  Returns: same shape.

  Source: clipping as in OpenAI baselines' PPO; PPO Eq. 9 has the plain form.

  >>> print(value_loss(jnp.array(0.75), jnp.array(0.0), jnp.array(1.0), clip=0.5))
  0.125
  """
  old_value, target = jax.lax.stop_gradient((old_value, target))
  error = jnp.square(value - target)
  if clip is not None:
    near = jnp.clip(value, old_value - clip, old_value + clip)
    error = jnp.maximum(error, jnp.square(near - target))
  return 0.5 * error


def explained_variance(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
  r"""How much of the returns' variance the critic explains, :math:`1 - Var(R - V) / Var(R)`.

  1 is perfect, 0 no better than a constant; negative is worse. Any shape; masked mean.

  >>> target = jnp.array([0.0, 1.0, 2.0])
  >>> print(explained_variance(target, target, jnp.ones(3)))
  1.0
  """
  return 1.0 - masked.variance(target - value, mask) / (masked.variance(target, mask) + 1e-5)
