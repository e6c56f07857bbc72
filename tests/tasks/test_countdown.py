"""Countdown: the verifier against brute force, the corpus, and recorded cases."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from reasonjax.core import text
from reasonjax.core.types import Problem, Score
from reasonjax.data import tokenizer
from reasonjax.tasks import base, countdown

CASES = Path(__file__).parents[3] / "shared" / "spec" / "verifier_cases"
INDEX = st.integers(0, 10**6)
NUMBERS = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@st.composite
def trees(draw, numbers):
  """(text, exact value or None at a division by zero) of a random tree over these leaves."""
  if len(numbers) == 1:
    return str(numbers[0]), Fraction(numbers[0])
  cut = draw(st.integers(1, len(numbers) - 1))
  left, left_value = draw(trees(numbers[:cut]))
  right, right_value = draw(trees(numbers[cut:]))
  symbol, space = draw(st.sampled_from("+-*/")), draw(st.sampled_from(["", " "]))
  written = f"({left}{space}{symbol}{space}{right})"
  if left_value is None or right_value is None or (symbol == "/" and right_value == 0):
    return written, None
  if symbol == "/":
    return written, left_value / right_value
  signs = {"+": (1, 1), "-": (1, -1)}
  if symbol in signs:
    return written, left_value + signs[symbol][1] * right_value
  return written, left_value * right_value


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.data(), NUMBERS, st.fractions(-50, 50, max_denominator=12))
def test_verifier_agrees_with_the_value_of_generated_trees(data, numbers, other):
  written, value = data.draw(trees(numbers))
  order = tuple(data.draw(st.permutations(numbers)))
  if value is None:
    assert countdown.verify(written, order, 1) == Score(0.0, "division by zero")
    return
  assert countdown.verify(written, order, value) == Score(1.0, "correct")
  verdict = Score(1.0, "correct") if other == value else Score(0.0, "wrong")
  assert countdown.verify(written, order, other) == verdict
  assert countdown.verify(written, (*order, 1), value) == Score(0.0, "wrong numbers")
  assert countdown.verify(written, order[1:], value) == Score(0.0, "wrong numbers")


@pytest.mark.parametrize(
  ("answer", "score"),
  [
    ("3*5+12", Score(1.0, "correct")),
    ("12 + (5 * 3)", Score(1.0, "correct")),
    ("-(-12)+5*3", Score(1.0, "correct")),
    ("3*5-12", Score(0.0, "wrong")),
    ("27", Score(0.0, "wrong numbers")),
    ("3*5", Score(0.0, "wrong numbers")),
    ("3*5+12+0", Score(0.0, "wrong numbers")),
    ("3+3+5+12", Score(0.0, "wrong numbers")),
    ("3*5+12=27", Score(0.0, "forbidden character")),
    ("the answer is 3*5+12", Score(0.0, "forbidden character")),
    ("12/(5-5)*3", Score(0.0, "wrong numbers")),
    ("3*5+", Score(0.0, "malformed")),
    ("3*5+12" + " " * 200, Score(0.0, "too long")),
  ],
)
def test_verdicts_by_hand(answer, score):
  assert countdown.verify(answer, (3, 5, 12), 27) == score


def test_division_by_zero_is_a_reason():
  assert countdown.verify("4/(2-2)", (2, 2, 4), 4) == Score(0.0, "division by zero")


def test_values_are_exact():
  assert countdown.verify("8/(3-8/3)", (3, 3, 8, 8), 24) == Score(1.0, "correct")


def test_recorded_cases():
  path = CASES / "countdown_cases_dev.jsonl"
  if not path.exists():
    pytest.skip("the recorded verifier cases (shared/spec/verifier_cases) are not beside the repo")
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(rows) >= 200
  wrong = [
    row["id"]
    for row in rows
    if bool(countdown.verify(row["answer"], tuple(row["nums"]), row["target"]).value)
    != row["expected"]
  ]
  assert wrong == []


@pytest.mark.parametrize(
  ("a", "b", "limit", "steps"),
  [
    (6, 3, 99, ["6+3=9", "6-3=3", "6*3=18", "6/3=2"]),
    (3, 6, 99, ["3+6=9", "6-3=3", "3*6=18", "6/3=2"]),
    (5, 5, 99, ["5+5=10", "5*5=25", "5/5=1"]),
    (7, 4, 12, ["7+4=11", "7-4=3"]),
  ],
)
def test_combine(a, b, limit, steps):
  assert [str(step) for step in countdown.combine(a, b, limit)] == steps


def brute_force(numbers: tuple[int, ...], limit: int) -> set[int]:
  """Results of (a op b) op c and c op (a op b) over all orders, staying in 1..limit."""

  def results(a: int, b: int) -> set[int]:
    found = {a + b, a - b, a * b} | ({a // b} if a % b == 0 else set())
    return {result for result in found if 1 <= result <= limit}

  reached = set()
  for a, b, c in itertools.permutations(numbers):
    for inner in results(a, b):
      reached |= results(inner, c) | results(c, inner)
  return reached


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.tuples(*[st.integers(1, 12)] * 3))
def test_attempts_reach_what_brute_force_reaches_and_are_what_they_say(numbers):
  attempts = countdown.attempts(numbers, 99)
  assert len(set(attempts)) == len(attempts)
  assert {second.result for _, second in attempts} == brute_force(numbers, 99)
  for first, second in attempts:
    written = countdown.expression(first, second)
    assert countdown.verify(written, numbers, second.result) == Score(1.0, "correct")


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.sampled_from(base.SPLITS), INDEX, INDEX)
def test_problems_are_solvable_and_repeatable(split, seed, index):
  task = countdown.Countdown()
  problem = task.problem(split, seed, index)
  numbers, target = countdown.read_prompt(problem.prompt)
  assert problem == task.problem(split, seed, index)
  assert problem.prompt == ",".join(map(str, sorted(numbers))) + f":{target}="
  assert problem.answer == str(target)
  assert all(1 <= number <= 12 for number in numbers)
  assert target in brute_force(numbers, 99)
  assert problem.difficulty >= 1


def test_difficulty_is_tries_over_solutions():
  # (1,1) gives 2, 1 and 1, which with 2 give 3, 4 and 4 tries; (1,2) gives 3, 1, 2 and 2, which
  # with 1 give 4, 3, 4 and 4; 2+2, 2*2 and 3+1 reach 4.
  assert len(countdown.attempts((1, 1, 2), 99)) == 26
  task = countdown.Countdown(max_number=2)
  problems = (task.problem("train", 0, index) for index in range(200))
  assert {p.difficulty for p in problems if p.prompt == "1,1,2:4="} == {26 // 3}


def test_train_and_test_never_share_a_problem():
  task = countdown.Countdown(max_number=5)
  train = {task.problem("train", 0, index).prompt for index in range(600)}
  test = {task.problem("test", 0, index).prompt for index in range(300)}
  corpus = {task.document(0, index).split("<")[0] for index in range(300)}
  assert not train & test
  assert not corpus & test
  assert train & corpus


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(INDEX, INDEX, st.sampled_from([0.0, 1.0]))
def test_searchers_and_lucky_guessers_are_right(seed, index, direct_share):
  task = countdown.Countdown(direct_share=direct_share, lucky=1.0, noise=0.3)
  document = task.document(seed, index)
  prompt, _, response = document.partition("=")
  response = text.parse(response)
  score = task.accuracy(Problem(prompt + "=", "", 0), document[len(prompt) + 1 :])
  assert score == Score(1.0, "correct")
  assert response.thought == (direct_share == 0.0)


def test_notes_without_slips_are_true_and_end_at_the_target():
  task = countdown.Countdown(direct_share=0.0, noise=0.0, max_rejected=4)
  for index in range(60):
    prompt, _, response = task.document(0, index).partition("=")
    target = countdown.read_prompt(prompt)[1]
    notes = text.parse(response).thinking
    assert notes.endswith(f"={target}!")
    assert notes.count("!") == 1
    assert notes.count("?") <= 4
    for step in notes.replace("?", ",").replace("!", ",").rstrip(",").split(","):
      left, result = step.split("=")
      assert eval(left) == int(result)
    for rejected in notes.split("?")[:-1]:
      assert int(rejected.rsplit("=", 1)[1]) != target


def test_guessers_without_luck_are_mostly_wrong():
  task = countdown.Countdown(direct_share=1.0, lucky=0.0)
  right = 0
  for index in range(200):
    prompt, _, response = task.document(0, index).partition("=")
    score = task.accuracy(Problem(prompt + "=", "", 0), response)
    assert score.reason in ("correct", "wrong")
    right += score.value
  assert 0 < right < 40


def test_symbols_spell_every_text_with_one_token_a_number():
  task = countdown.Countdown(noise=0.2)
  symbols = tokenizer.of_symbols(task.symbols)
  for index in range(60):
    document = task.document(1, index)
    assert symbols.decode(symbols.encode(document)) == document
  assert len(symbols.encode("3,5,12:27=")) == 8


def test_accuracy_without_an_answer():
  problem = Problem("3,5,12:27=", "27", 1)
  assert countdown.Countdown().accuracy(problem, "(3*5)+12") == Score(0.0, "no answer")


def test_votes_count_expressions_not_spellings():
  key = countdown.Countdown().vote_key
  assert key("(3*5)+12") == key("12 + 5*3")
  assert key("(3*5)+12") != key("(3+5)*12")
  assert key("no idea") == "no idea"


@pytest.mark.parametrize(
  ("prompt", "read"), [("3,5,12:27=", ((3, 5, 12), 27)), ("1,1:2", ((1, 1), 2))]
)
def test_read_prompt(prompt, read):
  assert countdown.read_prompt(prompt) == read
