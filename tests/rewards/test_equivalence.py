"""Equality of written numbers, against exact fractions and recorded cases."""

import json
from fractions import Fraction
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from reasonjax.rewards import equivalence

CASES = Path(__file__).parents[3] / "shared" / "spec" / "verifier_cases"


@pytest.mark.parametrize(
  ("prediction", "gold"),
  [
    ("7", "7"),
    (" 7\n", "7"),
    ("+7", "007"),
    ("-0", "0"),
    ("0.50", "1/2"),
    ("-6/4", "-1.5"),
    ("6/-4", "-1.5"),
    ("0.1/2", "0.05"),
    ("12345678901234567890.5", "24691357802469135781/2"),
    ("x+1", " x+1 "),
  ],
)
def test_equal(prediction, gold):
  assert equivalence.equal(prediction, gold)
  assert equivalence.equal(gold, prediction)


@pytest.mark.parametrize(
  ("prediction", "gold"),
  [
    ("7", "8"),
    ("7", "-7"),
    ("0.3333333333333333", "1/3"),
    ("12345678901234567890", "12345678901234567891"),
    ("7.", "7"),
    ("7 apples", "7"),
    ("1/0", "0"),
    ("1,000", "1000"),
    ("1e3", "1000"),
    ("0x7", "7"),
    ("٧", "7"),
    ("nan", "7"),
    ("", "0"),
    ("X", "x"),
  ],
)
def test_different(prediction, gold):
  assert not equivalence.equal(prediction, gold)
  assert not equivalence.equal(gold, prediction)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
  st.integers(-(10**20), 10**20), st.integers(1, 10**9), st.integers(1, 999), st.integers(0, 12)
)
def test_spellings_of_a_fraction_have_its_key(numerator, denominator, scale, zeros):
  exact = Fraction(numerator, denominator)
  assert equivalence.key(f"{numerator}/{denominator}") == exact
  assert equivalence.key(f"{numerator * scale}/{denominator * scale}") == exact
  assert equivalence.key(f"{numerator}.{'0' * zeros}0") == numerator


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.text(max_size=12))
def test_any_text_equals_itself_and_has_a_hashable_key(answer):
  assert equivalence.equal(answer, answer)
  assert hash(equivalence.key(answer)) == hash(equivalence.key(f" {answer}\n"))


def test_long_digit_strings_are_text_not_work():
  assert equivalence.key("9" * 41) == "9" * 41
  assert equivalence.key("9" * 40) == Fraction(10**40 - 1)


def test_recorded_numbers():
  path = CASES / "math_verify_cases_dev.jsonl"
  if not path.exists():
    pytest.skip("the recorded verifier cases (shared/spec/verifier_cases) are not beside the repo")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  judged = 0
  for row in rows:
    gold, prediction = row["gold"].strip("$"), row["pred"].strip("$")
    numbers = [isinstance(equivalence.key(side), Fraction) for side in (gold, prediction)]
    if all(numbers):
      judged += 1
      assert equivalence.equal(prediction, gold) == row["expected"], row["id"]
    # Text against text may be wrongly rejected; a wrong answer is never accepted.
    assert row["expected"] or not equivalence.equal(prediction, gold), row["id"]
  assert judged >= 2
