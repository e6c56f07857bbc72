"""Every parallelism table computes what one device computes: training steps and decoding."""

import dataclasses
import functools

import fakes
import jax
import numpy as np
import pytest
import shard_cases as cases

from reasonjax.core.types import TokenBatch
from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.models.transformer import Transformer
from reasonjax.optim import build as optim
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place, rules
from reasonjax.train import loop
from reasonjax.train import state as state_lib
from reasonjax.train import step as step_lib

# The combined table gets the whole model; a table of one axis one MoE layer.
LAYOUTS = [
  ("data", {"data": 8}, cases.SMALL),
  ("fsdp", {"fsdp": 8}, cases.SMALL),
  ("tensor", {"data": 2, "tensor": 4}, cases.SMALL),
  ("expert", {"expert": 8}, cases.SMALL),
  ("context", {"data": 2, "context": 4}, cases.SMALL),
  ("full", {"fsdp": 2, "expert": 2, "tensor": 2}, cases.WHOLE),
  ("full", {"data": 2, "context": 2, "tensor": 2}, cases.WHOLE),
  ("full", {"expert": 2, "context": 2, "tensor": 2}, cases.GROUPED),
]


def _cases(layouts):
  ids = ["-".join([t, *(f"{axis}{n}" for axis, n in mesh.items())]) for t, mesh, _ in layouts]
  return pytest.mark.parametrize(("table", "mesh", "config"), layouts, ids=ids)


layouts = _cases(LAYOUTS)
layouts_with_biases = _cases([layout for layout in LAYOUTS if layout[2].router_bias])

ROWS, LENGTH, MICROBATCHES, B1, BIAS_RATE = 8, 16, 2, 0.9, 0.01
# Compiling is nearly all of the time here, and LLVM's optimisations come after partitioning.
QUICK = {"xla_backend_optimization_level": 0}


def _optimizer(config, name):
  # With Adam's usual epsilon an element whose gradient is rounding noise moves a full step.
  settings = optim.OptimConfig(
    name=name,
    learning_rate=0.01,
    schedule="constant",
    warmup_steps=0,
    final_fraction=1.0,
    b1=B1,
    b2=0.95,
    eps=1e-3,
    weight_decay=0.1,
    clip_norm=0.0,
    muon_momentum=0.95,
  )
  return optim.build(settings, state_lib.parameter_axes(config), total_steps=4)


def _batch() -> TokenBatch:
  packed = [fakes.packed(ROWS, LENGTH, seed=seed) for seed in range(MICROBATCHES)]
  ids, segments = (np.stack(arrays) for arrays in zip(*packed, strict=True))
  weights = np.random.default_rng(5).uniform(0.2, 1.0, segments.shape) * (segments > 0)
  return TokenBatch(ids, segments, weights.astype(np.float32))


@functools.cache
def _train(config, mesh_sizes, table, optimizer_name="adamw", steps=2):
  """States and metrics on the host after each step; one device and no rules for table None."""
  mesh = mesh_lib.make(dict(mesh_sizes)) if table else cases.one_device()
  table_rules = rules.get(table) if table else None
  layout = table_rules or rules.get("data")
  optimizer = _optimizer(config, optimizer_name)
  chunk = 40 if config is cases.WHOLE else None
  settings = loop.LMLossConfig(mtp=0.3, z=1e-3, balance=0.01, chunk=chunk, importance=0.1)
  if config is cases.GROUPED:
    v2 = {"balance_routed": True, "device_balance": 0.05, "communication_balance": 0.02}
    settings = dataclasses.replace(settings, **v2)
  results = []
  with jax.set_mesh(mesh):
    state = cases.placed_state(config, optimizer, mesh, layout)
    loss = loop.make_loss(Transformer(config, table_rules), settings)
    step = jax.jit(
      step_lib.make(loss, optimizer, bias_rate=BIAS_RATE, seed=0), compiler_options=QUICK
    )
    batch = place.batch(_batch(), mesh, layout, (None, "batch", "length"))
    for _ in range(steps):
      state, metrics = step(state, batch, MICROBATCHES)
      results.append(jax.device_get((state, metrics)))
  return results


