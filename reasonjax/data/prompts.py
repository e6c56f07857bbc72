"""Batches of problems for reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable

import grain

from reasonjax.core.types import Problem
from reasonjax.data.source import ENDLESS


class Problems:
  """Problems made on the fly: index i always gives the same one."""

  def __init__(self, make: Callable[[int], Problem]):
    """Args: make: the i-th problem."""
    self._make = make

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: int) -> Problem:
    return self._make(int(index))


def batches(make: Callable[[int], Problem], count: int) -> grain.DatasetIterator[list[Problem]]:
  """An endless iterator of lists of problems, resumable through `get_state` and `set_state`.

  Args:
    make: the i-th problem.
    count: P, problems a batch.
  """
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  stream = grain.MapDataset.source(Problems(make)).to_iter_dataset(reading)
  return iter(stream.batch(count, drop_remainder=True, batch_fn=list))
