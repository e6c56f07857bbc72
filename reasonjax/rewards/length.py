"""Rewards and penalties for the length of a response, always in tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


def soft_overlong(length: int, *, max_length: int, cache: int) -> float:
  r"""Penalty that grows over the last `cache` tokens before the limit, from 0 to -1.

  .. math:: 0 \text{ if } l \le L - c, \quad ((L - c) - l) / c \text{ if } l \le L, \quad -1
    \text{ beyond}

  Args:
    length: l, tokens of the response.
    max_length: L, the limit, cache included.
    cache: c, width of the ramp.

  Implements: DAPO Eq. 13

  >>> [soft_overlong(n, max_length=20480, cache=4096) for n in (16384, 18432, 20480, 30000)]
  [0.0, -0.5, -1.0, -1.0]
  """
  return max(min((max_length - cache - length) / cache, 0.0), -1.0)


def kimi_length(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
  r"""Kimi k1.5's length reward among the samples of one prompt.

  .. math:: \lambda_i = \tfrac12 - (l_i - l_{min}) / (l_{max} - l_{min})

  A correct response gets lambda, a wrong one min(0, lambda): short wrong answers earn nothing. All
  of equal length get 0.

  Args:
    lengths: tokens of each sample.
    correct: verdict of each.

  Source: arXiv 2501.12599, section 2.3.3.

  >>> [round(x, 4) for x in kimi_length([100, 200, 300, 400], [True, True, False, False])]
  [0.5, 0.1667, -0.1667, -0.5]
  """
  low, high = min(lengths), max(lengths)
  if low == high:
    return [0.0] * len(lengths)
  shares = [0.5 - (length - low) / (high - low) for length in lengths]
  return [s if right else min(0.0, s) for s, right in zip(shares, correct, strict=True)]


@dataclasses.dataclass(frozen=True)
class CosineReward:
  """Ends of the cosine length reward.

  Attributes:
    max_length: tokens at which the reward ends.
    correct_short: of a correct response of length 0.
    correct_long: of a correct response of almost `max_length`.
    wrong_short: of a wrong response of length 0.
    wrong_long: of a wrong response of almost `max_length`.
    exceeded: of any response that reaches `max_length`.
  """

  max_length: int
  correct_short: float = 2.0
  correct_long: float = 1.0
  wrong_short: float = -10.0
  wrong_long: float = 0.0
  exceeded: float = -10.0

  def __call__(self, length: int, correct: bool) -> float:
    r"""Reward of one response: short is better when right, long is better when wrong.

    .. math:: r_L + \tfrac12 (r_0 - r_L) (1 + \cos(\pi l / L))

    The paper prints the ends of the cosine in the other order, which would invert it; its code,
    and this, do not.

    Source: arXiv 2502.03373, appendix C.1.

    >>> reward = CosineReward(max_length=16384)
    >>> [round(reward(n, True), 6) for n in (0, 4096, 8192, 12288)]
    [2.0, 1.853553, 1.5, 1.146447]
    >>> reward(16384, True)
    -10.0
    """
    if length >= self.max_length:
      return self.exceeded
    short, long = (
      (self.correct_short, self.correct_long) if correct else (self.wrong_short, self.wrong_long)
    )
    return long + 0.5 * (short - long) * (1.0 + math.cos(math.pi * length / self.max_length))
