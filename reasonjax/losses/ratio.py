"""Importance ratios between the current policy and the one that the advantages belong to."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reasonjax.core import masked

LEVELS = ("token", "seq_geo", "seq_sum")
LOG_RATIO_CLAMP = 20.0


def log_ratio(
  logp_BxT: jax.Array, old_logp_BxT: jax.Array, clamp: float = LOG_RATIO_CLAMP
) -> jax.Array:
  """Bounded difference of log-probabilities, nats; no gradient through the old ones."""
  return jnp.clip(logp_BxT - jax.lax.stop_gradient(old_logp_BxT), -clamp, clamp)


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
  return jnp.exp(log_ratio(logp_BxT, old_logp_BxT, clamp))


def sequence_log_ratio(
  logp_BxT: jax.Array,
  old_logp_BxT: jax.Array,
  mask_BxT: jax.Array,
  segment_BxT: jax.Array,
  *,
  per_token: bool,
) -> jax.Array:
  r"""Log-ratio of each whole response, :math:`\sum_t \log \rho_{i,t}`, or its mean over tokens.

  Args:
    logp_BxT: current log-probabilities of packed responses.
    old_logp_BxT: those at rollout time.
    mask_BxT: 1 on sampled tokens.
    segment_BxT: int32 sequence numbers.
    per_token: divide by the response's length.

  Returns: `[B, T]` float32, the same on all tokens of a sequence.

  >>> old, mask, segment = jnp.zeros((1, 3)), jnp.ones((1, 3)), jnp.array([[1, 1, 2]])
  >>> logp = jnp.array([[0.1, 0.3, -0.5]])
  >>> print(sequence_log_ratio(logp, old, mask, segment, per_token=True))
  [[ 0.2  0.2 -0.5]]
  """
  difference = (logp_BxT - jax.lax.stop_gradient(old_logp_BxT)) * mask_BxT
  total = masked.segment_sum(difference, segment_BxT)
  if not per_token:
    return total
  return total / jnp.maximum(masked.segment_sum(mask_BxT, segment_BxT), 1.0)


def sequence_ratio(
  logp_BxT: jax.Array,
  old_logp_BxT: jax.Array,
  mask_BxT: jax.Array,
  segment_BxT: jax.Array,
  *,
  per_token: bool,
) -> jax.Array:
  r"""Ratio of a whole response: the geometric mean of its token ratios (GSPO), or their product.

  .. math:: s_i = \exp\Big(\frac{1}{|y_i|} \sum_t \log \rho_{i,t}\Big)

  Args and Returns: as `sequence_log_ratio`, exponentiated; `per_token` gives the geometric mean.

  Source: arXiv 2507.18071 (GSPO), the definition of the sequence-level importance ratio.

  >>> logp, ones = jnp.array([[0.1, -0.2, 0.3]]), jnp.ones((1, 3))
  >>> segment = jnp.ones((1, 3), jnp.int32)
  >>> print(sequence_ratio(logp, 0 * ones, ones, segment, per_token=True)[0, 0].round(6))
  1.068939
  """
  mean = sequence_log_ratio(logp_BxT, old_logp_BxT, mask_BxT, segment_BxT, per_token=per_token)
  return jnp.exp(jnp.clip(mean, -LOG_RATIO_CLAMP, LOG_RATIO_CLAMP))
