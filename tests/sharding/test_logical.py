"""Logical axis names become partitions; nothing unknown, colliding or missing is passed over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from reasonjax.sharding import logical, rules
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding.rules import Rules

FULL = rules.get("full")


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    ((), PartitionSpec()),
    (("layers", "embed", "heads", "head_dim"), PartitionSpec(None, "fsdp", "tensor", None)),
    (("expert", "embed", "expert_mlp"), PartitionSpec("expert", "fsdp", "tensor")),
    (
      ("batch", "length", None),
      PartitionSpec(("data", "fsdp", "expert"), "context", None),
    ),
    ((None, None), PartitionSpec(None, None)),
  ],
)
def test_to_spec(names, expected):
  assert logical.to_spec(names, FULL) == expected


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("heads", "mlp"), "dimensions 'heads' and 'mlp' .* both split over mesh axis 'tensor'"),
    (("embed", "embed"), "dimensions 'embed' and 'embed' .* 'fsdp'"),
    (("batch", "expert"), "dimensions 'batch' and 'expert' .* 'expert'"),
  ],
)
def test_two_dimensions_on_one_mesh_axis_are_an_error(names, message):
  with pytest.raises(ValueError, match=message):
    logical.to_spec(names, FULL)


def test_one_name_twice_is_fine_where_it_is_replicated():
  assert logical.to_spec(("embed", "embed"), rules.get("tensor")) == PartitionSpec(None, None)


def test_an_unknown_name_is_an_error():
  with pytest.raises(ValueError, match="'width' is not in rules 'full'"):
    logical.to_spec(("batch", "width"), FULL)


def test_constrain_pins_the_sharding():
  """The table splits the second axis where the input is split along the first."""
  mesh = mesh_lib.make({"data": 2, "tensor": 4})
  x = np.arange(32, dtype=np.float32).reshape(4, 8)
  split = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
  with jax.set_mesh(mesh):
    pin = jax.jit(lambda x: logical.constrain(x + 1.0, (None, "act_vocab"), FULL))
    y = pin(jax.device_put(x, split))
  assert {shard.data.shape for shard in y.addressable_shards} == {(4, 2)}
  np.testing.assert_array_equal(y, x + 1.0)


def test_constrain_without_rules_does_nothing():
  x = jnp.ones((2, 3))
  assert logical.constrain(x, ("any", "names", "at", "all"), None) is x


@pytest.mark.parametrize("names", [("batch",), ("batch", "length", None)])
def test_constrain_needs_a_name_for_every_dimension(names):
  with pytest.raises(ValueError, match=r"shape \(2, 3\) needs 2 axis names"):
    logical.constrain(jnp.ones((2, 3)), names, FULL)


@pytest.mark.parametrize("names", [("batch", "width"), ("heads", "mlp")])
def test_constrain_is_as_strict_as_to_spec(names):
  mesh = mesh_lib.make({"tensor": 2, "data": 4})
  with jax.set_mesh(mesh), pytest.raises(ValueError, match="rules 'full'"):
    logical.constrain(jnp.ones((8, 8)), names, FULL)


def test_a_table_of_ones_own():
  mine = Rules("mine", (("rows", ("tensor", "data")), ("columns", None)))
  assert logical.to_spec(("rows", "columns"), mine) == PartitionSpec(("tensor", "data"), None)
