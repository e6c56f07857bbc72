"""From sampled completions to a training batch: score them, weigh them, pack them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import grain
import jax.numpy as jnp
import numpy as np

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
  """Host metrics of a rollout: rewards by term, lengths (tokens, EOS included), group outcomes."""
  correct_PxG = scores.terms["accuracy"] > 0
  length_PxG = rollout.length_B.reshape(correct_PxG.shape)
  stats = {f"reward_{name}": float(values.mean()) for name, values in scores.terms.items()}
  return stats | {
    "accuracy": float(correct_PxG.mean()),
    "reward": float(scores.reward_PxG.mean()),
    "length": float(length_PxG.mean()),
    "length_correct": _mean(length_PxG[correct_PxG]),
    "length_wrong": _mean(length_PxG[~correct_PxG]),
    "truncated": float(rollout.truncated_B.mean()),
    "all_correct": float(correct_PxG.all(axis=1).mean()),
    "all_wrong": float((~correct_PxG).all(axis=1).mean()),
    "flat_groups": float(np.asarray(advantage.flat(jnp.asarray(scores.reward_PxG))).mean()),
    "generated_tokens": int(rollout.length_B.sum()),
  }


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if values.size else 0.0


@dataclasses.dataclass(frozen=True)
class PackShape:
  """Shape of the packed training arrays.

  Attributes:
    max_microbatches: M that the arrays have room for; any number up to it may be used.
    rows: B of a microbatch.
    row_length: T; at least a prompt and its longest completion.
  """

  max_microbatches: int
  rows: int
  row_length: int


def to_batch(
  rollout: Rollout, scores: Scores, config: PolicyConfig, shape: PackShape, max_new_tokens: int
) -> tuple[RLBatch, int]:
  """Computes advantages and token weights and packs the rollout.

  Args:
    rollout: completions.
    scores: their rewards.
    config: the algorithm; its flat groups are left out here if it says so.
    shape: of the packed arrays.
    max_new_tokens: the constant divisor of `seq_mean_token_const`.

  Returns: `[M, B, T]` arrays, old and reference log-probabilities still 0, and the number of
    microbatches in use.

  Raises:
    ValueError: if a sequence is longer than a row, or the rollout does not fit.
  """
  reward_PxG = jnp.asarray(scores.reward_PxG)
  advantage_PxG = advantage.group(
    reward_PxG, baseline=config.baseline, scale=config.scale, ddof=config.ddof, eps=config.eps
  )
  T = rollout.token_BxT.shape[1]
  mask_BxT = (np.arange(T)[None, :] < rollout.length_B[:, None]).astype(np.float32)
  if config.drop_flat_groups:
    kept_B = np.repeat(~np.asarray(advantage.flat(reward_PxG)), rollout.group)
    mask_BxT = mask_BxT * kept_B[:, None]
  numerator_BxT, denominator_BxT = aggregate.token_weights(
    mask_BxT, config.aggregation, group=rollout.group, max_length=max_new_tokens
  )
  fields = {
    "ids_BxT": rollout.token_BxT,
    "mask_BxT": mask_BxT,
    "advantage_BxT": np.repeat(np.asarray(advantage_PxG).reshape(-1, 1), T, axis=1) * mask_BxT,
    "sampler_logp_BxT": rollout.logp_BxT * mask_BxT,
    "numerator_BxT": np.asarray(numerator_BxT),
    "denominator_BxT": np.asarray(denominator_BxT),
  }
  rows = [row for row in range(len(rollout.length_B)) if mask_BxT[row].any()]
  return _pack(rollout, fields, rows, shape)


def _pack(rollout: Rollout, fields: dict, rows: list[int], shape: PackShape) -> tuple[RLBatch, int]:
  """Lays sequences `prompt + completion` out in `[M, B, T]`.

  Only where each token comes from is packed; the fields are then gathered from the prompts and the
  `[B, T]` arrays, flattened one behind the other.
  """
  prompts = np.concatenate([np.asarray(prompt, np.int32) for prompt in rollout.prompts])
  prompt_start = np.cumsum([0, *map(len, rollout.prompts)])
  width = rollout.token_BxT.shape[1]

  def source_of(row: int) -> np.ndarray:
    prompt = row // rollout.group
    first = len(prompts) + row * width
    completion = np.arange(first, first + rollout.length_B[row])
    return np.concatenate([np.arange(prompt_start[prompt], prompt_start[prompt + 1]), completion])

  sequences = [{"source": source_of(row) + 1} for row in rows]  # 0 is padding
  longest = max((len(sequence["source"]) for sequence in sequences), default=0)
  if longest > shape.row_length:
    raise ValueError(f"row_length={shape.row_length}: a sequence of {longest} tokens does not fit.")
  reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  stream = grain.MapDataset.source(sequences).to_iter_dataset(reading)
  packed = list(packing.pack(stream, shape.row_length, ("source",)))
  total = shape.max_microbatches * shape.rows
  if len(packed) > total:
    raise ValueError(
      f"max_microbatches={shape.max_microbatches} of {shape.rows} rows: the rollout packs into "
      f"{len(packed)} rows; raise it to {-(-len(packed) // shape.rows)}."
    )
  source = np.zeros((total, shape.row_length), np.int64)
  segment = np.zeros((total, shape.row_length), np.int32)
  for row, found in enumerate(packed):
    source[row], segment[row] = found["source"], found["segment"]
  microbatched = (shape.max_microbatches, shape.rows, shape.row_length)

  def gather(field: np.ndarray, on_prompts) -> np.ndarray:
    flat = np.concatenate([np.zeros(1, field.dtype), on_prompts, field.reshape(-1)])
    return flat[source].astype(field.dtype).reshape(microbatched)

  arrays = {
    name: gather(field, prompts if name == "ids_BxT" else np.zeros(len(prompts), field.dtype))
    for name, field in fields.items()
  }
  nothing = np.zeros(microbatched, np.float32)
  batch = RLBatch(
    segment_BxT=segment.reshape(microbatched),
    old_logp_BxT=nothing,
    ref_logp_BxT=nothing,
    **arrays,
  )
  return batch, -(-len(packed) // shape.rows)
