"""Balance losses and the bias update: values by hand, balanced routing, where gradients go."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.losses import balance
from reasonjax.models import router

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# Two sequences, four experts in two groups, two choices a token: f sums to 4 and P to 1.
FRACTION = jnp.array([[2.0, 1.0, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0]])
PROBABILITY = jnp.array([[0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
SENT = jnp.array([[1.5, 0.5], [1.0, 1.0]])


def test_sequence_balance():
  loss = balance.sequence_balance(FRACTION, PROBABILITY, 1e-2)
  # 2 * 0.4 + 1 * 0.3 + 0.5 * 0.2 + 0.5 * 0.1 = 1.25; a balanced f gives the sum of P.
  np.testing.assert_allclose(loss, [0.0125, 0.01], rtol=1e-6)


def test_device_balance():
  loss = balance.device_balance(FRACTION, PROBABILITY, 2, 0.05)
  # f' = (1.5, 0.5), P' = (0.7, 0.3): 1.05 + 0.15 = 1.2; balanced devices give 1.
  np.testing.assert_allclose(loss, [0.06, 0.05], rtol=1e-6)


def test_communication_balance():
  loss = balance.communication_balance(SENT, PROBABILITY, 0.02)
  np.testing.assert_allclose(loss, [0.024, 0.02], rtol=1e-6)  # 1.5 * 0.7 + 0.5 * 0.3 = 1.2


def test_squared_variation():
  # Mean 2, variance (4 + 0 + 0 + 4) / 4 = 2: CV^2 = 0.5.
  np.testing.assert_allclose(balance.squared_variation(jnp.array([0.0, 2, 2, 4]), 0.1), 0.05)
  np.testing.assert_array_equal(balance.squared_variation(jnp.full(4, 3.0), 0.1), 0.0)


def test_squared_variation_counts_shares_not_sizes_and_survives_no_tokens():
  value = jnp.array([1.0, 2.0, 6.0])
  one, ten = (balance.squared_variation(k * value, 1.0) for k in (1.0, 10.0))
  np.testing.assert_allclose(one, ten, rtol=1e-6)
  grad = jax.grad(balance.squared_variation)(jnp.zeros(3), 1.0)
  assert np.isfinite(grad).all()


def test_gradient_of_squared_variation_evens_out():
  grad = jax.grad(balance.squared_variation)(jnp.array([1.0, 2.0, 3.0]), 1.0)
  # CV^2 = n sum x^2 / (sum x)^2 - 1: 2 n x_i / S^2 - 2 n sum x^2 / S^3 with n 3, S 6, sum x^2 14.
  want = [float(fractions.Fraction(6 * x, 36) - fractions.Fraction(84, 216)) for x in (1, 2, 3)]
  np.testing.assert_allclose(grad, want, **CLOSE)


def test_losses_take_leading_axes():
  """Layers come first."""
  layers = [FRACTION, FRACTION[::-1]], [PROBABILITY, PROBABILITY[::-1]], [SENT, SENT[::-1]]
  fraction, probability, sent = (jnp.stack(pair) for pair in layers)
  for got, alone in (
    (
      balance.sequence_balance(fraction, probability, 0.3),
      balance.sequence_balance(FRACTION, PROBABILITY, 0.3),
    ),
    (
      balance.device_balance(fraction, probability, 2, 0.3),
      balance.device_balance(FRACTION, PROBABILITY, 2, 0.3),
    ),
    (
      balance.communication_balance(sent, probability, 0.3),
      balance.communication_balance(SENT, PROBABILITY, 0.3),
    ),
  ):
    np.testing.assert_allclose(got, [alone, alone[::-1]], rtol=1e-6)
  np.testing.assert_allclose(
    balance.squared_variation(jnp.array([[0.0, 2, 2, 4], [3, 3, 3, 3]]), 0.1), [0.05, 0.0]
  )


def test_collapse_costs_more():
  """f = E and P = 1 on one expert of one group out of four."""
  one_hot = jax.nn.one_hot(jnp.array([3]), 8)
  np.testing.assert_allclose(balance.sequence_balance(8 * one_hot, one_hot, 0.3), [2.4], rtol=1e-6)
  np.testing.assert_allclose(balance.device_balance(8 * one_hot, one_hot, 4, 0.3), [1.2], rtol=1e-6)
  sent = 4 * jax.nn.one_hot(jnp.array([1]), 4)
  np.testing.assert_allclose(balance.communication_balance(sent, one_hot, 0.3), [1.2], rtol=1e-6)
  np.testing.assert_allclose(balance.squared_variation(one_hot, 0.3), [2.1], rtol=1e-6)


@pytest.mark.parametrize(
  ("loss", "count"),
  [
    (lambda f, p: balance.sequence_balance(f, p, 0.5), FRACTION),
    (lambda f, p: balance.device_balance(f, p, 2, 0.5), FRACTION.reshape(2, 2, 2).mean(-1)),
    (lambda f, p: balance.communication_balance(f[:, ::2], p, 0.5), FRACTION[:, ::2]),
  ],
  ids=["sequence", "device", "communication"],
)
def test_gradient_flows_through_the_probability_only(loss, count):
  to_fraction, to_probability = jax.grad(lambda f, p: loss(f, p).sum(), argnums=(0, 1))(
    FRACTION, PROBABILITY
  )
  np.testing.assert_array_equal(to_fraction, 0.0)
  want = 0.5 * jnp.repeat(count, 4 // count.shape[-1], axis=-1)
  np.testing.assert_allclose(to_probability, want, rtol=1e-6)


# On the statistics of routed tokens.


def route(score, *, bias=None, groups=1, kept=1, top_k=2):
  score = jnp.float32(score)
  flat = score.reshape(-1, score.shape[-1])
  limits = {"top_k": top_k, "groups": groups, "kept_groups": kept}
  if bias is None:
    index = router.select_greedily(flat, **limits)
  else:
    index = router.select(flat, jnp.float32(bias), **limits)
  weight = router.gate_values(flat, index, normalize=True, scale=1.0)
  index, weight = (x.reshape(*score.shape[:2], top_k) for x in (index, weight))
  real = jnp.ones(score.shape[:2], bool)
  return router.statistics(score, index, weight, real, groups=groups, kept_groups=kept)


def test_balanced_routing_costs_alpha():
  """Four tokens, each with a favourite in each of two of the four groups, all groups used alike."""
  favourites = [(0, 2), (1, 4), (3, 6), (5, 7)]
  score = np.full((1, 4, 8), 0.05)
  for token, pair in enumerate(favourites):
    score[0, token, list(pair)] = 0.35
  stats = route(score, groups=4, kept=2)
  share = stats.probability_BxE
  np.testing.assert_array_equal(stats.load_E, np.ones(8))
  for fraction in (stats.fraction_BxE, stats.routed_BxE):
    np.testing.assert_allclose(balance.sequence_balance(fraction, share, 0.003), [0.003], rtol=1e-5)
  device = balance.device_balance(stats.routed_BxE, share, 4, 0.05)
  np.testing.assert_allclose(device, [0.05], rtol=1e-5)
  sent = balance.communication_balance(stats.sent_BxJ, share, 0.02)
  np.testing.assert_allclose(sent, [0.02], rtol=1e-5)
  np.testing.assert_allclose(balance.squared_variation(stats.importance_E, 0.1), 0.0, atol=1e-7)


@pytest.mark.parametrize("experts", [4, 6])
def test_uniform_scores_cost_alpha_whatever_is_chosen(experts):
  """P = 1 / E, and f sums to E."""
  stats = route(np.full((2, 3, experts), 0.5), groups=2)
  for fraction in (stats.fraction_BxE, stats.routed_BxE):
    loss = balance.sequence_balance(fraction, stats.probability_BxE, 1e-4)
    np.testing.assert_allclose(loss, [1e-4, 1e-4], rtol=1e-5)


def test_routed_counts_see_the_bias_and_best_scores_do_not():
  score = [[[0.6, 0.2], [0.3, 0.1]]]
  stats = route(score, bias=[0.0, 1.0], top_k=1)
  share = stats.probability_BxE  # 0.75, 0.25
  np.testing.assert_allclose(balance.sequence_balance(stats.fraction_BxE, share, 1.0), [1.5])
  np.testing.assert_allclose(balance.sequence_balance(stats.routed_BxE, share, 1.0), [0.5])


def test_balance_gradient_reaches_the_scores_through_the_probabilities_alone():
  def loss(score):
    stats = route(score, top_k=1)
    return balance.sequence_balance(stats.fraction_BxE, stats.probability_BxE, 1.0).sum()

  # f = (2, 0), so the loss is the sum over both tokens of s0 / (s0 + s1).
  want = [[[0.3125, -0.9375], [0.625, -1.875]]]
  got = jax.grad(loss)(jnp.array([[[0.6, 0.2], [0.3, 0.1]]]))
  np.testing.assert_allclose(got, want, **CLOSE)


# The bias.


def test_update_bias_moves_by_the_sign_of_the_whole_load():
  bias = jnp.array([[0.1, 0.2, -0.3, 0.0]])
  load = jnp.array([[10.0, 2.0, 4.0, 4.0]])  # mean 5
  got = balance.update_bias(bias, load, 0.001)
  np.testing.assert_allclose(got, [[0.099, 0.201, -0.299, 0.001]], rtol=1e-6)


def test_update_bias_leaves_a_balanced_or_frozen_router_alone():
  bias = jnp.array([0.5, -0.5])
  np.testing.assert_array_equal(balance.update_bias(bias, jnp.array([3.0, 3.0]), 0.1), bias)
  np.testing.assert_array_equal(balance.update_bias(bias, jnp.array([1.0, 3.0]), 0.0), bias)


def test_update_bias_takes_the_mean_of_each_layer():
  load = jnp.array([[4, 0], [100, 102]], jnp.int32)
  got = balance.update_bias(jnp.zeros((2, 2)), load, 1.0)
  np.testing.assert_array_equal(got, [[-1.0, 1.0], [1.0, -1.0]])


def test_update_bias_of_summed_loads_differs_from_the_sum_of_updates():
  """Once an optimizer step: two microbatches with loads (3, 1) and (0, 4)."""
  first, second = jnp.array([3.0, 1.0]), jnp.array([0.0, 4.0])
  got = balance.update_bias(jnp.zeros(2), first + second, 1.0)
  np.testing.assert_array_equal(got, [1.0, -1.0])
