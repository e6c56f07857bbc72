"""DeepSeek-R1's response format: `<think>reasoning</think><answer>result</answer>`."""

from __future__ import annotations

import dataclasses
import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

_RESPONSE = re.compile(
  r"\s*<think>(?P<thinking>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Response:
  """A response taken apart.

  Attributes:
    thinking: text inside the think block; None if the format is broken.
    answer: text inside the answer block; None if the format is broken.
  """

  thinking: str | None
  answer: str | None

  @property
  def well_formed(self) -> bool:
    return self.answer is not None

  @property
  def thought(self) -> bool:
    """Whether there is any reasoning: a well-formed, non-empty think block."""
    return bool(self.thinking and self.thinking.strip())


def render(thinking: str, answer: str) -> str:
  """The response that holds this reasoning (which may be empty) and this answer.

  >>> render("1+1=2", "2")
  '<think>1+1=2</think><answer>2</answer>'
  """
  return f"{THINK_OPEN}{thinking}{THINK_CLOSE}{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def parse(text: str) -> Response:
  """Takes a response apart; anything but one think block and then one answer block is broken.

  White space around the blocks is allowed; tags inside a block, text outside the blocks and a
  second block are not.

  >>> parse("<think>1+1=2</think><answer>2</answer>")
  Response(thinking='1+1=2', answer='2')
  >>> parse("<think></think><answer>2</answer>!").well_formed
  False
  """
  match = _RESPONSE.fullmatch(text)
  if match is None or any(tag in group for group in match.groups() for tag in TAGS):
    return Response(None, None)
  return Response(match["thinking"], match["answer"])
