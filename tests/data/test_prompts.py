"""Batches of problems: in order, repeatable, resumable from a JSON state."""

import json

import pytest

from reasonjax.core.types import Problem
from reasonjax.data import prompts
from reasonjax.tasks.countdown import Countdown


def make(index: int) -> Problem:
  assert type(index) is int
  return Problem(f"{index}=", str(index), 1)


def test_batches_run_through_the_stream_in_order():
  stream = prompts.batches(make, 3)
  assert next(stream) == [make(0), make(1), make(2)]
  assert next(stream) == [make(3), make(4), make(5)]
  assert type(next(stream)) is list


@pytest.mark.parametrize("done", [0, 1, 4])
def test_resuming_gives_the_batches_of_an_uninterrupted_run(done):
  task = Countdown()
  running = prompts.batches(lambda index: task.problem("train", 0, index), 4)
  for _ in range(done):
    next(running)
  state = json.loads(json.dumps(running.get_state()))
  expected = [next(running) for _ in range(3)]
  resumed = prompts.batches(lambda index: task.problem("train", 0, index), 4)
  resumed.set_state(state)
  assert [next(resumed) for _ in range(3)] == expected
  assert expected[0][0] == task.problem("train", 0, 4 * done)


def test_problems_are_indexed_without_end():
  problems = prompts.Problems(make)
  assert len(problems) >= 10**12
  assert problems[10**9] == make(10**9)
