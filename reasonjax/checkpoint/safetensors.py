"""The safetensors file format: memory-mapped reading, streaming writing.

A file is `[8 bytes: N][N bytes: JSON][data]`; the JSON tells dtype, shape and place of each tensor.
The reference library hands 8-bit floats to PyTorch only and writes a file from memory as a whole.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor of a file.

  Attributes:
    file: that holds it.
    dtype: a key of DTYPES.
    shape: its dimensions.
    start: of its data, bytes from the start of the file.
  """

  file: Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def bytes(self) -> int:
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def read_header(path: Path) -> dict[str, Entry]:
  """Tensors of a file, checked against its size; no data is read.

  Raises:
    ValueError: naming the file, and the tensor where it is known, for a truncated file, a corrupt
      header, an unknown dtype, or tensors that do not fill the file exactly.
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
      raise ValueError(
        f"{path}: the header should have {length} bytes, but the file has {size}; it is truncated "
        "or no safetensors file. Fetch it again."
      )
    text = file.read(length)
  try:
    header = json.loads(text)
    header.pop("__metadata__", None)
    fields = {
      name: (value["dtype"], tuple(map(int, value["shape"])), *map(int, value["data_offsets"]))
      for name, value in header.items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path}: its header is corrupt ({error!r}). Fetch it again.") from error
  end, entries = 0, {}
  for name, (dtype, shape, start, stop) in sorted(fields.items(), key=lambda item: item[1][2:]):
    if dtype not in DTYPES:
      raise ValueError(f"{path}: {name} has dtype {dtype!r}; known: {', '.join(DTYPES)}.")
    entry = Entry(path, dtype, shape, 8 + length + start)
    if start != end or stop - start != entry.bytes:
      raise ValueError(
        f"{path}: {name} {dtype} {list(shape)} takes {entry.bytes} bytes and should start at byte "
        f"{end} of the data, but the header says {start}..{stop}. Fetch the file again."
      )
    entries[name], end = entry, stop
  if end != size - 8 - length:
    raise ValueError(
      f"{path}: the header tells of {end} bytes of data, but the file has {size - 8 - length}; it "
      "is truncated or has been added to. Fetch it again."
    )
  return entries


def _file_of_each(directory: Path) -> dict[str, Path] | None:
  """The index: tensor -> file; None for an unsharded checkpoint."""
  path = directory / INDEX
  if not path.exists():
    return None
  try:
    weight_map = json.loads(path.read_text())["weight_map"]
    return {name: directory / file for name, file in weight_map.items()}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path}: no index with a weight_map ({error!r}).") from error


class Reader:
  """All tensors of a checkpoint folder, sharded or in one file; the files are memory-mapped."""

  def __init__(self, directory: Path):
    """Reads and checks index and headers.

    Raises:
      FileNotFoundError: if there are no safetensors, or the index names a file that is absent.
      ValueError: as `read_header`, or if the index and the files contradict each other.
    """
    index = _file_of_each(directory)
    if index is None and not (directory / SINGLE).exists():
      raise FileNotFoundError(f"{directory} has neither {INDEX} nor {SINGLE}.")
    files = [directory / SINGLE] if index is None else sorted(set(index.values()))
    absent = [file.name for file in files if not file.exists()]
    if absent:
      raise FileNotFoundError(f"{directory / INDEX} names absent files: {', '.join(absent[:10])}.")
    self.entries: dict[str, Entry] = {}
    for file in files:
      for name, entry in read_header(file).items():
        if name in self.entries:
          raise ValueError(f"{name} is both in {self.entries[name].file} and in {file}.")
        self.entries[name] = entry
    for name, file in (index or {}).items():
      found = self.entries[name].file if name in self.entries else None
      if found != file:
        raise ValueError(f"{directory / INDEX}: {name} should be in {file.name}, found {found}.")
    self._maps: dict[Path, mmap.mmap] = {}

  def view(self, name: str) -> np.ndarray:
    """The tensor in place: only the parts that are looked at are read."""
    entry = self.entries[name]
    if entry.file not in self._maps:
      with entry.file.open("rb") as file:
        self._maps[entry.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dtype, count = DTYPES[entry.dtype], math.prod(entry.shape)
    if not count:
      return np.zeros(entry.shape, dtype)
    flat = np.frombuffer(self._maps[entry.file], dtype, count, entry.start)
    return flat.reshape(entry.shape)

  def release(self, name: str) -> None:
    """Gives the memory of a tensor that was read back to the system; it can be read again."""
    entry = self.entries[name]
    mapped = self._maps.get(entry.file)
    if mapped is None or not entry.bytes or not hasattr(mmap, "MADV_DONTNEED"):
      return
    start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, start, entry.start + entry.bytes - start)


class Writer:
  """Writes tensors one at a time into one file, or into several with an index.

  Attributes:
    file_of_each: file name of each tensor.
  """

  def __init__(
    self,
    directory: Path,
    tensors: Sequence[tuple[str, tuple[int, ...], np.dtype]],
    max_shard_bytes: int,
  ):
    """Plans the files.

    Args:
      directory: exists.
      tensors: name, shape and dtype of every tensor, in the order in which they will be written.
      max_shard_bytes: a file holds at most so much data, unless a single tensor is larger.
    """
    self._directory = directory
    shards: list[dict[str, tuple[tuple[int, ...], np.dtype]]] = [{}]
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape, dtype in tensors}
    self._total, used = sum(sizes.values()), 0
    for name, shape, dtype in tensors:
      if shards[-1] and used + sizes[name] > max_shard_bytes:
        shards.append({})
        used = 0
      shards[-1][name] = shape, dtype
      used += sizes[name]
    count = len(shards)
    files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    files = files if count > 1 else [SINGLE]
    self._shards = dict(zip(files, shards, strict=True))
    self.file_of_each = {name: file for file, shard in self._shards.items() for name in shard}
    self._file, self._open, self._start = None, "", {}

  def write(self, name: str, value: np.ndarray) -> None:
    """Writes the next tensor."""
    file = self.file_of_each[name]
    if file != self._open:
      self._begin(file)
    self._file.seek(self._start.pop(name))
    self._file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8))

  def _begin(self, file: str) -> None:
    self.close()
    header, end = {"__metadata__": {"format": "pt"}}, 0
    # Wide types first, so that every tensor starts at a multiple of its item size.
    for name, (shape, dtype) in sorted(
      self._shards[file].items(), key=lambda item: -item[1][1].itemsize
    ):
      start, end = end, end + math.prod(shape) * dtype.itemsize
      header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    self._start = {
      name: 8 + len(text) + header[name]["data_offsets"][0] for name in self._shards[file]
    }
    self._file, self._open = (self._directory / file).open("wb"), file
    self._file.write(len(text).to_bytes(8, "little") + text)

  def close(self) -> None:
    """Closes the file being written."""
    if self._file:
      self._file.close()

  def finish(self) -> None:
    """Closes the last file and writes the index, if there are several."""
    self.close()
    if len(self._shards) > 1:
      index = {"metadata": {"total_size": self._total}, "weight_map": self.file_of_each}
      (self._directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
