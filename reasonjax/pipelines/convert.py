"""Between Hugging Face directories and checkpoints that runs start from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax

from reasonjax.checkpoint import hf, hf_plan
from reasonjax.checkpoint.store import Store
from reasonjax.core import config as config_lib
from reasonjax.models.config import ModelConfig
from reasonjax.pipelines.stage import Pipeline
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import rules as rules_lib
from reasonjax.train import state as state_lib
from reasonjax.train.setup import ParallelConfig

TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "chat_template.jinja",
  "generation_config.json",
  "special_tokens_map.json",
)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
  """One conversion.

  Attributes:
    to: "orbax" or "hf".
    source: a Hugging Face directory, or the `checkpoints` folder of a run.
    tokenizer: folder whose tokenizer files are copied; by default the source, or `tokenizer` beside
      it.
    param_dtype: of the weights; by default that of the source.
    max_shard_gb: data in one file of a Hugging Face directory, 10^9 bytes.
    parallel: devices that hold the weights on their way.
    dry_run: only print which tensor becomes which parameter.
  """

  to: str
  source: str
  tokenizer: str | None
  param_dtype: str | None
  max_shard_gb: float
  parallel: ParallelConfig
  dry_run: bool

  def __post_init__(self):
    config_lib.require(self.to in ("orbax", "hf"), "to", self.to, "choose 'orbax' or 'hf'")
    config_lib.require(self.max_shard_gb > 0, "max_shard_gb", self.max_shard_gb, "must be positive")

  def placement(self) -> dict:
    """Mesh and rules."""
    mesh, rules = mesh_lib.make(self.parallel.mesh), rules_lib.get(self.parallel.rules)
    return {"mesh": mesh, "rules": rules}


def run(config: ConvertConfig, workdir: str | Path) -> None:
  """Converts, or prints what it would do.

  Args:
    config: what and how.
    workdir: gets the run `convert` with its checkpoints, or is the Hugging Face directory.

  Raises:
    FileNotFoundError, FileExistsError, ValueError: as `hf.load`, `hf.save` and `load_variables`.
  """
  convert = to_orbax if config.to == "orbax" else to_hf
  convert(config, Path(workdir))


def to_orbax(config: ConvertConfig, workdir: Path) -> None:
  """A Hugging Face directory as a run with one checkpoint, `workdir/convert/checkpoints`."""
  plan = hf_plan.make(config.source, param_dtype=config.param_dtype)
  if config.dry_run:
    print(plan)
    return

  def convert(folder: Path) -> dict:
    place = config.placement()
    _, variables = hf.load(config.source, **place, param_dtype=config.param_dtype, progress=True)
    store = Store(folder / "checkpoints")
    store.save(0, {name: tree for name, tree in variables.items() if tree}, {})
    store.close()
    _copy_tokenizer(Path(config.tokenizer or config.source), folder / "tokenizer")
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))}

  resolved = {"model": config_lib.to_dict(plan.config), "convert": config_lib.to_dict(config)}
  Pipeline(workdir, resolved).stage("convert", convert)


def to_hf(config: ConvertConfig, workdir: Path) -> None:
  """The newest checkpoint of a run as a Hugging Face directory, `workdir` itself."""
  source = Path(config.source).absolute()
  saved = source.parents[1] / "config.json"
  if not saved.exists():
    raise FileNotFoundError(f"{saved} does not exist; it would tell the model of {source}.")
  model = config_lib.build(ModelConfig, json.loads(saved.read_text())["model"], str(saved))
  if config.dry_run:
    _, pieces = hf.describe(model, config.param_dtype or model.param_dtype)
    print("\n".join(map(str, pieces)))
    return
  variables = state_lib.load_variables(source, model, **config.placement())
  hf.save(
    workdir,
    model,
    variables,
    dtype=config.param_dtype,
    max_shard_bytes=int(config.max_shard_gb * 1e9),
    progress=True,
  )
  _copy_tokenizer(Path(config.tokenizer or source.parent / "tokenizer"), workdir)


def _copy_tokenizer(source: Path, target: Path) -> None:
  if jax.process_index() == 0:
    for file in [source / name for name in TOKENIZER_FILES]:
      if file.exists():
        target.mkdir(exist_ok=True)
        shutil.copy(file, target)
