"""Advantages from rewards."""

from __future__ import annotations

import jax
import jax.numpy as jnp

BASELINES = ("none", "mean")
SCALES = ("none", "std")


def group(
  reward_PxG: jax.Array,
  *,
  baseline: str = "mean",
  scale: str = "std",
  ddof: int = 1,
  eps: float = 1e-6,
  flat_tolerance: float = 1e-6,
) -> jax.Array:
  r"""Group-relative advantages: rewards against those of the other samples of the same prompt.

  .. math:: A_{p,g} = (r_{p,g} - \mathrm{mean}_g r_{p,g}) / (\mathrm{std}_g r_{p,g} + \epsilon)

  A flat group (all rewards equal up to rounding) gets exactly 0: left to `eps`, rounding residue
  divided by a near-zero deviation can become an advantage of order one. Without baseline and scale
  the rewards are returned as they are.

  Args:
    reward_PxG: rewards of G samples of each of P prompts.
    baseline: "mean", or "none" to subtract nothing.
    scale: "std" (GRPO, DAPO) or "none" (Dr.GRPO).
    ddof: 1 for the sample deviation (what published implementations use), 0 for the population's.
    eps: added to the deviation.
    flat_tolerance: a group is flat if max - min is at most this times max(1, max |r|).

  Returns: `[P, G]` float32.

  Raises:
    ValueError: for an unknown option, non-floating rewards, or G = 1 with a baseline or scale.

  Implements: R1 Eq. 3

  >>> print(group(jnp.array([[1.0, 0.0, 0.0, 0.0]])).round(4))
  [[ 1.5 -0.5 -0.5 -0.5]]
  >>> print(group(jnp.array([[1.0, 0.0, 0.0, 0.0]]), scale="none"))
  [[ 0.75 -0.25 -0.25 -0.25]]
  """
  if baseline not in BASELINES:
    raise ValueError(f"baseline={baseline!r}: choose from {BASELINES}.")
  if scale not in SCALES:
    raise ValueError(f"scale={scale!r}: choose from {SCALES}.")
  if not jnp.issubdtype(reward_PxG.dtype, jnp.floating):
    raise ValueError(f"rewards are {reward_PxG.dtype}: give floats, integers would truncate.")
  if reward_PxG.shape[1] < 2 and (baseline != "none" or scale != "none"):
    raise ValueError("a group of one sample has no baseline or scale; sample at least 2.")
  reward = reward_PxG.astype(jnp.float32)
  advantage = reward
  if baseline == "mean":
    advantage = advantage - reward.mean(axis=1, keepdims=True)
  if scale == "std":
    advantage = advantage / (reward.std(axis=1, ddof=ddof, keepdims=True) + eps)
  if baseline == "none" and scale == "none":
    return advantage
  return jnp.where(flat(reward, flat_tolerance)[:, None], 0.0, advantage)


def flat(reward_PxG: jax.Array, tolerance: float = 1e-6) -> jax.Array:
  """`[P]` bool: groups whose rewards are all equal up to rounding, and teach nothing.

  >>> flat(jnp.array([[1.0, 1.0], [1.0, 0.0]])).tolist()
  [True, False]
  """
  spread_P = reward_PxG.max(axis=1) - reward_PxG.min(axis=1)
  return spread_P <= tolerance * jnp.maximum(jnp.abs(reward_PxG).max(axis=1), 1.0)
