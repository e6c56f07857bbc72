"""Optimizer steps against float64 arithmetic, and the kind of every parameter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from reasonjax.models import presets
from reasonjax.optim import build
from reasonjax.sharding import place
from reasonjax.train import state as state_lib

CONFIG = build.OptimConfig(
  name="adamw",
  learning_rate=0.01,
  schedule="linear",
  warmup_steps=2,
  final_fraction=0.0,
  b1=0.9,
  b2=0.95,
  eps=1e-8,
  weight_decay=0.1,
  clip_norm=1.0,
  muon_momentum=0.95,
)
AXES = {
  "block": {
    "attention": {
      "q": ("layers", "embed", "heads", "head_dim"),
      "o": ("layers", "heads", "head_dim", "embed"),
    },
    "norm": {"scale": ("layers", "norm")},
    "ffn": {"up": ("layers", "expert", "embed", "expert_mlp")},
  },
  "embedding": ("vocab", "embed"),
}
SHAPES = {
  "block": {
    "attention": {"q": (2, 12, 3, 5), "o": (2, 3, 5, 12)},
    "norm": {"scale": (2, 12)},
    "ffn": {"up": (2, 2, 12, 6)},
  },
  "embedding": (7, 12),
}
is_tuple = lambda node: isinstance(node, tuple)


def draw(seed: int, std: float = 1.0) -> dict:
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: rng.normal(0, std, shape).astype(np.float32), SHAPES, is_leaf=is_tuple
  )


def run(config: build.OptimConfig, grads: list[dict]) -> tuple[dict, list[dict]]:
  """Initial parameters, and the updates of a few steps."""
  optimizer = build.build(config, AXES, total_steps=10)
  params = jax.tree.map(jnp.asarray, draw(0))
  first, state, updates = params, optimizer.init(params), []
  for grad in grads:
    with jax.numpy_dtype_promotion("standard"):  # optax counts on it
      update, state = optimizer.update(jax.tree.map(jnp.asarray, grad), state, params)
    params = optax.apply_updates(params, update)
    updates.append(update)
  return first, updates


def clipped(grads: dict, norm: float) -> dict:
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
  total = np.sqrt(sum((leaf**2).sum() for leaf in leaves))
  return jax.tree.map(lambda g: np.asarray(g, np.float64) * min(1.0, norm / total), grads)


def adam(
  grads: list[np.ndarray], rates: list[float], config=CONFIG, nesterov: bool = False
) -> list[np.ndarray]:
  """Adam's or NAdam's updates without decay, float64."""
  mean, square, updates = 0.0, 0.0, []
  for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
    mean = config.b1 * mean + (1 - config.b1) * grad
    square = config.b2 * square + (1 - config.b2) * grad**2
    ratio = mean / (1 - config.b1**step)
    if nesterov:  # Dozat 2016: look one step of momentum ahead
      ahead = config.b1 * mean / (1 - config.b1 ** (step + 1))
      ratio = ahead + (1 - config.b1) * grad / (1 - config.b1**step)
    updates.append(-rate * ratio / (np.sqrt(square / (1 - config.b2**step)) + config.eps))
  return updates


@pytest.mark.parametrize("clip_norm", [1.0, 0.0, 1e6])
def test_adamw_equals_the_equations(clip_norm):
  config = dataclasses.replace(CONFIG, clip_norm=clip_norm)
  grads = [draw(1), draw(2, std=1e-3), draw(3)]
  params, updates = run(config, grads)
  limit = clip_norm or np.inf
  exact = [clipped(grad, limit) for grad in grads]
  # Warm-up over two steps, then the peak.
  rates = [0.005, 0.01, 0.01]
  for path, decay in (
    (("block", "attention", "q"), 0.1),
    (("block", "ffn", "up"), 0.1),
    (("block", "norm", "scale"), 0.0),
  ):

    def at(tree, path=path):
      for name in path:
        tree = tree[name]
      return np.asarray(tree, np.float64)

    value = at(params)
    expected = adam([at(grad) for grad in exact], rates)
    for update, moved, rate in zip(updates, expected, rates, strict=True):
      whole = moved - rate * decay * value
      np.testing.assert_allclose(at(update), whole, rtol=1e-4, atol=1e-8)
      value = value + whole


@pytest.mark.parametrize("name", build.NAMES)
def test_decay_is_on_matrices_only(name):
  """Decoupled: with no gradient a matrix shrinks by rate times decay, and nothing else moves."""
  still = jax.tree.map(np.zeros_like, draw(0))
  params, (update,) = run(dataclasses.replace(CONFIG, name=name), [still])
  matrices = (lambda tree: tree["block"]["attention"], lambda tree: tree["block"]["ffn"])
  for part in matrices:
    jax.tree.map(
      lambda u, p: np.testing.assert_allclose(u, -0.005 * 0.1 * np.asarray(p), rtol=1e-5),
      part(update),
      part(params),
    )
  assert not np.any(update["block"]["norm"]["scale"])
  assert not np.any(update["embedding"])


def test_clipping_is_by_the_norm_over_all_parameters():
  grads = draw(1)
  _, (update,) = run(dataclasses.replace(CONFIG, eps=1.0, weight_decay=0.0), [grads])
  exact = clipped(grads, 1.0)
  norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(exact)))
  assert norm == pytest.approx(1.0, rel=1e-12)
  # With epsilon 1 the first update is -rate * g / (|g| + 1), which shows the size of g.
  jax.tree.map(
    lambda u, g: np.testing.assert_allclose(u, -0.005 * g / (np.abs(g) + 1), rtol=2e-5, atol=1e-9),
    update,
    exact,
  )


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
  """Five steps of X <- aX + b(XX')X + c(XX')^2 X from X / |X|, with Muon's coefficients."""
  x = matrix / np.linalg.norm(matrix)
  for _ in range(5):
    gram = x @ x.T
    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
  return x


