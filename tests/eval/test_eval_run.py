"""Evaluation with an engine that plays back scripted responses."""

import json
from fractions import Fraction

import jax
import numpy as np
import pytest

from reasonjax.core import text
from reasonjax.core.types import Problem, Rollout
from reasonjax.data import tokenizer
from reasonjax.eval import run
from reasonjax.inference.logits import Sampling
from reasonjax.tasks.chain import Chain

TASK = Chain()
SYMBOLS = tokenizer.of_symbols(TASK.symbols)
PROBLEMS = [Problem("9+5=", "4", 1), Problem("2*3*2=", "2", 2)]
# Three responses to each problem; what has no EOS ran out of budget.
SCRIPT = [
  (text.render("9+5=4;", "4"), True),
  (text.render("", "04"), True),
  (text.render("", "7"), True),
  (text.render("2*3=6;6*2=2;", "2"), True),
  ("<think>2*3=6;6*2=2;", False),
  (text.render("", "7"), True),
]


class Playback:
  """Answers whatever is asked with the script, and remembers what was asked."""

  def __init__(self, script):
    self.script, self.asked = script, None

  def generate(self, prompts, sampling, key) -> Rollout:
    self.asked = (prompts, sampling, key)
    ids = [SYMBOLS.encode(said) + [SYMBOLS.eos_id] * ended for said, ended in self.script]
    length = np.array([len(row) for row in ids], np.int32)
    token = np.zeros((len(ids), length.max()), np.int32)
    for row, tokens in enumerate(ids):
      token[row, : len(tokens)] = tokens
    ended = np.array([ended for _, ended in self.script])
    return Rollout(prompts, token, np.zeros(token.shape, np.float32), length, ~ended)


@pytest.fixture
def engine():
  return Playback(SCRIPT)


@pytest.fixture
def evaluation(engine):
  return run.evaluate(engine, TASK, PROBLEMS, SYMBOLS, Sampling(64, samples=3), jax.random.key(5))


def test_the_engine_gets_prompts_sampling_and_key(engine, evaluation):
  prompts, sampling, key = engine.asked
  assert prompts == [[1, *SYMBOLS.encode("9+5=")], [1, *SYMBOLS.encode("2*3*2=")]]
  assert sampling == Sampling(64, samples=3)
  np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(5)))


def test_verdicts_stand_at_their_problem_and_sample(evaluation):
  np.testing.assert_array_equal(evaluation.correct, [[True, True, False], [True, False, False]])
  np.testing.assert_array_equal(evaluation.thought, [[True, False, False], [True, False, False]])
  np.testing.assert_array_equal(evaluation.truncated, [[False, False, False], [False, True, False]])
  # Tags, digits and signs are a token each; EOS counts.
  np.testing.assert_array_equal(evaluation.length, [[12, 7, 6], [18, 13, 6]])
  assert evaluation.texts == [[said for said, _ in SCRIPT[:3]], [said for said, _ in SCRIPT[3:]]]
  assert evaluation.keys == [
    [Fraction(4), Fraction(4), Fraction(7)],
    [Fraction(2), None, Fraction(7)],
  ]
  assert evaluation.reasons == {"correct": 3, "no answer": 1, "wrong": 2}
  assert evaluation.problems == PROBLEMS


def test_metrics_are_means_over_samples(evaluation):
  assert evaluation.metrics() == pytest.approx(
    {"accuracy": 3 / 6, "length": 62 / 6, "think_share": 2 / 6, "truncated": 1 / 6}, rel=1e-12
  )


def test_summary(evaluation):
  summary = evaluation.summary(vote_sizes=(1, 3))
  assert summary["accuracy"] == 0.5
  assert summary["pass_at_k"] == pytest.approx({1: 0.5, 3: 1.0}, abs=1e-12)
  # 4, 4, 7 is won by 4; 2 and 7 tie.
  assert summary["majority_accuracy"][3] == pytest.approx(0.75, abs=1e-12)
  assert summary["majority_accuracy"][1] == pytest.approx(0.5, abs=0.05)
  assert summary["accuracy_by_difficulty"] == pytest.approx({1: 2 / 3, 2: 1 / 3}, rel=1e-12)
  assert summary["accuracy_interval"] == pytest.approx([1 / 3, 2 / 3], rel=1e-12)
  assert summary["reasons"] == {"correct": 3, "no answer": 1, "wrong": 2}
  assert (summary["problems"], summary["samples"]) == (2, 3)
  assert json.loads(json.dumps(summary))["accuracy_by_difficulty"]["1"] == pytest.approx(2 / 3)


def test_summary_refuses_more_votes_than_samples(evaluation):
  with pytest.raises(ValueError, match=r"sizes=\[1, 8\]"):
    evaluation.summary(vote_sizes=(1, 8))


def test_join_puts_samples_of_a_problem_side_by_side(evaluation):
  again = run.evaluate(
    Playback(SCRIPT[3:] + SCRIPT[:3]), TASK, PROBLEMS, SYMBOLS, Sampling(64, samples=3), None
  )
  joined = run.join([evaluation, again])
  assert joined.correct.tolist() == [
    [True, True, False, False, False, False],
    [True, False, False, False, False, False],
  ]
  for name in ("correct", "thought", "length", "truncated"):
    grid = getattr(joined, name)
    assert grid.shape == (2, 6)
    np.testing.assert_array_equal(grid[:, 3:], getattr(again, name))
  assert joined.texts[0] == evaluation.texts[0] + again.texts[0]
  assert joined.keys[1] == evaluation.keys[1] + again.keys[1]
  assert joined.reasons == {"correct": 3, "no answer": 2, "wrong": 7}
  assert joined.summary(vote_sizes=(6,))["samples"] == 6


def test_join_refuses_other_problems(evaluation):
  other = run.evaluate(
    Playback(SCRIPT), TASK, PROBLEMS[::-1], SYMBOLS, Sampling(64, samples=3), None
  )
  with pytest.raises(ValueError, match="different problems"):
    run.join([evaluation, other])


def test_encode_prompts_starts_with_bos():
  assert run.encode_prompts([Problem("7=", "7", 1)], SYMBOLS) == [
    [SYMBOLS.bos_id, *SYMBOLS.encode("7=")]
  ]
