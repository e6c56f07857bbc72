"""Routing: cases worked out by hand, statistics, and the balancing bias."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_cases import tiny

from reasonjax.losses import balance
from reasonjax.models import router

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
select = jax.jit(router.select, static_argnames=("top_k", "groups", "kept_groups"))


def test_affinity_is_the_sigmoid_in_float32():
  x = jnp.array([[1.0, -2.0]], jnp.bfloat16)
  gate = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.5, 0.25]], jnp.bfloat16)
  got = router.affinity(x, gate)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [[0.7310586, 0.2689414, 0.5]], rtol=1e-6)


def test_bias_steers_the_choice_and_not_the_weights():
  scores = jnp.array([[0.8, 0.6, 0.4, 0.2]])
  plain = select(scores, jnp.zeros(4), top_k=2)
  np.testing.assert_array_equal(plain, [[0, 1]])
  steered = select(scores, jnp.array([0.0, -0.5, 0.0, 0.3]), top_k=2)  # .8 .1 .4 .5
  np.testing.assert_array_equal(steered, [[0, 3]])
  weights = router.gate_values(scores, steered, normalize=True, scale=2.5)
  np.testing.assert_allclose(weights, [[2.0, 0.5]], **CLOSE)  # 2.5 * (.8, .2) / 1.0


def test_weights_without_normalisation_are_scaled_scores():
  scores, chosen = jnp.array([[0.8, 0.6, 0.4]]), jnp.array([[2, 0]])
  got = router.gate_values(scores, chosen, normalize=False, scale=16.0)
  np.testing.assert_allclose(got, [[6.4, 12.8]], **CLOSE)


def test_vanishing_scores_give_finite_weights():
  got = router.gate_values(jnp.zeros((1, 3)), jnp.array([[0, 1]]), normalize=True, scale=1.0)
  np.testing.assert_array_equal(got, [[0.0, 0.0]])


def test_the_best_expert_is_out_of_reach_when_its_group_is_not_kept():
  scores = jnp.array([[0.9, 0.1, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2]])
  # Two best of each group: 1.0, 1.1, 0.5.
  got = select(scores, jnp.zeros(9), top_k=2, groups=3, kept_groups=1)
  np.testing.assert_array_equal(got, [[3, 4]])
  got = select(scores, jnp.zeros(9), top_k=2, groups=3, kept_groups=2)
  np.testing.assert_array_equal(got, [[0, 3]])


def test_a_group_is_worth_its_two_best_not_its_best_or_its_sum():
  #  best: 0.9 | 0.6 | 0.5;   two best: 1.0 | 1.15 | 1.0;   sum: 1.1 | 1.16 | 1.45
  scores = jnp.array([[0.9, 0.1, 0.1, 0.6, 0.55, 0.01, 0.5, 0.5, 0.45]])
  got = select(scores, jnp.zeros(9), top_k=1, groups=3, kept_groups=1)
  np.testing.assert_array_equal(got, [[3]])


def test_masked_experts_lose_against_negative_biased_scores():
  """A mask of 0 instead of -inf would choose experts 2 and 3 here."""
  scores = jnp.array([[0.9, 0.8, 0.3, 0.2]])
  got = select(scores, jnp.full(4, -1.0), top_k=2, groups=2, kept_groups=1)
  np.testing.assert_array_equal(got, [[0, 1]])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), constant=st.floats(-3.0, 3.0))
def test_a_constant_bias_changes_nothing(seed, constant):
  rng = np.random.default_rng(seed)
  scores = (rng.permutation(5 * 8).reshape(5, 8) / 40 + 0.01).astype(np.float32)
  bias = (rng.permutation(8) / 900).astype(np.float32)  # all sums differ by 1e-3 or more
  limits = {"top_k": 3, "groups": 4, "kept_groups": 2}
  worth = np.sort((scores + bias).reshape(5, 4, 2).sum(-1))
  assume((np.diff(worth) > 1e-4).all())
  want = select(scores, bias, **limits)
  np.testing.assert_array_equal(select(scores, bias + np.float32(constant), **limits), want)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 3))
def test_selection_equals_the_reference(seed, kept):
  rng = np.random.default_rng(seed)
  config = tiny(
    num_routed_experts=9, num_expert_groups=3, num_limited_groups=kept, experts_per_token=3
  )
  x = rng.normal(0, 1, (1, 5, 4)).astype(np.float32)
  gate = rng.normal(0, 1, (4, 9)).astype(np.float32)
  bias = rng.normal(-0.5, 0.5, 9).astype(np.float32)
  index, weight, _ = _route(config)(x, gate, bias, np.ones((1, 5), bool))
  for t in range(5):
    weights = {"router": gate.astype(np.float64)}
    chosen, want, _, _, gap = reference.route(config, weights, bias, x[0, t].astype(np.float64))
    if gap < 1e-5:
      continue
    np.testing.assert_array_equal(index[0, t], chosen)
    np.testing.assert_allclose(weight[0, t], want, **CLOSE)


@functools.cache
def _route(config):
  return jax.jit(functools.partial(router.route, config))


def test_no_gradient_through_the_choice():
  """The weights' gradient is that of score over sum with the choice held fixed."""
  scores = jnp.array([[0.8, 0.6, 0.4, 0.2]])

  def first_weight(scores, bias):
    chosen = router.select(scores, bias, top_k=2)
    return router.gate_values(scores, chosen, normalize=True, scale=1.0)[0, 0]

  to_scores, to_bias = jax.grad(first_weight, argnums=(0, 1))(scores, jnp.zeros(4))
  # d/ds0 s0/(s0+s1) = .6/1.96, d/ds1 = -.8/1.96
  np.testing.assert_allclose(to_scores, [[0.3061224, -0.4081633, 0.0, 0.0]], **CLOSE)
  np.testing.assert_array_equal(to_bias, np.zeros(4))


