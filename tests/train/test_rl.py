"""The RL loop: it learns, resumes bit for bit, and compiles nothing after its second step."""

import dataclasses
import signal

import fakes
import jax
import numpy as np
import pytest

from reasonjax.metrics import writer
from reasonjax.metrics.throughput import Phases, compilations
from reasonjax.train import loop, pretrain, rl
from reasonjax.train import state as state_lib
from reasonjax.train.session import Interrupted, LoopConfig

DEVICES = 2


def config(**changes) -> rl.RLConfig:
  """RL on two-digit questions; `changes` may also name fields of the loop."""
  rhythm = {"steps": 6, "log_every": 1, "eval_every": 2, "checkpoint_every": 2}
  rhythm = {name: changes.pop(name, value) for name, value in rhythm.items()}
  values = {
    "seed": 1,
    "preset": "dapo",
    "options": {},
    "loop": LoopConfig(**rhythm, tensorboard=False),
    "optim": fakes.optim("adamw", learning_rate=2e-3),
    "prompts": 8,
    "samples": 4,
    "prompt_length": 5,
    "max_new_tokens": 11,
    "temperature": 1.0,
    "minibatches": 1,
    "epochs": 1,
    "reward_weights": {"accuracy": 1.0, "format": 0.1},
    "rows": 4,
    "row_length": 32,
    "chunk": 24,
    "bias_rate": 0.0,
  }
  return rl.RLConfig(**(values | changes))


def equal(a, b) -> bool:
  same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b)
  return all(jax.tree.leaves(same))


@pytest.fixture(scope="module")
def setup():
  model = fakes.model_config(
    hidden_size=32, rope_scaling=None, num_mtp_modules=0, dense_ffn_size=48
  )
  return fakes.setup(model, devices=DEVICES)


@pytest.fixture(scope="module")
def base(setup, tmp_path_factory):
  """A model that thinks half of the time, and is right when it does."""
  training = loop.SupervisedConfig(
    seed=0,
    loop=LoopConfig(350, log_every=50, eval_every=0, checkpoint_every=0, tensorboard=False),
    batch=loop.BatchConfig(microbatches=1, rows=8, row_length=64),
    optim=fakes.optim("adamw", schedule="linear", warmup_steps=10),
    loss=loop.LMLossConfig(mtp=0.0, z=0.0, balance=0.0, chunk=None),
    bias_rate=1e-3,
  )
  with jax.set_mesh(setup.mesh):
    return pretrain.run(training, setup, tmp_path_factory.mktemp("base"))[0]


def nothing(_) -> dict[str, float]:
  """What stands for a held-out evaluation."""
  return {"a": 0.0}


def run(settings, setup, base, directory, evaluate=nothing):
  with jax.set_mesh(setup.mesh):
    engine = rl.make_engine(settings, setup, base.variables)
    return rl.run(settings, setup, base.variables, directory, engine, evaluate)


def test_thinking_is_discovered_because_it_pays(setup, base, tmp_path):
  run(config(steps=24, prompts=16, samples=8, rows=8, eval_every=0), setup, base, tmp_path)
  rows = writer.read(tmp_path / "metrics.jsonl")

  def mean(name, part):
    return np.mean([row[name] for row in part])

  first, last = rows[:2], rows[-4:]
  assert mean("accuracy", first) < 0.8
  assert mean("accuracy", last) > mean("accuracy", first) + 0.15
  assert mean("think_share", last) > mean("think_share", first) + 0.2
  assert mean("length", last) > mean("length", first) + 0.5


@pytest.mark.parametrize(
  "changes",
  [{}, {"preset": "grpo", "minibatches": 2, "epochs": 2}],
  ids=["on policy", "reference model, several minibatches and epochs"],
)
def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(changes, setup, base, tmp_path):
  settings = config(**changes)
  whole, _ = run(settings, setup, base, tmp_path / "whole", nothing)

  def stop(state):
    if int(state.step) == 2 * settings.updates:
      signal.raise_signal(signal.SIGINT)
    return {"a": 0.0}

  with pytest.raises(Interrupted):
    run(settings, setup, base, tmp_path / "parts", stop)
  resumed, _ = run(settings, setup, base, tmp_path / "parts", nothing)
  assert equal(resumed, whole)
  assert not equal(resumed.params, base.params)
  logged = [writer.read(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
  np.testing.assert_equal(logged[1], logged[0])  # NaN, a mean over nothing, equals NaN


def test_the_base_model_survives_the_run(setup, base, tmp_path):
  before = jax.tree.map(np.asarray, base.params)
  run(config(steps=2), setup, base, tmp_path)
  assert equal(base.params, before)


@pytest.mark.parametrize("preset", ["dapo", "grpo"])
def test_nothing_compiles_after_the_second_step(preset, setup, base, tmp_path):
  settings = config(steps=6, preset=preset, eval_every=0, checkpoint_every=0)
  counts = []

  with jax.set_mesh(setup.mesh):
    engine = rl.make_engine(settings, setup, base.variables)
    trainer = rl.PolicyTrainer(settings, setup, base.variables, engine, Phases())
    state = state_lib.create(
      setup.model,
      rl.make_optimizer(settings, setup),
      jax.random.key(0),
      setup.mesh,
      setup.rules,
    )
    state = state.replace(params=jax.tree.map(jax.numpy.copy, base.params))
    for step in range(5):
      with compilations() as compiled:
        problems = [setup.task.problem("train", step, index) for index in range(settings.prompts)]
        rollout = trainer.sample(state, problems, step)
        scores = trainer.judge(problems, rollout)
        state, metrics = trainer.update(state, trainer.prepare(rollout, scores, step))
        jax.device_get(metrics)
      counts.append(compiled.count)
  assert counts[0] > 0
  assert counts[2:] == [0, 0, 0]


def test_sampler_and_trainer_agree_on_every_log_probability(setup, base, tmp_path):
  run(config(steps=3, minibatches=2), setup, base, tmp_path)
  rows = writer.read(tmp_path / "metrics.jsonl")
  assert all(row["sampler_gap"] < 1e-5 for row in rows if "sampler_gap" in row)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"row_length": 15}, "row_length=15"),
    ({"epochs": 0}, "positive"),
    ({"temperature": 0.0}, "temperature=0.0"),
    ({"samples": 1}, "samples=1"),
    ({"preset": "grpoo"}, "preset='grpoo'"),
    ({"optim": fakes.optim("adamw", warmup_steps=7)}, "warmup_steps=7"),
    ({"options": {"clip_hi": 0.3}}, "clip_hi"),
    ({"reward_weights": {"acuracy": 1.0}}, "acuracy"),
  ],
)
def test_bad_values_are_refused_before_anything_runs(changes, message):
  with pytest.raises(ValueError, match=message):
    config(**changes)


def test_one_sample_is_enough_without_a_baseline():
  assert config(samples=1, options={"baseline": "none", "scale": "none"}).samples == 1


def test_options_replace_single_values_of_the_preset():
  settings = config(options={"clip_high": 0.5, "clip_low": None})
  expected = dataclasses.replace(rl.policy.preset("dapo"), clip_high=0.5)
  assert settings.policy() == expected
