"""Batches of packed documents for pretraining."""

from __future__ import annotations

import grain
import numpy as np

from reasonjax.core.types import TokenBatch
from reasonjax.data import packing


def batches(
  source, *, microbatches: int, rows: int, row_length: int
) -> grain.DatasetIterator[TokenBatch]:
  """An endless iterator of `[M, B, T]` batches, resumable through `get_state` and `set_state`.

  Args:
    source: random access to dicts "ids" and "loss".
    microbatches: M.
    rows: B.
    row_length: T; no document may be longer.
  """
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  documents = grain.MapDataset.source(source).to_iter_dataset(reading)
  packed = packing.pack(documents, row_length, ("ids", "loss"))

  def to_batch(rows_: dict[str, np.ndarray]) -> TokenBatch:
    shape = (microbatches, rows, row_length)
    fields = (rows_[name].reshape(shape) for name in ("ids", "segment", "loss"))
    return TokenBatch(*fields)

  return iter(packed.batch(microbatches * rows, drop_remainder=True).map(to_batch))
