"""From token losses to one number: every aggregation is a pair of token weights.

The aggregated loss is `sum(numerator * loss) / sum(denominator)` over the whole optimizer batch.
Both sums add over microbatches and devices, and the weights travel with the tokens, so packing,
splitting and shuffling sequences change nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MODES = (
  "token_mean",
  "seq_mean_token_mean",
  "seq_mean_token_sum",
  "seq_mean_token_const",
  "group_token_mean",
)


def token_weights(
  mask_BxT: jax.Array, mode: str, *, group: int = 1, max_length: int | None = None
) -> tuple[jax.Array, jax.Array]:
  r"""Weights that make `sum(n * l) / sum(d)` the aggregation of the given name.

  With l the token losses, m the mask and :math:`|o_i| = \sum_t m_{i,t}`:

  ========================  ==========================================================  ==========
  mode                      value                                                       used by
  ========================  ==========================================================  ==========
  token_mean                :math:`\sum_{i,t} m l / \sum_{i,t} m`                       DAPO
  seq_mean_token_mean       :math:`\mathrm{mean}_i \sum_t m l / |o_i|`                  GRPO
  seq_mean_token_sum        :math:`\mathrm{mean}_i \sum_t m l`                          RLOO
  seq_mean_token_const      :math:`\mathrm{mean}_i \sum_t m l / L`                      Dr.GRPO
  group_token_mean          mean over groups of the group's token mean                  DAPO Eq. 8
  ========================  ==========================================================  ==========

  Rows without any masked token count nowhere.

  Args:
    mask_BxT: 1 on tokens that count; B = P * group, group-major.
    mode: one of MODES.
    group: G, for group_token_mean.
    max_length: L, for seq_mean_token_const.

  Returns: numerator and denominator weights, `[B, T]` float32 each.

  Raises:
    ValueError: for an unknown mode, or a mode without what it needs.

  >>> loss = jnp.array([[1.0, 3.0, 0.0, 0.0], [2.0, 2.0, 2.0, 6.0]])
  >>> mask = jnp.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
  >>> for mode in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum"):
  ...   n, d = token_weights(mask, mode)
  ...   print(mode, ((n * loss).sum() / d.sum()).round(4))
  token_mean 2.6667
  seq_mean_token_mean 2.5
  seq_mean_token_sum 8.0
  """
  mask = mask_BxT.astype(jnp.float32)
  per_sequence = mask / jnp.maximum(mask.sum(axis=1, keepdims=True), 1.0)
  if mode == "token_mean":
    return mask, mask
  if mode == "seq_mean_token_mean":
    return per_sequence, per_sequence
  if mode == "seq_mean_token_sum":
    return mask, per_sequence
  if mode == "seq_mean_token_const":
    if not max_length or max_length < 1:
      raise ValueError(f"max_length={max_length}: seq_mean_token_const needs its constant divisor.")
    return mask / max_length, per_sequence
  if mode == "group_token_mean":
    if mask.shape[0] % group:
      raise ValueError(f"{mask.shape[0]} sequences are not a multiple of group={group}.")
    tokens_P = mask.reshape(-1, group * mask.shape[1]).sum(axis=1)
    per_group = mask / jnp.maximum(jnp.repeat(tokens_P, group), 1.0)[:, None]
    return per_group, per_group
  raise ValueError(f"aggregation={mode!r}: choose from {MODES}.")
