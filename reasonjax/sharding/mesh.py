"""The device mesh: five named axes, those of size one cost nothing."""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "expert", "context", "tensor")


def make(sizes: dict[str, int], devices=None) -> Mesh:
  """Builds the mesh.

  Args:
    sizes: devices along each named axis; axes left out have size 1, and one axis may be -1 for
      "all that remain".
    devices: devices to use, all of `jax.devices()` by default.

  Returns: a mesh with all of AXES and Auto axis types.

  Raises:
    ValueError: for an unknown axis, or sizes whose product is not the number of devices.

  >>> make({"data": -1}).axis_names
  ('data', 'fsdp', 'expert', 'context', 'tensor')
  """
  devices = jax.devices() if devices is None else devices
  unknown = set(sizes) - set(AXES)
  if unknown:
    raise ValueError(f"mesh axes {sorted(unknown)} are unknown; choose from {AXES}.")
  shape = [sizes.get(axis, 1) for axis in AXES]
  if shape.count(-1) > 1:
    raise ValueError(f"mesh={sizes}: at most one axis may be -1.")
  known = math.prod(size for size in shape if size != -1)
  if known < 1:
    raise ValueError(f"mesh={sizes}: sizes must be positive, or -1 for the rest.")
  if -1 in shape and len(devices) % known:
    raise ValueError(f"mesh={sizes}: {known} does not divide {len(devices)} devices.")
  shape = [len(devices) // known if size == -1 else size for size in shape]
  if math.prod(shape) != len(devices):
    raise ValueError(
      f"mesh={sizes} needs {math.prod(shape)} devices, but there are {len(devices)}."
    )
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
