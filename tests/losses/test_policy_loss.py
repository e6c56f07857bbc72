"""The whole objective against float64 loops, its gradient, its metrics, and the presets."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.core.types import RLBatch
from reasonjax.losses import advantage, aggregate, policy

PROMPTS, GROUP, LENGTH, LIMIT = 3, 4, 9, 8
ROWS = PROMPTS * GROUP

CONFIGS = {
  "grpo": policy.preset("grpo"),
  "grpo with k2 and entropy": policy.preset(
    "grpo", kl_estimator="k2", kl_coefficient=0.3, entropy_coefficient=0.1
  ),
  "dr_grpo": policy.preset("dr_grpo"),
  "dr_grpo with k3": policy.preset("dr_grpo", kl_coefficient=0.5),
  "dapo": policy.preset("dapo"),
  "dapo with dual clip, by group": policy.preset(
    "dapo", dual_clip=3.0, aggregation="group_token_mean", entropy_coefficient=0.05
  ),
  "sums, population deviation": policy.preset(
    "grpo", aggregation="seq_mean_token_sum", ddof=0, clip_low=0.1, kl_coefficient=0.0
  ),
  "one ratio a response": policy.preset("gspo", clip_low=0.1, clip_high=0.1, kl_coefficient=0.2),
  "product of ratios": policy.preset("gspo", ratio_level="seq_sum", clip_high=0.5),
  "mirror descent": policy.preset(
    "gspo", surrogate="mirror_descent", ratio_level="seq_sum", scale="none", mirror_tau=0.3
  ),
  "cispo": policy.preset("cispo", clip_low=0.5, clip_high=0.5),
  "reinforce, ratio k3": policy.preset(
    "dapo", surrogate="reinforce", kl_estimator="ratio_k3", kl_coefficient=0.2
  ),
  "no clip, truncated weights": policy.preset(
    "grpo", surrogate="policy_ratio", correction="token_trunc", correction_high=1.01
  ),
  "masked tokens": policy.preset(
    "dapo", correction="token_mask", correction_low=0.99, correction_high=1.01
  ),
  "masked responses": policy.preset(
    "dapo", correction="geo_mask", correction_low=0.999, correction_high=1.002
  ),
}


@dataclasses.dataclass
class Data:
  """Float64 arrays `[B, T]`, and rewards `[P, G]`."""

  reward: np.ndarray
  mask: np.ndarray
  logp: np.ndarray
  old: np.ndarray
  ref: np.ndarray
  sampler: np.ndarray
  entropy: np.ndarray
  fixed: np.ndarray  # log-probabilities that no gradient flows through

  def batch(self, config) -> RLBatch:
    def single(x):
      return jnp.asarray(x, jnp.float32)

    advantage_PxG = advantage.group(
      single(self.reward),
      baseline=config.baseline,
      scale=config.scale,
      ddof=config.ddof,
      eps=config.eps,
    )
    numerator, denominator = aggregate.token_weights(
      single(self.mask), config.aggregation, group=GROUP, max_length=LIMIT
    )
    return RLBatch(
      ids_BxT=jnp.zeros(self.mask.shape, jnp.int32),
      segment_BxT=jnp.ones(self.mask.shape, jnp.int32),
      mask_BxT=single(self.mask),
      advantage_BxT=advantage_PxG.reshape(-1, 1) * single(self.mask),
      sampler_logp_BxT=single(self.sampler * self.mask),
      old_logp_BxT=single(self.old * self.mask),
      ref_logp_BxT=single(self.ref * self.mask),
      numerator_BxT=numerator,
      denominator_BxT=denominator,
    )

  def loss(self, config):
    logp, entropy = jnp.asarray(self.logp, jnp.float32), jnp.asarray(self.entropy, jnp.float32)
    return policy.policy_loss(logp, entropy, self.batch(config), config)


def make(seed=0) -> Data:
  """Off-policy data: ratios on both sides of every bound, one flat group, one empty row."""
  rng = np.random.default_rng(seed)
  shape = (ROWS, LENGTH)
  mask = np.zeros(shape)
  for row in range(ROWS):
    start = rng.integers(0, 3)
    mask[row, start : start + rng.integers(1, LENGTH - 2)] = row != 5
  logp = rng.uniform(-4, -0.2, shape)
  old = logp + rng.normal(0, 0.35, shape)
  old[:, ::4] -= 1.4 * mask[:, ::4]  # ratios above the dual clip's bound
  reward = rng.normal(size=(PROMPTS, GROUP))
  reward[1] = 0.3
  ref = logp + rng.normal(0, 0.5, shape)
  sampler = old + rng.normal(0, 0.01, shape)
  return Data(reward, mask, logp, old, ref, sampler, rng.uniform(0, 2, shape), logp)


def looped_token(data: Data, config, row, t, A) -> float:
  """Loss of one token: surrogate, correction, KL and entropy, each written out."""
  tokens = [s for s in range(LENGTH) if data.mask[row, s]]
  logp = data.logp[row, t]
  own = math.exp(logp - data.old[row, t])
  total = sum(data.logp[row, s] - data.old[row, s] for s in tokens)
  ratio = {
    "token": own,
    "seq_geo": math.exp(total / len(tokens)),
    "seq_sum": math.exp(total),
  }[config.ratio_level]
  low, high = 1 - config.clip_low, 1 + config.clip_high
  objective = min(ratio * A, min(max(ratio, low), high) * A)
  if config.dual_clip and A < 0:
    objective = max(objective, config.dual_clip * A)
  if config.surrogate == "policy_ratio":
    objective = ratio * A
  if config.surrogate == "reinforce":
    objective = A * logp
  if config.surrogate == "cispo":
    frozen = math.exp(data.fixed[row, t] - data.old[row, t])
    objective = min(max(frozen, low), high) * A * logp
  if config.surrogate == "mirror_descent":
    objective = A * total - config.mirror_tau / 2 * total * total
  gap = [math.exp(data.old[row, s] - data.sampler[row, s]) for s in tokens]
  mean_gap = math.prod(gap) ** (1 / len(gap))
  weight = math.exp(data.old[row, t] - data.sampler[row, t])
  inside = config.correction_low <= weight <= config.correction_high
  correction = {
    "none": 1.0,
    "token_trunc": min(weight, config.correction_high),
    "token_mask": weight if inside else 0.0,
    "geo_mask": float(config.correction_low <= mean_gap <= config.correction_high),
  }[config.correction]
  d = logp - data.ref[row, t]
  kl = {"k2": d * d / 2, "k3": math.exp(-d) - 1 + d, "ratio_k3": own * (math.exp(-d) - 1 + d)}
  bonus = config.entropy_coefficient * data.entropy[row, t]
  return -objective * correction + config.kl_coefficient * kl[config.kl_estimator] - bonus


def looped(data: Data, config) -> float:
  """The objective as the papers write it, one token at a time, in float64."""
  advantages = []
  for rewards in data.reward.tolist():
    mean = sum(rewards) / GROUP
    square = sum((r - mean) ** 2 for r in rewards) / (GROUP - config.ddof)
    divisor = math.sqrt(square) + config.eps if config.scale == "group_std" else 1.0
    flat = max(rewards) == min(rewards)
    advantages += [0.0 if flat else (r - mean) / divisor for r in rewards]

  sequences = [
    [
      looped_token(data, config, row, t, advantages[row])
      for t in range(LENGTH)
      if data.mask[row, t]
    ]
    for row in range(ROWS)
  ]

  if config.aggregation == "token_mean":
    tokens = list(itertools.chain(*sequences))
    return sum(tokens) / len(tokens)
  if config.aggregation == "group_token_mean":
    pooled = [list(itertools.chain(*sequences[i : i + GROUP])) for i in range(0, ROWS, GROUP)]
    return sum(sum(tokens) / len(tokens) for tokens in pooled) / len(pooled)
  present = [losses for losses in sequences if losses]
  divide = {
    "seq_mean_token_mean": len,
    "seq_mean_token_sum": lambda losses: 1,
    "seq_mean_token_const": lambda losses: LIMIT,
  }[config.aggregation]
  return sum(sum(losses) / divide(losses) for losses in present) / len(present)


def test_data_reaches_every_branch():
  data, config = make(), policy.preset("dapo", dual_clip=3.0)
  batch = data.batch(config)
  ratio = np.exp(data.logp - data.old)[data.mask > 0]
  A = np.asarray(batch.advantage_BxT)[data.mask > 0]
  for branch in (
    (A > 0) & (ratio > 1.28),
    (A > 0) & (ratio < 0.8),
    (A < 0) & (ratio < 0.8),
    (A < 0) & (ratio > 3.0),
    (A != 0) & (ratio > 0.8) & (ratio < 1.28),
    A == 0,
  ):
    assert branch.sum() >= 1


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_against_loops(config, seed):
  data = make(seed)
  total, weight, _ = data.loss(config)
  np.testing.assert_allclose(total / weight, looped(data, config), rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradient_against_differences_of_the_loops(config):
  data = make()

  def loss(logp):
    entropy = jnp.asarray(data.entropy, jnp.float32)
    total, weight, _ = policy.policy_loss(logp, entropy, data.batch(config), config)
    return total / weight

  gradient = np.asarray(jax.grad(loss)(jnp.asarray(data.logp, jnp.float32)))
  expected = np.zeros_like(data.logp)
  for at in np.argwhere(data.mask > 0):
    shifted = []
    for step in (1e-6, -1e-6):
      logp = data.logp.copy()
      logp[tuple(at)] += step
      shifted.append(looped(dataclasses.replace(data, logp=logp), config))
    expected[tuple(at)] = (shifted[0] - shifted[1]) / 2e-6
  # Prompts, padding and the empty row get exactly nothing.
  np.testing.assert_array_equal(gradient[data.mask == 0], 0.0)
  np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_entropy_bonus_has_its_gradient():
  data, config = make(), CONFIGS["grpo with k2 and entropy"]
  batch = data.batch(config)

  def loss(entropy):
    return policy.policy_loss(jnp.asarray(data.logp, jnp.float32), entropy, batch, config)[0]

  gradient = jax.grad(loss)(jnp.asarray(data.entropy, jnp.float32))
  np.testing.assert_allclose(gradient, -0.1 * batch.numerator_BxT, rtol=1e-6)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_on_policy_gradient_is_that_of_advantage_times_log_probability(name):
  """At ratio one no bound binds, and the objective is REINFORCE with the group's advantage."""
  config = policy.preset(name, kl_coefficient=0.0)
  rng = np.random.default_rng(3)
  token = rng.integers(0, 6, (ROWS, LENGTH))
  batch = make().batch(config)

  def log_probabilities(logits):
    chosen = jax.nn.one_hot(token, 6)
    return (jax.nn.log_softmax(logits) * chosen).sum(axis=-1)

  def ours(logits):
    logp = log_probabilities(logits)
    on_policy = batch.replace(old_logp_BxT=jax.lax.stop_gradient(logp))
    total, weight, _ = policy.policy_loss(logp, jnp.zeros_like(logp), on_policy, config)
    return total / weight

  def reinforce(logits):
    weighted = batch.numerator_BxT * batch.advantage_BxT * log_probabilities(logits)
    return -weighted.sum() / batch.denominator_BxT.sum()

  logits = jnp.asarray(rng.normal(size=(ROWS, LENGTH, 6)), jnp.float32)
  gradient = jax.grad(ours)(logits)
  assert jnp.abs(gradient).max() > 1e-3
  np.testing.assert_allclose(gradient, jax.grad(reinforce)(logits), rtol=1e-5, atol=1e-7)


