"""Where the time goes: phases, tokens a second, compilations, memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

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


def peak_memory_gb() -> float:
  """Peak memory in GB: of the first accelerator if it reports one, else of this process."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"] / 1e9
  unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
