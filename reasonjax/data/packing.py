"""Packing documents into rows of fixed length, several to a row, told apart by segment numbers."""

from __future__ import annotations

from collections.abc import Iterable

import grain
import numpy as np

from reasonjax.core.types import TokenBatch

# Rows that are filled side by side: more pack tighter, and shuffle a little.
OPEN_ROWS = 32


def pack(
  documents: grain.IterDataset, row_length: int, fields: Iterable[str], alignment: int = 1
) -> grain.IterDataset:
  """Packs a stream of documents first-fit.

  Args:
    documents: yields dicts of 1-D arrays of equal length, at most `row_length`.
    row_length: T.
    fields: their keys.
    alignment: every document starts at a multiple of it, after padding where it must; attention
      in blocks needs that (`ModelConfig.attention.alignment`).

  Returns: a stream of dicts of `[T]` arrays with the same keys, and "segment": int32, the document
    of each token counted from 1, 0 on padding (where all fields are 0).
  """
  fields = tuple(fields)
  packed = grain.experimental.FirstFitPackIterDataset(
    documents,
    length_struct=dict.fromkeys(fields, row_length),
    num_packing_bins=OPEN_ROWS,
    shuffle_bins=False,
    pack_alignment_struct=dict.fromkeys(fields, alignment),
  )

  def tidy(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {field: row[field] for field in fields} | {"segment": row[f"{fields[0]}_segment_ids"]}

  return packed.map(tidy)


def batches(
  documents: grain.IterDataset,
  *,
  microbatches: int,
  rows: int,
  row_length: int,
  alignment: int = 1,
) -> grain.DatasetIterator[TokenBatch]:
  """Packed batches for supervised training, resumable through `get_state` and `set_state`.

  Args:
    documents: yields dicts "ids" and "loss" of 1-D arrays, none longer than `row_length`.
    microbatches: M.
    rows: B.
    row_length: T.
    alignment: as in `pack`.

  Returns: an iterator of TokenBatch with `[M, B, T]` host arrays.
  """

  def to_batch(rows_: dict[str, np.ndarray]) -> TokenBatch:
    shape = (microbatches, rows, row_length)
    fields = (rows_[name].reshape(shape) for name in ("ids", "segment", "loss"))
    return TokenBatch(*fields)

  packed = pack(documents, row_length, ("ids", "loss"), alignment)
  return iter(packed.batch(microbatches * rows, drop_remainder=True).map(to_batch))


def pack_all(
  sequences: list[np.ndarray], row_length: int, rows: int, alignment: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Packs a finite list of sequences into a fixed number of rows.

  Args:
    sequences: 1-D integer arrays, each at most `row_length` long and without zeros.
    row_length: T.
    rows: at least as many as there are sequences, so that they always fit.
    alignment: as in `pack`.

  Returns: the sequences `[rows, T]`, 0 on padding, and their segment numbers, used rows first.
  """
  values = np.zeros((rows, row_length), np.int64)
  segment = np.zeros((rows, row_length), np.int32)
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  source = [{"values": sequence} for sequence in sequences]
  stream = grain.MapDataset.source(source).to_iter_dataset(reading)
  for row, packed in enumerate(pack(stream, row_length, ("values",), alignment)):
    values[row], segment[row] = packed["values"], packed["segment"]
  return values, segment
