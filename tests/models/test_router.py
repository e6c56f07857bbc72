"""Routing: cases worked out by hand, statistics, and the balancing bias."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from model_cases import tiny

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


def test_softmax_affinity_is_over_all_experts():
  got = router.softmax_affinity(jnp.eye(2)[:1], jnp.log(jnp.array([[1.0, 2.0, 5.0], [9.0, 9, 9]])))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [[0.125, 0.25, 0.625]], **CLOSE)


def test_greedy_choice_is_of_all_experts():
  scores = jnp.array([[0.1, 0.4, 0.2, 0.3]])
  np.testing.assert_array_equal(router.select_greedily(scores, top_k=3), [[1, 3, 2]])


def test_a_device_is_worth_its_best_expert_where_v3_takes_the_two_best():
  """Best: 0.30 | 0.25 | 0.05; two best: 0.32 | 0.45 | 0.10. Both keep one group of three."""
  scores = jnp.array([[0.30, 0.02, 0.01, 0.25, 0.20, 0.06, 0.05, 0.05, 0.06]])
  limits = {"top_k": 2, "groups": 3, "kept_groups": 1}
  np.testing.assert_array_equal(router.select_greedily(scores, **limits), [[0, 1]])
  np.testing.assert_array_equal(router.select(scores, jnp.zeros(9), **limits), [[3, 4]])
  two = router.select_greedily(scores, top_k=4, groups=3, kept_groups=2)
  np.testing.assert_array_equal(two, [[0, 3, 4, 5]])


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


V2 = {"score_function": "softmax", "normalize_weights": False, "routed_scale": 16.0}


@pytest.mark.parametrize("kind", [{}, V2], ids=["v3", "v2"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 3))
def test_selection_equals_the_reference(kind, seed, kept):
  rng = np.random.default_rng(seed)
  config = tiny(
    num_routed_experts=9, num_expert_groups=3, num_limited_groups=kept, experts_per_token=3, **kind
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
  index, weight = jnp.array([[[1], [0], [1]]]), jnp.array([[[0.4], [2.0], [7.0]]])
  stats = router.statistics(scores, index, weight, jnp.array([[True, True, False]]))
  np.testing.assert_array_equal(stats.load_E, [1.0, 1.0])
  np.testing.assert_allclose(stats.fraction_BxE, [[2.0, 0.0]], **CLOSE)  # unbiased choices
  np.testing.assert_allclose(stats.routed_BxE, [[1.0, 1.0]], **CLOSE)
  np.testing.assert_allclose(stats.probability_BxE, [[0.75, 0.25]], **CLOSE)
  np.testing.assert_allclose(stats.importance_E, [2.0, 0.4], **CLOSE)
  np.testing.assert_allclose(stats.sent_BxJ, [[1.0]], **CLOSE)


def test_a_token_is_sent_to_a_group_once_however_many_experts_it_uses_there():
  """Six experts in three groups, two of them allowed: D / (M T) = 3 / (2 * 2)."""
  scores = jnp.full((1, 2, 6), 1 / 6)
  index = jnp.array([[[0, 1, 2], [4, 5, 3]]])  # groups 0, 0, 1 and 2, 2, 1
  stats = router.statistics(
    scores, index, jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool), groups=3, kept_groups=2
  )
  np.testing.assert_allclose(stats.sent_BxJ, [[0.75, 1.5, 0.75]], **CLOSE)


def test_statistics_of_a_row_of_padding_are_zero():
  scores, index = jnp.full((1, 2, 2), 0.5), jnp.zeros((1, 2, 1), jnp.int32)
  stats = router.statistics(scores, index, jnp.ones((1, 2, 1)), jnp.zeros((1, 2), bool))
  for leaf in jax.tree.leaves(stats):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_statistics_add_over_batches():
  rng = np.random.default_rng(0)
  scores = jnp.float32(rng.uniform(0.1, 0.9, (4, 6, 5)))
  weight, index = jax.lax.top_k(scores, 2)
  real = jnp.asarray(rng.integers(0, 2, (4, 6)).astype(bool))
  given = (scores, index, weight, real)
  whole = router.statistics(*given)
  parts = [router.statistics(*(x[a:b] for x in given)) for a, b in ((0, 1), (1, 4))]
  np.testing.assert_array_equal(whole.load_E, parts[0].load_E + parts[1].load_E)
  np.testing.assert_allclose(
    whole.importance_E, parts[0].importance_E + parts[1].importance_E, **CLOSE
  )
  for name in ("fraction_BxE", "routed_BxE", "probability_BxE", "sent_BxJ"):
    joined = np.concatenate([getattr(part, name) for part in parts])
    np.testing.assert_allclose(getattr(whole, name), joined, **CLOSE)


@pytest.mark.parametrize("real", [[True] * 5, [True, False, True, True, False]])
def test_route_loads_count_real_tokens(real):
  config = tiny()
  rng = np.random.default_rng(1)
  x = rng.normal(0, 1, (1, 5, 4)).astype(np.float32)
  gate = rng.normal(0, 1, (4, 8)).astype(np.float32)
  index, _, stats = _route(config)(x, gate, np.zeros(8, np.float32), np.array([real]))
  counts = np.bincount(np.asarray(index)[0][real].ravel(), minlength=8)
  np.testing.assert_array_equal(stats.load_E, counts)


# The noisy top-k gate.


def noisy_case(tokens=3, experts=5):
  rng = np.random.default_rng(2)
  logit, noise = rng.normal(0, 1, (2, tokens, experts))
  deviation = rng.uniform(0.3, 1.5, (tokens, experts))
  return logit, logit + deviation * noise, deviation


def test_noise_is_standard_normal_times_the_deviation():
  deviation = np.tile(np.float32([0.1, 3.0]), (20_000, 1))
  logit = np.tile(np.float32([5.0, -1.0]), (20_000, 1))
  noisy = np.asarray(router.noisy_logits(logit, deviation, jax.random.key(0)), np.float64)
  # Standard errors of 20,000 draws: 0.007 of the mean and 0.005 of the deviation.
  np.testing.assert_allclose((noisy - logit).mean(0) / [0.1, 3.0], 0.0, atol=0.03)
  np.testing.assert_allclose((noisy - logit).std(0), [0.1, 3.0], rtol=0.02)
  np.testing.assert_array_equal(router.noisy_logits(logit, deviation, None), logit)


def test_kept_softmax_is_over_the_chosen_alone():
  logit = jnp.log(jnp.array([[1.0, 6.0, 2.0, 100.0]]))
  chosen = jnp.array([[1, 2]])
  np.testing.assert_allclose(router.kept_softmax(logit, chosen), [[0.75, 0.25]], **CLOSE)
  grad = jax.grad(lambda x: router.kept_softmax(x, chosen)[0, 0])(logit)
  np.testing.assert_allclose(grad, [[0.0, 0.1875, -0.1875, 0.0]], **CLOSE)  # p (1 - p)


def test_expected_load_equals_float64():
  logit, noisy, deviation = noisy_case()
  real, k = np.array([1.0, 0.0, 1.0]), 2
  want = np.zeros(5)
  for token in (0, 2):
    for i in range(5):
      others = sorted(np.delete(noisy[token], i))
      z = (logit[token, i] - others[-k]) / deviation[token, i]
      want[i] += 0.5 * (1 + math.erf(z / math.sqrt(2)))
  got = router.expected_load(*map(jnp.float32, (logit, noisy, deviation, real)), k)
  np.testing.assert_allclose(got, want, **CLOSE)
  assert want.std() > 0.1


def test_gradient_of_expected_load_equals_finite_differences():
  """Towards the clean logits and the deviations, which train the gate and its noise."""
  logit, noisy, deviation = noisy_case()
  weight, step = np.linspace(-1, 2, 5), 1e-3

  def loss(logit, deviation):
    load = router.expected_load(logit, jnp.float32(noisy), deviation, jnp.ones(3), 2)
    return (load * weight.astype(np.float32)).sum()

  def reference_loss(logit, deviation):
    total = 0.0
    for token in range(3):
      for i in range(5):
        others = sorted(np.delete(noisy[token], i))
        z = (logit[token, i] - others[-2]) / deviation[token, i]
        total += weight[i] * 0.5 * (1 + math.erf(z / math.sqrt(2)))
    return total

  grads = jax.grad(loss, argnums=(0, 1))(jnp.float32(logit), jnp.float32(deviation))
  for number, grad in enumerate(grads):
    assert np.abs(grad).max() > 0.1
    for place in np.ndindex(3, 5):
      moved = [[logit.copy(), deviation.copy()] for _ in range(2)]
      moved[0][number][place] += step
      moved[1][number][place] -= step
      want = (reference_loss(*moved[0]) - reference_loss(*moved[1])) / (2 * step)
      assert abs(grad[place] - want) < 1e-5


def test_expected_load_is_the_chance_to_be_chosen_with_noise_drawn_again():
  logit, noisy, deviation = noisy_case(tokens=1, experts=4)
  draws = np.random.default_rng(3).normal(0, 1, 200_000)
  want = np.zeros(4)
  for i in range(4):
    again = np.tile(noisy, (len(draws), 1))
    again[:, i] = logit[0, i] + deviation[0, i] * draws
    want[i] = (np.argsort(-again, axis=1)[:, :2] == i).any(axis=1).mean()
  got = router.expected_load(*map(jnp.float32, (logit, noisy, deviation)), jnp.ones(1), 2)
  np.testing.assert_allclose(got, want, atol=0.005)  # four standard errors


def test_the_noisy_gate_without_noise_is_a_softmax_over_the_best():
  config = tiny(score_function="noisy_top_k", num_expert_groups=1, routed_scale=2.0)
  rng = np.random.default_rng(1)
  x, gate = rng.normal(0, 1, (1, 5, 4)).astype(np.float32), rng.normal(0, 1, (4, 8))
  noise = np.float32(rng.normal(0, 1, (4, 8)))
  given = (x, np.float32(gate), None, np.ones((1, 5), bool), noise)
  index, weight, stats = router.route(config, *given)
  for t in range(5):
    logit = x[0, t].astype(np.float64) @ gate
    best = np.argsort(-logit)[:2]
    np.testing.assert_array_equal(index[0, t], best)
    np.testing.assert_allclose(weight[0, t], 2.0 * reference.softmax(logit[best]), **CLOSE)
  assert stats.expected_load_E.shape == (8,)
  noisy_index, _, _ = router.route(config, *given, jax.random.key(0))
  assert (np.asarray(noisy_index) != np.asarray(index)).any()


def test_only_the_noisy_gate_has_an_expected_load():
  shapes = jax.eval_shape(
    lambda: _route(tiny(**V2))(jnp.ones((1, 2, 4)), jnp.ones((4, 8)), None, jnp.ones((1, 2), bool))
  )
  assert shapes[2].expected_load_E is None


WRONG = [
  ("num_expert_groups", 2, {}),
  ("normalize_weights", False, {"num_expert_groups": 1}),
  ("experts_per_token", 8, {"num_expert_groups": 1, "experts_per_token": 8}),
]


@pytest.mark.parametrize(("field", "value", "change"), WRONG, ids=lambda x: str(x))
def test_what_the_noisy_gate_cannot_do_is_refused(field, value, change):
  with pytest.raises(ValueError, match=rf"^{field}={value}: the noisy top-k gate"):
    tiny(**{"score_function": "noisy_top_k", field: value} | change)


def test_only_sigmoid_routers_have_a_bias():
  assert tiny().router_bias
  assert not tiny(**V2).router_bias
  assert not tiny(score_function="noisy_top_k", num_expert_groups=1).router_bias
