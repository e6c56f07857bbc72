"""Metrics on disk: JSON lines as they come, one CSV at the end, TensorBoard if wanted."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np


class Writer:
  """Appends one JSON object a step to `metrics.jsonl`; only process 0 writes.

  On resumption it drops what was logged after the step resumed from, so that the file of an
  interrupted run reads like that of an uninterrupted one.
  """

  def __init__(self, directory: str | Path, *, resumed_step: int = 0, tensorboard: bool = False):
    """Args:
      directory: created if missing.
      resumed_step: last step that a checkpoint holds; 0 starts afresh.
      tensorboard: also write event files (extra `tensorboard`).

    Raises:
      ImportError: naming the extra, if `tensorboard` is asked for and not installed.
    """
    self._directory = Path(directory)
    self._active = jax.process_index() == 0
    writes_events = tensorboard and self._active
    self._events = _event_writer(self._directory, resumed_step + 1) if writes_events else None
    if not self._active:
      return
    self._directory.mkdir(parents=True, exist_ok=True)
    path = self._directory / "metrics.jsonl"
    kept = [row for row in read(path) if row["step"] <= resumed_step] if resumed_step else []
    rewritten = path.with_suffix(".tmp")  # so that a full disk or a kill loses nothing
    rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
    os.replace(rewritten, path)
    self._file = path.open("a")

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Logs scalars and small arrays of one step; rows of the same step are merged when read."""
    if not self._active:
      return
    row = {"step": int(step)} | {name: _plain(value) for name, value in values.items()}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    if self._events:
      for name, value in row.items():
        if name != "step" and isinstance(value, int | float):
          self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes `metrics.csv`, the scalars as a table, and closes all files."""
    if not self._active:
      return
    self._file.close()
    rows = read(self._directory / "metrics.jsonl")
    names = dict.fromkeys(n for row in rows for n, v in row.items() if not isinstance(v, list))
    with (self._directory / "metrics.csv").open("w", newline="") as file:
      table = csv.DictWriter(file, list(names), extrasaction="ignore")
      table.writeheader()
      table.writerows(rows)
    if self._events:
      self._events.close()


def read(path: str | Path) -> list[dict[str, Any]]:
  """Rows of a `metrics.jsonl`, one a step in order of appearance; torn lines are dropped."""
  if not Path(path).exists():
    return []
  steps: dict[int, dict[str, Any]] = {}
  for line in Path(path).read_text().splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    steps.setdefault(row["step"], {}).update(row)
  return list(steps.values())


def series(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one metric, where it was logged."""
  found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
  steps, values = zip(*found, strict=True) if found else ((), ())
  return np.array(steps), np.array(values)


def _plain(value: Any) -> Any:
  """JSON-ready form of a scalar or small array; NaN and infinities become null."""
  plain = np.asarray(value).tolist()

  def finite(item: Any) -> Any:
    if isinstance(item, list):
      return [finite(part) for part in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item

  return finite(plain)


def _event_writer(directory: Path, next_step: int):
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise ImportError("TensorBoard files need: pip install 'reasonjax[tensorboard]'") from error
  return SummaryWriter(str(directory / "tensorboard"), purge_step=next_step)
