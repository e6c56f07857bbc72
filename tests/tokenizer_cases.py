"""Byte-level BPE tokenizers as published models have them, but tiny."""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from reasonjax.core import text

# Ġ is how byte-level BPE writes a space, Ċ a line break.
MERGES = [
  ("t", "h"),
  ("th", "e"),
  ("Ġ", "the"),
  ("u", "s"),
  ("e", "r"),
  ("us", "er"),
  ("Ġ", "user"),
]
MERGES += [("Ċ", "Ċ")]

# How Qwen2.5 cuts text before it merges: line breaks stay together, whatever follows them.
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
  r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(special=(), ordinary=text.TAGS[:2]) -> tokenizers.Tokenizer:
  """256 bytes, then 8 merges, then added tokens from id 264 on: the special ones first."""
  symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
  vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, MERGES))
  words = pre_tokenizers.Split(Regex(WORDS), "isolated")
  as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
  tokenizer.add_tokens([AddedToken(token, special=False) for token in ordinary])
  return tokenizer


def save(folder: Path, tokenizer: tokenizers.Tokenizer, **files: dict) -> Path:
  """Writes tokenizer.json and `{name}.json` for each further file, and returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / "tokenizer.json"))
  for name, fields in files.items():
    (folder / f"{name}.json").write_text(json.dumps(fields), encoding="utf-8")
  return folder