def muon_matrices(tree: dict):
  """(name, [matrices, inputs, outputs]) of every matrix parameter."""
  attention, ffn = tree["block"]["attention"], tree["block"]["ffn"]
  yield "q", np.asarray(attention["q"], np.float64).reshape(2, 12, 15)
  yield "o", np.asarray(attention["o"], np.float64).reshape(2, 15, 12)
  yield "up", np.asarray(ffn["up"], np.float64).reshape(4, 12, 6)


@pytest.fixture(scope="module")
def muon_step():
  config = dataclasses.replace(CONFIG, name="muon", weight_decay=0.0)
  grads = draw(1)
  _, (update,) = run(config, [grads])
  return grads, update


def test_muon_orthogonalises_each_matrix_of_a_batch_on_its_own(muon_step):
  grads, update = muon_step
  for (name, gradient), (_, moved) in zip(muon_matrices(grads), muon_matrices(update), strict=True):
    size = 0.2 * np.sqrt(max(gradient.shape[1:]))
    expected = [-0.005 * size * newton_schulz(matrix) for matrix in gradient]
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-6, err_msg=name)


def test_muon_updates_have_even_singular_values_and_the_size_of_an_adam_update(muon_step):
  _, update = muon_step
  for _, moved in muon_matrices(update):
    values = np.linalg.svd(moved, compute_uv=False) / (0.005 * 0.2 * np.sqrt(max(moved.shape[1:])))
    # The quintic maps what it is given into about [0.7, 1.2]; very small values stay below.
    assert values.max() < 1.25
    assert np.median(values) > 0.65
    rms = np.sqrt((moved**2).mean(axis=(1, 2))) / 0.005
    assert (rms > 0.2 * 0.65).all()
    assert (rms < 0.2 * 1.25).all()


def test_muon_gives_the_rest_nadam():
  grads = [draw(1), draw(2)]
  _, updates = run(dataclasses.replace(CONFIG, name="muon", weight_decay=0.0), grads)
  exact = [clipped(grad, 1.0) for grad in grads]
  for part in (lambda tree: tree["embedding"], lambda tree: tree["block"]["norm"]["scale"]):
    expected = adam([part(grad) for grad in exact], [0.005, 0.01], nesterov=True)
    for update, moved in zip(updates, expected, strict=True):
      np.testing.assert_allclose(part(update), moved, rtol=1e-4, atol=1e-8)