def _gradients(state):
  """Adam's first moment after one step is (1 - b1) times the gradient."""
  moments = [m for m in jax.tree.leaves(state.opt_state, is_leaf=_has_mu) if _has_mu(m)]
  return jax.tree.map(lambda mu: mu / (1 - B1), moments[0].mu)


def _has_mu(node):
  return hasattr(node, "mu")


def _assert_close(actual, expected, rtol, atol):
  paths = jax.tree_util.tree_flatten_with_path(expected)[0]
  for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
    np.testing.assert_allclose(got, want, rtol, atol, err_msg=jax.tree_util.keystr(path))


def test_every_table_is_tested():
  assert {table for table, _, _ in LAYOUTS} == set(rules.TABLES)


@layouts
def test_two_adamw_steps(table, mesh, config):
  first, second = _train(config, tuple(mesh.items()), table)
  (alone_1, metrics_1), (alone_2, metrics_2) = _train(config, (), None)
  gradients = _gradients(alone_1)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradients))
  _assert_close(_gradients(first[0]), gradients, rtol=1e-5, atol=1e-6)
  _assert_close(first[1], metrics_1, rtol=1e-5, atol=1e-6)
  _assert_close(second[1], metrics_2, rtol=1e-5, atol=1e-6)
  _assert_close(second[0].params, alone_2.params, rtol=1e-5, atol=1e-6)


@layouts_with_biases
def test_router_biases_follow_the_load_of_all_devices(table, mesh, config):
  """Counts are whole numbers, so the biases agree bit for bit."""
  state, _ = _train(config, tuple(mesh.items()), table)[0]
  alone, _ = _train(config, (), None)[0]
  start = cases.drawn(config)["router"]
  for name, bias in state.router.items():
    np.testing.assert_array_equal(bias, alone.router[name])
    assert np.abs(bias - start[name]).max() == pytest.approx(BIAS_RATE, rel=1e-4)


def test_one_muon_step():
  """The mesh has all axes that split parameters, and with them what Muon orthogonalises."""
  mesh = (("fsdp", 2), ("expert", 2), ("tensor", 2))
  ((state, metrics),) = _train(cases.SMALL, mesh, "full", "muon", steps=1)
  ((alone, alone_metrics),) = _train(cases.SMALL, (), None, "muon", steps=1)
  _assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
  _assert_close(state.params, alone.params, rtol=1e-5, atol=1e-5)


def _decode(config, mesh, table):
  table_rules = rules.get(table) if table else None
  with jax.set_mesh(mesh):
    variables = cases.placed_variables(config, mesh, table_rules or rules.get("data"))
    engine = Engine(
      config,
      variables,
      eos_id=2,
      rows=16,
      prompt_buckets=(4,),
      new_token_buckets=(6,),
      rules=table_rules,
    )
    # Seven prompts of unequal length in an engine with room for eight.
    prompts = [[1, 5 + i, 9, 12][: 2 + i % 3] for i in range(7)]
    return engine.generate(prompts, Sampling(max_new_tokens=6, samples=2), jax.random.key(1))


@functools.cache
def _decode_alone(config):
  return _decode(config, cases.one_device(), None)


@layouts
def test_decoding(table, mesh, config):
  rollout, alone = _decode(config, mesh_lib.make(mesh), table), _decode_alone(config)
  assert len(set(alone.token_BxT.ravel().tolist())) > 8
  np.testing.assert_array_equal(rollout.token_BxT, alone.token_BxT)
  np.testing.assert_array_equal(rollout.length_B, alone.length_B)
  np.testing.assert_array_equal(rollout.truncated_B, alone.truncated_B)
  np.testing.assert_allclose(rollout.logp_BxT, alone.logp_BxT, rtol=1e-5, atol=1e-5)
