"""Off-policy correction: weights for tokens whose sampler was not the trainer's own old policy.

Even with equal weights a sampler (another kernel, precision or sharding, or stale weights) gives
other probabilities than the trainer. The weight multiplies each token's policy loss; no gradient
flows through it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from reasonjax.losses import ratio

MODES = ("none", "token_trunc", "token_mask", "seq_trunc", "seq_mask", "geo_mask")


def weights(
  old_logp_BxT: jax.Array,
  sampler_logp_BxT: jax.Array,
  mask_BxT: jax.Array,
  segment_BxT: jax.Array,
  *,
  mode: str,
  low: float,
  high: float,
) -> jax.Array:
  r"""Weight of every token, from :math:`w_t = \pi_{old}(o_t) / \pi_{sampler}(o_t)`.

  ============  ===========================================================
  mode          weight
  ============  ===========================================================
  none          1
  token_trunc   :math:`\min(w_t, high)` (truncated importance sampling)
  token_mask    :math:`w_t` where low <= w_t <= high, else 0 (IcePop)
  seq_trunc     :math:`\min(\prod_t w_t, high)`
  seq_mask      :math:`\prod_t w_t` where it is in [low, high], else 0
  geo_mask      1 where the geometric mean of w_t is in [low, high], else 0
  ============  ===========================================================

  Args:
    old_logp_BxT: log-probabilities under the trainer's weights at rollout time.
    sampler_logp_BxT: under the sampler.
    mask_BxT: 1 on sampled tokens.
    segment_BxT: int32 sequence numbers of packed rows.
    mode: one of MODES.
    low: lower bound, >= 0.
    high: upper bound.

  Returns: `[B, T]` float32, without gradient.

  Raises:
    ValueError: for an unknown mode.

  Source: token truncation from "Your efficient RL framework secretly brings you off-policy RL
  training" (Yao et al. 2025); masks from IcePop (2025).
  """
  if mode not in MODES:
    raise ValueError(f"correction={mode!r}: choose from {MODES}.")
  if mode == "none":
    return jnp.ones(old_logp_BxT.shape, jnp.float32)
  pair = (jax.lax.stop_gradient(old_logp_BxT), sampler_logp_BxT)
  if mode.startswith("token"):
    weight = ratio.token_ratio(*pair)
  else:
    weight = ratio.sequence_ratio(*pair, mask_BxT, segment_BxT, per_token=mode == "geo_mask")
  if mode.endswith("trunc"):
    return jnp.minimum(weight, high)
  inside = (weight >= low) & (weight <= high)
  return jnp.where(inside, 1.0 if mode == "geo_mask" else weight, 0.0)
