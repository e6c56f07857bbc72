"""Policy-gradient objectives: one loss, and the named points of its option space."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from reasonjax.core.types import RLBatch
from reasonjax.losses import advantage, aggregate, correction, kl, ratio, surrogate
from reasonjax.losses.lm import Metrics

SURROGATES = ("ppo_clip", "policy_ratio", "cispo", "reinforce", "mirror_descent")
WHITENINGS = ("none", "token", "sequence")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
  """An algorithm: how rewards become advantages, and advantages a loss.

  Attributes:
    baseline: one of advantage.BASELINES.
    scale: one of advantage.SCALES.
    ddof: degrees of freedom taken off in the deviation.
    eps: added to the deviation.
    whiten: give the advantages of the whole rollout zero mean and unit variance, counted by
      "token" or by "sequence"; or "none".
    drop_flat_groups: leave prompts whose samples are all right or all wrong out of the batch.
    surrogate: one of SURROGATES.
    ratio_level: one of ratio.LEVELS: what is clipped or weighted, each token's ratio, the
      geometric mean of a response's ("seq_geo"), or their product ("seq_sum").
    clip_low: epsilon below 1; for "cispo" the weight's lower bound is 1 - clip_low.
    clip_high: epsilon above 1; for "cispo" the weight's upper bound is 1 + clip_high.
    dual_clip: bound c of the objective for negative advantages, or None.
    mirror_tau: pull of "mirror_descent" towards the old policy.
    aggregation: one of aggregate.MODES.
    correction: one of correction.MODES, for a sampler that is not the old policy.
    correction_low: lower bound of its weight, where it has one.
    correction_high: upper bound of its weight.
    kl_estimator: one of KL_ESTIMATORS, against the reference policy, in the loss.
    kl_coefficient: beta; 0 needs no reference policy.
    entropy_coefficient: bonus on the mean token entropy.
  """

  baseline: str
  scale: str
  ddof: int
  eps: float
  whiten: str
  drop_flat_groups: bool
  surrogate: str
  ratio_level: str
  clip_low: float
  clip_high: float
  dual_clip: float | None
  mirror_tau: float
  aggregation: str
  correction: str
  correction_low: float
  correction_high: float
  kl_estimator: str
  kl_coefficient: float
  entropy_coefficient: float

  def __post_init__(self):
    _choice("baseline", self.baseline, advantage.BASELINES)
    _choice("scale", self.scale, advantage.SCALES)
    _choice("whiten", self.whiten, WHITENINGS)
    _choice("surrogate", self.surrogate, SURROGATES)
    _choice("ratio_level", self.ratio_level, ratio.LEVELS)
    _choice("aggregation", self.aggregation, aggregate.MODES)
    _choice("correction", self.correction, correction.MODES)
    _choice("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
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
    if self.mirror_tau < 0:
      raise ValueError(f"mirror_tau={self.mirror_tau} must not be negative.")
    if not 0 <= self.correction_low <= self.correction_high:
      raise ValueError(
        f"correction_low={self.correction_low} must be in 0..correction_high="
        f"{self.correction_high}."
      )
    self._check_level()

  def _check_level(self):
    """A loss of whole responses is the same on all their tokens, so its mean over them is it."""
    if self.surrogate == "mirror_descent" and self.ratio_level != "seq_sum":
      raise ValueError(
        f"ratio_level={self.ratio_level!r}: mirror_descent is about whole responses, 'seq_sum'."
      )
    if self.surrogate in ("cispo", "reinforce") and self.ratio_level != "token":
      raise ValueError(
        f"ratio_level={self.ratio_level!r}: {self.surrogate} weighs tokens, use 'token'."
      )
    if self.ratio_level != "token" and self.aggregation != "seq_mean_token_mean":
      raise ValueError(
        f"aggregation={self.aggregation!r}: with ratio_level={self.ratio_level!r} each response "
        "has one loss; use 'seq_mean_token_mean', the mean over responses."
      )


KL_ESTIMATORS = (*kl.ESTIMATORS, "ratio_k3")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{name}={value!r}: choose from {choices}.")


_GRPO = PolicyConfig(
  baseline="mean",
  scale="group_std",
  ddof=1,
  eps=1e-6,
  whiten="none",
  drop_flat_groups=False,
  surrogate="ppo_clip",
  ratio_level="token",
  clip_low=0.2,
  clip_high=0.2,
  dual_clip=None,
  mirror_tau=0.1,
  aggregation="seq_mean_token_mean",
  correction="none",
  correction_low=0.0,
  correction_high=2.0,
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
  # REINFORCE++-baseline (2501.03262): group mean, then whitened over all tokens; k2 in the loss.
  "rf_pp_baseline": dataclasses.replace(
    _GRPO,
    scale="none",
    whiten="token",
    aggregation="token_mean",
    kl_estimator="k2",
    kl_coefficient=0.001,
  ),
  # GSPO (2507.18071): one ratio a response, clipped narrowly.
  "gspo": dataclasses.replace(
    _GRPO, ratio_level="seq_geo", clip_low=3e-4, clip_high=4e-4, kl_coefficient=0.0
  ),
  # CISPO (2506.13585): the clipped ratio is a weight; its cap, 5, is ScaleRL's.
  "cispo": dataclasses.replace(
    _GRPO,
    surrogate="cispo",
    clip_low=1.0,
    clip_high=4.0,
    aggregation="token_mean",
    kl_coefficient=0.0,
    drop_flat_groups=True,
  ),
  # PPO without a critic: group mean, deviation of the whole batch (2508.08221).
  "ppo_lite": dataclasses.replace(
    _GRPO, scale="batch_std", aggregation="token_mean", kl_coefficient=0.0
  ),
  # GRPO as DeepSeek-GRM uses it (2504.02495), whose rewards are +1 and -1.
  "spct_rl": dataclasses.replace(_GRPO, kl_coefficient=0.08),
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
  r"""Policy objective on packed rollouts, as a loss.

  .. math:: L = \frac{\sum_{i,t} n_{i,t} \big( w_{i,t} S_{i,t}
    + \beta \, KL_{i,t} - c_H H_{i,t} \big)}{\sum_{i,t} d_{i,t}}

  with the surrogate S, :math:`-\min(\rho A, \mathrm{clip}(\rho) A)` in GRPO, the off-policy
  correction w, and the weights n and d of the chosen aggregation, carried by the batch.

  Args:
    logp_BxT: current log-probability of each token; gradients flow through it.
    entropy_BxT: entropy of the distribution that each token was predicted from.
    batch: packed rollouts with advantages, old and reference log-probabilities and weights.
    config: the algorithm.

  Returns: total, weight and metrics (sums with their weights).

  Implements: R1 Eq. 1; DeepSeekMath Eq. 3
  """
  ratio_BxT = ratio.token_ratio(logp_BxT, batch.old_logp_BxT)
  level_BxT = ratio_BxT
  if config.ratio_level != "token":
    per_token = config.ratio_level == "seq_geo"
    level_BxT = ratio.sequence_ratio(*_sequences(logp_BxT, batch), per_token=per_token)
  loss_BxT = _surrogate(logp_BxT, level_BxT, batch, config)
  if config.correction != "none":
    loss_BxT *= correction.weights(
      batch.old_logp_BxT,
      batch.sampler_logp_BxT,
      batch.mask_BxT,
      batch.segment_BxT,
      mode=config.correction,
      low=config.correction_low,
      high=config.correction_high,
    )
  if config.kl_coefficient:
    loss_BxT += config.kl_coefficient * _kl(logp_BxT, ratio_BxT, batch, config)
  if config.entropy_coefficient:
    loss_BxT -= config.entropy_coefficient * entropy_BxT
  total = (batch.numerator_BxT * loss_BxT).sum()
  metrics = _metrics(logp_BxT, entropy_BxT, level_BxT, batch, config)
  return total, batch.denominator_BxT.sum(), metrics


def _sequences(logp_BxT, batch: RLBatch):
  return logp_BxT, batch.old_logp_BxT, batch.mask_BxT, batch.segment_BxT


def _surrogate(logp_BxT, ratio_BxT, batch: RLBatch, config: PolicyConfig) -> jax.Array:
  """The chosen surrogate of every token; of its response, where ratios are of responses."""
  A = batch.advantage_BxT
  low, high = config.clip_low, config.clip_high
  if config.surrogate == "policy_ratio":
    return surrogate.policy_ratio(ratio_BxT, A)
  if config.surrogate == "reinforce":
    return surrogate.reinforce(logp_BxT, A)
  if config.surrogate == "cispo":
    return surrogate.cispo(logp_BxT, ratio_BxT, A, cap=1.0 + high, floor=1.0 - low)
  if config.surrogate == "mirror_descent":
    rho_BxT = ratio.sequence_log_ratio(*_sequences(logp_BxT, batch), per_token=False)
    return surrogate.mirror_descent(rho_BxT, A, tau=config.mirror_tau)
  return surrogate.ppo_clip(ratio_BxT, A, low=low, high=high, dual_clip=config.dual_clip)


def _kl(logp_BxT, ratio_BxT, batch: RLBatch, config: PolicyConfig) -> jax.Array:
  if config.kl_estimator == "ratio_k3":
    return kl.ratio_k3(logp_BxT, batch.ref_logp_BxT, ratio_BxT)
  return kl.ESTIMATORS[config.kl_estimator](logp_BxT, batch.ref_logp_BxT)


def _metrics(logp, entropy, rho, batch: RLBatch, config: PolicyConfig) -> Metrics:
  """Token means of what tells a healthy run from a sick one."""
  mask, count = batch.mask_BxT, batch.mask_BxT.sum()
  logp = jax.lax.stop_gradient(logp)
  means = {
    "entropy": entropy,
    "ratio": rho,
    "clip_low": surrogate.clipped_low(rho, batch.advantage_BxT, config.clip_low),
    "clip_high": surrogate.clipped_high(rho, batch.advantage_BxT, config.clip_high),
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
