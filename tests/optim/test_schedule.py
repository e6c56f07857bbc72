"""Learning rates against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.optim import schedule

PEAK, WARMUP, TOTAL, FINAL = 0.4, 4, 24, 0.1


def closed_form(name: str, step: int) -> float:
  if step < WARMUP:
    return PEAK * (step + 1) / WARMUP
  done = min((step - WARMUP) / (TOTAL - WARMUP), 1.0)
  if name == "constant":
    return PEAK
  if name == "linear":
    return PEAK * (1 - done * (1 - FINAL))
  if name == "cosine":
    return PEAK * (FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * done)))
  return PEAK * (1 - max(0.0, done - 0.8) / 0.2 * (1 - FINAL))


@pytest.mark.parametrize("name", schedule.NAMES)
@pytest.mark.parametrize("jitted", [False, True])
def test_closed_form(name, jitted):
  rate = schedule.build(
    name, peak=PEAK, warmup_steps=WARMUP, total_steps=TOTAL, final_fraction=FINAL
  )
  rate = jax.jit(rate) if jitted else rate
  steps = range(TOTAL + 3)
  got = [float(rate(jnp.asarray(step, jnp.int32))) for step in steps]
  np.testing.assert_allclose(got, [closed_form(name, step) for step in steps], rtol=2e-6)


@pytest.mark.parametrize(
  ("name", "values"),
  [
    ("constant", [2.0, 2.0, 2.0, 2.0]),
    ("linear", [2.0, 1.75, 1.25, 1.0]),
    ("cosine", [2.0, 1.8535534, 1.1464466, 1.0]),
    ("wsd", [2.0, 2.0, 2.0, 1.0]),
  ],
)
def test_values_by_hand_without_warmup(name, values):
  rate = schedule.build(name, peak=2.0, warmup_steps=0, total_steps=8, final_fraction=0.5)
  assert [float(rate(step)) for step in (0, 2, 6, 8)] == pytest.approx(values, rel=1e-6)


def test_wsd_decays_over_the_last_fifth_of_what_follows_the_warmup():
  rate = schedule.build("wsd", peak=1.0, warmup_steps=10, total_steps=110, final_fraction=0.0)
  got = [float(rate(step)) for step in (10, 89, 90, 95, 100, 109, 110)]
  assert got == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.5, 0.05, 0.0], abs=1e-6)


@pytest.mark.parametrize("name", schedule.NAMES)
@pytest.mark.parametrize(("warmup", "total"), [(1, 1), (3, 3), (1, 2), (2, 4)])
def test_short_runs_warm_up_to_the_peak(name, warmup, total):
  rate = schedule.build(name, peak=1.0, warmup_steps=warmup, total_steps=total, final_fraction=0.0)
  got = [float(rate(step)) for step in range(warmup)]
  assert got == pytest.approx([(step + 1) / warmup for step in range(warmup)], rel=1e-6)
  assert all(math.isfinite(float(rate(step))) for step in range(total + 1))


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match=r"^schedule='step': choose from \('constant', 'cosine'"):
    schedule.build("step", peak=1.0, warmup_steps=0, total_steps=1, final_fraction=0.0)


@pytest.mark.parametrize("warmup", [-1, 6])
def test_a_warmup_outside_the_run_is_refused(warmup):
  with pytest.raises(ValueError, match=rf"^warmup_steps={warmup}: choose 0..total_steps=5"):
    schedule.build("linear", peak=1.0, warmup_steps=warmup, total_steps=5, final_fraction=0.0)
