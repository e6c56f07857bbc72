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


def policy_ratio(ratio: jax.Array, advantage: jax.Array) -> jax.Array:
  r"""Unclipped importance-weighted objective, negated: :math:`-\rho A`.

  With a penalty on KL(old || new) it is PPO's other variant.

  >>> print(policy_ratio(jnp.array([1.5]), jnp.array([-1.0])))
  [1.5]
  """
  return -ratio * advantage


def reinforce(logp: jax.Array, advantage: jax.Array) -> jax.Array:
  r"""Score-function objective, negated: :math:`-A \log \pi`.

  Source: Williams 1992; its gradient is that of every ratio-based surrogate at ratio 1.

  >>> print(reinforce(jnp.array([-2.0]), jnp.array([1.0])))
  [2.]
  """
  return -advantage * logp


def cispo(
  logp: jax.Array,
  ratio: jax.Array,
  advantage: jax.Array,
  *,
  cap: float,
  floor: float = 0.0,
) -> jax.Array:
  r"""REINFORCE weighted by the clipped ratio, through which no gradient flows.

  .. math:: -\mathrm{sg}(\mathrm{clip}(\rho, floor, cap)) \, A \log \pi

  Unlike PPO's clip, no token ever loses its gradient.

  Args:
    logp: current log-probabilities.
    ratio: rho, same shape.
    advantage: A, same shape.
    cap: largest weight, an absolute bound (5 in ScaleRL; not published for MiniMax-M1).
    floor: smallest weight.

  Source: arXiv 2506.13585 (MiniMax-M1), CISPO.

  >>> print(cispo(jnp.array([-2.0]), jnp.array([6.0]), jnp.array([1.0]), cap=5.0))
  [10.]
  """
  weight = jax.lax.stop_gradient(jnp.clip(ratio, floor, cap))
  return -weight * advantage * logp


def mirror_descent(log_ratio: jax.Array, advantage: jax.Array, *, tau: float) -> jax.Array:
  r"""Kimi k1.5's online mirror descent on whole responses, negated.

  .. math:: -\Big( A \, \rho - \frac{\tau}{2} \rho^2 \Big), \qquad
    \rho = \sum_t \log \pi_\theta / \pi_{old}

  Its gradient is 1 / (2 tau) times that of the squared surrogate :math:`(A - \tau \rho)^2`.

  Args:
    log_ratio: rho of each response (any shape).
    advantage: reward minus the group's mean.
    tau: strength of the pull towards the old policy, > 0.

  Source: arXiv 2501.12599 (Kimi k1.5), section 2.3.

  >>> print(mirror_descent(jnp.array([0.1]), jnp.array([0.5]), tau=0.5))
  [-0.0475]
  """
  return -(advantage * log_ratio - tau / 2.0 * jnp.square(log_ratio))
