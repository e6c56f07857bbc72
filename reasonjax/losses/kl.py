"""Estimators of KL(policy || other) from tokens that the policy sampled (Schulman's k1, k2, k3).

All take log-probabilities of the sampled tokens under the policy and under the other model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def k1(logp: jax.Array, other_logp: jax.Array) -> jax.Array:
  r"""Log-ratio :math:`d = \log\pi - \log\pi_{other}`: unbiased, of either sign.

  As a loss its expected gradient is zero, so it does not regularise; use it in the reward or as a
  metric.

  Source: http://joschu.net/blog/kl-approx.html.

  >>> print(k1(jnp.float32(-1.0), jnp.float32(-1.5)))
  0.5
  """
  return logp - other_logp


def k2(logp: jax.Array, other_logp: jax.Array) -> jax.Array:
  r"""Half the squared log-ratio, :math:`d^2 / 2`; as a loss its gradient is the exact KL gradient.

  Source: http://joschu.net/blog/kl-approx.html.

  >>> print(k2(jnp.float32(-1.0), jnp.float32(-1.2)).round(4))
  0.02
  """
  return jnp.square(logp - other_logp) / 2.0


def k3(logp: jax.Array, other_logp: jax.Array) -> jax.Array:
  r"""Unbiased and never negative: :math:`e^{-d} - 1 + d`.

  Implements: R1 Eq. 2; DeepSeekMath Eq. 4

  >>> print(k3(jnp.float32(-1.0), jnp.float32(-1.2)).round(6))
  0.018731
  """
  d = logp - other_logp
  return jnp.expm1(-d) + d


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
