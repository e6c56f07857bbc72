"""Format reward of R1: reasoning and answer stand in their blocks."""

from __future__ import annotations

from reasonjax.core import text
from reasonjax.core.types import Score


def format_reward(response: str) -> Score:
  """1 if the response is one think block followed by one answer block, else 0.

  An empty think block is well-formed: that thinking pays is for the accuracy reward to teach.

  Source: R1 section 2.2.2.

  >>> format_reward("<think></think><answer>4</answer>").value
  1.0
  """
  if text.parse(response).well_formed:
    return Score(1.0, "well-formed")
  return Score(0.0, "malformed")
