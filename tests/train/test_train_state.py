"""The training state: its structure, its values, and the axes of its parameters."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reasonjax.models.transformer import Transformer
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place, rules
from reasonjax.train import state as state_lib

PLAIN = fakes.model_config(
  num_layers=1, num_dense_layers=1, num_routed_experts=0, num_mtp_modules=0, q_lora_rank=None
)
is_names = lambda node: isinstance(node, tuple)


@functools.cache
def _create(config, seed=0):
  mesh = mesh_lib.make({"data": 1}, devices=jax.devices()[:1])
  key = jax.random.key(seed)
  return state_lib.create(config, optax.adam(0.1), key, mesh, rules.get("data"))


def _shapes(config):
  return jax.eval_shape(lambda: place.unbox(state_lib.init_variables(config, jax.random.key(0))))


def test_parameter_axes_name_every_dimension():
  config = fakes.model_config()
  axes, shapes = state_lib.parameter_axes(config), _shapes(config)["params"]
  assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(shapes)
  pairs = zip(jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(shapes), strict=True)
  assert all(len(names) == shape.ndim > 0 for names, shape in pairs)


def test_parameter_axes_of_known_weights():
  axes = state_lib.parameter_axes(fakes.model_config())
  assert axes["embedding"] == axes["head"] == ("vocab", "embed")
  assert axes["final_norm"]["scale"] == ("norm",)
  assert axes["moe_layers"]["ffn"]["gate"] == ("layers", "expert", "embed", "expert_mlp")
  assert axes["moe_layers"]["ffn"]["router"] == ("layers", "embed", "expert")
  assert axes["dense_layers"]["ffn"]["down"] == ("layers", "mlp", "embed")
  assert axes["mtp_0"]["block"]["attention"]["o"] == ("heads", "head_dim", "embed")


@pytest.mark.parametrize(
  ("changes", "router"),
  [
    ({}, {"layers": (1, 8), "mtp": (1, 8)}),
    ({"num_layers": 5, "num_mtp_modules": 0}, {"layers": (4, 8)}),
    ({"num_dense_layers": 2, "num_mtp_modules": 2}, {"mtp": (2, 8)}),
  ],
)
def test_router_biases_of_a_model(changes, router):
  shapes = _shapes(fakes.model_config(**changes))
  assert set(shapes) == {"params", "router"}
  assert {name: bias.shape for name, bias in shapes["router"].items()} == router
  assert {bias.dtype for bias in shapes["router"].values()} == {jnp.dtype("float32")}


def test_create():
  state = _create(PLAIN)
  assert state.step.dtype == jnp.int32
  assert state.step.shape == ()
  assert int(state.step) == 0
  assert state.router == {}
  shapes = _shapes(PLAIN)["params"]
  assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
  adam = state.opt_state[0]
  assert jax.tree.structure(adam.mu) == jax.tree.structure(state.params)
  for moment, parameter in zip(
    jax.tree.leaves((adam.mu, adam.nu)), jax.tree.leaves((state.params,) * 2), strict=True
  ):
    assert moment.shape == parameter.shape
    assert not moment.any()
  np.testing.assert_array_equal(state.params["final_norm"]["scale"], 1.0)
  assert float(state.params["embedding"].std()) == pytest.approx(PLAIN.init_std, rel=0.1)


def test_create_is_a_function_of_the_key():
  first, again, other = _create(PLAIN), _create.__wrapped__(PLAIN), _create(PLAIN, seed=1)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(first.params["embedding"], other.params["embedding"])
  assert not np.array_equal(first.params["embedding"], first.params["head"])


def test_variables_are_what_the_model_takes():
  state = _create(PLAIN)
  assert state.variables == {"params": state.params, "router": state.router}
  logits = jax.eval_shape(Transformer(PLAIN).apply, state.variables, jnp.array([[1, 5, 9]]))
  assert logits.shape == (1, 3, 32)


def test_start_from_copies_the_variables_and_keeps_the_rest():
  """Training steps delete the state that they are given, but not what it was started from."""
  optimizer = optax.adam(0.1)
  params = {"w": jnp.array([1.0, 2.0])}
  router = {"layers": jnp.zeros((1, 2))}
  state = state_lib.TrainState(jnp.int32(7), params, router, optimizer.init(params))
  variables = {"params": {"w": jnp.array([3.0, 4.0])}, "router": {"layers": jnp.ones((1, 2))}}
  started = state.start_from(variables)
  assert jax.tree.map(lambda leaf: leaf.tolist(), started.variables) == {
    "params": {"w": [3.0, 4.0]},
    "router": {"layers": [[1.0, 1.0]]},
  }
  assert int(started.step) == 7
  assert started.opt_state is state.opt_state
  for leaf in jax.tree.leaves(started.variables):
    leaf.delete()
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_load_variables_needs_a_folder(tmp_path):
  mesh = mesh_lib.make({"data": -1})
  with pytest.raises(FileNotFoundError, match="nowhere is no folder of checkpoints"):
    state_lib.load_variables(tmp_path / "nowhere", PLAIN, mesh, rules.get("data"))


def test_create_places_the_state_of_a_whole_model():
  """Shapes and dtypes alone, which compiles nothing."""
  config, mesh = fakes.model_config(), mesh_lib.make({"fsdp": 8})
  made = jax.eval_shape(
    lambda key: state_lib.create(config, optax.adam(0.1), key, mesh, rules.get("fsdp")),
    jax.random.key(0),
  )
  shapes = _shapes(config)
  assert jax.tree.map(lambda leaf: leaf.shape, made.variables) == jax.tree.map(
    lambda leaf: leaf.shape, shapes
  )


def test_create_reports_a_size_that_does_not_divide():
  config, mesh = fakes.model_config(hidden_size=12), mesh_lib.make({"fsdp": 8})
  with pytest.raises(ValueError, match=r"params/\S+ of shape .*'fsdp'"):
    state_lib.create(config, optax.adam(0.1), jax.random.key(0), mesh, rules.get("fsdp"))
