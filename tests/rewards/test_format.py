"""The format reward."""

import pytest

from reasonjax.core import text
from reasonjax.core.types import Score
from reasonjax.rewards.format import format_reward


@pytest.mark.parametrize(
  ("thinking", "answer"), [("1+1=2", "2"), ("", "2"), ("a\nb", ""), ("", "")]
)
def test_both_blocks_earn_the_reward_whatever_they_hold(thinking, answer):
  assert format_reward(text.render(thinking, answer)) == Score(1.0, "well-formed")


@pytest.mark.parametrize(
  "response",
  [
    "",
    "2",
    "<answer>2</answer>",
    "<think>1+1=2</think>2",
    "<think>1+1=2</think><answer>2</answer> because",
    "<think>1</think><answer>2</answer><think>1</think><answer>2</answer>",
  ],
)
def test_anything_else_earns_nothing(response):
  assert format_reward(response) == Score(0.0, "malformed")
