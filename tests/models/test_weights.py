"""Declared parameters: shapes, axis names, initial values and dtypes of a whole model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CONFIGS, jit, tiny

from reasonjax.models.weights import declare
from reasonjax.sharding import rules
from reasonjax.train import state as state_lib


class Owner(nn.Module):
  """A module with one parameter."""

  shape: tuple
  axes: tuple
  std: float | None
  dtype: str = "float32"

  def setup(self):
    self.w = declare(self, "w", self.shape, self.axes, std=self.std, dtype=self.dtype)

  def __call__(self):
    return self.w


def init(*args):
  return Owner(*args).init(jax.random.key(0))["params"]["w"]


def test_declare_draws_from_the_normal_distribution():
  box = init((64, 64), ("embed", "mlp"), 0.3)
  assert box.names == ("embed", "mlp")
  values = np.asarray(box.value)
  assert values.std() == pytest.approx(0.3, rel=0.05)  # 4096 draws: standard error 1.1 %
  assert abs(values.mean()) < 0.02
  assert np.abs(values).max() > 0.9  # not truncated


def test_declare_without_a_deviation_gives_ones():
  box = init((3,), ("norm",), None, "bfloat16")
  assert box.value.dtype == jnp.bfloat16
  np.testing.assert_array_equal(box.value, np.ones(3))


def test_declare_wants_one_name_a_dimension():
  with pytest.raises(ValueError, match=r"^w: shape \(2, 3\) needs 2 axis names"):
    init((2, 3), ("embed",), 0.1)


def boxed(config):
  return jax.eval_shape(lambda: state_lib.init_variables(config, jax.random.key(0)))


def leaves(config):
  is_box = lambda node: isinstance(node, nn.Partitioned)
  params = boxed(config)["params"]
  for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_box):
    yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_names_its_axes(name):
  known = {axis for axis, _ in rules.get("data").table} | {None}
  for path, leaf in leaves(CONFIGS[name]):
    assert isinstance(leaf, nn.Partitioned), path
    assert len(leaf.names) == leaf.value.ndim, path
    assert set(leaf.names) <= known, path
    stacked = path.startswith(("dense_layers/", "moe_layers/"))
    assert (leaf.names[0] == "layers") == stacked, path


def test_parameters_have_the_parameter_dtype_and_biases_float32():
  config = tiny(param_dtype="bfloat16")
  assert {leaf.value.dtype for _, leaf in leaves(config)} == {jnp.dtype("bfloat16")}
  assert {leaf.dtype for leaf in jax.tree.leaves(boxed(config)["router"])} == {jnp.dtype("float32")}


def test_a_fresh_model():
  """Matrices of the configured deviation, norm scales 1, biases 0, layers drawn apart."""
  config = tiny(init_std=0.07, num_layers=3, num_mtp_modules=0)
  made = jit(lambda key: state_lib.init_variables(config, key))(jax.random.key(0))
  for path, leaf in jax.tree_util.tree_leaves_with_path(made["params"]):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    values = np.asarray(leaf)
    if "scale" in name:
      np.testing.assert_array_equal(values, 1.0, err_msg=name)
    else:
      # Five standard errors of the deviation of that many draws.
      assert abs(values.std() / 0.07 - 1) < 5 / np.sqrt(2 * values.size), name
  assert all((np.asarray(bias) == 0).all() for bias in jax.tree.leaves(made["router"]))
  up = np.asarray(jax.tree.leaves(made["params"]["moe_layers"]["ffn"]["up"])[0])
  assert np.abs(up[0] - up[1]).max() > 0.01
