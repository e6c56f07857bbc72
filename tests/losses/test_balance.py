"""The sequence-wise balance loss: values by hand, and where its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.losses import balance

# Two sequences, four experts, two choices a token: f sums to 4 and P to 1.
FRACTION = jnp.array([[2.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
PROBABILITY = jnp.array([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])


def test_hand_values():
  loss = balance.sequence_balance(FRACTION, PROBABILITY, 1e-2)
  # 2 * 0.4 + 1 * 0.3 + 0.5 * 0.2 + 0.5 * 0.1 = 1.25; a balanced f gives the sum of P.
  np.testing.assert_allclose(loss, [0.0125, 0.01], rtol=1e-6)


def test_balance_costs_alpha_and_collapse_costs_more():
  experts = 8
  even = balance.sequence_balance(jnp.ones((1, experts)), jnp.full((1, experts), 1 / 8), 0.3)
  np.testing.assert_allclose(even, [0.3], rtol=1e-6)
  one_hot = jax.nn.one_hot(jnp.array([3]), experts)
  np.testing.assert_allclose(
    balance.sequence_balance(experts * one_hot, one_hot, 0.3), [2.4], rtol=1e-6
  )


def test_gradient_flows_through_the_probability_only():
  def total(fraction, probability):
    return balance.sequence_balance(fraction, probability, 0.5).sum()

  to_fraction, to_probability = jax.grad(total, argnums=(0, 1))(FRACTION, PROBABILITY)
  np.testing.assert_array_equal(to_fraction, 0.0)
  np.testing.assert_allclose(to_probability, 0.5 * FRACTION, rtol=1e-6)
