"""Tasks by name."""

import pytest

from reasonjax.tasks import registry
from reasonjax.tasks.chain import Chain
from reasonjax.tasks.countdown import Countdown


def test_options_reach_the_task():
  assert registry.get("chain", {"min_operations": 2}) == Chain(min_operations=2)
  assert registry.get("countdown", {}) == Countdown()


def test_an_unknown_task_is_refused():
  with pytest.raises(ValueError, match=r"^task='sudoku': choose from \['chain', 'countdown'\]"):
    registry.get("sudoku", {})


def test_an_unknown_option_is_named():
  with pytest.raises(ValueError, match=r"^task 'chain', options .*max_number"):
    registry.get("chain", {"max_number": 3})


def test_a_bad_option_keeps_its_own_message():
  with pytest.raises(ValueError, match=r"^min_operations=9"):
    registry.get("chain", {"min_operations": 9, "max_operations": 3})


@pytest.mark.parametrize("name", sorted(registry.TASKS))
def test_every_task_has_the_whole_protocol(name):
  task = registry.get(name, {})
  problem = task.problem("test", 0, 0)
  assert task.document(0, 0).count("<answer>") == 1
  assert task.accuracy(problem, "").reason == "no answer"
  assert hash(task.vote_key("1")) == hash(task.vote_key(" 1 ".strip()))
  assert len(set(task.symbols)) == len(task.symbols)
