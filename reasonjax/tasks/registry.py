"""Tasks by name."""

from __future__ import annotations

from typing import Any

from reasonjax.tasks.base import Task
from reasonjax.tasks.chain import Chain
from reasonjax.tasks.countdown import Countdown

TASKS = {"chain": Chain, "countdown": Countdown}


def get(name: str, options: dict[str, Any]) -> Task:
  """The named task.

  Args:
    name: one of TASKS.
    options: its fields.

  Raises:
    ValueError: for an unknown name, or an option that the task does not have.
  """
  if name not in TASKS:
    raise ValueError(f"task={name!r}: choose from {sorted(TASKS)}.")
  try:
    return TASKS[name](**options)
  except TypeError as error:
    raise ValueError(f"task {name!r}, options {options}: {error}.") from error
