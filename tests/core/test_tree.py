"""Small functions on pytrees against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.core import tree


def make(scale: float) -> dict:
  return {"a": jnp.array([1.0, 2.0]) * scale, "b": (jnp.array([[3, 4, 5]]),)}


def test_add():
  total = tree.add(make(1.0), make(10.0))
  np.testing.assert_array_equal(total["a"], [11.0, 22.0])
  np.testing.assert_array_equal(total["b"][0], [[6, 8, 10]])


def test_zeros_take_shapes_and_dtypes_of_arrays_and_of_shapes():
  shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "b": jnp.ones(4, jnp.int8)}
  zeros = tree.zeros(shapes)
  assert (zeros["a"].shape, zeros["a"].dtype) == ((2, 3), jnp.bfloat16)
  assert (zeros["b"].shape, zeros["b"].dtype) == ((4,), jnp.int8)
  assert not zeros["a"].any()
  assert not zeros["b"].any()


def test_select_takes_one_side_whole_also_under_jit():
  select = jax.jit(lambda condition: tree.select(condition, make(1.0), make(10.0)))
  np.testing.assert_array_equal(select(jnp.array(True))["a"], [1.0, 2.0])
  np.testing.assert_array_equal(select(jnp.array(False))["a"], [10.0, 20.0])
  assert select(jnp.array(False))["b"][0].dtype == jnp.int32
