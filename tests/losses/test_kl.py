"""KL estimators: hand values, expectations and gradients by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonjax.losses import kl

POLICY, OTHER = (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)
EXACT = 0.0252671539  # sum of p log(p / q)
EXACT_GRADIENT = [0.0989381987, -0.0938847679, -0.0050534308]  # with respect to the logits


def log(probabilities):
  return jnp.log(jnp.asarray(probabilities, jnp.float32))


@pytest.mark.parametrize(
  ("name", "value", "derivative"),
  [("k1", 0.2, 1.0), ("k2", 0.02, 0.2), ("k3", 0.0187307531, 0.1812692469)],
)
def test_hand_values(name, value, derivative):
  """With log-ratio 0.2."""
  estimate = kl.ESTIMATORS[name]
  logp, other = jnp.float32(-1.0), jnp.float32(-1.2)
  np.testing.assert_allclose(estimate(logp, other), value, rtol=1e-5)
  np.testing.assert_allclose(jax.grad(estimate)(logp, other), derivative, rtol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("k1", -0.5), ("k2", 0.125), ("k3", 0.1487212707)])
def test_hand_values_of_a_negative_log_ratio(name, value):
  np.testing.assert_allclose(kl.ESTIMATORS[name](log(0.5) - 0.5, log(0.5)), value, rtol=1e-5)


def test_all_are_zero_for_equal_policies():
  logp = log(POLICY)
  for estimate in kl.ESTIMATORS.values():
    np.testing.assert_array_equal(estimate(logp, logp), 0.0)


@settings(deadline=None, derandomize=True)  # the first example compiles
@given(st.floats(-80, 0, width=32), st.floats(-80, 0, width=32))
def test_k3_is_never_negative(logp, other):
  assert kl.k3(jnp.float32(logp), jnp.float32(other)) >= 0


def test_k3_of_tiny_log_ratios():
  """exp(-d) - 1 + d loses everything to cancellation; half the square is what is left of it."""
  d = jnp.array([1e-3, -1e-3, 3e-4], jnp.float32)
  # expm1 rounds to 6e-8 of d, which is 1.2e-4 of d^2 / 2 at d = 1e-3.
  np.testing.assert_allclose(kl.k3(d, jnp.zeros(3)), d * d / 2, rtol=1e-3)


@pytest.mark.parametrize(("name", "expected"), [("k1", EXACT), ("k2", 0.0248624073), ("k3", EXACT)])
def test_expectation(name, expected):
  """k1 and k3 are unbiased, k2 is not."""
  estimates = kl.ESTIMATORS[name](log(POLICY), log(OTHER))
  mean = (jnp.asarray(POLICY) * estimates).sum()
  np.testing.assert_allclose(mean, expected, rtol=1e-5)


def expected_gradient(estimate, policy, other):
  """Mean over tokens drawn from the policy of the gradient of the estimate as a loss."""
  logits = log(policy)

  def loss(logits):
    drawn = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return (drawn * estimate(jax.nn.log_softmax(logits), log(other))).sum()

  return jax.grad(loss)(logits)


@pytest.mark.parametrize(
  ("name", "expected"),
  [("k1", [0.0, 0.0, 0.0]), ("k2", EXACT_GRADIENT), ("k3", [0.1, -0.1, 0.0])],
)
def test_expected_gradient_as_a_loss(name, expected):
  gradient = expected_gradient(kl.ESTIMATORS[name], POLICY, OTHER)
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_k2_has_the_gradient_of_the_exact_divergence():
  rng = np.random.default_rng(0)
  for _ in range(3):
    policy, other = rng.dirichlet(np.ones(6), size=2)

    def divergence(logits, other=other):
      logp = jax.nn.log_softmax(logits)
      return (jnp.exp(logp) * (logp - log(other))).sum()

    np.testing.assert_allclose(
      expected_gradient(kl.k2, policy, other), jax.grad(divergence)(log(policy)), atol=1e-6
    )
    np.testing.assert_allclose(expected_gradient(kl.k1, policy, other), 0.0, atol=1e-6)
