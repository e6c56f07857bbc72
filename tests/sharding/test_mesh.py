"""The device mesh: all axes, the rest of the devices, and errors."""

import jax
import pytest
from jax.sharding import AxisType

from reasonjax.sharding import mesh as mesh_lib


def test_all_axes_are_there_in_order_and_auto():
  mesh = mesh_lib.make({"tensor": 2, "data": 4})
  expected = {"data": 4, "fsdp": 1, "expert": 1, "context": 1, "tensor": 2}
  assert list(mesh.shape.items()) == list(expected.items())
  assert mesh.axis_types == (AxisType.Auto,) * 5
  assert set(mesh.devices.ravel()) == set(jax.devices())


@pytest.mark.parametrize(
  ("sizes", "axis", "rest"),
  [
    ({"data": -1}, "data", 8),
    ({"fsdp": 2, "expert": -1}, "expert", 4),
    ({"data": 2, "fsdp": 2, "tensor": 2, "context": -1}, "context", 1),
  ],
)
def test_minus_one_takes_the_remaining_devices(sizes, axis, rest):
  assert mesh_lib.make(sizes).shape[axis] == rest


def test_given_devices():
  some = jax.devices()[3:5]
  mesh = mesh_lib.make({"data": -1}, devices=some)
  assert list(mesh.devices.ravel()) == some


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"model": 8}, r"\['model'\] are unknown"),
    ({"data": -1, "fsdp": -1}, "at most one axis may be -1"),
    ({"data": 0, "fsdp": -1}, "sizes must be positive"),
    ({"data": -2}, "sizes must be positive"),
    ({"data": 4}, "needs 4 devices, but there are 8"),
    ({"data": 16}, "needs 16 devices, but there are 8"),
    ({"data": 3, "fsdp": -1}, "3 does not divide 8 devices"),
    ({"data": 16, "fsdp": -1}, "16 does not divide 8 devices"),
    ({}, "needs 1 devices, but there are 8"),
  ],
)
def test_errors(sizes, message):
  with pytest.raises(ValueError, match=message):
    mesh_lib.make(sizes)
