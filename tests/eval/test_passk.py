"""pass@k against exact binomials."""

import itertools
import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from reasonjax.eval.passk import pass_at_k


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.data(), st.integers(1, 300))
def test_equals_the_exact_formula(data, n):
  c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
  exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
  assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-13)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 4, 2), (4, 0, 4)])
def test_is_the_share_of_subsets_with_a_hit(n, c, k):
  samples = [True] * c + [False] * (n - c)
  hits = [any(drawn) for drawn in itertools.combinations(samples, k)]
  assert pass_at_k(n, c, k) == pytest.approx(np.mean(hits), abs=1e-15)


@pytest.mark.parametrize(
  ("n", "c", "k", "value"),
  [
    (64, 16, 1, 0.25),
    (2, 1, 2, 1.0),
    (10, 0, 10, 0.0),
    (10, 3, 5, 11 / 12),
    (10_000, 1, 64, 0.0064),
  ],
)
def test_values_by_hand(n, c, k, value):
  assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize(
  ("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1), (4, 2, -1)]
)
def test_counts_out_of_range_are_named(n, c, k):
  with pytest.raises(ValueError, match=f"^n={n}, c={c}, k={k}: need"):
    pass_at_k(n, c, k)
