"""Arrays are born and put where the rules say, with the values of one device."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shard_cases as cases
from jax.sharding import PartitionSpec

from reasonjax.optim import build as optim
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place, rules
from reasonjax.train import state as state_lib
from reasonjax.train.state import TrainState

FULL = rules.get("full")


def _mesh():
  return mesh_lib.make({"fsdp": 2, "expert": 2, "tensor": 2})


def _box(value, *names):
  return nn.Partitioned(value, names)


def _optimizer(config, name):
  settings = optim.OptimConfig(name, 0.1, "constant", 0, 1.0, 0.9, 0.95, 1e-8, 0.0, 1.0, 0.95)
  return optim.build(settings, state_lib.parameter_axes(config), total_steps=1)


def test_unbox_and_logical_axes():
  boxed = {"a": _box(jnp.ones(2), "embed"), "b": {"c": jnp.zeros(3)}}
  plain = place.unbox(boxed)
  assert jax.tree.map(jnp.shape, plain) == {"a": (2,), "b": {"c": (3,)}}
  assert place.logical_axes(boxed) == {"a": ("embed",), "b": {"c": ()}}


def test_sharded_initialisation_equals_that_of_one_device():
  """The values of the keys, the shards of the rules."""
  config, mesh = cases.SMALL, _mesh()
  key = jax.random.key(3)
  state = state_lib.create(config, _optimizer(config, "adamw"), key, mesh, FULL)
  init = jax.jit(
    lambda key: place.unbox(state_lib.init_variables(config, key)),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  alone = init(key)
  boxed = cases.boxed_shapes(config)["params"]
  names = jax.tree.leaves(place.logical_axes(boxed), is_leaf=lambda n: isinstance(n, tuple))
  paths = jax.tree_util.tree_flatten_with_path(state.params)[0]
  devices = {"embed": 2, "expert": 2, "heads": 2, "vocab": 2, "expert_mlp": 2, "mlp": 2}
  split = 0
  for (path, leaf), axes, want in zip(paths, names, jax.tree.leaves(alone["params"]), strict=True):
    label = jax.tree_util.keystr(path)
    np.testing.assert_allclose(leaf, want, rtol=1e-6, atol=1e-6, err_msg=label)
    shard = tuple(n // devices.get(axis, 1) for n, axis in zip(leaf.shape, axes, strict=True))
    assert {part.data.shape for part in leaf.addressable_shards} == {shard}, label
    assert len(leaf.addressable_shards) == 8
    split += shard != leaf.shape
  assert split >= 9  # embedding, head, attention, router and the three expert weights
  for leaf in (state.step, *jax.tree.leaves(state.router)):
    assert leaf.sharding.is_fully_replicated
    np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_moments_are_split_like_their_parameters(name):
  config, mesh = cases.WHOLE, _mesh()
  optimizer = _optimizer(config, name)

  def init(key):
    boxed = state_lib.init_variables(config, key)
    opt_state = optimizer.init(boxed["params"])
    return TrainState(jnp.zeros((), jnp.int32), boxed["params"], boxed["router"], opt_state)

  boxed = jax.eval_shape(init, jax.random.key(0))
  placed = place.shardings(boxed, mesh, FULL)
  wanted = {
    jax.tree_util.keystr(path): sharding.spec
    for path, sharding in jax.tree_util.tree_flatten_with_path(placed.params)[0]
  }
  found = {}
  for path, sharding in jax.tree_util.tree_flatten_with_path(placed.opt_state)[0]:
    key = jax.tree_util.keystr(path)
    name_of = max((p for p in wanted if key.endswith(p)), key=len, default=None)
    if name_of is None:
      assert sharding.spec == PartitionSpec(), key
    else:
      assert sharding.spec == wanted[name_of], key
      found[name_of] = found.get(name_of, 0) + 1
  assert set(found) == set(wanted)
  assert all(count >= (2 if name == "adamw" else 1) for count in found.values())
  assert sum(spec != PartitionSpec(*[None] * len(spec)) for spec in wanted.values()) > 15


def test_moments_are_really_split():
  """The same with arrays, for two parameters that are cheap to make."""
  mesh, optimizer = _mesh(), _optimizer_of_two()

  def init():
    params = {"embedding": _box(jnp.ones((8, 4)), "vocab", "embed")}
    params["scale"] = _box(jnp.ones(4), "norm")
    return {"params": params, "opt_state": optimizer.init(params)}

  made = place.initialize(init, mesh, FULL)
  shapes = {
    leaf.shape: leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(made["opt_state"])
  }
  assert shapes == {(): (), (8, 4): (4, 2), (4,): (4,)}


def _optimizer_of_two():
  settings = optim.OptimConfig("adamw", 0.1, "constant", 0, 1.0, 0.9, 0.95, 1e-8, 0.0, 1.0, 0.95)
  axes = {"embedding": ("vocab", "embed"), "scale": ("norm",)}
  return optim.build(settings, axes, total_steps=1)


@pytest.mark.parametrize(
  ("shape", "names", "mesh"),
  [
    ((6, 4), ("vocab", "embed"), {"tensor": 4, "data": 2}),
    ((8, 6), ("vocab", "embed"), {"fsdp": 4, "data": 2}),
    ((4, 8), ("expert", "embed"), {"expert": 8}),
  ],
)
def test_a_size_that_does_not_divide_is_an_error_naming_the_parameter(shape, names, mesh):
  tree = {"block": {"weight": _box(jax.ShapeDtypeStruct(shape, jnp.float32), *names)}}
  with pytest.raises(ValueError, match="block/weight of shape") as raised:
    place.shardings(tree, mesh_lib.make(mesh), FULL)
  assert str(shape) in str(raised.value)
  assert "'full'" in str(raised.value)


def test_a_model_that_does_not_fit_the_mesh_is_an_error():
  config = cases.SMALL.replace(num_heads=3)
  with pytest.raises(ValueError, match=r"params/moe_layers/attention/\w+ of shape \(1, .*tensor"):
    place.shardings(cases.boxed_shapes(config), _mesh(), FULL)


def test_batch():
  mesh = mesh_lib.make({"data": 2, "fsdp": 2, "context": 2})
  host = {
    "ids": np.arange(2 * 8 * 6, dtype=np.int32).reshape(2, 8, 6),
    "wide": np.arange(2 * 8 * 6 * 3, dtype=np.float32).reshape(2, 8, 6, 3),
    "rows": np.arange(16.0, dtype=np.float32).reshape(2, 8),
  }
  placed = place.batch(host, mesh, FULL, (None, "batch", "length"))
  shapes = {
    name: {shard.data.shape for shard in x.addressable_shards} for name, x in placed.items()
  }
  assert shapes == {"ids": {(2, 2, 3)}, "wide": {(2, 2, 3, 3)}, "rows": {(2, 2)}}
  for name, x in host.items():
    np.testing.assert_array_equal(placed[name], x)
    assert placed[name].dtype == x.dtype


@pytest.mark.parametrize("shape", [(1, 6, 4), (1, 8, 3)])
def test_a_batch_that_does_not_divide_is_an_error_naming_its_shape(shape):
  mesh = mesh_lib.make({"data": 4, "context": 2})
  with pytest.raises(ValueError, match=", ".join(map(str, shape))):
    place.batch(np.zeros(shape, np.float32), mesh, FULL, (None, "batch", "length"))
