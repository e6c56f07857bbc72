"""Batches for pretraining: whole documents, resumable from a JSON state."""

import json

import jax
import numpy as np
import pytest

from reasonjax.core.types import TokenBatch
from reasonjax.data import pretrain, source, tokenizer
from reasonjax.tasks.chain import Chain

SIZES = {"microbatches": 2, "rows": 3, "row_length": 96}


@pytest.fixture
def symbols():
  return tokenizer.of_symbols(Chain().symbols)


@pytest.fixture
def documents(symbols):
  return source.GeneratedDocuments(lambda index: Chain().document(0, index), symbols)


def assert_same(one: TokenBatch, other: TokenBatch) -> None:
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_shapes_and_dtypes(documents):
  batch = next(pretrain.batches(documents, **SIZES))
  assert isinstance(batch, TokenBatch)
  for leaf, dtype in (
    (batch.ids_BxT, np.int32),
    (batch.segment_BxT, np.int32),
    (batch.loss_BxT, np.float32),
  ):
    assert (leaf.shape, leaf.dtype) == ((2, 3, 96), dtype)


def test_every_segment_is_a_framed_document_of_the_source(documents, symbols):
  known = {tuple(documents[index]["ids"].tolist()) for index in range(200)}
  batch = next(pretrain.batches(documents, **SIZES))
  seen = []
  for ids, segment in zip(
    batch.ids_BxT.reshape(-1, 96), batch.segment_BxT.reshape(-1, 96), strict=True
  ):
    seen += [tuple(ids[segment == n].tolist()) for n in range(1, segment.max() + 1)]
  assert set(seen) <= known
  assert len(seen) > 6
  assert all(ids[0] == symbols.bos_id and ids[-1] == symbols.eos_id for ids in seen)
  np.testing.assert_array_equal(batch.loss_BxT, (batch.segment_BxT > 0).astype(np.float32))


@pytest.mark.parametrize("done", [0, 1, 5])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(documents, done):
  running = pretrain.batches(documents, **SIZES)
  for _ in range(done):
    next(running)
  state = json.loads(json.dumps(running.get_state()))
  expected = [next(running) for _ in range(4)]
  resumed = pretrain.batches(documents, **SIZES)
  resumed.set_state(state)
  for batch in expected:
    assert_same(next(resumed), batch)
  assert not np.array_equal(expected[0].ids_BxT, expected[1].ids_BxT)


def test_a_state_is_not_changed_by_what_comes_after(documents):
  running = pretrain.batches(documents, **SIZES)
  next(running)
  state = running.get_state()
  before = json.dumps(state)
  second = next(running)
  assert json.dumps(state) == before
  running.set_state(state)
  assert_same(next(running), second)


def test_a_document_longer_than_a_row_is_refused(documents):
  with pytest.raises(ValueError, match="ids"):
    next(pretrain.batches(documents, microbatches=1, rows=1, row_length=8))


def test_documents_start_where_they_are_told_to(documents):
  """The same documents in the same order, each from a multiple of eight on."""
  batch = next(pretrain.batches(documents, **SIZES, alignment=8))
  previous = np.pad(batch.segment_BxT[..., :-1], ((0, 0), (0, 0), (1, 0)))
  starts = np.nonzero((batch.segment_BxT != previous) & (batch.segment_BxT != 0))[-1]
  assert len(starts) > 6
  assert (starts % 8 == 0).all()
