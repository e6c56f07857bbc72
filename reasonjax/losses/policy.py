"""Policy-gradient objectives: one loss, and the named points of its option space."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from reasonjax.core.types import RLBatch
from reasonjax.losses import advantage, aggregate, kl, surrogate
from reasonjax.losses.lm import Metrics
from reasonjax.losses.ratio import token_ratio


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
  """An algorithm: how rewards become advantages, and advantages a loss.

  Attributes:
    baseline: one of advantage.BASELINES.
    scale: one of advantage.SCALES.
    ddof: degrees of freedom taken off in the deviation.
    eps: added to the deviation.
    drop_flat_groups: leave prompts whose samples are all right or all wrong out of the batch.
    clip_low: epsilon below 1.
    clip_high: epsilon above 1.
    dual_clip: bound c of the objective for negative advantages, or None.
    aggregation: one of aggregate.MODES.
    kl_estimator: one of kl.ESTIMATORS, against the reference policy, in the loss.
    kl_coefficient: beta; 0 needs no reference policy.
    entropy_coefficient: bonus on the mean token entropy.
  """

  baseline: str
  scale: str
  ddof: int
  eps: float
  drop_flat_groups: bool
  clip_low: float
  clip_high: float
  dual_clip: float | None
  aggregation: str
  kl_estimator: str
  kl_coefficient: float
  entropy_coefficient: float

  def __post_init__(self):
    _choice("baseline", self.baseline, advantage.BASELINES)
    _choice("scale", self.scale, advantage.SCALES)
    _choice("aggregation", self.aggregation, aggregate.MODES)
    _choice("kl_estimator", self.kl_estimator, tuple(kl.ESTIMATORS))
    if self.ddof not in (0, 1) or self.eps < 0:
      raise ValueError(f"ddof={self.ddof} must be 0 or 1, eps={self.eps} not negative.")
    if self.kl_coefficient < 0:
      raise ValueError(f"kl_coefficient={self.kl_coefficient} must not be negative.")
    if self.kl_coefficient and self.kl_estimator == "k1":
      raise ValueError(
        "kl_estimator='k1' in the loss has zero expected gradient and does not regularise; use "
        "'k2' (exact gradient) or 'k3'."
      )
    if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
      raise ValueError(
        f"clip_low={self.clip_low} must be in 0..1, clip_high={self.clip_high} not negative."
      )
    if self.dual_clip is not None and self.dual_clip <= 1:
      raise ValueError(f"dual_clip={self.dual_clip}: give a bound above 1, or None.")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{name}={value!r}: choose from {choices}.")


_GRPO = PolicyConfig(
  baseline="mean",
  scale="group_std",
  ddof=1,
  eps=1e-6,
  drop_flat_groups=False,
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=None,
  aggregation="seq_mean_token_mean",
  kl_estimator="k3",
  kl_coefficient=0.04,
  entropy_coefficient=0.0,
)

PRESETS: dict[str, PolicyConfig] = {
  # DeepSeekMath (2402.03300), section 4.1.
  "grpo": _GRPO,
  # Dr.GRPO (2503.20783): no deviation, a constant instead of each response's length.
  "dr_grpo": dataclasses.replace(
    _GRPO, scale="none", aggregation="seq_mean_token_const", kl_coefficient=0.0
  ),
  # DAPO (2503.14476): clip-higher, token-level loss, no KL; groups all right or all wrong are left
  # out of the batch, not replaced by further samples.
  "dapo": dataclasses.replace(
    _GRPO, clip_high=0.28, aggregation="token_mean", kl_coefficient=0.0, drop_flat_groups=True
  ),
}


def preset(name: str, **options) -> PolicyConfig:
  """The named algorithm.

  Args:
    name: one of PRESETS.
    **options: fields to replace; None keeps the preset's value.

  Raises:
    ValueError: for an unknown name or option, or an invalid combination.

  >>> preset("dapo", clip_low=None, clip_high=0.3).clip_high
  0.3
  """
  if name not in PRESETS:
    raise ValueError(f"preset={name!r}: choose from {sorted(PRESETS)}.")
  known = {field.name for field in dataclasses.fields(PolicyConfig)}
  if set(options) - known:
    raise ValueError(f"options {sorted(set(options) - known)} are not among {sorted(known)}.")
  given = {key: value for key, value in options.items() if value is not None}
  return dataclasses.replace(PRESETS[name], **given)


def policy_loss(
  logp_BxT: jax.Array, entropy_BxT: jax.Array, batch: RLBatch, config: PolicyConfig
) -> tuple[jax.Array, jax.Array, Metrics]:
  r"""Group-relative policy objective on packed rollouts, as a loss.

  .. math:: L = \frac{\sum_{i,t} n_{i,t} \big( -\min(\rho A, \mathrm{clip}(\rho) A)
    + \beta \, KL_{i,t} - c_H H_{i,t} \big)}{\sum_{i,t} d_{i,t}}

  with the weights n and d of the chosen aggregation carried by the batch.

  Args:
    logp_BxT: current log-probability of each token; gradients flow through it.
    entropy_BxT: entropy of the distribution that each token was predicted from.
    batch: packed rollouts with advantages, old and reference log-probabilities and weights.
    config: the algorithm.

  Returns: total, weight and metrics (sums with their weights).

  Implements: R1 Eq. 1; DeepSeekMath Eq. 3
  """
  ratio_BxT = token_ratio(logp_BxT, batch.old_logp_BxT)
  clip = {"low": config.clip_low, "high": config.clip_high, "dual_clip": config.dual_clip}
  loss_BxT = surrogate.ppo_clip(ratio_BxT, batch.advantage_BxT, **clip)
  if config.kl_coefficient:
    estimate = kl.ESTIMATORS[config.kl_estimator]
    loss_BxT += config.kl_coefficient * estimate(logp_BxT, batch.ref_logp_BxT)
  if config.entropy_coefficient:
    loss_BxT -= config.entropy_coefficient * entropy_BxT
  total = (batch.numerator_BxT * loss_BxT).sum()
  metrics = _metrics(logp_BxT, entropy_BxT, ratio_BxT, batch, config)
  return total, batch.denominator_BxT.sum(), metrics


def _metrics(logp, entropy, ratio, batch: RLBatch, config: PolicyConfig) -> Metrics:
  """Token means of what tells a healthy run from a sick one."""
  mask, count = batch.mask_BxT, batch.mask_BxT.sum()
  logp = jax.lax.stop_gradient(logp)
  means = {
    "entropy": entropy,
    "ratio": ratio,
    "clip_low": surrogate.clipped_low(ratio, batch.advantage_BxT, config.clip_low),
    "clip_high": surrogate.clipped_high(ratio, batch.advantage_BxT, config.clip_high),
    "kl_old": kl.k3(logp, batch.old_logp_BxT),
    "sampler_gap": jnp.abs(batch.old_logp_BxT - batch.sampler_logp_BxT),
    "advantage_abs": jnp.abs(batch.advantage_BxT),
  }
  if config.kl_coefficient:
    means |= {
      "kl_ref_k1": kl.k1(logp, batch.ref_logp_BxT),
      "kl_ref_k3": kl.k3(logp, batch.ref_logp_BxT),
    }
  return {name: ((value.astype(jnp.float32) * mask).sum(), count) for name, value in means.items()}
