"""Small functions on pytrees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def add(a: Tree, b: Tree) -> Tree:
  """Leaf-wise sum."""
  return jax.tree.map(jnp.add, a, b)


def zeros(shapes: Tree) -> Tree:
  """Zeros of the shapes and dtypes of a tree of arrays or `jax.ShapeDtypeStruct`s."""
  return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def select(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
  """Leaf-wise choice by one scalar condition."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
