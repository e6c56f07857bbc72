"""Penalties for repeated n-grams of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def repeated_tokens(tokens: Sequence[int], *, size: int, penalty: float) -> list[float]:
  """Penalty of every token that belongs to an n-gram seen before; 0 for the others.

  Args:
    tokens: ids of the response.
    size: n; 40 in the paper.
    penalty: of each such token; -0.05 in the paper, with a discount of its own (0.99).

  Returns: one reward a token.

  Source: arXiv 2502.03373, Algorithm 1.

  >>> repeated_tokens([7, 8, 7, 8, 9, 1], size=2, penalty=-0.05)
  [0.0, 0.0, -0.05, -0.05, 0.0, 0.0]
  """
  rewards, seen = [0.0] * len(tokens), set()
  for start in range(len(tokens) - size + 1):
    gram = tuple(tokens[start : start + size])
    if gram in seen:
      rewards[start : start + size] = [penalty] * size
    seen.add(gram)
  return rewards


def repeated_share(tokens: Sequence[int], *, size: int) -> float:
  """Minus the share of n-grams that occurred before, one number a response; 0 if it is too short.

  Args:
    tokens: ids (or words) of the response.
    size: n.

  Source: open-r1's n-gram repetition penalty, from arXiv 2502.03373.

  >>> round(repeated_share([7, 8, 7, 8, 9, 1], size=2), 6)
  -0.2
  """
  grams = [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
  return len(set(grams)) / len(grams) - 1.0 if grams else 0.0
