"""Strict translation of logical axis names into shardings.

Linen's own constraints drop unknown or colliding names silently; these raise.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import PartitionSpec

from reasonjax.sharding.rules import Rules


def to_spec(names: Sequence[str | None], rules: Rules) -> PartitionSpec:
  """Partition of an array whose dimensions carry the given logical names.

  Args:
    names: one logical axis a dimension; None for a dimension that is never split.
    rules: the table.

  Raises:
    ValueError: for an unknown name, or when two dimensions land on one mesh axis.

  >>> from reasonjax.sharding import rules
  >>> tuple(to_spec(("embed", None, "heads"), rules.get("full")))
  ('fsdp', None, 'tensor')
  """
  entries = [None if name is None else rules.axes(name) for name in names]
  used: dict[str, str | None] = {}
  for name, entry in zip(names, entries, strict=True):
    for axis in (entry,) if isinstance(entry, str) else entry or ():
      if axis in used:
        raise ValueError(
          f"rules {rules.name!r}: dimensions {used[axis]!r} and {name!r} of {tuple(names)} are "
          f"both split over mesh axis {axis!r}."
        )
      used[axis] = name
  return PartitionSpec(*entries)


def constrain(x: jax.Array, names: Sequence[str | None], rules: Rules | None) -> jax.Array:
  """Pins the sharding of an activation under the mesh set by `jax.set_mesh`.

  Args:
    x: any array.
    names: one logical axis a dimension.
    rules: the table; None leaves the choice to the compiler (single device, or no mesh).

  Raises:
    ValueError: if `names` does not name every dimension, or as `to_spec`.
  """
  if rules is None:
    return x
  if len(names) != x.ndim:
    raise ValueError(f"array of shape {x.shape} needs {x.ndim} axis names, got {tuple(names)}.")
  return jax.lax.with_sharding_constraint(x, to_spec(names, rules))
