"""A training loop's surroundings: resuming, logging, stopping, and what divergence leaves."""

import signal

import fakes
import jax
import numpy as np
import pytest

from reasonjax.checkpoint.store import Store
from reasonjax.metrics import writer
from reasonjax.train import loop, pretrain
from reasonjax.train import state as state_lib
from reasonjax.train.session import Diverged, Interrupted, LoopConfig

STEPS = 6


def config(**changes) -> loop.SupervisedConfig:
  rhythm = {"log_every": 1, "eval_every": 2, "checkpoint_every": 2, "tensorboard": False}
  rhythm |= {name: changes.pop(name) for name in list(changes) if name in rhythm}
  values = {
    "seed": 3,
    "loop": LoopConfig(STEPS, **rhythm),
    "batch": loop.BatchConfig(microbatches=2, rows=2, row_length=32),
    "optim": fakes.optim("adamw"),
    "loss": loop.LMLossConfig(mtp=0.1, z=1e-4, balance=1e-3, chunk=None),
    "bias_rate": 1e-3,
  }
  return loop.SupervisedConfig(**(values | changes))


def equal(a, b) -> bool:
  return all(
    jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))
  )


def step_of(state) -> dict[str, int]:
  """What stands for a held-out evaluation."""
  return {"step": int(state.step)}


def run(directory, evaluate=step_of, **changes):
  setup = fakes.setup()
  with jax.set_mesh(setup.mesh):
    return pretrain.run(config(**changes), setup, directory, evaluate)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  directory = tmp_path_factory.mktemp("whole")
  state, _ = run(directory, evaluate=step_of)
  return state, writer.read(directory / "metrics.jsonl")


def stop_after(step: int, number: int = signal.SIGTERM):
  """An evaluation that sends this process a signal once `step` steps are done."""

  def evaluate(state):
    if int(state.step) == step:
      signal.raise_signal(number)
    return {"step": int(state.step)}

  return evaluate


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(
  number, tmp_path, uninterrupted
):
  with pytest.raises(Interrupted, match="run again"):
    run(tmp_path, evaluate=stop_after(2, number))
  state, _ = run(tmp_path, evaluate=step_of)
  assert equal(state, uninterrupted[0])
  strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
  assert strip(writer.read(tmp_path / "metrics.jsonl")) == strip(uninterrupted[1])


def test_a_signal_at_a_step_without_a_checkpoint_loses_no_metrics(tmp_path, uninterrupted):
  rhythm = {"eval_every": 1, "checkpoint_every": 0}
  with pytest.raises(Interrupted):
    run(tmp_path, evaluate=stop_after(3), **rhythm)
  state, _ = run(tmp_path, **rhythm)
  assert equal(state, uninterrupted[0])
  losses = [row.get("loss") for row in writer.read(tmp_path / "metrics.jsonl")]
  assert losses == [row.get("loss") for row in uninterrupted[1]]


def test_a_signal_in_the_last_step_stops_what_would_come_next(tmp_path, uninterrupted):
  with pytest.raises(Interrupted):
    run(tmp_path, evaluate=stop_after(STEPS))
  state, session = run(tmp_path)
  assert equal(state, uninterrupted[0])
  assert list(session.steps()) == []


class Killed(Exception):
  """Stands for a process that ends without a word."""


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, uninterrupted):
  def die(state):
    if int(state.step) == 4:
      raise Killed
    return {"step": int(state.step)}

  with pytest.raises(Killed):
    run(tmp_path, evaluate=die)
  store = Store(tmp_path / "checkpoints")
  assert store.latest == 2
  store.close()
  state, _ = run(tmp_path, evaluate=step_of)
  assert equal(state, uninterrupted[0])


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted):
  run(tmp_path)
  state, session = run(tmp_path)
  assert equal(state, uninterrupted[0])
  assert list(session.steps()) == []


def test_handlers_are_given_back(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  run(tmp_path)
  assert signal.getsignal(signal.SIGTERM) is before


def test_every_metric_is_logged_once_a_step(uninterrupted):
  rows = uninterrupted[1]
  assert [row["step"] for row in rows] == list(range(STEPS + 1))
  assert [row["eval/step"] for row in rows if "eval/step" in row] == [0, 2, 4, 6]
  assert {"loss", "ce", "mtp_ce", "balance", "z", "grad_norm", "max_violation"} <= set(rows[1])
  assert rows[-1]["loss"] < rows[1]["loss"]


def test_divergence_stops_the_run_and_saves_a_finite_state(tmp_path):
  optim = fakes.optim("adamw", learning_rate=1e30)
  with pytest.raises(Diverged, match=r"at step 2\. .* state after step 2 is saved"):
    run(tmp_path, optim=optim, eval_every=0)
  setup = fakes.setup()
  saved = state_lib.load_variables(tmp_path / "checkpoints", setup.model, setup.mesh, setup.rules)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))


def test_an_evaluation_that_is_asked_for_must_be_given(tmp_path):
  with pytest.raises(ValueError, match="eval_every=2: Pretraining has nothing to evaluate with"):
    run(tmp_path, evaluate=None)


def test_a_negative_rhythm_is_refused():
  with pytest.raises(ValueError, match="eval_every=-1"):
    LoopConfig(1, log_every=1, eval_every=-1, checkpoint_every=0, tensorboard=False)
