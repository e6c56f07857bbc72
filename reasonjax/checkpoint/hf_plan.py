"""What a Hugging Face directory holds, compared with what its model needs; no weights are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reasonjax.checkpoint import fp8, hf_config, hf_tables
from reasonjax.checkpoint.hf_config import Source
from reasonjax.checkpoint.hf_tables import Piece
from reasonjax.checkpoint.safetensors import DTYPES, Reader
from reasonjax.models.config import ModelConfig
from reasonjax.models.transformer import init_variables
from reasonjax.sharding import place

WEIGHT_DTYPES = ("F32", "BF16", "F16", "F8_E4M3")
# At most so many names, or problems, in one message.
_LISTED = 10


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a directory is read.

  Attributes:
    config: the model's.
    pieces: what is to be read.
    reader: of the files.
    block: rows and columns that share a scale, where weights are 8-bit floats.
    problems: everything that keeps it from being loaded, one line each.
  """

  config: ModelConfig
  pieces: list[Piece]
  reader: Reader
  block: tuple[int, int]
  problems: list[str]

  def __str__(self) -> str:
    """One line a piece, with the dtype in the files, then what is missing or extra."""
    entries = [self.reader.entries.get(piece.names[0]) for piece in self.pieces]
    dtypes = [entry.dtype if entry else "absent" for entry in entries]
    lines = [f"{piece} {dtype}" for piece, dtype in zip(self.pieces, dtypes, strict=True)]
    return "\n".join([*lines, *(self.problems or ["Nothing is missing, nothing is extra."])])


def make(directory: str | Path, *, param_dtype: Any = None, dtype: Any = None) -> Plan:
  """Compares names, shapes and dtypes in a directory with what its model needs.

  Tensors that no reader needs may be there: RoPE's frequencies, the head of a model that shares it
  with the embedding, and the MTP modules' copies of both. An MTP module without any weights is
  taken for one that was left out: many distributions do so and leave config.json as it was.

  Args: as `hf.load`.

  Raises:
    FileNotFoundError: if config.json or a file of weights is absent.
    ValueError: if config.json, the index or a file's header cannot be read, or is not supported.
  """
  source = hf_config.read(directory)
  reader = Reader(Path(directory))
  told = source.dtype or _stored_dtype(reader)
  config = source.model.replace(
    param_dtype=jnp.dtype(param_dtype or told).name, dtype=jnp.dtype(dtype or told).name
  )
  modules = [f"model.layers.{config.num_layers + k}." for k in range(config.num_mtp_modules)]
  if not any(name.startswith(tuple(modules)) for name in reader.entries):
    config = config.replace(num_mtp_modules=0)
  pieces = hf_tables.pieces(config, source.family, shapes(config), source.interleaved)
  problems = _problems(reader, pieces, source)
  return Plan(config, [p for p in pieces if not p.copy], reader, source.block, problems)


def _stored_dtype(reader: Reader) -> str:
  entry = reader.entries.get("model.embed_tokens.weight")
  return DTYPES[entry.dtype].name if entry else "float32"


def _problems(reader: Reader, pieces: list[Piece], source: Source) -> list[str]:
  """One line for every tensor that is not as expected, one for all missing, one for all extra."""
  missing, wrong = [], []
  extra = {name for name in reader.entries if not name.endswith(".rotary_emb.inv_freq")}
  if source.model.tie_embeddings:
    extra -= {"lm_head.weight"}
  for piece in pieces:
    extra -= set(piece.names)
    if piece.copy:
      continue
    present = [name for name in piece.names if name in reader.entries]
    missing += sorted(set(piece.names) - set(present))
    for name in present:
      wrong += _tensor_problems(reader, name, piece.layout.stored_shape, source.block)
      if reader.entries[name].dtype == "F8_E4M3":
        extra -= {scale_name(name)}
    dtypes = sorted({reader.entries[name].dtype for name in present})
    if len(dtypes) > 1:
      wrong.append(f"{present[0]}, ...: dtypes {dtypes}; experts of a layer should have one.")
  lines = [f"{len(missing)} missing: {some(missing)}"] if missing else []
  lines += [f"{len(extra)} not expected: {some(sorted(extra))}"] if extra else []
  rest = len(wrong) - _LISTED
  return lines + wrong[:_LISTED] + ([f"... and {rest} more."] if rest > 0 else [])


def _tensor_problems(reader: Reader, name: str, shape: tuple, block: tuple[int, int]) -> list[str]:
  """What is wrong with a tensor, or with its scale: nothing or one line."""

  def unlike(name: str, dtypes: Iterable[str], shape: tuple) -> list[str]:
    entry = reader.entries[name]
    if entry.dtype in dtypes and entry.shape == shape:
      return []
    expected = f"{' or '.join(dtypes)} {list(shape)}"
    return [f"{entry.file}: {name}: expected {expected}, found {entry.dtype} {list(entry.shape)}."]

  # Vectors have no scales, and thus no 8 bits.
  known = WEIGHT_DTYPES if len(shape) == 2 else WEIGHT_DTYPES[:-1]
  found = unlike(name, known, shape)
  if found or reader.entries[name].dtype != "F8_E4M3":
    return found
  if scale_name(name) not in reader.entries:
    return [f"{reader.entries[name].file}: {name} is F8_E4M3, but lacks {scale_name(name)}."]
  return unlike(scale_name(name), ("F32",), fp8.scale_shape(shape, block))


def scale_name(name: str) -> str:
  """Tensor that holds the scales of an 8-bit tensor."""
  return f"{name}_scale_inv"


def some(names: list[str]) -> str:
  """The first few of many names."""
  return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


@functools.cache
def boxed(config: ModelConfig) -> dict:
  """Shapes of all parameters and router biases, in boxes with their logical axes."""
  return jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))


def by_path(tree: Any) -> dict[str, Any]:
  """Leaves by path, "/" between names."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Shapes of all parameters and router biases, by path."""
  return {path: leaf.shape for path, leaf in by_path(place.unbox(boxed(config))).items()}
