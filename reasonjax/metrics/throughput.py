"""Where the time goes: phases, tokens a second, compilations, memory."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax

_COMPILE_EVENTS = "/jax/core/compile/"
_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"


class Compilations:
  """What the compiler did: number of compiled programs and seconds of tracing and compiling."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0

  def _listen(self, event: str, duration: float, **_) -> None:
    if event.startswith(_COMPILE_EVENTS):
      self.seconds += duration
      self.count += event == _BACKEND_COMPILE


@contextlib.contextmanager
def compilations() -> Iterator[Compilations]:
  """Counts compilations while the block runs, in all threads of this process."""
  stats = Compilations()
  jax.monitoring.register_event_duration_secs_listener(stats._listen)
  try:
    yield stats
  finally:
    jax.monitoring.unregister_event_duration_listener(stats._listen)


class Phases:
  """Seconds and counts by phase; compilation is taken out of the phase it happens in.

  >>> phases = Phases()
  >>> with phases("generate"):
  ...   phases.count("generate", 100)
  >>> phases.counts["generate"], phases.rate("generate") > 0
  (100, True)
  """

  def __init__(self):
    self.seconds: dict[str, float] = defaultdict(float)
    self.counts: dict[str, int] = defaultdict(int)

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Adds the wall time of the block to a phase, and what was compiled in it to "compile"."""
    start = time.perf_counter()
    with compilations() as compiled:
      try:
        yield
      finally:
        self.seconds[name] += time.perf_counter() - start - compiled.seconds
        self.seconds["compile"] += compiled.seconds

  def count(self, name: str, amount: int) -> None:
    """Adds to what a phase has worked through, usually tokens."""
    self.counts[name] += int(amount)

  def rate(self, name: str) -> float:
    """Count per second of a phase; 0 before it ran."""
    return self.counts[name] / self.seconds[name] if self.seconds[name] else 0.0

  def state(self) -> dict[str, dict]:
    """JSON-ready totals, for `restore`."""
    return {"seconds": dict(self.seconds), "counts": dict(self.counts)}

  def restore(self, state: dict[str, dict]) -> None:
    """Goes on from the totals of an earlier process."""
    self.seconds.update(state["seconds"])
    self.counts.update(state["counts"])


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two programs timed in turn in one process, so that a noisy machine is noisy for both.

  Attributes:
    seconds: median of the first.
    reference_seconds: median of the second.
    ratio: median of reference / first, pair by pair; above 1 the first is faster.
  """

  seconds: float
  reference_seconds: float
  ratio: float


def compare(
  run: Callable[[], Any], reference: Callable[[], Any], *, repeats: int = 15
) -> Comparison:
  """Times two functions that return device arrays, after one call of each to compile.

  Args:
    run: first.
    reference: second.
    repeats: pairs; which of the two goes first alternates.
  """
  jax.block_until_ready((run(), reference()))
  seconds = {run: [], reference: []}
  for repeat in range(repeats):
    for program in (run, reference) if repeat % 2 else (reference, run):
      start = time.perf_counter()
      jax.block_until_ready(program())
      seconds[program].append(time.perf_counter() - start)
  pairs = zip(seconds[run], seconds[reference], strict=True)
  ratio = statistics.median(slow / fast for fast, slow in pairs)
  return Comparison(*(statistics.median(values) for values in seconds.values()), ratio)


def temporary_bytes(function: Callable, *args) -> int:
  """Bytes that the compiled function needs besides arguments and results, by the compiler."""
  return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def peak_memory_gb() -> float:
  """Peak memory in GB: of the first accelerator if it reports one, else of this process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 1e9
  unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
