"""Named parallelism: tables from logical axis names to mesh axes.

Parameters use `layers vocab embed heads kv_heads head_dim q_lora kv_lora mlp expert expert_mlp
norm`; activations use `batch length act_embed act_heads act_kv_heads act_vocab`.
"""

from __future__ import annotations

import dataclasses

from reasonjax.sharding.mesh import AXES

MeshAxes = str | tuple[str, ...] | None

_REPLICATED: dict[str, MeshAxes] = {
  "layers": None,
  "vocab": None,
  "embed": None,
  "heads": None,
  "kv_heads": None,
  "head_dim": None,
  "q_lora": None,
  "kv_lora": None,
  "mlp": None,
  "expert": None,
  "expert_mlp": None,
  "norm": None,
  "batch": ("data", "fsdp", "expert"),
  "length": None,
  "act_embed": None,
  "act_heads": None,
  "act_kv_heads": None,
  "act_vocab": None,
}
_FSDP = {"embed": "fsdp"}
_EXPERT = {"expert": "expert"}
_CONTEXT = {"length": "context"}
_TENSOR = {
  "vocab": "tensor",
  "heads": "tensor",
  "kv_heads": "tensor",
  "mlp": "tensor",
  "expert_mlp": "tensor",
  "act_heads": "tensor",
  "act_kv_heads": "tensor",
  "act_vocab": "tensor",
}

# data: replicated parameters. fsdp: parameters split over the batch's devices. tensor: heads, FFN
# and vocabulary split. expert: experts split. context: sequences split. full: all at once; axes
# of size one drop out, so "full" with a mesh of one axis is that axis's own strategy.
TABLES: dict[str, dict[str, MeshAxes]] = {
  "data": _REPLICATED,
  "fsdp": _REPLICATED | _FSDP,
  "tensor": _REPLICATED | _TENSOR,
  "expert": _REPLICATED | _EXPERT,
  "context": _REPLICATED | _CONTEXT,
  "full": _REPLICATED | _FSDP | _EXPERT | _CONTEXT | _TENSOR,
}


@dataclasses.dataclass(frozen=True)
class Rules:
  """One table, hashable so that a module can carry it.

  Attributes:
    name: its name in TABLES, or any name for a table of your own.
    table: pairs of logical axis name and mesh axis, tuple of mesh axes, or None (replicated).
  """

  name: str
  table: tuple[tuple[str, MeshAxes], ...]

  def __post_init__(self):
    for logical, axes in self.table:
      for axis in _as_tuple(axes):
        if axis not in AXES:
          raise ValueError(f"rules {self.name!r}: {logical!r} maps to {axis!r}, not in {AXES}.")

  def axes(self, logical: str) -> MeshAxes:
    """Mesh axes of a logical axis.

    Raises:
      ValueError: if the table has no such name (a misspelt axis is never silently replicated).
    """
    for name, axes in self.table:
      if name == logical:
        return axes
    known = ", ".join(name for name, _ in self.table)
    raise ValueError(f"logical axis {logical!r} is not in rules {self.name!r}; known: {known}.")

  def without(self, mesh_axes: tuple[str, ...]) -> Rules:
    """The table for code that already runs once on each shard of these mesh axes.

    >>> get("data").without(("data",)).axes("batch")
    ('fsdp', 'expert')
    """

    def rest(axes: MeshAxes) -> MeshAxes:
      kept = tuple(axis for axis in _as_tuple(axes) if axis not in mesh_axes)
      return kept or None

    return Rules(self.name, tuple((logical, rest(axes)) for logical, axes in self.table))

  @property
  def batch_axes(self) -> tuple[str, ...]:
    """Mesh axes that split the batch."""
    return _as_tuple(self.axes("batch"))

  @property
  def length_axes(self) -> tuple[str, ...]:
    """Mesh axes that split sequences."""
    return _as_tuple(self.axes("length"))


def _as_tuple(axes: MeshAxes) -> tuple[str, ...]:
  return (axes,) if isinstance(axes, str) else axes or ()


def get(name: str) -> Rules:
  """The named table.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in TABLES:
    raise ValueError(f"rules={name!r}: choose from {sorted(TABLES)}.")
  return Rules(name, tuple(TABLES[name].items()))
