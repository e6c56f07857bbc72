"""From sampled completions to a training batch: score them, weigh them, pack them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from reasonjax.core import masked, text
from reasonjax.core.types import Problem, RLBatch, Rollout, Score
from reasonjax.data import packing
from reasonjax.data.tokenizer import Tokenizer
from reasonjax.losses import advantage, aggregate
from reasonjax.losses.policy import PolicyConfig

# A reward judges one response text to one problem, term by term.
Reward = Callable[[Problem, str], dict[str, Score]]


@dataclasses.dataclass(frozen=True)
class Scores:
  """Verdicts on a rollout, group-major like the rollout.

  Attributes:
    texts: B decoded responses.
    terms: reward term -> `[P, G]` float32 raw values.
    reasons: term -> reason -> count.
    reward_PxG: float32 weighted sum of the terms, what advantages are made of.
  """

  texts: list[str]
  terms: dict[str, np.ndarray]
  reasons: dict[str, dict[str, int]]
  reward_PxG: np.ndarray


def score(
  problems: Sequence[Problem],
  rollout: Rollout,
  tokenizer: Tokenizer,
  reward: Reward,
  weights: dict[str, float],
) -> Scores:
  """Decodes and judges every completion.

  Args:
    problems: P.
    rollout: their P * G completions.
    tokenizer: to decode them.
    reward: the verdicts on one response, by term.
    weights: weight of each term in the sum.

  Raises:
    ValueError: if a weight names no term of the reward.
  """
  texts = [tokenizer.decode(rollout.completion(row)) for row in range(len(rollout.length_B))]
  verdicts = [reward(problems[row // rollout.group], text) for row, text in enumerate(texts)]
  missing = set(weights) - set(verdicts[0])
  if missing:
    raise ValueError(f"reward weights {sorted(missing)} name no term of {sorted(verdicts[0])}.")
  shape = (len(problems), rollout.group)
  terms, reasons = {}, {}
  for name in verdicts[0]:
    values = np.array([verdict[name].value for verdict in verdicts], np.float32)
    terms[name] = values.reshape(shape)
    counted = [verdict[name].reason for verdict in verdicts]
    reasons[name] = {reason: counted.count(reason) for reason in set(counted)}
  total = sum(weight * terms[name] for name, weight in weights.items())
  return Scores(texts, terms, reasons, np.asarray(total, np.float32))


def statistics(rollout: Rollout, scores: Scores) -> dict[str, float]:
  """Host metrics of a rollout: rewards by term, lengths (tokens, EOS included), group outcomes.

  A mean over nothing, as the length of wrong answers when all are right, is NaN.
  """
  correct_PxG = scores.terms["accuracy"] > 0
  length_PxG = rollout.length_B.reshape(correct_PxG.shape)
  stats = {f"reward_{name}": float(values.mean()) for name, values in scores.terms.items()}
  for term, reasons in scores.reasons.items():
    stats |= {f"reason/{term}/{why}": n / correct_PxG.size for why, n in reasons.items()}
  return stats | {
    "accuracy": float(correct_PxG.mean()),
    "reward": float(scores.reward_PxG.mean()),
    "length": float(length_PxG.mean()),
    "length_correct": _mean(length_PxG[correct_PxG]),
    "length_wrong": _mean(length_PxG[~correct_PxG]),
    "truncated": float(rollout.truncated_B.mean()),
    "think_share": float(np.mean([text.parse(response).thought for response in scores.texts])),
    "all_correct": float(correct_PxG.all(axis=1).mean()),
    "all_wrong": float((~correct_PxG).all(axis=1).mean()),
    "flat_groups": float(np.asarray(advantage.flat(jnp.asarray(scores.reward_PxG))).mean()),
    "generated_tokens": int(rollout.length_B.sum()),
  }


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if values.size else math.nan


@dataclasses.dataclass(frozen=True)
class PackShape:
  """Shape of packed training arrays.

  Attributes:
    rows: B of a microbatch.
    row_length: T; at least a prompt and its longest completion.
    alignment: every sequence starts at a multiple of it, see `packing.pack`.
  """

  rows: int
  row_length: int
  alignment: int = 1


@dataclasses.dataclass(frozen=True)
class Minibatch:
  """What one optimizer step of a rollout trains on.

  Attributes:
    batch: `[M, B, T]` arrays with room for the largest rollout.
    microbatches: how many of the M are in use.
    tokens: real tokens in them, prompts included.
  """

  batch: RLBatch
  microbatches: int
  tokens: int


def to_minibatches(
  rollout: Rollout,
  scores: Scores,
  config: PolicyConfig,
  shape: PackShape,
  *,
  count: int,
  max_length: int,
  seed: tuple[int, ...],
) -> list[Minibatch]:
  """Computes advantages and token weights, and packs the rollout into minibatches.

  Advantages and weights are those of the whole rollout; sequences (not groups) are then shuffled
  over the minibatches.

  Args:
    rollout: completions.
    scores: their rewards.
    config: the algorithm; its flat groups are left out here if it says so.
    shape: of the packed arrays.
    count: minibatches.
    max_length: the constant divisor of `seq_mean_token_const`.
    seed: of the shuffle, for example run seed and step.

  Returns: minibatches on the host, old and reference log-probabilities still 0.

  Raises:
    ValueError: if a sequence is longer than a row.
  """
  fields = _token_fields(rollout, scores, config, max_length)
  rows = np.flatnonzero(fields["mask_BxT"].any(axis=1))
  if count > 1:
    rows = np.random.default_rng(seed).permutation(rows)
  capacity = -(-len(rollout.length_B) // (count * shape.rows))
  return [_pack(rollout, fields, part, shape, capacity) for part in np.array_split(rows, count)]


def _token_fields(
  rollout: Rollout, scores: Scores, config: PolicyConfig, max_length: int
) -> dict[str, np.ndarray]:
  """`[B, T]` arrays over completions, by RLBatch field."""
  T = rollout.token_BxT.shape[1]
  reward_PxG = jnp.asarray(scores.reward_PxG)
  advantage_PxG = advantage.group(
    reward_PxG, baseline=config.baseline, scale=config.scale, ddof=config.ddof, eps=config.eps
  )
  mask_BxT = (np.arange(T)[None, :] < rollout.length_B[:, None]).astype(np.float32)
  if config.drop_flat_groups:
    flat_P = np.asarray(advantage.flat(jnp.asarray(scores.terms["accuracy"])))
    kept_B = np.repeat(~flat_P, rollout.group)
    mask_BxT *= kept_B[:, None]
  advantage_BxT = np.asarray(advantage_PxG).reshape(-1, 1) * mask_BxT
  if config.whiten == "token":
    advantage_BxT = np.asarray(masked.whiten(jnp.asarray(advantage_BxT), jnp.asarray(mask_BxT)))
  if config.whiten == "sequence":
    used_B = jnp.asarray(mask_BxT.any(axis=1), jnp.float32)
    white_B = masked.whiten(advantage_PxG.reshape(-1), used_B)
    advantage_BxT = np.asarray(white_B)[:, None] * mask_BxT
  numerator_BxT, denominator_BxT = aggregate.token_weights(
    jnp.asarray(mask_BxT), config.aggregation, group=rollout.group, max_length=max_length
  )
  return {
    "ids_BxT": rollout.token_BxT,
    "mask_BxT": mask_BxT,
    "advantage_BxT": advantage_BxT,
    "sampler_logp_BxT": rollout.logp_BxT * mask_BxT,
    "numerator_BxT": np.asarray(numerator_BxT),
    "denominator_BxT": np.asarray(denominator_BxT),
  }


def _pack(
  rollout: Rollout, fields: dict[str, np.ndarray], rows: np.ndarray, shape: PackShape, capacity: int
) -> Minibatch:
  """Lays sequences `prompt + completion` out in `[M, B, T]`.

  Only where each token comes from is packed; the fields are then gathered from the prompts and the
  `[B, T]` arrays, flattened one behind the other after a zero for padding.
  """
  prompts = np.concatenate([np.asarray(prompt, np.int32) for prompt in rollout.prompts])
  prompt_start = np.cumsum([1, *map(len, rollout.prompts)])
  width = rollout.token_BxT.shape[1]

  def source_of(row: int) -> np.ndarray:
    first, prompt = 1 + len(prompts) + row * width, row // rollout.group
    completion = np.arange(first, first + rollout.length_B[row])
    return np.concatenate([np.arange(prompt_start[prompt], prompt_start[prompt + 1]), completion])

  sequences = [source_of(row) for row in rows]
  longest = max(map(len, sequences), default=0)
  if longest > shape.row_length:
    raise ValueError(f"row_length={shape.row_length}: a sequence of {longest} tokens does not fit.")
  rows_needed = capacity * shape.rows
  source, segment = packing.pack_all(sequences, shape.row_length, rows_needed, shape.alignment)

  def gather(field: np.ndarray, on_prompts: np.ndarray) -> np.ndarray:
    flat = np.concatenate([np.zeros(1, field.dtype), on_prompts, field.reshape(-1)])
    return flat[source].reshape(capacity, shape.rows, shape.row_length)

  arrays = {
    name: gather(field, prompts if name == "ids_BxT" else np.zeros(len(prompts), field.dtype))
    for name, field in fields.items()
  }
  segment_MxBxT = segment.reshape(capacity, shape.rows, shape.row_length)
  nothing = np.zeros(segment_MxBxT.shape, np.float32)
  batch = RLBatch(segment_BxT=segment_MxBxT, old_logp_BxT=nothing, ref_logp_BxT=nothing, **arrays)
  used = int((segment_MxBxT > 0).any(axis=(1, 2)).sum())
  return Minibatch(batch, used, int((segment > 0).sum()))
