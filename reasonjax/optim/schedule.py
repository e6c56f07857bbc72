"""Learning-rate schedules by name, all with a linear warm-up."""

from __future__ import annotations

import jax.numpy as jnp
import optax

NAMES = ("constant", "cosine", "linear", "wsd")


def build(
  name: str, *, peak: float, warmup_steps: int, total_steps: int, final_fraction: float
) -> optax.Schedule:
  """Learning rate as a function of the optimizer step, counted from 0.

  Args:
    name: what follows the warm-up: "constant"; "cosine" or "linear" decay over the rest; "wsd"
      (warm-up, stable, decay), linear over the last fifth.
    peak: learning rate after the warm-up.
    warmup_steps: steps over which it rises linearly to the peak; the first is peak / warmup_steps.
    total_steps: steps of the whole run.
    final_fraction: share of the peak at which a decay ends.

  Raises:
    ValueError: for an unknown name, or a warm-up longer than the run.

  >>> rate = build("linear", peak=1.0, warmup_steps=2, total_steps=6, final_fraction=0.5)
  >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 4, 6)]
  [0.5, 1.0, 1.0, 0.75, 0.5]
  """
  if name not in NAMES:
    raise ValueError(f"schedule={name!r}: choose from {NAMES}.")
  if not 0 <= warmup_steps <= total_steps:
    raise ValueError(f"warmup_steps={warmup_steps}: choose 0..total_steps={total_steps}.")
  rest, final = total_steps - warmup_steps, peak * final_fraction
  if name == "constant" or rest == 0:
    after = optax.constant_schedule(peak)
  elif name == "cosine":
    after = optax.cosine_decay_schedule(peak, rest, alpha=final_fraction)
  elif name == "linear":
    after = optax.linear_schedule(peak, final, rest)
  else:
    decay = max(rest // 5, 1)
    after = optax.linear_schedule(peak, final, decay, transition_begin=rest - decay)
  if warmup_steps:
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    after = optax.join_schedules([warmup, after], [warmup_steps])
  return lambda step: after(jnp.asarray(step, jnp.float32))
