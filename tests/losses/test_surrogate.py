"""Importance ratios and the clipped surrogate: values, gradients, what counts as clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.losses import surrogate
from reasonjax.losses.ratio import token_ratio

RATIO = [0.5, 1.0, 1.25, 1.5]


def objective(ratio, advantage, *, low=0.2, high=0.2, dual_clip=None):
  """What is maximised, at every ratio."""
  ratio = jnp.asarray(ratio, jnp.float32)
  advantage = jnp.full_like(ratio, advantage)
  return -surrogate.ppo_clip(ratio, advantage, low=low, high=high, dual_clip=dual_clip)


def test_ratio_hand_values():
  logp = jnp.array([[-1.0, -2.0, 0.0]])
  old = jnp.array([[-1.0, -2.5, -0.25]])
  np.testing.assert_allclose(token_ratio(logp, old), [[1.0, 1.64872127, 1.28402542]], rtol=1e-6)


def test_ratio_is_bounded_both_ways():
  logp, old = jnp.array([[0.0, -500.0, -100.0]]), jnp.array([[-500.0, 0.0, -100.0]])
  np.testing.assert_allclose(token_ratio(logp, old), [[4.85165195e8, 2.06115362e-9, 1.0]])
  np.testing.assert_allclose(token_ratio(logp, old, clamp=1.0)[0, :2], [2.7182818, 0.36787944])


def test_ratio_has_gradient_of_the_current_policy_only():
  logp, old = jnp.array([[-1.0, -2.0]]), jnp.array([[-1.5, -2.0]])
  to_logp, to_old = jax.grad(lambda *x: token_ratio(*x).sum(), argnums=(0, 1))(logp, old)
  np.testing.assert_allclose(to_logp, [[1.64872127, 1.0]], rtol=1e-6)
  np.testing.assert_array_equal(to_old, 0.0)


@pytest.mark.parametrize(
  ("advantage", "high", "expected"),
  [
    (1.0, 0.2, [0.5, 1.0, 1.2, 1.2]),
    (-1.0, 0.2, [-0.8, -1.0, -1.25, -1.5]),
    (1.0, 0.28, [0.5, 1.0, 1.25, 1.28]),
    (-2.0, 0.28, [-1.6, -2.0, -2.5, -3.0]),
    (0.0, 0.2, [0.0, 0.0, 0.0, 0.0]),
  ],
)
def test_clip_hand_values(advantage, high, expected):
  np.testing.assert_allclose(objective(RATIO, advantage, high=high), expected, rtol=1e-6)


def test_lower_bound_is_its_own():
  np.testing.assert_allclose(objective([0.5, 0.65], -1.0, low=0.4), [-0.6, -0.65], rtol=1e-6)


@pytest.mark.parametrize(
  ("advantage", "dual_clip", "expected"),
  [
    (-1.0, None, [-0.8, -1.0, -4.0, -20.0]),
    (-1.0, 3.0, [-0.8, -1.0, -3.0, -3.0]),
    (-0.5, 10.0, [-0.4, -0.5, -2.0, -5.0]),
    (1.0, 3.0, [0.5, 1.0, 1.2, 1.2]),  # a positive advantage is left alone
  ],
)
def test_dual_clip_hand_values(advantage, dual_clip, expected):
  values = objective([0.5, 1.0, 4.0, 20.0], advantage, dual_clip=dual_clip)
  np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_gradient_is_zero_exactly_where_a_bound_binds(dual_clip):
  low, high = 0.2, 0.28
  ratio = np.linspace(0.05, 4.95, 50)  # no value on a bound, where the derivative is undefined
  for advantage in (-1.5, -0.1, 0.1, 1.5):

    def value(x, advantage=advantage):
      return objective(x, advantage, low=low, high=high, dual_clip=dual_clip).sum()

    gradient = np.asarray(jax.grad(value)(jnp.asarray(ratio, jnp.float32)))
    expected = []
    for x in ratio:
      stopped = x > 1 + high if advantage > 0 else x < 1 - low
      if advantage < 0 and dual_clip and x > dual_clip:
        stopped = True
      expected.append(0.0 if stopped else advantage)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_clipped_flags():
  ratio = jnp.array([0.7, 0.85, 1.0, 1.25, 1.4] * 3)
  advantage = jnp.repeat(jnp.array([1.0, -1.0, 0.0]), 5)
  low = np.asarray(surrogate.clipped_low(ratio, advantage, 0.2)).reshape(3, 5).tolist()
  high = np.asarray(surrogate.clipped_high(ratio, advantage, 0.28)).reshape(3, 5).tolist()
  none = [False] * 5
  assert low == [none, [True, False, False, False, False], none]
  assert high == [[False, False, False, False, True], none, none]
  # The bound of one side says nothing about the other.
  assert np.asarray(surrogate.clipped_high(ratio, advantage, 0.2)).tolist()[:5] == [
    *[False] * 3,
    True,
    True,
  ]
