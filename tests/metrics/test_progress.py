"""Progress without a terminal, and short numbers."""

import math

import jax
import jax.numpy as jnp
import pytest

from reasonjax.metrics import progress


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
  for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
  ("value", "shown"),
  [
    (1.23456, "1.23"),
    (0.000123456, "0.000123"),
    (31234.5, "31,234"),
    (-2500.4, "-2,500"),
    (999.6, "1e+03"),
    (7, "7"),
    (7.0, "7"),
    (0, "0"),
    (1234567, "1,234,567"),
    (True, "1"),
    (jnp.float32(0.5), "0.5"),
  ],
)
def test_values_are_short(value, shown):
  assert progress.format_values({"x": value}) == f"x {shown}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_shown_too(value):
  assert progress.format_values({"loss": value, "n": 2}) == f"loss {value} n 2"


def test_nothing_to_show():
  assert progress.format_values({}) == ""


def test_the_last_step_leaves_a_line(capsys):
  with progress.Bar("train", 3) as bar:
    bar.update(1, {"loss": 2.0})
    bar.update(2, {"loss": 1.5})
    assert capsys.readouterr().err == ""
    bar.update(3, {"loss": 1.25})
  captured = capsys.readouterr()
  assert captured.err == "train 3/3 loss 1.25, 0 s left\n"
  assert captured.out == ""


def test_lines_come_now_and_then_with_the_time_left(capsys, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  bar = progress.Bar("train", 20, start=10)
  for step, seconds in ((11, 110.0), (12, 120.0), (13, 130.0), (14, 140.0)):
    now[0] = seconds
    bar.update(step, {"loss": 1.0})
  # Every other step is more than 15 seconds after the last line; a step takes 10 seconds.
  assert capsys.readouterr().err.splitlines() == [
    "train 12/20 loss 1, 80 s left",
    "train 14/20 loss 1, 60 s left",
  ]


def test_other_processes_are_silent(capsys, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with progress.Bar("train", 1) as bar:
    bar.update(1, {"loss": 1.0})
  assert capsys.readouterr().err == ""
