"""The optimizer step: sums over microbatches, one division, and steps that must not happen."""

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reasonjax.core.types import TokenBatch
from reasonjax.models.transformer import Transformer
from reasonjax.sharding import place
from reasonjax.train import loop
from reasonjax.train import state as state_lib
from reasonjax.train import step as step_lib
from reasonjax.train.state import TrainState
from reasonjax.train.step import LossOutput

START = np.array([0.5, -1.0, 2.0], np.float32)


def _loss(params, router, batch, key):
  """Weighted squares of a linear model; loads come with the batch."""
  residual = batch["x"] @ params["w"] - batch["y"]
  total = (batch["weight"] * residual**2).sum()
  weight = batch["weight"].sum()
  metrics = {"square": (total, weight), "rows": (jnp.float32(batch["y"].size), jnp.float32(1.0))}
  return total, LossOutput(weight, metrics, {"layers": batch["load"]})


def _batch(microbatches: int, rows: int, seed: int = 0) -> dict:
  rng = np.random.default_rng(seed)
  batch = {
    "x": rng.normal(size=(microbatches, rows, 3)),
    "y": rng.normal(size=(microbatches, rows)),
    "weight": rng.uniform(0.1, 2.0, (microbatches, rows)),
    "load": rng.integers(1, 9, (microbatches, 1, 4)),
  }
  return {name: x.astype(np.float32) for name, x in batch.items()}


def _state(optimizer, router=None) -> TrainState:
  params = {"w": jnp.array(START)}
  router = {"layers": jnp.zeros((1, 4))} if router is None else router
  return TrainState(jnp.zeros((), jnp.int32), params, router, optimizer.init(params))


def _float64(batch: dict, count: int):
  """Mean loss and its gradient over the first `count` microbatches together."""
  x, y, weight = (
    batch[name][:count].astype(np.float64).reshape(-1, *batch[name].shape[2:])
    for name in ("x", "y", "weight")
  )
  residual = x @ START.astype(np.float64) - y
  gradient = 2 * (weight * residual) @ x / weight.sum()
  return (weight * residual**2).sum() / weight.sum(), gradient


def _copy(state):
  return jax.tree.map(np.array, state)


def _assert_equal(actual, expected):
  for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_step_is_that_of_all_used_microbatches_together(count):
  """Weights are unequal, so a mean over the microbatches' means would be another number."""
  optimizer, batch = optax.sgd(1.0), _batch(4, 5)
  step = step_lib.make(_loss, optimizer, bias_rate=0.0, seed=0)
  state, metrics = step(_state(optimizer), batch, count)
  loss, gradient = _float64(batch, count)
  np.testing.assert_allclose(START - state.params["w"], gradient, rtol=1e-5, atol=1e-6)
  assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
  assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
  assert float(metrics["weight"]) == pytest.approx(batch["weight"][:count].sum(), rel=1e-6)
  assert int(state.step) == 1
  if count > 1:
    means = [_float64({k: v[i : i + 1] for k, v in batch.items()}, 1)[0] for i in range(count)]
    assert abs(np.mean(means) - loss) > 1e-2


