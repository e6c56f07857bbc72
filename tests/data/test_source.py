"""Documents made on the fly."""

import numpy as np
import pytest

from reasonjax.data import source, tokenizer


def make(index: int) -> str:
  assert type(index) is int
  return "1" * (index % 4) + "+"


def test_documents_are_framed_and_weighted():
  symbols = tokenizer.SymbolTokenizer(("1", "+"))
  documents = source.GeneratedDocuments(make, symbols)
  document = documents[np.int64(6)]
  np.testing.assert_array_equal(document["ids"], [1, 3, 3, 4, 2])
  np.testing.assert_array_equal(document["loss"], [1.0] * 5)
  assert document["ids"].dtype == np.int32
  assert document["loss"].dtype == np.float32


@pytest.mark.parametrize("index", [0, 10**9, source.ENDLESS - 1])
def test_any_index_always_gives_the_same_document(index):
  documents = source.GeneratedDocuments(make, tokenizer.ByteTokenizer())
  assert len(documents) == source.ENDLESS >= 10**12
  np.testing.assert_array_equal(documents[index]["ids"], documents[index]["ids"])
  assert len(documents[index]["ids"]) == index % 4 + 3
