"""Majority voting over sampled answers (self-consistency, the cons@k of R1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def majority_credit(keys: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
  """Expected correctness of the most frequent answer, ties broken at random.

  Missing answers do not vote; if all are missing the vote is wrong. The result does not depend on
  the order of the samples.

  Args:
    keys: canonical answer of each sample, None where there is none.
    correct: verdict on each sample; equal keys have equal verdicts.

  >>> majority_credit(["7", "7", "3"], [True, True, False])
  1.0
  >>> majority_credit(["7", "3", None], [True, False, False])
  0.5
  """
  votes = Counter(key for key in keys if key is not None)
  if not votes:
    return 0.0
  most = max(votes.values())
  verdict = dict(zip(keys, correct, strict=True))
  leaders = [key for key, count in votes.items() if count == most]
  return float(np.mean([verdict[key] for key in leaders]))


def accuracy_by_votes(
  keys: Sequence[Sequence[Hashable | None]],
  correct: np.ndarray,
  sizes: Sequence[int],
  *,
  draws: int = 200,
  seed: int = 0,
) -> dict[int, float]:
  """Accuracy of a majority vote over N of the samples of each problem, for several N.

  Each N is averaged over random N-subsets of every problem's samples, never over the first N only.

  Args:
    keys: for every problem, the canonical answers of its samples.
    correct: `[problems, samples]` bool verdicts.
    sizes: the Ns, each at most the number of samples.
    draws: subsets drawn for each problem and N.
    seed: of the draws.

  Returns: N -> mean credit over problems.

  Raises:
    ValueError: if an N exceeds the number of samples.
  """
  correct = np.asarray(correct, bool)
  samples = correct.shape[1]
  if max(sizes) > samples:
    raise ValueError(f"sizes={list(sizes)}: there are only {samples} samples a problem.")
  rng = np.random.default_rng(seed)
  credit = {size: [] for size in sizes}
  for problem_keys, problem_correct in zip(keys, correct, strict=True):
    answers = {key: i for i, key in enumerate(dict.fromkeys(problem_keys)) if key is not None}
    # votes[sample, answer] is 1 where the sample gives the answer.
    votes = np.array([[key == answer for answer in answers] for key in problem_keys], float)
    right = np.array([problem_correct[list(problem_keys).index(answer)] for answer in answers])
    for size in sizes:
      order = rng.permuted(np.tile(np.arange(samples), (draws, 1)), axis=1)[:, :size]
      credit[size].append(_credit(votes[order].sum(axis=1), right))
  return {size: float(np.mean(values)) for size, values in credit.items()}


def _credit(counts: np.ndarray, right: np.ndarray) -> float:
  """Mean of `majority_credit` over draws, from vote counts `[draws, answers]`.

  Twin of: majority_credit
  """
  if not counts.shape[1]:
    return 0.0
  leads = (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)
  return float(((leads * right).sum(axis=1) / np.maximum(leads.sum(axis=1), 1)).mean())
