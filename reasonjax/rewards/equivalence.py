"""Whether two written answers are the same number, exactly."""

from __future__ import annotations

import re
from fractions import Fraction

# ASCII digits only, and few enough that an answer cannot be a denial of service.
_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?(/[+-]?\d{1,40})?", re.ASCII)


def key(answer: str) -> Fraction | str:
  """Canonical form of an answer: an exact number where it is one, its stripped text otherwise.

  Equal keys mean equal answers, so votes can be counted by key.

  >>> key("0.50") == key("1/2"), key(" x+1 ")
  (True, 'x+1')
  """
  text = answer.strip()
  if _NUMBER.fullmatch(text):
    numerator, _, denominator = text.partition("/")
    if not denominator:
      return Fraction(numerator)
    if int(denominator):
      return Fraction(numerator) / int(denominator)
  return text


def equal(prediction: str, gold: str) -> bool:
  """Whether the prediction equals the gold answer.

  >>> equal("07", "7"), equal("7.", "7")
  (True, False)
  """
  return key(prediction) == key(gold)
