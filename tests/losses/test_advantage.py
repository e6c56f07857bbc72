"""Group-relative advantages: hand values, flat groups, options."""

import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.losses import advantage

ONE_RIGHT = [1.0, 0.0, 0.0, 0.0]
MIXED = [0.8, 0.3, 0.9, 0.5]


def group(rewards, **options):
  return np.asarray(advantage.group(jnp.asarray(rewards, jnp.float32), **options))


@pytest.mark.parametrize(
  ("rewards", "options", "expected"),
  [
    (ONE_RIGHT, {"ddof": 1, "eps": 0.0}, [1.5, -0.5, -0.5, -0.5]),
    (ONE_RIGHT, {"ddof": 0, "eps": 0.0}, [1.7320508, -0.5773503, -0.5773503, -0.5773503]),
    (ONE_RIGHT, {"eps": 1e-4}, [1.49970006, -0.49990002, -0.49990002, -0.49990002]),
    (ONE_RIGHT, {}, [1.499997, -0.499999, -0.499999, -0.499999]),
    (ONE_RIGHT, {"scale": "none"}, [0.75, -0.25, -0.25, -0.25]),
    (ONE_RIGHT, {"baseline": "none", "eps": 0.0}, [2.0, 0.0, 0.0, 0.0]),
    (ONE_RIGHT, {"baseline": "none", "scale": "none"}, ONE_RIGHT),
    ([2.0, 4.0], {"eps": 0.0}, [-0.70710678, 0.70710678]),
    (MIXED, {"scale": "none"}, [0.175, -0.325, 0.275, -0.125]),
    (MIXED, {"ddof": 1, "eps": 0.0}, [0.63548891, -1.18019369, 0.99862543, -0.45392065]),
    (MIXED, {"ddof": 0, "eps": 0.0}, [0.73379939, -1.36277029, 1.15311332, -0.52414242]),
  ],
)
def test_hand_values(rewards, options, expected):
  np.testing.assert_allclose(group([rewards], **options)[0], expected, rtol=1e-6, atol=1e-6)


def test_defaults_are_mean_sample_deviation_and_eps_1e_6():
  spelled = {
    "baseline": "mean",
    "scale": "group_std",
    "ddof": 1,
    "eps": 1e-6,
    "flat_tolerance": 1e-6,
  }
  np.testing.assert_array_equal(group([MIXED]), group([MIXED], **spelled))


@pytest.mark.parametrize(
  ("size", "factor"), [(2, 1.41421356), (4, 1.15470054), (8, 1.06904497), (16, 1.03279556)]
)
def test_ratio_of_population_to_sample_deviation(size, factor):
  rewards = np.arange(size, dtype=np.float32)[None]
  ratio = group(rewards, ddof=0, eps=0.0)[0, 0] / group(rewards, ddof=1, eps=0.0)[0, 0]
  np.testing.assert_allclose(ratio, factor, rtol=1e-6)


def test_every_group_stands_alone():
  rewards = [ONE_RIGHT, MIXED, [1.0] * 4, [-3.0, 5.0, 5.0, 5.0]]
  together = group(rewards)
  for row, alone in enumerate(rewards):
    np.testing.assert_array_equal(together[row], group([alone])[0])


def test_affine_rewards_give_the_same_scaled_advantage():
  """0/1 and -1/+1 rewards are the same algorithm when divided by the deviation."""
  zero_one = np.array([[1, 0, 0, 1, 0]], np.float32)
  np.testing.assert_allclose(
    group(zero_one, eps=0.0), group(2 * zero_one - 1, eps=0.0), rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-6])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
  "rewards",
  [
    [-1.9] * 64,  # whose float32 mean is not -1.9
    [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2],
    # One float32 step apart: equal but for rounding.
    [0.3, float(np.nextafter(np.float32(0.3), np.float32(1))), 0.3, 0.3],
    [1e6, 1e6 + 0.0625, 1e6, 1e6],
    [0.0] * 8,
  ],
)
def test_flat_group_is_exactly_zero(rewards, ddof, eps):
  np.testing.assert_array_equal(group([rewards], ddof=ddof, eps=eps), 0.0)


def test_flat_group_is_zero_without_scale():
  np.testing.assert_array_equal(group([[0.7] * 3, [-1.9] * 3], scale="none"), 0.0)


def test_small_real_differences_are_not_flat():
  assert advantage.flat(jnp.array([[0.0, 1e-3], [1.0, 1.0], [5e-7, 0.0]])).tolist() == [
    False,
    True,
    True,
  ]
  np.testing.assert_allclose(group([[0.0, 1e-3]], eps=0.0), [[-0.70710678, 0.70710678]], rtol=1e-5)


def test_flat_tolerance_grows_with_the_rewards():
  rewards = jnp.array([[1e4, 1e4 + 0.005], [1e4, 1e4 + 0.02], [-1e4, -1e4 - 0.005]])
  assert advantage.flat(rewards, 1e-6).tolist() == [True, False, True]
  assert advantage.flat(rewards, 0.0).tolist() == [False, False, False]


def test_without_baseline_and_scale_rewards_stay_as_they_are():
  result = advantage.group(jnp.array([[0.5], [-2.0]]), baseline="none", scale="none")
  assert result.tolist() == [[0.5], [-2.0]]


def test_result_is_float32_for_half_precision_rewards():
  result = advantage.group(jnp.array([ONE_RIGHT], jnp.bfloat16), eps=0.0)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, [[1.5, -0.5, -0.5, -0.5]], rtol=1e-6)


@pytest.mark.parametrize(
  ("rewards", "options", "message"),
  [
    (jnp.zeros((1, 2)), {"baseline": "median"}, "baseline='median'"),
    (jnp.zeros((1, 2)), {"scale": "range"}, "scale='range'"),
    (jnp.zeros((1, 2), jnp.int32), {}, "int32"),
    (jnp.zeros((3, 1)), {}, "group of one"),
    (jnp.zeros((3, 1)), {"baseline": "none"}, "group of one"),
    (jnp.zeros((3, 1)), {"scale": "none"}, "group of one"),
  ],
)
def test_errors(rewards, options, message):
  with pytest.raises(ValueError, match=message):
    advantage.group(rewards, **options)
