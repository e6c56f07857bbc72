"""Splits and random streams that all generated tasks share."""

import pytest

from reasonjax.core.types import Problem
from reasonjax.tasks import base


def make(rng) -> Problem:
  return Problem(f"{rng.randrange(10**6)}=", "0", 1)


# CRC-32 of "123456789" is the algorithm's published check value; nothing at all has 0.
@pytest.mark.parametrize(("prompt", "checksum"), [("123456789", 0xCBF43926), ("", 0)])
def test_held_out_is_decided_by_the_checksum_of_the_text(prompt, checksum):
  assert base.held_out(prompt) == (checksum % 10 == 0)


def test_about_one_problem_in_ten_is_held_out():
  share = sum(base.held_out(f"{number}=") for number in range(4000)) / 4000
  assert abs(share - 0.1) < 0.02


@pytest.mark.parametrize("split", base.SPLITS)
def test_draw_stays_inside_its_split(split):
  rng = base.generator("unit", split)
  prompts = {base.draw(split, rng, make).prompt for _ in range(200)}
  assert {base.held_out(prompt) for prompt in prompts} == {split == "test"}
  assert len(prompts) > 150


def test_draw_refuses_an_unknown_split():
  with pytest.raises(ValueError, match=r"^split='dev': choose from \('train', 'test'\)"):
    base.draw("dev", base.generator("unit"), make)


def test_streams_repeat_by_name_and_differ_between_names():
  def first(*names):
    return [base.generator(*names).randrange(10**9) for _ in range(2)]

  assert len(set(first("chain", "train", 0, 7))) == 1
  streams = [
    ("chain", "train", 0, 7),
    ("chain", "train", 7, 0),
    ("chain", "test", 0, 7),
    ("chain",),
  ]
  assert len({first(*names)[0] for names in streams}) == 4


def test_streams_are_the_same_on_every_machine():
  assert base.generator("chain", "train", 0, 7).random() == 0.8877867918278726
