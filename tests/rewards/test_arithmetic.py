"""Expressions against values worked out while they were generated."""

from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st

from reasonjax.rewards import arithmetic


def join(left: tuple, symbol: str, right: tuple) -> tuple:
  """(text, value or None where a division by zero lies, integers) of an operation."""
  value = None
  if left[1] is not None and right[1] is not None and not (symbol == "/" and right[1] == 0):
    value = {
      "+": lambda a, b: a + b,
      "-": lambda a, b: a - b,
      "*": lambda a, b: a * b,
      "/": lambda a, b: a / b,
    }[symbol](left[1], right[1])
  return f"({left[0]} {symbol} {right[0]})", value, left[2] + right[2]


def negate(inner: tuple) -> tuple:
  return f"(-{inner[0]})", None if inner[1] is None else -inner[1], inner[2]


LEAF = st.integers(0, 99).map(lambda n: (str(n), Fraction(n), [n]))
EXPRESSIONS = st.recursive(
  LEAF,
  lambda inner: st.builds(join, inner, st.sampled_from("+-*/"), inner) | inner.map(negate),
  max_leaves=7,
).filter(lambda expression: len(expression[0]) <= arithmetic.MAX_CHARACTERS)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(EXPRESSIONS)
def test_value_and_numbers_of_generated_trees(expression):
  written, value, numbers = expression
  tree = arithmetic.parse(written)
  assert arithmetic.numbers(tree) == sorted(numbers)
  if value is None:
    with pytest.raises(arithmetic.ExpressionError, match=r"^division by zero$"):
      arithmetic.value(tree)
  else:
    assert arithmetic.value(tree) == value


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(EXPRESSIONS)
def test_canonical_spelling_is_stable_and_keeps_value_and_numbers(expression):
  tree = arithmetic.parse(expression[0])
  spelling = arithmetic.canonical(tree)
  if len(spelling) > arithmetic.MAX_CHARACTERS:
    return
  again = arithmetic.parse(spelling)
  assert arithmetic.canonical(again) == spelling
  assert arithmetic.numbers(again) == sorted(expression[2])
  if expression[1] is not None:
    assert arithmetic.value(again) == expression[1]


@pytest.mark.parametrize(
  ("expression", "value"),
  [
    ("7", Fraction(7)),
    ("1+2*3", Fraction(7)),
    ("(1+2)*3", Fraction(9)),
    ("8/4/2", Fraction(1)),
    ("10-4-3", Fraction(3)),
    ("1/3+1/6", Fraction(1, 2)),
    ("-3+5", Fraction(2)),
    ("+3--5", Fraction(8)),
    (" 2 * ( 3 + 4 ) ", Fraction(14)),
    ("0", Fraction(0)),
  ],
)
def test_values_by_hand(expression, value):
  assert arithmetic.value(arithmetic.parse(expression)) == value


@pytest.mark.parametrize(
  ("expression", "reason"),
  [
    ("", "forbidden character"),
    ("2**3", "forbidden character"),
    ("7//2", "forbidden character"),
    ("1.5+2", "forbidden character"),
    ("1+x", "forbidden character"),
    ("__import__('os')", "forbidden character"),
    ("1+2=3", "forbidden character"),
    ("1+2\n", "forbidden character"),
    ("٣+1", "forbidden character"),
    ("1e3", "forbidden character"),
    ("2 * * 3", "malformed"),
    ("7 / / 2", "malformed"),
    (" ", "malformed"),
    ("1+", "malformed"),
    ("(1+2", "malformed"),
    ("1 2", "malformed"),
    ("()", "malformed"),
    ("2(3)", "malformed"),
    ("07", "malformed"),
    ("1+" * 100 + "1", "too long"),
    ("(" * 150 + "1", "malformed"),
  ],
)
def test_everything_else_is_refused_with_a_reason(expression, reason):
  with pytest.raises(arithmetic.ExpressionError, match=f"^{reason}$"):
    arithmetic.parse(expression)


def test_the_longest_expressions_are_still_worked_out():
  assert arithmetic.value(arithmetic.parse("-" * 199 + "1")) == -1
  assert arithmetic.value(arithmetic.parse("1+" * 99 + "10")) == 109
  assert arithmetic.value(arithmetic.parse("9" * 200)) == 10**200 - 1


@pytest.mark.parametrize(
  ("one", "other"),
  [("1+2", "2 + 1"), ("(3*4)-2", "4*3-2"), ("((7))", "7"), ("+7", "7"), ("2*(3+4)", "(4+3)*2")],
)
def test_canonical_merges_spellings(one, other):
  assert arithmetic.canonical(arithmetic.parse(one)) == arithmetic.canonical(
    arithmetic.parse(other)
  )


@pytest.mark.parametrize(
  ("one", "other"),
  [("1-2", "2-1"), ("6/3", "3/6"), ("1+2", "1*2"), ("-7", "7"), ("3*4-2", "3*(4-2)")],
)
def test_canonical_keeps_what_differs_apart(one, other):
  assert arithmetic.canonical(arithmetic.parse(one)) != arithmetic.canonical(
    arithmetic.parse(other)
  )
