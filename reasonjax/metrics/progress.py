"""Progress bars on a terminal; plain lines, now and then, everywhere else."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between lines where there is no terminal (log files, notebooks).
_LINE_EVERY = 15.0


class Bar:
  """One bar for one stage of work; use as a context manager.

  Shows the step, what it is told, and the time left. Silent on all processes but the first.
  """

  def __init__(self, title: str, total: int, start: int = 0):
    """Args:
    title: what is going on.
    total: steps in all.
    start: steps done before (a resumed run).
    """
    self._title, self._total, self._step = title, total, start
    self._active = jax.process_index() == 0
    self._printed = self._began = time.monotonic()
    self._first = start
    self._progress = None
    console = Console(stderr=True)
    if self._active and console.is_terminal:
      columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
      )
      self._progress = Progress(*columns, console=console)
      self._task = self._progress.add_task(title, total=total, completed=start, shown="")

  def __enter__(self) -> Bar:
    if self._progress:
      self._progress.start()
    return self

  def __exit__(self, *_) -> None:
    if self._progress:
      self._progress.stop()

  def update(self, step: int, shown: dict[str, Any]) -> None:
    """Moves to `step` and shows these values."""
    self._step = step
    text = format_values(shown)
    if self._progress:
      self._progress.update(self._task, completed=step, shown=text)
    elif self._active and (self._is_time() or step == self._total):
      now = time.monotonic()
      left = (self._total - step) * (now - self._began) / max(step - self._first, 1)
      done = f"{self._title} {step}/{self._total} {text}".rstrip()
      line = f"{done}, {left:.0f} s left"
      print(line, file=sys.stderr, flush=True)
      self._printed = now

  def _is_time(self) -> bool:
    return time.monotonic() - self._printed > _LINE_EVERY


def format_values(values: dict[str, Any]) -> str:
  """Names and values in one short line.

  >>> format_values({"loss": 1.23456, "tokens/s": 31234.5, "step": 7})
  'loss 1.23 tokens/s 31,234 step 7'
  """

  def one(value) -> str:
    value = float(value)
    if not math.isfinite(value):
      return str(value)
    if value == int(value) or abs(value) >= 1000:
      return f"{value:,.0f}"
    return f"{value:.3g}"

  return " ".join(f"{name} {one(value)}" for name, value in values.items())
