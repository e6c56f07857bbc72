"""What every run stands on: devices, parallelism, model, tokenizer and task."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import Mesh

from reasonjax.data import tokenizer as tokenizer_lib
from reasonjax.data.tokenizer import Tokenizer
from reasonjax.models.config import ModelConfig
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import rules as rules_lib
from reasonjax.sharding.rules import Rules
from reasonjax.tasks import registry
from reasonjax.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """Devices and how work is split over them.

  Attributes:
    mesh: devices along each mesh axis; -1 for the rest.
    rules: name of a table in sharding/rules.py.
  """

  mesh: dict[str, int]
  rules: str


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """A task and the tokenizer of its texts.

  Attributes:
    name: in tasks/registry.py.
    options: the task's fields.
    tokenizer: "symbols" (the task's own), "bytes", or the path of a published model's directory,
      its tokenizer.json or a SentencePiece `.model`.
  """

  name: str
  options: dict[str, Any]
  tokenizer: str


@dataclasses.dataclass(frozen=True)
class Setup:
  """Built once a run, handed to everything."""

  mesh: Mesh
  rules: Rules
  model: ModelConfig
  tokenizer: Tokenizer
  task: Task


def build(parallel: ParallelConfig, model: ModelConfig, task: TaskConfig) -> Setup:
  """Builds mesh, tokenizer and task, and checks that they fit.

  Raises:
    ValueError: if the tokenizer has more ids than the model's vocabulary, or as the parts raise.
  """
  built = registry.get(task.name, task.options)
  if task.tokenizer == "symbols":
    tokenizer = tokenizer_lib.of_symbols(built.symbols)
  elif task.tokenizer == "bytes":
    tokenizer = tokenizer_lib.ByteTokenizer()
  else:
    tokenizer = tokenizer_lib.load(task.tokenizer)
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
      f"model.vocab_size={model.vocab_size}: the tokenizer has {tokenizer.vocab_size} ids."
    )
  mesh = mesh_lib.make(parallel.mesh)
  return Setup(mesh, rules_lib.get(parallel.rules), model, tokenizer, built)
