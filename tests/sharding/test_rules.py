"""The tables: complete, strict, and without the axes of code that runs on a shard."""

import fakes
import jax
import pytest
import shard_cases as cases

from reasonjax.models.attention_config import GQAConfig
from reasonjax.sharding import place, rules
from reasonjax.sharding.mesh import AXES
from reasonjax.sharding.rules import Rules

ACTIVATIONS = {"batch", "length", "act_embed", "act_heads", "act_kv_heads", "act_vocab"}


def _parameter_axes() -> set[str]:
  """Every logical axis of models that together have every kind of parameter."""
  found = set()
  grouped = GQAConfig(num_kv_heads=2, head_dim=4)
  for config in (fakes.model_config(), fakes.model_config(attention=grouped)):
    trees = place.logical_axes(cases.boxed_shapes(config)["params"])
    leaves = jax.tree.leaves(trees, is_leaf=lambda node: isinstance(node, tuple))
    found |= {name for names in leaves for name in names}
  return found


@pytest.mark.parametrize("name", sorted(rules.TABLES))
def test_every_table_maps_exactly_the_axes_in_use(name):
  assert set(rules.TABLES[name]) == _parameter_axes() | ACTIVATIONS
  table = rules.get(name)
  for logical, axes in rules.TABLES[name].items():
    assert table.axes(logical) == axes


@pytest.mark.parametrize("name", sorted(rules.TABLES))
def test_the_batch_is_split_over_data_fsdp_and_expert(name):
  assert rules.get(name).batch_axes == ("data", "fsdp", "expert")


def test_what_each_strategy_splits():
  split = {
    name: {
      logical: axes for logical, axes in table.items() if axes is not None and logical != "batch"
    }
    for name, table in rules.TABLES.items()
  }
  tensor = ("vocab", "heads", "kv_heads", "mlp", "expert_mlp")
  tensor += ("act_heads", "act_kv_heads", "act_vocab")
  assert split == {
    "data": {},
    "fsdp": {"embed": "fsdp"},
    "expert": {"expert": "expert"},
    "context": {"length": "context"},
    "tensor": dict.fromkeys(tensor, "tensor"),
    "full": {"embed": "fsdp", "expert": "expert", "length": "context"}
    | dict.fromkeys(tensor, "tensor"),
  }


def test_without():
  full = rules.get("full").without(("data", "fsdp", "expert"))
  assert full.axes("batch") is None
  assert full.batch_axes == ()
  assert full.axes("embed") is None
  assert full.axes("expert") is None
  assert full.axes("length") == "context" or full.axes("length") == ("context",)
  assert rules.get("data").without(("fsdp",)).axes("batch") == ("data", "expert")
  assert rules.get("data").axes("batch") == ("data", "fsdp", "expert")


def test_rules_are_hashable_and_equal_by_value():
  assert rules.get("full") == rules.get("full")
  assert hash(rules.get("full")) == hash(rules.get("full"))
  assert rules.get("full") != rules.get("data")


def test_an_unknown_logical_axis_is_an_error():
  with pytest.raises(ValueError, match=r"'embd' is not in rules 'full'; known: .*embed"):
    rules.get("full").axes("embd")


@pytest.mark.parametrize("axes", ["model", ("data", "model")])
def test_an_unknown_mesh_axis_is_an_error(axes):
  with pytest.raises(ValueError, match="rules 'mine': 'embed' maps to 'model'") as raised:
    Rules("mine", (("embed", axes),))
  assert all(axis in str(raised.value) for axis in AXES)


def test_an_unknown_table_is_an_error():
  with pytest.raises(ValueError, match=r"rules='pipeline': choose from .*'full'"):
    rules.get("pipeline")
