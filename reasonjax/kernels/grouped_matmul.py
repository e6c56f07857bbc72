"""Matrix products of sorted row groups with one weight a group: the core of a dropless MoE."""

from __future__ import annotations

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("ragged", "blocked", "loop")


def default_implementation() -> str:
  """XLA's ragged product where the backend has a kernel for it, row blocks on a CPU."""
  return "blocked" if jax.default_backend() == "cpu" else "ragged"


def row_alignment(num_rows: int, num_groups: int, implementation: str) -> int:
  """Multiple of rows at which every group should start (and be padded to), for `grouped_matmul`.

  A block must hold rows of one group only, so blocks near a group's mean size waste little.

  Args:
    num_rows: rows over all groups, without padding.
    num_groups: E.
    implementation: one of IMPLEMENTATIONS.

  >>> row_alignment(3072, 8, "blocked"), row_alignment(3072, 8, "ragged")
  (128, 1)
  """
  if implementation != "blocked":
    return 1
  half_mean = max(num_rows // (2 * num_groups), 1)
  return min(128, max(8, 1 << (half_mean - 1).bit_length()))


def grouped_matmul(
  x_NxD: jax.Array,
  weight_ExDxF: jax.Array,
  size_E: jax.Array,
  *,
  alignment: int = 1,
  implementation: str | None = None,
) -> jax.Array:
  r"""Multiplies each group of consecutive rows by its own weight.

  .. math:: y_n = x_n W_{e(n)}, \qquad e(n) = \text{the group that row } n \text{ lies in}

  Args:
    x_NxD: rows, sorted by group. Rows beyond the last group must be zero.
    weight_ExDxF: one matrix a group.
    size_E: int32 rows in each group, padding included; each a multiple of `alignment`.
    alignment: see `row_alignment`.
    implementation: "ragged" (`jax.lax.ragged_dot`), "blocked" (one batched product over row blocks
      of the alignment) or "loop" (the reference: every row times every matrix); None picks by
      backend. All are differentiable in `x_NxD` and `weight_ExDxF`.

  Returns: `[N, F]`.

  Raises:
    ValueError: for an unknown implementation, or rows that are no multiple of the alignment.
  """
  implementation = implementation or default_implementation()
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f"implementation={implementation!r}: choose from {IMPLEMENTATIONS}.")
  if x_NxD.shape[0] % alignment:
    raise ValueError(f"{x_NxD.shape[0]} rows are not a multiple of alignment={alignment}.")
  if implementation == "ragged":
    return jax.lax.ragged_dot(x_NxD, weight_ExDxF, size_E)
  if implementation == "blocked":
    return _blocked(x_NxD, weight_ExDxF, size_E, alignment)
  return _loop(x_NxD, weight_ExDxF, size_E)


def _blocked(x_NxD, weight_ExDxF, size_E, alignment):
  """Each block of rows belongs to one group, so its weight is one gather.

  Twin of: _loop
  """
  N, D = x_NxD.shape
  num_groups = weight_ExDxF.shape[0]
  first_row = jnp.arange(N // alignment, dtype=jnp.int32) * alignment
  group = jnp.searchsorted(jnp.cumsum(size_E), first_row, side="right")
  weight = weight_ExDxF[jnp.minimum(group, num_groups - 1)]
  blocks = x_NxD.reshape(N // alignment, alignment, D)
  return jnp.einsum("bnd,bdf->bnf", blocks, weight).reshape(N, -1)


def _loop(x_NxD, weight_ExDxF, size_E):
  end_E = jnp.cumsum(size_E)
  row_N = jnp.arange(x_NxD.shape[0])
  out = jnp.zeros((x_NxD.shape[0], weight_ExDxF.shape[-1]), x_NxD.dtype)
  for group in range(weight_ExDxF.shape[0]):
    inside_N = (row_N >= end_E[group] - size_E[group]) & (row_N < end_E[group])
    out += jnp.where(inside_N[:, None], x_NxD @ weight_ExDxF[group], 0)
  return out
