"""Error bars on mean accuracy over problems."""

from __future__ import annotations

import numpy as np


def bootstrap(
  correct: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
  """Cluster-bootstrap interval of mean pass@1: problems are resampled, their samples kept together.

  Args:
    correct: `[problems, samples]` 0/1.
    level: coverage.
    draws: bootstrap resamples.
    seed: of the resampling.

  Returns: lower and upper end.

  >>> bootstrap(np.ones((5, 2)))
  (1.0, 1.0)
  """
  per_problem = np.asarray(correct, float).mean(axis=1)
  rng = np.random.default_rng(seed)
  picks = rng.integers(0, len(per_problem), size=(draws, len(per_problem)))
  means = per_problem[picks].mean(axis=1)
  low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def within_problem_error(correct: np.ndarray) -> float:
  r"""Standard error from sampling alone, the problems held fixed.

  .. math:: \sqrt{\mathrm{mean}_i(p_i (1 - p_i) / (n - 1)) / M}

  Args:
    correct: `[M problems, n samples]` 0/1, n at least 2.

  >>> round(within_problem_error(np.array([[1, 0], [1, 1]])), 4)
  0.25
  """
  correct = np.asarray(correct, float)
  problems, samples = correct.shape
  if samples < 2:
    raise ValueError("within_problem_error needs at least 2 samples a problem.")
  mean = correct.mean(axis=1)
  return float(np.sqrt((mean * (1 - mean) / (samples - 1)).mean() / problems))