def test_split_microbatches_equal_one():
  optimizer, whole = optax.adam(0.1), _batch(1, 12)
  split = {name: x.reshape(4, 3, *x.shape[2:]) for name, x in whole.items() if name != "load"}
  split["load"] = np.repeat(whole["load"], 4, axis=0) / 4
  results = []
  for batch, count in ((whole, 1), (split, 4)):
    step = step_lib.make(_loss, optimizer, bias_rate=0.1, seed=0)
    results.append(step(_state(optimizer), batch, count))
  (one, one_metrics), (four, four_metrics) = results
  assert one_metrics.pop("rows") == 12
  assert four_metrics.pop("rows") == 3
  for got, want in zip(
    jax.tree.leaves((four, four_metrics)), jax.tree.leaves((one, one_metrics)), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_split_microbatches_of_a_model_equal_one():
  """The balance term is per row and all else per token: how rows are grouped changes nothing."""
  config = fakes.model_config(
    num_layers=1, num_dense_layers=0, q_lora_rank=None, num_shared_experts=0, num_mtp_modules=0
  )
  shapes = jax.eval_shape(lambda: state_lib.init_variables(config, jax.random.key(0)))
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(0.5, 0.3, leaf.shape).astype(np.float32)
  variables = jax.tree.map(draw, place.unbox(shapes))
  ids, segments = fakes.packed(4, 10)
  weights = (rng.uniform(0, 1, ids.shape) * (segments > 0)).astype(np.float32)
  whole = TokenBatch(ids, segments, weights)
  loss = loop.make_loss(Transformer(config), loop.LMLossConfig(0.0, 0.01, 0.1, None))
  accumulate = jax.jit(
    lambda *args: step_lib.accumulate(loss, *args),
    compiler_options={"xla_backend_optimization_level": 0},
  )

  def split(count):
    batch = jax.tree.map(lambda x: x.reshape(count, 4 // count, 10), whole)
    return accumulate(variables["params"], variables["router"], batch, count, jax.random.key(0))

  one, four = split(1), split(4)
  paths = jax.tree_util.tree_flatten_with_path(one)[0]
  for (path, want), got in zip(paths, jax.tree.leaves(four), strict=True):
    size = max(1.0, float(np.abs(want).max()))
    message = jax.tree_util.keystr(path)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * size, err_msg=message)


def test_changing_the_count_compiles_nothing():
  optimizer, traced = optax.sgd(0.1), []

  def counted(*args):
    traced.append(1)
    return _loss(*args)

  step = step_lib.make(counted, optimizer, bias_rate=0.0, seed=0)
  state, _ = step(_state(optimizer), _batch(4, 5), 4)
  first = len(traced)
  assert first > 0
  for count in (1, 2, 3, 4):
    state, _ = step(state, _batch(4, 5, seed=count), count)
  assert len(traced) == first
  assert int(state.step) == 5


def test_noise_is_that_of_the_seed_the_step_and_the_microbatch():
  """A state of step 5 draws what a run that reaches it draws: resumption repeats nothing."""

  def noisy(params, router, batch, key):
    total, output = _loss(params, router, batch, key)
    noise = jax.random.normal(key, (3,))
    metrics = {"noise": (noise @ batch["x"][0], jnp.float32(1.0))}
    return total, LossOutput(output.weight, metrics, output.load)

  optimizer, batch = optax.sgd(0.1), _batch(3, 5)
  step = step_lib.make(noisy, optimizer, bias_rate=0.0, seed=7)
  for number in (0, 5):
    state = _state(optimizer).replace(step=jnp.int32(number))
    step_key = jax.random.fold_in(jax.random.key(7), number)
    noise = [jax.random.normal(jax.random.fold_in(step_key, i), (3,)) for i in range(2)]
    want = sum(n @ x for n, x in zip(noise, batch["x"][:, 0], strict=False)) / 2
    state, metrics = step(state, batch, 2)
    assert float(metrics["noise"]) == pytest.approx(float(want), rel=1e-5)
    assert int(state.step) == number + 1


def test_unused_microbatches_are_not_looked_at():
  optimizer, batch = optax.sgd(1.0), _batch(3, 5)
  batch["x"][2] = np.nan
  step = step_lib.make(_loss, optimizer, bias_rate=0.0, seed=0)
  state, metrics = step(_state(optimizer), batch, 2)
  assert metrics["finite"] == 1
  np.testing.assert_allclose(START - state.params["w"], _float64(batch, 2)[1], 1e-5, 1e-6)


def _infinite_loss():
  batch = _batch(2, 5)
  batch["y"][1, 3] = np.inf
  return _loss, batch


def _infinite_gradient():
  """The loss is 0, its derivative infinite."""

  def root(params, router, batch, key):
    total = jnp.sqrt(jnp.square(params["w"] * 0.0).sum())
    return total, _loss(params, router, batch, key)[1]

  return root, _batch(2, 5)


def _no_weight():
  batch = _batch(2, 5)
  batch["weight"][:] = 0.0
  return _loss, batch


@pytest.mark.parametrize(
  ("make", "finite"), [(_infinite_loss, 0), (_infinite_gradient, 0), (_no_weight, 1)]
)
def test_a_step_that_must_not_happen_changes_nothing(make, finite):
  """Adam would move the parameters and its count even at a gradient of 0."""
  optimizer = optax.adamw(0.1, weight_decay=0.1)
  loss, bad = make()
  router = {"layers": jnp.array([[0.1, -0.2, 0.3, 0.0]])}
  good_step = step_lib.make(_loss, optimizer, bias_rate=0.1, seed=0)
  state, _ = good_step(_state(optimizer, router), _batch(2, 5, seed=1), 2)
  before = _copy(state)
  state, metrics = step_lib.make(loss, optimizer, bias_rate=0.1, seed=0)(state, bad, 2)
  _assert_equal(
    (state.params, state.opt_state, state.router), (before.params, before.opt_state, before.router)
  )
  assert int(state.step) == 2
  assert metrics["finite"] == finite
  if finite:
    assert metrics["weight"] == 0
    assert metrics["loss"] == 0
  as_if_never, _ = good_step(jax.tree.map(jnp.array, before), _batch(2, 5, seed=2), 2)
  after, _ = good_step(state, _batch(2, 5, seed=2), 2)
  _assert_equal((after.params, after.opt_state), (as_if_never.params, as_if_never.opt_state))


def test_router_biases_move_once_by_the_rate_towards_balance():
  """Sums 8, 4, 6, 6 of mean 6; either microbatch alone would move the biases otherwise."""
  optimizer, batch = optax.sgd(0.1), _batch(2, 5)
  batch["load"] = np.array([[[7, 1, 1, 3]], [[1, 3, 5, 3]]], np.float32)
  router = {"layers": jnp.array([[0.5, 0.25, -0.5, 0.0]]), "mtp": jnp.ones((1, 4))}
  step = step_lib.make(_loss, optimizer, bias_rate=0.125, seed=0)
  state, metrics = step(_state(optimizer, router), batch, 2)
  np.testing.assert_array_equal(state.router["layers"], [[0.375, 0.375, -0.5, 0.0]])
  np.testing.assert_array_equal(state.router["mtp"], np.ones((1, 4)))
  np.testing.assert_allclose(metrics["expert_share"], [[1 / 3, 1 / 6, 1 / 4, 1 / 4]], rtol=1e-6)
  assert float(metrics["max_violation"]) == pytest.approx(1 / 3, rel=1e-6)


def test_a_rate_of_zero_freezes_the_biases():
  optimizer = optax.sgd(0.1)
  router = {"layers": jnp.array([[0.5, 0.25, -0.5, 0.0]])}
  step = step_lib.make(_loss, optimizer, bias_rate=0.0, seed=0)
  state, metrics = step(_state(optimizer, router), _batch(2, 5), 2)
  np.testing.assert_array_equal(state.router["layers"], [[0.5, 0.25, -0.5, 0.0]])
  assert not np.array_equal(state.params["w"], START)
  assert metrics["max_violation"] > 0


def test_the_state_is_donated():
  optimizer = optax.adam(0.1)
  old = _state(optimizer)
  new, _ = step_lib.make(_loss, optimizer, bias_rate=0.1, seed=0)(old, _batch(2, 5), 2)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_metrics_are_sums_divided_once():
  optimizer, batch = optax.sgd(0.1), _batch(3, 5)
  batch["weight"][1] *= 20
  _, metrics = step_lib.make(_loss, optimizer, bias_rate=0.0, seed=0)(_state(optimizer), batch, 3)
  assert float(metrics["square"]) == pytest.approx(_float64(batch, 3)[0], rel=1e-5)
  assert float(metrics["rows"]) == 5.0  # 3 times 5 over 3 times 1
  assert "layers" not in metrics


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_clipping_sees_the_averaged_gradient(scale):
  """The summed gradient is far longer than the bound at any scale of the weights."""
  batch = _batch(4, 50)
  batch["weight"] *= scale
  _, gradient = _float64(batch, 4)
  norm = np.linalg.norm(gradient)
  for bound, factor in ((2 * norm, 1.0), (norm / 4, 0.25)):
    optimizer = optax.chain(optax.clip_by_global_norm(bound), optax.sgd(1.0))
    state, metrics = step_lib.make(_loss, optimizer, bias_rate=0.0, seed=0)(
      _state(optimizer), batch, 4
    )
    np.testing.assert_allclose(START - state.params["w"], factor * gradient, 1e-5, 1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
