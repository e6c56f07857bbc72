"""Importance ratios between the current policy and the one that the advantages belong to."""

from __future__ import annotations

import jax
import jax.numpy as jnp

LOG_RATIO_CLAMP = 20.0


def token_ratio(
  logp_BxT: jax.Array, old_logp_BxT: jax.Array, clamp: float = LOG_RATIO_CLAMP
) -> jax.Array:
  r"""Ratio of each token's probability under the current and the old policy.

  .. math:: \rho_{i,t} = \pi_\theta(o_{i,t} | \cdot) / \pi_{old}(o_{i,t} | \cdot)

  Args:
    logp_BxT: current log-probabilities, nats.
    old_logp_BxT: those at rollout time; no gradient flows through them.
    clamp: bound on the absolute log-ratio, against overflow.

  Returns: `[B, T]`, > 0.

  Implements: PPO Eq. 6

  >>> print(token_ratio(jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]]))).round(4))
  [[2.]]
  """
  return jnp.exp(jnp.clip(logp_BxT - jax.lax.stop_gradient(old_logp_BxT), -clamp, clamp))
