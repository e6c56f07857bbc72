"""Hugging Face directories in and out: `load` onto a mesh, `save` from it, layer by layer."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from reasonjax.checkpoint import fp8, hf_config, hf_describe, hf_plan, hf_tables
from reasonjax.checkpoint.hf_plan import Plan
from reasonjax.checkpoint.hf_tables import Layout, Piece
from reasonjax.checkpoint.safetensors import Reader, Writer
from reasonjax.metrics import progress as progress_lib
from reasonjax.models.config import ModelConfig
from reasonjax.sharding import place
from reasonjax.sharding import rules as rules_lib
from reasonjax.sharding.rules import Rules

MAX_SHARD_BYTES = 5 * 10**9


def load(
  directory: str | Path,
  *,
  mesh: Mesh | None = None,
  rules: Rules | None = None,
  param_dtype: Any = None,
  dtype: Any = None,
  progress: bool = False,
) -> tuple[ModelConfig, dict]:
  """Reads a model of the DeepSeek-V3, DeepSeek-V2, Qwen2 or Llama family.

  Names and shapes are checked before any weight is read. Then one parameter of one layer at a time
  goes from the memory-mapped files to the devices, each of which reads its own part.

  Args:
    directory: with config.json and safetensors, sharded or not; float32, bfloat16, float16, or
      8-bit floats with a scale a block.
    mesh: from `mesh.make`; None puts everything on the default device.
    rules: parallelism table; by default "full", which splits whatever the mesh has an axis for.
    param_dtype: of the parameters; by default that of config.json. Router biases are float32.
    dtype: of activations, likewise.
    progress: whether to show a progress bar.

  Returns: the model's config, and `{"params": ..., "router": ...}` as `Transformer` takes them.

  Raises:
    FileNotFoundError: naming the file that is absent.
    ValueError: naming file, tensor, what was expected and what was found.
  """
  plan = hf_plan.make(directory, param_dtype=param_dtype, dtype=dtype)
  if plan.problems:
    raise ValueError(f"{directory} does not hold this model:\n  " + "\n  ".join(plan.problems))
  boxed = hf_plan.boxed(plan.config)
  leaves = hf_plan.by_path(place.unbox(boxed))
  shardings = dict.fromkeys(leaves)
  if mesh is not None:
    shardings = hf_plan.by_path(place.shardings(boxed, mesh, rules or rules_lib.get("full")))
  arrays: dict[str, jax.Array] = {}
  for piece in _each(plan.pieces, "load", progress):
    leaf, sharding = leaves[piece.path], shardings[piece.path]
    if piece.layer is not None and piece.path not in arrays:
      arrays[piece.path] = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
    arrays[piece.path] = _read(plan, piece, arrays.get(piece.path), leaf.dtype, sharding)
  return plan.config, {"params": {}, "router": {}} | _nest(arrays)


def _each(pieces: list[Piece], title: str, progress: bool) -> Iterator[Piece]:
  """The pieces, with a progress bar if wanted."""
  if not progress:
    yield from pieces
    return
  with progress_lib.Bar(title, len(pieces)) as bar:
    for number, piece in enumerate(pieces, start=1):
      yield piece
      bar.update(number, {})


def _nest(arrays: dict[str, jax.Array]) -> dict:
  """From paths to nested dicts."""
  tree: dict = {}
  for path, array in arrays.items():
    *folders, name = path.split("/")
    functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, tree)[name] = array
  return tree


def _read(plan: Plan, piece: Piece, array: jax.Array | None, dtype, sharding) -> jax.Array:
  """Our array with this piece in its place; made afresh if the piece is all there is to it."""
  stored = _put(plan.reader, piece.names, piece.experts, piece.stored_sharding(sharding))
  scale = None
  if plan.reader.entries[piece.names[0]].dtype == "F8_E4M3":
    names = tuple(map(hf_plan.scale_name, piece.names))
    whole = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())
    scale = _put(plan.reader, names, piece.experts, whole)
  fill = _fill(sharding)
  static = {"layout": piece.layout, "dtype": dtype, "block": plan.block}
  array = fill(array, stored, scale, piece.layer, **static)
  return array.block_until_ready()  # one piece at a time, so that host memory stays small


def _put(
  reader: Reader, names: tuple[str, ...], stacked: bool, sharding: NamedSharding | None
) -> jax.Array:
  """One piece on the devices, laid out as it is stored.

  Args:
    reader: of the files.
    names: of the tensors.
    stacked: whether to stack the tensors along a new first axis; otherwise there is only one.
    sharding: of the result; None for the default device.
  """
  shape = reader.entries[names[0]].shape
  shape = (len(names), *shape) if stacked else shape
  parts: dict[tuple, np.ndarray] = {}

  def part(index):
    bounds = tuple(axis.indices(size) for axis, size in zip(index, shape, strict=True))
    if bounds not in parts:  # several devices may hold the same part
      if stacked:
        parts[bounds] = np.stack([reader.view(name)[index[1:]] for name in names[index[0]]])
      else:
        parts[bounds] = np.array(reader.view(names[0])[index])
    return parts[bounds]

  if sharding is None:
    array = jnp.asarray(part((slice(None),) * len(shape)))
  else:
    array = jax.make_array_from_callback(shape, sharding, part)
  for name in names:
    reader.release(name)
  return array


@functools.cache
def _fill(sharding: NamedSharding | None) -> Callable[..., jax.Array]:
  """Function that lays out what is stored as ours and puts it into a stack, in place."""

  def fill(array, stored, scale, layer, *, layout: Layout, dtype, block):
    if scale is not None:
      stored = fp8.dequantize(stored, scale, block)
    new = layout.to_ours(stored).astype(dtype)
    if array is None:
      return new
    return jax.lax.dynamic_update_index_in_dim(array, new, layer, axis=0)

  static = ("layout", "dtype", "block")
  return jax.jit(fill, donate_argnames="array", static_argnames=static, out_shardings=sharding)


def save(
  directory: str | Path,
  config: ModelConfig,
  variables: dict,
  *,
  dtype: Any = None,
  max_shard_bytes: int = MAX_SHARD_BYTES,
  progress: bool = False,
) -> None:
  """Writes a directory that transformers, vLLM and `load` read.

  The directory appears whole or not at all. With several processes all of them must call this, and
  the first one writes.

  Args:
    directory: absent or empty.
    config: the model's.
    variables: `{"params": ..., "router": ...}` of any sharding.
    dtype: of the weights; by default that of the parameters. Router biases are float32.
    max_shard_bytes: data in one file.
    progress: whether to show a progress bar.

  Raises:
    FileExistsError: if the directory holds anything.
    ValueError: if the variables are not this model's, or if no Hugging Face family has its parts.
  """
  directory = Path(directory).absolute()
  if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
    raise FileExistsError(f"{directory} is not empty; choose another directory.")
  arrays = hf_plan.by_path(variables)
  weights = jnp.dtype(dtype or variables["params"]["embedding"].dtype)
  described, pieces = describe(config, weights)
  _check_variables(config, arrays)
  dtypes = {
    path: np.dtype(np.float32) if path.startswith("router/") else weights for path in arrays
  }
  tensors = [
    (name, piece.layout.stored_shape, dtypes[piece.path])
    for piece in pieces
    for name in piece.names
  ]
  with _new_folder(directory) as folder:
    if folder:
      (folder / hf_config.FILE).write_text(json.dumps(described, indent=2) + "\n")
      writer = Writer(folder, tensors, max_shard_bytes)
    for piece in _each(pieces, "save", progress):
      host = _gather(arrays[piece.path], piece, dtypes[piece.path])
      if folder:
        for name, value in zip(piece.names, host if piece.experts else (host,), strict=True):
          writer.write(name, value)
    if folder:
      writer.finish()


def describe(config: ModelConfig, dtype: Any) -> tuple[dict[str, Any], list[Piece]]:
  """What `save` would write: the content of config.json, and the pieces.

  Raises:
    ValueError: if no Hugging Face family has the model's parts.
  """
  described = hf_describe.describe(config, jnp.dtype(dtype).name)
  family, shapes = described["model_type"], hf_plan.shapes(config)
  return described, hf_tables.pieces(config, family, shapes, interleaved=True)


def _check_variables(config: ModelConfig, arrays: dict[str, jax.Array]) -> None:
  expected = hf_plan.shapes(config)
  found = {path: array.shape for path, array in arrays.items()}
  wrong = [
    f"{path} should be {expected.get(path, 'absent')}, found {found.get(path, 'nothing')}"
    for path in sorted(set(expected) | set(found))
    if expected.get(path) != found.get(path)
  ]
  if wrong:
    raise ValueError(f"the variables are not those of this config: {hf_plan.some(wrong)}.")


@contextlib.contextmanager
def _new_folder(directory: Path) -> Iterator[Path | None]:
  """A folder that gets its name when the block is done; None on all processes but the first."""
  folder = None
  if jax.process_index() == 0:
    folder = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # left behind by a process that was killed
    folder.mkdir(parents=True)
  try:
    yield folder
    if folder:
      folder.replace(directory)
  except BaseException:
    if folder:
      shutil.rmtree(folder, ignore_errors=True)
    raise
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(str(directory))


def _gather(array: jax.Array, piece: Piece, dtype: np.dtype) -> np.ndarray:
  """One piece on the host, laid out as it is stored."""
  stored = _take(array, piece.layer, layout=piece.layout, dtype=dtype)
  if stored.is_fully_addressable:
    return np.asarray(stored)
  return multihost_utils.process_allgather(stored, tiled=True)


@functools.partial(jax.jit, static_argnames=("layout", "dtype"))
def _take(array, layer, *, layout: Layout, dtype):
  if layer is not None:
    array = jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)
  return layout.to_stored(array.astype(dtype))