def test_old_and_reference_policies_get_no_gradient():
  data, config = make(), policy.preset("grpo")
  batch, logp = data.batch(config), jnp.asarray(data.logp, jnp.float32)

  def loss(old):
    return policy.policy_loss(logp, logp, batch.replace(old_logp_BxT=old), config)[0]

  np.testing.assert_array_equal(jax.grad(loss)(batch.old_logp_BxT), 0.0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_microbatches_and_packing_add_up(config):
  """Rows split unequally, or their tokens moved into other rows, change no total."""
  data = make()
  batch = data.batch(config)
  logp, entropy = jnp.asarray(data.logp, jnp.float32), jnp.asarray(data.entropy, jnp.float32)
  whole = policy.policy_loss(logp, entropy, batch, config)

  parts = []
  for rows in (slice(0, 1), slice(1, 6), slice(6, ROWS)):
    part = jax.tree.map(lambda x, rows=rows: x[rows], (logp, entropy, batch))
    parts.append(policy.policy_loss(*part, config))
  added = jax.tree.map(lambda *xs: sum(xs), *parts)
  # The one weight that is a constant, not a sum of the rows'.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), added, whole)

  order = np.random.default_rng(0).permutation(ROWS)
  packed = jax.tree.map(lambda x: x[order].reshape(ROWS // 2, 2 * LENGTH), (logp, entropy, batch))
  two = jnp.where(jnp.arange(2 * LENGTH) < LENGTH, 1, 2)
  segment = jnp.broadcast_to(two[None], packed[0].shape)
  repacked = policy.policy_loss(*packed[:2], packed[2].replace(segment_BxT=segment), config)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), repacked, whole)


def test_metrics_against_loops():
  data, config = make(), policy.preset("grpo", clip_low=0.15, clip_high=0.3)
  metrics = data.loss(config)[2]
  A = np.asarray(data.batch(config).advantage_BxT, np.float64)
  expected = dict.fromkeys(metrics, 0.0)
  for row, t in np.argwhere(data.mask > 0):
    logp, old, ref = data.logp[row, t], data.old[row, t], data.ref[row, t]
    ratio = math.exp(logp - old)
    expected["entropy"] += data.entropy[row, t]
    expected["ratio"] += ratio
    expected["clip_low"] += A[row, t] < 0 and ratio < 0.85
    expected["clip_high"] += A[row, t] > 0 and ratio > 1.3
    expected["kl_old"] += math.exp(old - logp) - 1 + logp - old
    expected["sampler_gap"] += abs(old - data.sampler[row, t])
    expected["advantage_abs"] += abs(A[row, t])
    expected["kl_ref_k1"] += logp - ref
    expected["kl_ref_k3"] += math.exp(ref - logp) - 1 + logp - ref
  assert min(expected["clip_low"], expected["clip_high"]) > 0
  for name, (value, weight) in metrics.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    assert weight == data.mask.sum()


def test_metrics_without_a_reference_policy():
  metrics = make().loss(policy.preset("dapo"))[2]
  assert not [name for name in metrics if "ref" in name]


def test_preset_values():
  grpo = {
    "baseline": "mean",
    "scale": "group_std",
    "ddof": 1,
    "eps": 1e-6,
    "whiten": "none",
    "drop_flat_groups": False,
    "surrogate": "ppo_clip",
    "ratio_level": "token",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "dual_clip": None,
    "mirror_tau": 0.1,
    "aggregation": "seq_mean_token_mean",
    "correction": "none",
    "correction_low": 0.0,
    "correction_high": 2.0,
    "kl_estimator": "k3",
    "kl_coefficient": 0.04,
    "entropy_coefficient": 0.0,
  }
  dr_grpo = {"scale": "none", "aggregation": "seq_mean_token_const", "kl_coefficient": 0.0}
  dapo = {
    "clip_high": 0.28,
    "aggregation": "token_mean",
    "kl_coefficient": 0.0,
    "drop_flat_groups": True,
  }
  assert {name: dataclasses.asdict(preset) for name, preset in policy.PRESETS.items()} == {
    "grpo": grpo,
    "dr_grpo": grpo | dr_grpo,
    "dapo": grpo | dapo,
    "rf_pp_baseline": grpo
    | {"scale": "none", "whiten": "token", "aggregation": "token_mean"}
    | {"kl_estimator": "k2", "kl_coefficient": 0.001},
    "gspo": grpo
    | {"ratio_level": "seq_geo", "clip_low": 3e-4, "clip_high": 4e-4, "kl_coefficient": 0.0},
    "cispo": grpo | dapo | {"surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "ppo_lite": grpo | {"scale": "batch_std", "aggregation": "token_mean", "kl_coefficient": 0.0},
    "spct_rl": grpo | {"kl_coefficient": 0.08},
  }


def test_preset_options_replace_and_none_keeps():
  config = policy.preset("dapo", clip_high=0.5, kl_coefficient=None, drop_flat_groups=False)
  expected = dataclasses.replace(policy.PRESETS["dapo"], clip_high=0.5, drop_flat_groups=False)
  assert config == expected
  assert policy.preset("grpo", kl_coefficient=0.0).kl_coefficient == 0.0


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("ppo", {}, "preset='ppo'"),
    ("grpo", {"clip": 0.2}, r"\['clip'\]"),
    ("grpo", {"baseline": "median"}, "baseline='median'"),
    ("grpo", {"scale": "range"}, "scale='range'"),
    ("grpo", {"aggregation": "mean"}, "aggregation='mean'"),
    ("grpo", {"kl_estimator": "k4"}, "kl_estimator='k4'"),
    ("grpo", {"kl_estimator": "k1"}, "k1"),
    ("dapo", {"kl_estimator": "k1", "kl_coefficient": 1e-3}, "k1"),
    ("grpo", {"kl_coefficient": -0.1}, "kl_coefficient=-0.1"),
    ("grpo", {"clip_low": 1.5}, "clip_low=1.5"),
    ("grpo", {"clip_low": -0.1}, "clip_low=-0.1"),
    ("grpo", {"clip_high": -0.1}, "clip_high=-0.1"),
    ("grpo", {"dual_clip": 1.0}, "dual_clip=1.0"),
    ("grpo", {"whiten": "group"}, "whiten='group'"),
    ("grpo", {"surrogate": "ppo"}, "surrogate='ppo'"),
    ("grpo", {"ratio_level": "sequence"}, "ratio_level='sequence'"),
    ("grpo", {"correction": "tis"}, "correction='tis'"),
    ("grpo", {"correction_low": 3.0}, "correction_low=3.0"),
    ("grpo", {"mirror_tau": -1.0}, "mirror_tau=-1.0"),
    ("gspo", {"aggregation": "token_mean"}, "aggregation='token_mean'"),
    ("gspo", {"surrogate": "mirror_descent"}, "ratio_level='seq_geo'"),
    ("gspo", {"surrogate": "cispo"}, "ratio_level='seq_geo'"),
  ],
)
def test_option_errors(name, options, message):
  with pytest.raises(ValueError, match=message):
    policy.preset(name, **options)


def test_k1_without_a_coefficient_is_only_a_metric():
  assert policy.preset("dapo", kl_estimator="k1").kl_estimator == "k1"
