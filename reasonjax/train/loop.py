"""The one supervised loop and its objective, for pretraining and fine-tuning alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from reasonjax.core.types import TokenBatch
from reasonjax.losses import balance, lm
from reasonjax.models import mask
from reasonjax.models.transformer import Transformer, head_kernel
from reasonjax.optim import build as optim
from reasonjax.optim.build import OptimConfig
from reasonjax.sharding import place
from reasonjax.train import state as state_lib
from reasonjax.train import step as step_lib
from reasonjax.train.session import Data, Evaluate, LoopConfig, Session
from reasonjax.train.setup import Setup
from reasonjax.train.state import TrainState
from reasonjax.train.step import LossFn, LossOutput


@dataclasses.dataclass(frozen=True)
class LMLossConfig:
  """Coefficients of the supervised loss.

  Attributes:
    mtp: lambda of the multi-token-prediction loss; 0 leaves the modules out of the computation.
    z: coefficient of the z-loss.
    balance: alpha of the sequence-wise balance loss.
    chunk: tokens whose logits are held at once, or None for all.
  """

  mtp: float
  z: float
  balance: float
  chunk: int | None

  def __post_init__(self):
    if min(self.mtp, self.z, self.balance) < 0:
      raise ValueError(
        f"loss: mtp={self.mtp}, z={self.z} and balance={self.balance} must not be negative."
      )


def make_loss(model: Transformer, config: LMLossConfig) -> LossFn:
  r"""The objective of one microbatch of packed documents.

  .. math:: L = \frac{1}{\sum_t w_t} \Big( \sum_t w_t (CE_t + c_z \log^2 Z_t) +
    \frac{\lambda}{D} \sum_k \sum_t w_t CE^k_t + \sum_b w_b L_{Bal}(b) \Big)

  One divisor for all terms (w_b is the weight of row b's targets), so that sums over microbatches
  are exact.

  Args:
    model: the network.
    config: coefficients.

  Returns: a function of parameters, router biases and a TokenBatch `[B, T]`.
  """

  def loss(params: dict, router: dict, batch: TokenBatch):
    variables = {"params": params, "router": router}
    ids, segments = batch.ids_BxT, batch.segment_BxT
    with_mtp = config.mtp > 0 and model.config.num_mtp_modules > 0
    out = model.apply(variables, ids, segments, method="hidden", with_mtp=with_mtp)

    def score(hidden_BxTxD, ahead):
      target_BxT, exists_BxT = mask.targets(ids, segments, ahead)
      weight_BxT = jnp.where(exists_BxT, mask.shift_left(batch.loss_BxT, ahead), 0.0)
      kernel = head_kernel(params)
      return lm.score_tokens(hidden_BxTxD, kernel, target_BxT, chunk=config.chunk), weight_BxT

    scores, weight_BxT = score(out.hidden_BxTxD, 1)
    total, weight, metrics = lm.cross_entropy(scores, weight_BxT, z_coefficient=config.z)
    if with_mtp:
      depths = [lm.mtp_depth_loss(*score(h, k)) for k, h in enumerate(out.mtp_KxBxTxD, start=2)]
      total += lm.mtp_loss([depth_total for depth_total, _ in depths], config.mtp)
      metrics["mtp_ce"] = jax.tree.map(lambda *parts: sum(parts), *depths)
    if config.balance > 0:
      for stats in out.stats.values():
        per_layer = jax.vmap(balance.sequence_balance, in_axes=(0, 0, None))
        value_LxB = per_layer(stats.fraction_BxE, stats.probability_BxE, config.balance)
        value = (value_LxB.sum(axis=0) * weight_BxT.sum(axis=1)).sum()
        total += value
        metrics["balance"] = (metrics.get("balance", (0.0, 0.0))[0] + value, weight)
    load = {name: stats.load_E for name, stats in out.stats.items()}
    return total, LossOutput(weight, metrics, load)

  return loss


@dataclasses.dataclass(frozen=True)
class BatchConfig:
  """Shape of a batch of packed documents.

  Attributes:
    microbatches: M, gradients summed over these before an optimizer step.
    rows: B of one microbatch; a multiple of the devices that the batch is split over.
    row_length: T, tokens a row.
  """

  microbatches: int
  rows: int
  row_length: int

  def __post_init__(self):
    if min(self.microbatches, self.rows, self.row_length) < 1:
      raise ValueError(
        f"batch: microbatches={self.microbatches}, rows={self.rows} and row_length="
        f"{self.row_length} must be positive."
      )


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
  """A supervised run: pretraining or fine-tuning.

  Attributes:
    seed: of the parameters and of the documents.
    loop: length and rhythm.
    batch: shape.
    optim: optimizer.
    loss: coefficients.
    bias_rate: gamma of the router-bias update; 0 freezes the biases.
  """

  seed: int
  loop: LoopConfig
  batch: BatchConfig
  optim: OptimConfig
  loss: LMLossConfig
  bias_rate: float

  def __post_init__(self):
    self.optim.rate(self.loop.steps)  # raises if the warm-up does not fit


def make_optimizer(config: SupervisedConfig, setup: Setup) -> optax.GradientTransformation:
  """The run's optimizer."""
  axes = state_lib.parameter_axes(setup.model)
  return optim.build(config.optim, axes, config.loop.steps)


SHOWN = {"loss": "loss", "ce": "ce", "imbalance": "max_violation"}


def run(
  config: SupervisedConfig,
  setup: Setup,
  batches: Data,
  directory: Path,
  *,
  title: str,
  evaluate: Evaluate | None = None,
  start_from: dict | None = None,
) -> tuple[TrainState, Session]:
  """Trains until `config.loop.steps`, going on from a checkpoint in `directory` if there is one.

  Args:
    config: what to do.
    setup: devices, model, tokenizer.
    batches: iterator of TokenBatch `[M, B, T]` host arrays.
    directory: for checkpoints and metrics.
    title: of the progress bar.
    evaluate: held-out metrics of a state.
    start_from: variables (parameters and router biases) to begin with; fresh ones by default.

  Returns: the final state, and the session with its timings.
  """
  optimizer = make_optimizer(config, setup)
  state = state_lib.create(
    setup.model, optimizer, jax.random.key(config.seed), setup.mesh, setup.rules
  )
  if start_from is not None:
    state = state.start_from(start_from)
  loss = make_loss(Transformer(setup.model, setup.rules), config.loss)
  train_step = step_lib.make(loss, optimizer, bias_rate=config.bias_rate)
  with Session(directory, title, config.loop, batches, evaluate, SHOWN) as session:
    state = session.resume(state)
    for step in session.steps():
      with session.phases("host"):
        host_batch = next(batches)
        batch = place.batch(host_batch, setup.mesh, setup.rules, (None, "batch", "length"))
      with session.phases("train"):
        state, metrics = train_step(state, batch, config.batch.microbatches)
        session.phases.count("train", (host_batch.segment_BxT > 0).sum())
      session.end_step(step, state, metrics)
  return state, session
