"""Training in continuous thoughts: the objective, stages with fresh optimizers, resuming."""

import dataclasses
import functools
import signal

import fakes
import jax
import numpy as np
import pytest

from reasonjax.core import text
from reasonjax.data import coconut as data
from reasonjax.data.coconut import Curriculum, GeneratedExamples
from reasonjax.metrics import writer
from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.latent import LatentTransformer
from reasonjax.train import coconut, loop
from reasonjax.train.coconut import CoconutConfig
from reasonjax.train.session import Interrupted, LoopConfig

STEPS = 4
DENSE = {"num_mtp_modules": 0, "num_dense_layers": 2, "num_routed_experts": 0}
MODEL = fakes.model_config(init_std=0.1, **DENSE).replace(
  attention=GQAConfig(num_kv_heads=1, head_dim=8)
)


def supervised(steps=STEPS, eval_every=0, **changes) -> loop.SupervisedConfig:
  values = {
    "seed": 3,
    "loop": LoopConfig(steps, 1, eval_every, checkpoint_every=0, tensorboard=False),
    "batch": loop.BatchConfig(microbatches=2, rows=2, row_length=24),
    "optim": fakes.optim("adamw"),
    "loss": loop.LMLossConfig(mtp=0.0, z=0.0, balance=0.0, chunk=None),
    "bias_rate": 0.0,
  }
  return loop.SupervisedConfig(**(values | changes))


def config(**changes) -> CoconutConfig:
  values = {
    "curriculum": Curriculum(stages=1, latents_per_step=2, mixing=0.0),
    "first": supervised(),
    "later": supervised(),
    "text_length": 14,
  }
  return CoconutConfig(**(values | changes))


def document(index: int) -> str:
  """Adds 1 twice to a digit: `3=<think>4=5=</think><answer>5</answer>`."""
  digit = index % 8
  return f"{digit}=" + text.render(f"{digit + 1}={digit + 2}=", str(digit + 2))


EXAMPLES = GeneratedExamples(document, "=", count=64)


def run(directory, stage, start_from=None, evaluate=None, **changes):
  setup = fakes.setup(MODEL)
  with jax.set_mesh(setup.mesh):
    return coconut.run(
      config(**changes),
      setup,
      stage,
      EXAMPLES,
      directory,
      start_from=start_from,
      evaluate=evaluate,
    )[0]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  """Weights after stage 0, on the host."""
  return jax.device_get(run(tmp_path_factory.mktemp("first"), 0).variables)


@pytest.fixture(scope="module")
def second(tmp_path_factory, first):
  directory = tmp_path_factory.mktemp("second")
  state = run(directory, 1, first)
  return state, writer.read(directory / "metrics.jsonl")


def equal(a, b) -> bool:
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


def test_the_loss_is_that_of_the_text_by_full_passes(first, second):
  """Of the first batch of stage 1, summed in float64 over what follows `<eot>`."""
  setup = fakes.setup(MODEL)
  markers = data.markers(setup.tokenizer, MODEL.vocab_size)
  layout = config().layout(1)
  batch = next(
    data.batches(EXAMPLES, layout, setup.tokenizer, markers, seed=4, microbatches=2, rows=2)
  )
  ids, segment = batch.ids_BxT.reshape(4, 24), batch.segment_BxT.reshape(4, 24)
  assert ((ids == markers.latent_id).sum(axis=1) == 2).all()
  model = LatentTransformer(MODEL, latents=2, latent_id=markers.latent_id, eot_id=markers.eot_id)
  passes = functools.partial(model.apply, first, method="hidden_by_full_passes")
  logits = model.apply(first, jax.jit(passes)(ids, segment), method="logits")
  logits = np.asarray(logits, np.float64)
  logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  losses = []
  for row in range(4):
    start = ids[row].tolist().index(markers.eot_id)
    end = segment[row].sum()
    assert ids[row, end - 1] == setup.tokenizer.eos_id
    losses += [-logp[row, t, ids[row, t + 1]] for t in range(start, end - 1)]
  rows = [row for row in second[1] if "loss" in row]
  assert rows[0]["weight"] == len(losses)
  assert rows[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_each_stage_starts_from_the_last_with_a_fresh_optimizer(first, second):
  """A stage counts its own steps only, and begins where the stage before has ended."""
  state, _ = second
  counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 0]
  assert counts
  assert {int(count) for count in counts} == {STEPS}
  assert int(state.step) == STEPS
  moved = [np.abs(a - b).max() for a, b in _pairs(state.params, first["params"])]
  # From zero moments, AdamW's first step is all of the learning rate, and no step much more.
  assert 0.01 * 0.9 < max(moved) < 0.01 * STEPS * 1.01


def _pairs(a, b):
  return zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(b), strict=True)


def test_an_interrupted_stage_goes_on_bit_for_bit(tmp_path, first, second):
  def stop(state):
    if int(state.step) == 2:
      signal.raise_signal(signal.SIGTERM)
    return {"step": int(state.step)}

  often = supervised(eval_every=1)
  with pytest.raises(Interrupted, match="Coconut, stage 1 stopped"):
    run(tmp_path, 1, first, stop, later=often)
  state = run(tmp_path, 1, None, lambda state: {"step": int(state.step)}, later=often)
  assert equal(jax.device_get(state), jax.device_get(second[0]))


def test_it_learns_to_answer_by_thoughts_alone(tmp_path):
  """The last stage of a fresh model: two thoughts, no written step, eight questions."""
  later = supervised(120, optim=fakes.optim("adamw", learning_rate=2e-2))
  run(tmp_path, 2, later=later)
  losses = [row["loss"] for row in writer.read(tmp_path / "metrics.jsonl") if "loss" in row]
  assert losses[0] > 2.0
  assert np.mean(losses[-5:]) < 0.1


def test_what_thoughts_do_not_define_is_refused():
  with pytest.raises(ValueError, match=r"later.loss.mtp=0.1: not defined over continuous thoughts"):
    config(later=supervised(loss=loop.LMLossConfig(mtp=0.1, z=0.0, balance=0.0, chunk=None)))
  with pytest.raises(ValueError, match=r"later.bias_rate=0.1"):
    config(later=supervised(bias_rate=0.1))
  with pytest.raises(ValueError, match=r"first.batch.row_length=24: .* beside 12 thoughts"):
    config(curriculum=Curriculum(6, 2, 0.0))
  # Stage 0 has no thoughts.
  balanced = loop.LMLossConfig(mtp=0.1, z=1e-4, balance=1e-3, chunk=None)
  assert config(first=supervised(loss=balanced)).training(0).loss == balanced
  assert dataclasses.replace(config(), text_length=10).layout(1).text_length == 10
