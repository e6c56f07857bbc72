"""Group-relative policy optimisation: the objective on packed rollouts and the RL loop."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reasonjax.core.types import Problem, RLBatch, Rollout, Score
from reasonjax.data import prompts as prompt_data
from reasonjax.eval.run import encode_prompts
from reasonjax.inference import score
from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.losses import policy
from reasonjax.losses.policy import PolicyConfig
from reasonjax.metrics.throughput import Phases
from reasonjax.models.transformer import Transformer
from reasonjax.optim import build as optim
from reasonjax.optim.build import OptimConfig
from reasonjax.rewards.format import format_reward
from reasonjax.sharding import place
from reasonjax.train import rollout as rollout_lib
from reasonjax.train import state as state_lib
from reasonjax.train import step as step_lib
from reasonjax.train.rollout import Minibatch, PackShape, Scores
from reasonjax.train.session import Evaluate, LoopConfig, Session
from reasonjax.train.setup import Setup
from reasonjax.train.state import TrainState
from reasonjax.train.step import LossFn, LossOutput

REWARD_TERMS = ("accuracy", "format")


@dataclasses.dataclass(frozen=True)
class RLConfig:
  """A reinforcement-learning run.

  Attributes:
    seed: of the problems and of sampling.
    preset: named algorithm in losses/policy.py.
    options: fields of PolicyConfig that replace the preset's; None keeps the preset's value.
    loop: length and rhythm, in rollouts.
    optim: optimizer.
    prompts: P, problems a rollout.
    samples: G, completions of each.
    prompt_length: longest prompt, BOS included; shorter ones are padded to it.
    max_new_tokens: budget of a completion, EOS included.
    temperature: of sampling, and of the log-probabilities that are trained.
    minibatches: optimizer steps that a rollout is split into.
    epochs: times a rollout is gone through.
    reward_weights: weight of each of REWARD_TERMS.
    rows: B of a training microbatch.
    row_length: T; at least a prompt and its longest completion.
    chunk: tokens whose logits are held at once, or None for all.
    bias_rate: gamma of the router-bias update; the paper freezes it (0) after pretraining.
  """

  seed: int
  preset: str
  options: dict[str, Any]
  loop: LoopConfig
  optim: OptimConfig
  prompts: int
  samples: int
  prompt_length: int
  max_new_tokens: int
  temperature: float
  minibatches: int
  epochs: int
  reward_weights: dict[str, float]
  rows: int
  row_length: int
  chunk: int | None
  bias_rate: float

  def __post_init__(self):
    if self.prompt_length + self.max_new_tokens > self.row_length:
      raise ValueError(
        f"rl.row_length={self.row_length} must hold a prompt and its completion, "
        f"prompt_length={self.prompt_length} + max_new_tokens={self.max_new_tokens}."
      )
    if min(self.prompts, self.samples, self.minibatches, self.epochs, self.rows) < 1:
      raise ValueError("rl: prompts, samples, minibatches, epochs and rows must be positive.")
    if self.temperature <= 0:
      raise ValueError(f"rl.temperature={self.temperature}: sampling needs a positive one.")
    if set(self.reward_weights) - set(REWARD_TERMS):
      raise ValueError(f"rl.reward_weights={self.reward_weights}: the terms are {REWARD_TERMS}.")
    self.optim.rate(self.loop.steps * self.updates)  # raises if the warm-up does not fit
    algorithm = self.policy()
    if self.samples < 2 and (algorithm.baseline != "none" or algorithm.scale != "none"):
      raise ValueError(f"rl.samples={self.samples}: a group baseline or scale needs at least 2.")

  @property
  def updates(self) -> int:
    """Optimizer steps a rollout."""
    return self.minibatches * self.epochs

  def policy(self) -> PolicyConfig:
    """The preset with its replaced options."""
    return policy.preset(self.preset, **self.options)


def make_loss(
  model: Transformer,
  config: PolicyConfig,
  *,
  temperature: float,
  on_policy: bool,
  chunk: int | None = None,
) -> LossFn:
  """The policy objective of one microbatch of packed rollouts.

  Args:
    model: the network.
    config: the algorithm.
    temperature: of sampling; log-probabilities are those of the distribution sampled from.
    on_policy: one update a rollout, so that the old policy is the current one and its
      log-probabilities need no pass of their own.
    chunk: tokens whose logits are held at once, or None for all.
  """

  def loss(params: dict, router: dict, batch: RLBatch, key: jax.Array):
    del key  # the policy is scored as it was sampled from: without noise
    variables = {"params": params, "router": router}
    out = model.apply(variables, batch.ids_BxT, batch.segment_BxT, method="hidden")
    scores = score.shifted_scores(
      out.hidden_BxTxD, params, batch.ids_BxT, temperature=temperature, chunk=chunk
    )
    if on_policy:
      batch = batch.replace(old_logp_BxT=jax.lax.stop_gradient(scores.logp_BxT))
    total, weight, metrics = policy.policy_loss(scores.logp_BxT, scores.entropy_BxT, batch, config)
    load = {name: stats.load_E for name, stats in out.stats.items()}
    return total, LossOutput(weight, metrics, load)

  return loss


def task_reward(setup: Setup, problem: Problem, response: str) -> dict[str, Score]:
  """R1-Zero's rule-based reward terms: accuracy by the task's verifier, and format."""
  return {"accuracy": setup.task.accuracy(problem, response), "format": format_reward(response)}


class PolicyTrainer:
  """The four phases of one reinforcement-learning step; each is one method, timed as a phase.

  `sample` and `update` run on the device, `judge` and `prepare` on the host; arrays cross the
  border once in each direction: completions out, packed batches in.
  """

  def __init__(self, config: RLConfig, setup: Setup, base: dict, engine: Engine, phases: Phases):
    """Args:
    config: what to do.
    setup: devices, model, tokenizer, task.
    base: variables of the policy at the start, which is also the reference policy.
    engine: samples.
    phases: timers.
    """
    self._config, self._setup, self._engine, self._phases = config, setup, engine, phases
    self._policy = config.policy()
    model = Transformer(setup.model, setup.rules)
    optimizer = make_optimizer(config, setup)
    on_policy = config.updates == 1
    scoring = {"temperature": config.temperature, "chunk": config.chunk}
    loss = make_loss(model, self._policy, on_policy=on_policy, **scoring)
    self._train_step = step_lib.make(loss, optimizer, bias_rate=config.bias_rate, seed=config.seed)
    self._needs_old = not on_policy
    self._reference = base if self._policy.kl_coefficient else None
    self._log_probs = jax.jit(functools.partial(_log_probs, model, scoring))
    self._sampling = Sampling(config.max_new_tokens, config.samples, config.temperature)
    self._key = jax.random.key(config.seed)

  def sample(self, state: TrainState, problems: list[Problem], step: int) -> Rollout:
    """Completions of every problem by the current policy."""
    with self._phases("generate"):
      self._engine.update(state.variables)
      prompts = encode_prompts(problems, self._setup.tokenizer)
      key = jax.random.fold_in(self._key, step)
      rollout = self._engine.generate(prompts, self._sampling, key)
    self._phases.count("generate", rollout.length_B.sum())
    return rollout

  def judge(self, problems: list[Problem], rollout: Rollout) -> Scores:
    """Rewards of every completion."""
    reward = functools.partial(task_reward, self._setup)
    with self._phases("host"):
      weights = self._config.reward_weights
      return rollout_lib.score(problems, rollout, self._setup.tokenizer, reward, weights)

  def prepare(self, rollout: Rollout, scores: Scores, step: int) -> list[Minibatch]:
    """Advantages, token weights and packed arrays on the devices, one entry an optimizer step."""
    config, setup = self._config, self._setup
    with self._phases("host"):
      packed = rollout_lib.to_minibatches(
        rollout,
        scores,
        self._policy,
        PackShape(config.rows, config.row_length, setup.model.attention.alignment),
        count=config.minibatches,
        max_length=config.max_new_tokens,
        seed=(config.seed, step),
      )
      axes = (None, "batch", "length")
      return [
        dataclasses.replace(mini, batch=place.batch(mini.batch, setup.mesh, setup.rules, axes))
        for mini in packed
      ]

  def update(
    self, state: TrainState, minibatches: list[Minibatch]
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """All optimizer steps of one rollout; old log-probabilities are those before the first."""
    with self._phases("train"):
      scored = [
        dataclasses.replace(mini, batch=self._with_log_probs(state, mini)) for mini in minibatches
      ]
      metrics = []
      for mini in scored * self._config.epochs:
        state, step_metrics = self._train_step(state, mini.batch, mini.microbatches)
        metrics.append(step_metrics)
      jax.block_until_ready(state)
    tokens = sum(mini.tokens for mini in minibatches) * self._config.epochs
    self._phases.count("train", tokens)
    return state, _mean_over_steps(metrics)

  def _with_log_probs(self, state: TrainState, mini: Minibatch) -> RLBatch:
    batch, count = mini.batch, mini.microbatches
    if self._needs_old:
      batch = batch.replace(old_logp_BxT=self._log_probs(state.variables, batch, count))
    if self._reference is not None:
      batch = batch.replace(ref_logp_BxT=self._log_probs(self._reference, batch, count))
    return batch


def _mean_over_steps(metrics: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  """Means weighted by what each optimizer step trained on; one step that is not finite shows."""
  weight = jnp.stack([step["weight"] for step in metrics])
  share = weight / jnp.maximum(weight.sum(), 1e-9)
  means = jax.tree.map(lambda *steps: jnp.tensordot(share, jnp.stack(steps), axes=1), *metrics)
  return means | {"finite": jnp.stack([step["finite"] for step in metrics]).min()}


def _log_probs(
  model: Transformer, scoring: dict, variables: dict, batch: RLBatch, count: jax.Array
) -> jax.Array:
  """`[M, B, T]` log-probability of every token of the first `count` microbatches, 0 in the rest."""

  def one(i: jax.Array, logp_MxBxT: jax.Array) -> jax.Array:
    scores = score.token_scores(model, variables, batch.ids_BxT[i], batch.segment_BxT[i], **scoring)
    return logp_MxBxT.at[i].set(scores.logp_BxT)

  return jax.lax.fori_loop(0, count, one, jnp.zeros(batch.ids_BxT.shape, jnp.float32))


def make_optimizer(config: RLConfig, setup: Setup):
  """The run's optimizer, its schedule spread over all optimizer steps."""
  axes = state_lib.parameter_axes(setup.model)
  return optim.build(config.optim, axes, config.loop.steps * config.updates)