def test_statistics_worked_out_by_hand():
  """Two tokens and one of padding; K = 1, E = 2; the bias made the first token choose 1."""
  scores = jnp.array([[[0.6, 0.2], [0.3, 0.1], [0.1, 0.9]]])
  index = jnp.array([[[1], [0], [1]]])
  stats = router.statistics(scores, index, jnp.array([[True, True, False]]))
  np.testing.assert_array_equal(stats.load_E, [1.0, 1.0])
  np.testing.assert_allclose(stats.fraction_BxE, [[2.0, 0.0]], **CLOSE)  # unbiased choices
  np.testing.assert_allclose(stats.probability_BxE, [[0.75, 0.25]], **CLOSE)


def test_statistics_of_a_row_of_padding_are_zero():
  scores = jnp.full((1, 2, 2), 0.5)
  stats = router.statistics(scores, jnp.zeros((1, 2, 1), jnp.int32), jnp.zeros((1, 2), bool))
  for leaf in jax.tree.leaves(stats):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_statistics_add_over_batches():
  rng = np.random.default_rng(0)
  scores = jnp.float32(rng.uniform(0.1, 0.9, (4, 6, 5)))
  index = jax.lax.top_k(scores, 2)[1]
  real = jnp.asarray(rng.integers(0, 2, (4, 6)).astype(bool))
  whole = router.statistics(scores, index, real)
  parts = [router.statistics(scores[a:b], index[a:b], real[a:b]) for a, b in ((0, 1), (1, 4))]
  np.testing.assert_array_equal(whole.load_E, parts[0].load_E + parts[1].load_E)
  for name in ("fraction_BxE", "probability_BxE"):
    joined = np.concatenate([getattr(part, name) for part in parts])
    np.testing.assert_allclose(getattr(whole, name), joined, **CLOSE)


def test_balanced_routing_costs_alpha():
  scores = jnp.array([[[0.6, 0.6, 0.2, 0.2], [0.2, 0.2, 0.6, 0.6]]])
  index = jax.lax.top_k(scores, 2)[1]
  stats = router.statistics(scores, index, jnp.ones((1, 2), bool))
  loss = balance.sequence_balance(stats.fraction_BxE, stats.probability_BxE, 1e-4)
  np.testing.assert_allclose(loss, [1e-4], rtol=1e-5)


def test_collapsed_routing_costs_more():
  """Both tokens choose expert 0: f = (2, 0), P = (.75, .25)."""
  scores = jnp.array([[[0.6, 0.2], [0.3, 0.1]]])
  stats = router.statistics(scores, jnp.zeros((1, 2, 1), jnp.int32), jnp.ones((1, 2), bool))
  loss = balance.sequence_balance(stats.fraction_BxE, stats.probability_BxE, 1.0)
  np.testing.assert_allclose(loss, [1.5], rtol=1e-5)


def test_balance_gradient_flows_through_the_probabilities_alone():
  scores = jnp.array([[[0.6, 0.2], [0.3, 0.1]]])
  index = jnp.zeros((1, 2, 1), jnp.int32)

  def loss(scores):
    stats = router.statistics(scores, index, jnp.ones((1, 2), bool))
    return balance.sequence_balance(stats.fraction_BxE, stats.probability_BxE, 1.0).sum()

  # f = (2, 0), so the loss is the sum over both tokens of s0 / (s0 + s1).
  want = [[[0.3125, -0.9375], [0.625, -1.875]]]
  np.testing.assert_allclose(jax.grad(loss)(scores), want, **CLOSE)


def test_update_bias_moves_by_the_sign_of_the_whole_load():
  bias = jnp.array([[0.1, 0.2, -0.3, 0.0]])
  load = jnp.array([[10.0, 2.0, 4.0, 4.0]])  # mean 5
  got = router.update_bias(bias, load, 0.001)
  np.testing.assert_allclose(got, [[0.099, 0.201, -0.299, 0.001]], rtol=1e-6)


def test_update_bias_leaves_a_balanced_or_frozen_router_alone():
  bias = jnp.array([0.5, -0.5])
  np.testing.assert_array_equal(router.update_bias(bias, jnp.array([3.0, 3.0]), 0.1), bias)
  np.testing.assert_array_equal(router.update_bias(bias, jnp.array([1.0, 3.0]), 0.0), bias)


def test_update_bias_takes_the_mean_of_each_layer():
  load = jnp.array([[4, 0], [100, 102]], jnp.int32)
  got = router.update_bias(jnp.zeros((2, 2)), load, 1.0)
  np.testing.assert_array_equal(got, [[-1.0, 1.0], [1.0, -1.0]])


def test_update_bias_of_summed_loads_differs_from_the_sum_of_updates():
  """Once an optimizer step: two microbatches with loads (3, 1) and (0, 4)."""
  first, second = jnp.array([3.0, 1.0]), jnp.array([0.0, 4.0])
  got = router.update_bias(jnp.zeros(2), first + second, 1.0)
  np.testing.assert_array_equal(got, [1.0, -1.0])


@pytest.mark.parametrize("real", [[True] * 5, [True, False, True, True, False]])
def test_route_loads_count_real_tokens(real):
  config = tiny()
  rng = np.random.default_rng(1)
  x = rng.normal(0, 1, (1, 5, 4)).astype(np.float32)
  gate = rng.normal(0, 1, (4, 8)).astype(np.float32)
  index, _, stats = _route(config)(x, gate, np.zeros(8, np.float32), np.array([real]))
  counts = np.bincount(np.asarray(index)[0][real].ravel(), minlength=8)
  np.testing.assert_array_equal(stats.load_E, counts)
