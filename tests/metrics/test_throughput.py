"""Timers: phases, compilations, rates, resumption, memory."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from reasonjax.metrics import throughput

BACKEND = "/jax/core/compile/backend_compile_duration"
TRACE = "/jax/core/compile/jaxpr_trace_duration"


@pytest.fixture
def clock(monkeypatch):
  """Seconds that pass only when told to."""
  now = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(throughput, "time", types.SimpleNamespace(perf_counter=lambda: now.seconds))
  return now


def test_phases_add_up(clock):
  phases = throughput.Phases()
  for seconds in (2.0, 3.0):
    with phases("generate"):
      clock.seconds += seconds
  with phases("train"):
    clock.seconds += 4.0
  assert dict(phases.seconds) == {"generate": 5.0, "train": 4.0, "compile": 0.0}


def test_compilation_is_taken_out_of_its_phase(clock):
  phases = throughput.Phases()
  with phases("train"):
    clock.seconds += 10.0
    jax.monitoring.record_event_duration_secs(TRACE, 1.0)
    jax.monitoring.record_event_duration_secs(BACKEND, 5.0)
    jax.monitoring.record_event_duration_secs("/jax/elsewhere", 2.0)
  assert phases.seconds["train"] == 4.0
  assert phases.seconds["compile"] == 6.0


def test_a_phase_that_fails_is_still_timed(clock):
  phases = throughput.Phases()

  def fail():
    with phases("train"):
      clock.seconds += 2.0
      raise RuntimeError("out of memory")

  with pytest.raises(RuntimeError, match="out of memory"):
    fail()
  assert phases.seconds["train"] == 2.0


def test_rate_is_count_per_second(clock):
  phases, amount = throughput.Phases(), jnp.int32(60)
  assert phases.rate("train") == 0
  with phases("train"):
    clock.seconds += 4.0
    phases.count("train", 100)
    phases.count("train", amount)
  assert phases.counts["train"] == 160
  assert phases.rate("train") == 40.0


def test_totals_survive_a_restart(clock):
  phases = throughput.Phases()
  with phases("train"):
    clock.seconds += 4.0
    phases.count("train", 100)
  again = throughput.Phases()
  again.restore(json.loads(json.dumps(phases.state())))
  with again("train"):
    clock.seconds += 1.0
    again.count("train", 25)
  assert again.seconds["train"] == 5.0
  assert again.rate("train") == 25.0


def test_compilations_count_programs_once():
  double = jax.jit(lambda x: x * 2.0 + 0.125)
  one, two = jnp.ones(3), jnp.ones(5)
  with throughput.compilations() as stats:
    double(one)
    assert stats.count == 1
    double(one)
    assert stats.count == 1
    double(two)
  assert stats.count == 2
  assert stats.seconds > 0


def test_compilations_stop_listening_after_the_block():
  with throughput.compilations() as stats:
    pass
  jax.monitoring.record_event_duration_secs(BACKEND, 5.0)
  assert (stats.count, stats.seconds) == (0, 0.0)


def test_nested_functions_do_not_count_their_tracing_twice():
  function = lambda x: x * 1.5
  for _ in range(8):
    function = jax.jit(lambda x, inner=function: inner(x) + inner(x * 2.0))
  phases = throughput.Phases()
  one = jnp.float32(1.0)
  with phases("train"):
    function(one)
  assert phases.seconds["train"] >= 0


def test_peak_memory_is_that_of_a_process_with_jax_in_it():
  assert 0.05 < throughput.peak_memory_gb() < 200
