"""Positions, shifts and targets of packed documents."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonjax.models import mask

LENGTH = 8
positions = jax.jit(mask.positions)
targets = jax.jit(mask.targets, static_argnums=2)


@st.composite
def segments(draw):
  """One row of runs; a number may come back after another document."""
  row = []
  while len(row) < LENGTH:
    row += [draw(st.integers(0, 3))] * draw(st.integers(1, 4))
  return np.array([row[:LENGTH]], np.int32)


@settings(max_examples=60, deadline=None)
@given(segments())
def test_positions_count_from_the_start_of_each_run(segment):
  want, count = [], 0
  for t in range(LENGTH):
    count = count + 1 if t and segment[0, t] == segment[0, t - 1] else 0
    want.append(count)
  np.testing.assert_array_equal(positions(segment)[0], want)


def test_positions_of_left_and_inner_padding():
  got = positions(np.array([[0, 0, 5, 5, 0, 7, 7, 7]], np.int32))
  np.testing.assert_array_equal(got, [[0, 1, 0, 1, 0, 0, 1, 2]])
  assert got.dtype == np.int32


@pytest.mark.parametrize(
  ("by", "want"), [(0, [1, 2, 3]), (1, [2, 3, 0]), (2, [3, 0, 0]), (3, [0] * 3), (5, [0] * 3)]
)
def test_shift_left(by, want):
  np.testing.assert_array_equal(mask.shift_left(np.array([[1, 2, 3]], np.int32), by), [want])


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_targets_stay_inside_their_document(ahead):
  segment = np.array([[1, 1, 1, 2, 2, 2, 2, 0]], np.int32)
  ids = np.arange(10, 18, dtype=np.int32)[None]
  got, real = targets(ids, segment, ahead)
  for t in range(LENGTH):
    inside = t + ahead < LENGTH and segment[0, t] == segment[0, t + ahead] != 0
    assert bool(real[0, t]) == inside
    if inside:
      assert got[0, t] == ids[0, t + ahead]
  assert real.sum() == max(3 - ahead, 0) + max(4 - ahead, 0)


def test_padding_has_no_targets():
  _, real = targets(np.ones((1, LENGTH), np.int32), np.zeros((1, LENGTH), np.int32), 1)
  assert not real.any()
