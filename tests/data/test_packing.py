"""Packing keeps every document whole, once, and marks it."""

import grain
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from reasonjax.data import packing

LENGTH = 12


def documents_of(values: np.ndarray, segment: np.ndarray) -> list[list[int]]:
  """The documents of packed rows, checking that segments are runs 1, 2, ... and then padding."""
  found = []
  for row_values, row_segment in zip(values, segment, strict=True):
    used = int((row_segment > 0).sum())
    assert (row_segment[used:] == 0).all()
    assert (row_values[row_segment == 0] == 0).all()
    changes = np.diff(np.concatenate([[0], row_segment[:used]]))
    assert set(changes.tolist()) <= {0, 1}
    assert used == 0 or row_segment[0] == 1
    numbers = range(1, int(row_segment.max(initial=0)) + 1)
    found += [row_values[row_segment == number].tolist() for number in numbers]
  return found


# Every document has tokens of its own, so that a mix-up shows.
SEQUENCES = st.lists(st.integers(1, LENGTH), max_size=40).map(
  lambda lengths: [np.arange(1, n + 1, dtype=np.int32) + 100 * i for i, n in enumerate(lengths)]
)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(SEQUENCES)
def test_pack_all_keeps_every_sequence_once_and_whole(sequences):
  rows = max(len(sequences), 1)
  values, segment = packing.pack_all(sequences, LENGTH, rows)
  assert values.shape == segment.shape == (rows, LENGTH)
  assert segment.dtype == np.int32
  assert sorted(documents_of(values, segment)) == sorted(s.tolist() for s in sequences)
  used = segment.any(axis=1)
  assert not (np.diff(used.astype(int)) > 0).any()


def test_pack_all_is_first_fit():
  sequences = [np.full(n, n, np.int32) for n in (7, 6, 5, 4, 2)]
  values, segment = packing.pack_all(sequences, LENGTH, 5)
  np.testing.assert_array_equal(values[0], [7] * 7 + [5] * 5)
  np.testing.assert_array_equal(values[1], [6] * 6 + [4] * 4 + [2] * 2)
  np.testing.assert_array_equal(segment[1], [1] * 6 + [2] * 4 + [3] * 2)
  assert not values[2:].any()


def test_pack_all_of_nothing_is_all_padding():
  values, segment = packing.pack_all([], LENGTH, 2)
  assert values.shape == segment.shape == (2, LENGTH)
  assert not values.any()
  assert not segment.any()


def test_a_sequence_longer_than_a_row_is_refused():
  with pytest.raises(ValueError, match="13"):
    packing.pack_all([np.ones(13, np.int32)], LENGTH, 1)


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=80))
def test_pack_keeps_fields_aligned(lengths):
  source = [
    {"ids": np.arange(1, n + 1, dtype=np.int32) + 100 * i, "loss": np.full(n, i + 1, np.float32)}
    for i, n in enumerate(lengths)
  ]
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  stream = grain.MapDataset.source(source).to_iter_dataset(reading)
  rows = list(packing.pack(stream, LENGTH, ("ids", "loss")))
  assert all(set(row) == {"ids", "loss", "segment"} for row in rows)
  assert all(row["ids"].dtype == row["segment"].dtype == np.int32 for row in rows)
  ids, loss, segment = (
    np.stack([row[name] for row in rows]) for name in ("ids", "loss", "segment")
  )
  expected = sorted(document["ids"].tolist() for document in source)
  assert sorted(documents_of(ids, segment)) == expected
  np.testing.assert_array_equal(loss, np.where(segment > 0, ids // 100 + 1, 0))


def test_rows_are_filled_well():
  lengths = np.random.default_rng(0).integers(1, 7, 400)
  _, segment = packing.pack_all([np.ones(n, np.int32) for n in lengths], LENGTH, 400)
  used = segment.any(axis=1).sum()
  assert used * LENGTH <= 1.1 * lengths.sum()


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(SEQUENCES, st.sampled_from([2, 4, 5, 12]))
def test_aligned_documents_start_at_multiples_and_stay_whole(sequences, alignment):
  """Also where a row's length is no multiple, and its last document needs no padding behind."""
  values, segment = packing.pack_all(sequences, LENGTH, max(len(sequences), 1), alignment)
  found = []
  for row_values, row_segment in zip(values, segment, strict=True):
    assert (row_values[row_segment == 0] == 0).all()
    for number in range(1, int(row_segment.max(initial=0)) + 1):
      (at,) = np.nonzero(row_segment == number)
      assert at[0] % alignment == 0
      assert (np.diff(at) == 1).all()
      found.append(row_values[at].tolist())
  assert sorted(found) == sorted(s.tolist() for s in sequences)


def test_alignment_by_hand():
  sequences = [np.full(n, n, np.int32) for n in (5, 3, 4)]
  values, segment = packing.pack_all(sequences, LENGTH, 3, alignment=4)
  np.testing.assert_array_equal(segment[0], [1] * 5 + [0] * 3 + [2] * 3 + [0])
  np.testing.assert_array_equal(values[0], [5] * 5 + [0] * 3 + [3] * 3 + [0])
  np.testing.assert_array_equal(values[1], [4] * 4 + [0] * 8)
