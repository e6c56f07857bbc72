"""Text to token ids and back: one protocol, three implementations that need no download."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import sentencepiece

from reasonjax.core import text

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIALS = (PAD, BOS, EOS)


class Tokenizer(Protocol):
  """What the rest of the code asks of a tokenizer.

  Attributes:
    vocab_size: ids are 0 ... vocab_size - 1; a model's vocabulary may be larger.
    pad_id: fills rows; never predicted.
    bos_id: starts every document.
    eos_id: ends every document and every completion.
  """

  vocab_size: int
  pad_id: int
  bos_id: int
  eos_id: int

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`, without BOS and EOS."""

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; pad, BOS and EOS give nothing."""


class SymbolTokenizer:
  """A small closed vocabulary of symbols, each one or more characters; longest match wins.

  For word-level use give words and the space that parts them as symbols.

  >>> tokenizer = SymbolTokenizer(("<think>", "1", "+", "12"))
  >>> tokenizer.encode("<think>12+1"), tokenizer.decode([3, 6])
  ([3, 6, 5, 4], '<think>12')
  """

  def __init__(self, symbols: Sequence[str]):
    """Args: symbols: distinct, non-empty; ids follow the three specials in this order."""
    if len(set(symbols)) != len(symbols) or "" in symbols or set(symbols) & set(SPECIALS):
      raise ValueError(f"symbols must be distinct, non-empty and not among {SPECIALS}.")
    self._symbols = (*SPECIALS, *symbols)
    self._id = {symbol: i for i, symbol in enumerate(self._symbols)}
    longest_first = sorted(symbols, key=len, reverse=True)
    self._pattern = re.compile("|".join(map(re.escape, longest_first)))
    self.vocab_size = len(self._symbols)
    self.pad_id, self.bos_id, self.eos_id = range(3)

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`.

    Raises:
      ValueError: where no symbol matches.
    """
    found = self._pattern.findall(text)
    if sum(map(len, found)) != len(text):
      rest = self._pattern.sub("", text)
      raise ValueError(f"no symbol for {rest[:20]!r} in {text[:80]!r}; known: {self._symbols}.")
    return [self._id[symbol] for symbol in found]

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; ids of a larger model vocabulary that have no symbol show as `<id>`."""
    return "".join(
      self._symbols[i] if i < self.vocab_size else f"<{i}>" for i in ids if i >= len(SPECIALS)
    )


def of_symbols(symbols: Sequence[str]) -> SymbolTokenizer:
  """The tokenizer of a task's own symbols and R1's tags."""
  return SymbolTokenizer((*text.TAGS, *symbols))


class ByteTokenizer:
  """UTF-8 bytes: reads any text, needs no vocabulary file.

  >>> tokenizer = ByteTokenizer()
  >>> tokenizer.decode(tokenizer.encode("é=1")), tokenizer.vocab_size
  ('é=1', 259)
  """

  def __init__(self):
    self.pad_id, self.bos_id, self.eos_id = range(3)
    self.vocab_size = len(SPECIALS) + 256

  def encode(self, text: str) -> list[int]:
    return [byte + len(SPECIALS) for byte in text.encode()]

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; bytes that are no valid UTF-8 show as the replacement character."""
    first, end = len(SPECIALS), self.vocab_size
    return bytes(i - first for i in ids if first <= i < end).decode(errors="replace")


class SentencePieceTokenizer:
  """A trained SentencePiece model file."""

  def __init__(self, model_file: str):
    """Args: model_file: path of a `.model` file that defines BOS and EOS.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no SentencePiece model, or lacks BOS or EOS.
    """
    with open(model_file, "rb") as file:
      proto = file.read()
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(proto)
    except RuntimeError as error:
      raise ValueError(f"model_file={model_file!r} is no SentencePiece model: {error}") from error
    self.vocab_size = self._model.vocab_size()
    self.bos_id, self.eos_id = self._model.bos_id(), self._model.eos_id()
    if self.bos_id < 0 or self.eos_id < 0:
      raise ValueError(f"model_file={model_file!r} defines no BOS or no EOS; train it with both.")
    self.pad_id = self._model.pad_id() if self._model.pad_id() >= 0 else self.eos_id

  def encode(self, text: str) -> list[int]:
    return self._model.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; ids of a larger model vocabulary that have no piece give nothing."""
    skip = {self.pad_id, self.bos_id, self.eos_id}
    return self._model.decode([int(i) for i in ids if i < self.vocab_size and i not in skip])
