"""Load-balancing losses of the router."""

from __future__ import annotations

import jax


def sequence_balance(
  fraction_BxE: jax.Array, probability_BxE: jax.Array, coefficient: float
) -> jax.Array:
  r"""DeepSeek-V3's complementary sequence-wise balance loss, one value a sequence.

  .. math:: L_{Bal} = \alpha \sum_{i=1}^{E} f_i P_i

  Gradient flows through P only; f counts choices. Balanced routing gives alpha.

  Args:
    fraction_BxE: f, `E / (K T)` times the tokens of the sequence whose top K contain the expert.
    probability_BxE: P, mean normalised affinity of the sequence's tokens for the expert.
    coefficient: alpha; 1e-4 in the paper.

  Returns: `[B]` float32.

  Implements: DSV3 Eq. 17

  >>> import jax.numpy as jnp
  >>> print(sequence_balance(jnp.ones((1, 4)), jnp.full((1, 4), 0.25), 0.5))
  [0.5]
  """
  return coefficient * (jax.lax.stop_gradient(fraction_BxE) * probability_BxE).sum(axis=-1)