def test_state_is_kept_per_parameter_kind():
  params = jax.tree.map(jnp.asarray, draw(0))

  def floats(name: str) -> int:
    state = build.build(dataclasses.replace(CONFIG, name=name), AXES, 10).init(params)
    return sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim > 1)

  matrices = 2 * 12 * 15 * 2 + 4 * 12 * 6
  rest = 2 * 12 + 7 * 12
  assert floats("adamw") == 2 * (matrices + rest)
  assert floats("muon") == matrices + 2 * rest


@pytest.mark.parametrize(
  ("names", "axes"),
  [
    (("embed", "mlp"), ((0,), (1,))),
    (("layers", "mlp", "embed"), ((1,), (2,))),
    (("layers", "kv_lora", "heads", "head_dim"), ((1,), (2, 3))),
    (("layers", "heads", "head_dim", "embed"), ((1, 2), (3,))),
    (("layers", "expert", "embed", "expert_mlp"), ((2,), (3,))),
    (("embed", "embed"), ((0,), (1,))),
  ],
)
def test_matrix_axes(names, axes):
  assert build.matrix_axes(names) == MuonDimensionNumbers(*axes)


def test_every_parameter_of_the_tiny_model_is_of_its_kind():
  axes = state_lib.parameter_axes(presets.get("deepseek_v3_tiny"))
  kinds = {}
  leaves = jax.tree_util.tree_leaves_with_path(build.kinds_of(axes))
  for path, kind in leaves:
    kinds.setdefault(jax.tree_util.keystr(path[-1:], simple=True), set()).add(kind)
  assert len(leaves) > 30
  assert all(len(found) == 1 for found in kinds.values())
  by_kind = {
    kind: {name for name, (found,) in kinds.items() if found == kind}
    for kind in ("scale", "table", "matrix")
  }
  assert by_kind["scale"] == {"scale"}
  assert by_kind["table"] == {"embedding", "head", "router"}
  assert by_kind["matrix"] >= {"q_a", "q_b", "kv_a", "kv_b", "o", "gate", "up", "down"}


@pytest.mark.parametrize("preset", presets.names())
def test_both_optimizers_take_every_preset(preset):
  config = presets.get(preset)
  axes = state_lib.parameter_axes(config)
  shapes = jax.eval_shape(lambda: state_lib.init_variables(config, jax.random.key(0)))["params"]
  params = place.unbox(shapes)
  for name in build.NAMES:
    optimizer = build.build(dataclasses.replace(CONFIG, name=name), axes, 10)
    with jax.numpy_dtype_promotion("standard"):
      updates, _ = jax.eval_shape(lambda p, o=optimizer: o.update(p, o.init(p), p), params)
    assert jax.tree.map(lambda u, p: u.shape == p.shape, updates, params) == jax.tree.map(
      lambda _: True, params
    )


@pytest.mark.parametrize("path", [("block", "mixer", "gain"), ("scales",), ("block", "q_c")])
def test_an_unknown_parameter_is_named(path):
  axes = ("layers", "embed")
  for name in reversed(path):
    axes = {name: axes}
  with pytest.raises(ValueError, match=f"^parameter '{'/'.join(path)}' matches no pattern"):
    build.build(CONFIG, axes | {"embedding": ("vocab", "embed")}, 10)


def test_bad_values_are_named():
  with pytest.raises(ValueError, match=r"^optim.name='sgd': choose from"):
    dataclasses.replace(CONFIG, name="sgd")
  with pytest.raises(ValueError, match=r"^optim.learning_rate=-0.1 must not be negative"):
    dataclasses.replace(CONFIG, learning_rate=-0.1)
  with pytest.raises(ValueError, match=r"^schedule='step'"):
    build.build(dataclasses.replace(CONFIG, schedule="step"), AXES, 10)


def test_rate_is_the_configured_schedule():
  rate = CONFIG.rate(10)
  assert [float(rate(step)) for step in (0, 1, 2, 6, 10)] == pytest.approx(
    [0.005, 0.01, 0.01, 0.005, 0.0], abs=1e-8
  )
