"""The final answer inside a response."""

from __future__ import annotations

from reasonjax.core import text


def final_answer(response: str) -> str | None:
  """Text of the answer block, stripped; None if the format is broken or the block is empty.

  >>> final_answer("<think>2+2=4</think><answer> 4 </answer>")
  '4'
  >>> final_answer("<think>2+2=4") is None
  True
  """
  answer = text.parse(response).answer
  return answer.strip() or None if answer is not None else None
