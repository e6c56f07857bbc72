"""Checkpoints of a run: training state and position in the data, saved and restored as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

Tree = Any


class Store:
  """Numbered checkpoints in one directory; a step is there whole or not at all."""

  def __init__(self, directory: str | Path, *, keep: int = 2):
    """Args:
    directory: created if missing.
    keep: newest checkpoints that are kept.
    """
    self._directory = Path(directory).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    self._manager = ocp.CheckpointManager(self._directory, options=options)

  @property
  def latest(self) -> int | None:
    """Newest step, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Tree, position: dict[str, Any]) -> None:
    """Saves in the background; a step that is already there is left alone.

    Args:
      step: its number.
      state: tree of arrays.
      position: JSON-ready state of the data iterator.
    """
    if step in self._manager.all_steps():
      return
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position)
    )
    self._manager.save(step, args=items)

  def restore(self, like: Tree, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """Loads a checkpoint onto the devices and shardings of `like`.

    Args:
      like: a tree of arrays of the right structure, shapes, dtypes and shardings.
      step: which one; the newest by default.

    Returns: the state and the data position.

    Raises:
      FileNotFoundError: naming the directory, if it holds no checkpoint.
    """
    step = self.latest if step is None else step
    if step is None:
      raise FileNotFoundError(f"no checkpoint in {self._directory}.")
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(_shapes(like)), position=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    return restored["state"], restored["position"]

  def restore_part(self, like: Tree) -> Tree:
    """Loads only the arrays that `like` names from the newest checkpoint, whatever else it holds.

    Args:
      like: nested dicts that lead to some of the state's arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      FileNotFoundError: naming the directory, if it holds no checkpoint.
    """
    if self.latest is None:
      raise FileNotFoundError(f"no checkpoint in {self._directory}.")
    target = _shapes(like)
    arguments = ocp.args.PyTreeRestore(
      item=target,
      restore_args=ocp.checkpoint_utils.construct_restore_args(target),
      partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(self._directory / str(self.latest) / "state", args=arguments)

  def wait(self) -> None:
    """Blocks until everything asked for is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Finishes saving and releases the directory."""
    self._manager.close()


def _shapes(tree: Tree) -> Tree:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
