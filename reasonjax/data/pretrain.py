"""Batches of packed documents for pretraining."""

from __future__ import annotations

import grain

from reasonjax.core.types import TokenBatch
from reasonjax.data import packing


def batches(
  source, *, microbatches: int, rows: int, row_length: int, alignment: int = 1
) -> grain.DatasetIterator[TokenBatch]:
  """An iterator of `[M, B, T]` batches over the source's documents in their order.

  Args:
    source: random access to dicts "ids" and "loss"; as a rule endless.
    microbatches: M.
    rows: B.
    row_length: T; no document may be longer.
    alignment: as in `packing.pack`.
  """
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  documents = grain.MapDataset.source(source).to_iter_dataset(reading)
  shape = {"microbatches": microbatches, "rows": rows, "row_length": row_length}
  return packing.batches(documents, **shape, alignment=alignment)
