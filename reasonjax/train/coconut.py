"""Coconut: training a model to reason in continuous thoughts, one stage of the curriculum a run.

The objective and the loop are those of supervised training; only the rows and the forward pass
differ. A stage begins with the weights of the one before and with a fresh optimizer.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from reasonjax.core.config import require
from reasonjax.data import coconut as data
from reasonjax.data.coconut import Curriculum, Layout
from reasonjax.models.latent import LatentTransformer
from reasonjax.train import loop
from reasonjax.train.loop import SupervisedConfig
from reasonjax.train.session import Evaluate, Session
from reasonjax.train.setup import Setup
from reasonjax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class CoconutConfig:
  """All stages of a run.

  Attributes:
    curriculum: what each stage thinks and what it writes.
    first: training of stage 0, in which all steps are written.
    later: training of each further stage.
    text_length: most tokens from `<eot>` to EOS; the prompt and the thoughts have the rest of
      `batch.row_length`.
  """

  curriculum: Curriculum
  first: SupervisedConfig
  later: SupervisedConfig
  text_length: int

  def __post_init__(self):
    # Latent positions have no token for an MTP module, and cached passes no routing statistics.
    undefined = {"bias_rate": self.later.bias_rate}
    for field in dataclasses.fields(self.later.loss):
      if field.name not in ("z", "chunk"):
        undefined[f"loss.{field.name}"] = getattr(self.later.loss, field.name)
    for name, value in undefined.items():
      require(not value, f"later.{name}", value, "not defined over continuous thoughts; use 0")
    most = self.curriculum.latents(self.curriculum.last)
    for name, config in (("first", self.first), ("later", self.later)):
      length = config.batch.row_length
      require(
        length > most + self.text_length,
        f"{name}.batch.row_length",
        length,
        f"leave slots for a prompt beside {most} thoughts and text_length={self.text_length}",
      )

  def layout(self, stage: int) -> Layout:
    """Rows of a stage."""
    row_length = self.training(stage).batch.row_length
    return Layout(self.curriculum, stage, row_length, self.text_length)

  def training(self, stage: int) -> SupervisedConfig:
    """How a stage is trained."""
    return self.later if stage else self.first


def run(
  config: CoconutConfig,
  setup: Setup,
  stage: int,
  examples,
  directory: Path,
  *,
  start_from: dict | None = None,
  evaluate: Evaluate | None = None,
) -> tuple[TrainState, Session]:
  """Trains one stage; it goes on from a checkpoint in `directory` if there is one.

  Args:
    config: all stages.
    setup: devices, model, tokenizer.
    stage: 0 to `config.curriculum.last`.
    examples: random access to `data.coconut.Example`s.
    directory: for checkpoints and metrics.
    start_from: variables to begin with, those of the stage before; fresh ones by default.
    evaluate: held-out metrics of a state.

  Returns: the final state, and the session with its timings.
  """
  training, layout = config.training(stage), config.layout(stage)
  markers = data.markers(setup.tokenizer, setup.model.vocab_size)
  batches = data.batches(
    examples,
    layout,
    setup.tokenizer,
    markers,
    seed=training.seed + stage,
    microbatches=training.batch.microbatches,
    rows=training.batch.rows,
  )
  model = LatentTransformer(
    setup.model,
    setup.rules,
    latents=layout.latents,
    text_length=config.text_length,
    latent_id=markers.latent_id,
    eot_id=markers.eot_id,
  )
  return loop.run(
    training,
    setup,
    batches,
    directory,
    title=f"Coconut, stage {stage}",
    model=model,
    evaluate=evaluate,
    start_from=start_from,
  )
