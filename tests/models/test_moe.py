"""Dispatch to experts: nothing is lost, whatever the distribution; grouped equals looped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import CONFIGS, jit, v2, variables

from reasonjax.models import moe
from reasonjax.models.transformer import Transformer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
N, K, E, D, F = 6, 2, 4, 5, 3

dispatch = jax.jit(moe.dispatch, static_argnums=(1, 2))


@settings(max_examples=60, deadline=None)
@given(
  choices=st.lists(st.integers(0, E - 1), min_size=N * K, max_size=N * K),
  alignment=st.sampled_from([1, 4, 8]),
)
def test_dispatch_sorts_by_expert_and_drops_nothing(choices, alignment):
  index = np.array(choices, np.int32).reshape(N, K)
  plan = jax.tree.map(np.asarray, dispatch(index, E, alignment))
  rows = plan.row_NxK.ravel()
  assert len(set(rows)) == N * K  # every pair has a row of its own
  np.testing.assert_array_equal(plan.source_R[plan.row_NxK], np.arange(N)[:, None].repeat(K, 1))
  padding = np.setdiff1d(np.arange(len(plan.source_R)), rows)
  assert (plan.source_R[padding] == N).all()

  counts = np.bincount(index.ravel(), minlength=E)
  assert (plan.size_E % alignment == 0).all()
  np.testing.assert_array_equal(plan.size_E, -(-counts // alignment) * alignment)
  assert plan.size_E.sum() <= len(plan.source_R)
  assert len(plan.source_R) % alignment == 0
  start = np.cumsum(plan.size_E) - plan.size_E
  own = start[index]  # the group that each pair must lie in
  assert ((plan.row_NxK >= own) & (plan.row_NxK < own + counts[index])).all()
  for expert in range(E):  # stable: earlier pairs come first
    assert (np.diff(rows[index.ravel() == expert]) == 1).all()


def test_dispatch_worked_out_by_hand():
  plan = dispatch(np.array([[2, 0], [0, 2], [2, 1]], np.int32), 4, 1)
  np.testing.assert_array_equal(plan.size_E, [2, 1, 3, 0])
  np.testing.assert_array_equal(plan.row_NxK, [[3, 0], [1, 4], [5, 2]])
  np.testing.assert_array_equal(plan.source_R, [0, 1, 2, 0, 1, 2])


def test_dispatch_starts_every_group_at_an_aligned_row():
  plan = dispatch(np.array([[1], [0], [1]], np.int32), 2, 2)
  np.testing.assert_array_equal(plan.size_E, [2, 2])
  np.testing.assert_array_equal(plan.row_NxK, [[2], [0], [3]])
  np.testing.assert_array_equal(plan.source_R, [1, 3, 0, 2, 3, 3])


@functools.cache
def layer():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.normal(0, 1, shape).astype(np.float32)

  weights = (draw(E, D, F), draw(E, D, F), draw(E, F, D))
  return draw(N, D), weights, rng.uniform(0.1, 1.0, (N, K)).astype(np.float32), draw(N, D)


CHOICES = {
  "mixed": np.array([[0, 1], [3, 2], [1, 0], [1, 3], [1, 2], [3, 0]]),
  "one_expert": np.full((N, K), 2),
  "two_experts_empty": np.array([[0, 3]] * N),
}


@functools.cache
def value_and_grad(implementation):
  """Of a weighted sum of the outputs, by tokens, weights and gate values."""
  compute = (
    moe.looped_experts
    if implementation == "looped"
    else functools.partial(moe.grouped_experts, implementation=implementation)
  )

  def loss(x, weights, value, index, probe):
    out = compute(x, weights, index, value)
    return (out * probe).sum(), out

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def run(implementation, index):
  x, weights, value, probe = layer()
  return value_and_grad(implementation)(x, weights, value, index.astype(np.int32), probe)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("implementation", ["blocked", "ragged"])
def test_grouped_experts_equal_looped(implementation, name):
  index = CHOICES[name]
  (_, want), want_grads = run("looped", index)
  (_, got), grads = run(implementation, index)
  np.testing.assert_allclose(got, want, **CLOSE)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("name", CHOICES)
def test_looped_experts_equal_float64(name):
  x, (gate, up, down), value, _ = layer()
  want = np.zeros((N, D))
  for n in range(N):
    for k in range(K):
      e = CHOICES[name][n, k]
      a = x[n].astype(np.float64) @ gate[e]
      want[n] += value[n, k] * ((a / (1 + np.exp(-a)) * (x[n] @ up[e])) @ down[e])
  np.testing.assert_allclose(run("looped", CHOICES[name])[0][1], want, **CLOSE)


def test_unused_experts_get_zero_gradient():
  for implementation in ("looped", "blocked"):
    _, (_, weights, _) = run(implementation, CHOICES["two_experts_empty"])
    for grad in weights:
      np.testing.assert_array_equal(grad[1:3], np.zeros_like(grad[1:3]))
      assert np.abs(grad[0]).max() > 0.1


def test_every_backend_default_gives_the_same():
  x, weights, value, _ = layer()
  index = jnp.asarray(CHOICES["mixed"], jnp.int32)
  got = jax.jit(moe.grouped_experts)(x, weights, index, value)
  np.testing.assert_allclose(got, run("looped", CHOICES["mixed"])[0][1], **CLOSE)


# Noise of the noisy top-k gate, in the module and through the scan over layers.

NOISY = v2(
  score_function="noisy_top_k",
  normalize_weights=True,
  num_expert_groups=1,
  num_layers=3,
)


@functools.cache
def routed(noisy: bool):
  """`(variables, key) -> (hidden states, statistics)`; the key is used only if noisy."""
  ids = np.random.default_rng(0).integers(3, 32, (2, 9)).astype(np.int32)

  def run(variables, key):
    rngs = {"noise": key} if noisy else {}
    out = Transformer(NOISY).apply(variables, ids, method="hidden", rngs=rngs)
    return out.hidden_BxTxD, out.stats["layers"]

  return jit(run)


def test_noise_is_drawn_only_where_a_key_is_given():
  given, keys = variables(NOISY), [jax.random.key(0), jax.random.key(1)]
  (plain, _), (again, _) = (routed(False)(given, key) for key in keys)
  np.testing.assert_array_equal(plain, again)
  (first, _), (second, _) = (routed(True)(given, key) for key in keys)
  np.testing.assert_array_equal(routed(True)(given, keys[0])[0], first)
  assert min(np.abs(first - plain).max(), np.abs(first - second).max()) > 1e-2


def test_every_layer_draws_its_own_noise():
  """With equal centroids everywhere noise alone decides: equal noise gives equal loads."""
  given = variables(NOISY)
  ffn = given["params"]["moe_layers"]["ffn"]
  flat = ffn | {name: np.zeros_like(ffn[name]) for name in ("router", "router_noise")}
  layers = given["params"]["moe_layers"] | {"ffn": flat}
  _, stats = routed(True)(given | {"params": given["params"] | {"moe_layers": layers}}, KEY)
  assert (stats.load_E[0] != stats.load_E[1]).any()
  np.testing.assert_allclose(stats.expected_load_E.sum(-1), [36, 36], rtol=0.2)  # K of 18 tokens


KEY = jax.random.key(3)


def test_learned_noise_starts_at_zero_and_other_routers_have_none():
  shapes = jax.eval_shape(lambda: Transformer(NOISY).init(KEY, jnp.zeros((1, 2), jnp.int32)))
  assert shapes["params"]["moe_layers"]["ffn"]["router_noise"].unbox().shape == (2, 16, 8)
  made = jit(Transformer(NOISY.replace(num_layers=2)).init)(KEY, jnp.zeros((1, 2), jnp.int32))
  noise = made["params"]["moe_layers"]["ffn"]["router_noise"].unbox()
  np.testing.assert_array_equal(noise, np.zeros((1, 16, 8)))
  assert "router_noise" not in variables(CONFIGS["v3"])["params"]["moe_layers"]["ffn"]