def make_engine(config: RLConfig, setup: Setup, variables: dict) -> Engine:
  """An engine with one shape for all of the run's sampling."""
  return Engine(
    setup.model,
    variables,
    eos_id=setup.tokenizer.eos_id,
    pad_id=setup.tokenizer.pad_id,
    rows=config.prompts * config.samples,
    prompt_buckets=(config.prompt_length,),
    new_token_buckets=(config.max_new_tokens,),
    rules=setup.rules,
  )


SHOWN = {"accuracy": "accuracy", "length": "length", "think": "think_share", "entropy": "entropy"}


def run(
  config: RLConfig,
  setup: Setup,
  base: dict,
  directory: Path,
  engine: Engine,
  evaluate: Evaluate | None = None,
) -> tuple[TrainState, Session]:
  """Trains a policy, going on from a checkpoint in `directory` if there is one.

  Args:
    config: what to do.
    setup: devices, model, tokenizer, task.
    base: variables (parameters and router biases) to begin with.
    directory: for checkpoints and metrics.
    engine: from `make_engine`; it is left with the final weights.
    evaluate: held-out metrics of a state.

  Returns: the final state, and the session with its timings.
  """
  key = jax.random.key(config.seed)
  fresh = state_lib.create(setup.model, make_optimizer(config, setup), key, setup.mesh, setup.rules)
  state = fresh.start_from(base)
  problem_batches = prompt_data.batches(
    lambda index: setup.task.problem("train", config.seed, index), config.prompts
  )
  with Session(
    directory, config.preset.upper(), config.loop, problem_batches, evaluate, SHOWN
  ) as session:
    trainer = PolicyTrainer(config, setup, base, engine, session.phases)
    state = session.resume(state)
    for step in session.steps():
      problems = next(problem_batches)
      rollout = trainer.sample(state, problems, step)
      scores = trainer.judge(problems, rollout)
      minibatches = trainer.prepare(rollout, scores, step)
      state, metrics = trainer.update(state, minibatches)
      session.end_step(step, state, metrics | rollout_lib.statistics(rollout, scores))
  engine.update(state.variables)
  return state, session
