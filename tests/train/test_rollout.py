"""Rollouts become minibatches: every sampled token once, with what belongs to it."""

import math

import numpy as np
import pytest

from reasonjax.core.types import Problem, Rollout, Score
from reasonjax.data import tokenizer as tokenizer_lib
from reasonjax.losses import policy
from reasonjax.train import rollout as rollout_lib
from reasonjax.train.rollout import PackShape, Scores

EOS, BUDGET, GROUP = 2, 5, 4
PROMPTS = [[1, 10, 11], [1, 12], [1, 13, 14, 15]]
LENGTHS = [1, 5, 3, 2, 5, 4, 4, 1, 2, 5, 3, 4]
# The middle group is flat.
REWARDS = [[1.0, 0.0, 0.0, 0.5], [0.1, 0.1, 0.1, 0.1], [0.0, 1.0, 1.0, 1.0]]
FLAT_ROWS = range(4, 8)
SHAPE = PackShape(rows=2, row_length=12)


def _rollout() -> Rollout:
  """No two sampled tokens are the same, apart from EOS; completions of full length are cut off."""
  token = 100 + np.arange(len(LENGTHS) * BUDGET, dtype=np.int32).reshape(-1, BUDGET)
  logp = -np.random.default_rng(0).uniform(0.1, 4.0, token.shape).astype(np.float32)
  length = np.array(LENGTHS, np.int32)
  for row, n in enumerate(LENGTHS):
    if n < BUDGET:
      token[row, n - 1] = EOS
    token[row, n:], logp[row, n:] = 0, 0.0
  return Rollout(PROMPTS, token, logp, length, length == BUDGET)


def _scores(rewards=REWARDS) -> Scores:
  reward = np.array(rewards, np.float32)
  return Scores([""] * reward.size, {"accuracy": reward}, {}, reward)


def _minibatches(config, *, count=1, shape=SHAPE, seed=(0, 0), rewards=REWARDS):
  return rollout_lib.to_minibatches(
    _rollout(), _scores(rewards), config, shape, count=count, max_length=BUDGET, seed=seed
  )


def _sequences(minibatch) -> dict[int, dict[str, np.ndarray]]:
  """The packed segments by the row of the rollout that they hold."""
  rollout, found = _rollout(), {}
  whole = [[*PROMPTS[r // GROUP], *rollout.completion(r)] for r in range(len(LENGTHS))]
  batch = minibatch.batch
  for m, b in np.ndindex(batch.segment_BxT.shape[:2]):
    segments = batch.segment_BxT[m, b]
    for segment in range(1, segments.max() + 1):
      place = np.flatnonzero(segments == segment)
      assert (np.diff(place) == 1).all()
      part = {
        name: getattr(batch, name)[m, b, place]
        for name in batch.__dataclass_fields__
        if name != "segment_BxT"
      }
      row = whole.index(part["ids_BxT"].tolist())
      assert row not in found
      found[row] = part
  return found


def _advantage(ddof=1, eps=1e-6) -> np.ndarray:
  reward = np.array(REWARDS, np.float64)
  deviation = reward.std(axis=1, ddof=ddof, keepdims=True)
  advantage = (reward - reward.mean(axis=1, keepdims=True)) / (deviation + eps)
  advantage[1] = 0.0
  return advantage.ravel()


@pytest.mark.parametrize("name", ["grpo", "dapo"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_sampled_token_appears_once_with_what_belongs_to_it(name, count):
  config, rollout = policy.preset(name), _rollout()
  found = {}
  for minibatch in _minibatches(config, count=count):
    part = _sequences(minibatch)
    assert not set(part) & set(found)
    assert minibatch.tokens == sum(len(fields["ids_BxT"]) for fields in part.values())
    found |= part
  kept = [r for r in range(12) if config.drop_flat_groups is False or r not in FLAT_ROWS]
  assert sorted(found) == kept
  total = sum(LENGTHS[row] for row in kept)
  for row, fields in found.items():
    prompt, n = len(PROMPTS[row // GROUP]), LENGTHS[row]
    weight = 1.0 if name == "dapo" else 1 / n
    expected = {
      "mask_BxT": np.ones(n),
      "advantage_BxT": np.full(n, _advantage()[row]),
      "sampler_logp_BxT": rollout.logp_BxT[row, :n],
      "numerator_BxT": np.full(n, weight),
      "denominator_BxT": np.full(n, weight),
      "old_logp_BxT": np.zeros(n),
      "ref_logp_BxT": np.zeros(n),
    }
    for field, want in expected.items():
      np.testing.assert_array_equal(fields[field][:prompt], 0.0, err_msg=field)
      np.testing.assert_allclose(fields[field][prompt:], want, 1e-5, 1e-6, err_msg=field)
    if n < BUDGET:
      assert fields["ids_BxT"][-1] == EOS
      assert fields["mask_BxT"][-1] == 1
  assert sum(fields["mask_BxT"].sum() for fields in found.values()) == total


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_padding_is_zero_everywhere(name):
  for minibatch in _minibatches(policy.preset(name), count=2):
    padding = minibatch.batch.segment_BxT == 0
    assert padding.any()
    for field in minibatch.batch.__dataclass_fields__:
      np.testing.assert_array_equal(getattr(minibatch.batch, field)[padding], 0, err_msg=field)


def test_flat_groups_stay_as_zeros_under_grpo_and_go_under_dapo():
  (grpo,), (dapo,) = (_minibatches(policy.preset(name)) for name in ("grpo", "dapo"))
  kept = _sequences(grpo)
  assert set(FLAT_ROWS) <= set(kept)
  for row in FLAT_ROWS:
    np.testing.assert_array_equal(kept[row]["advantage_BxT"], 0.0)
    assert kept[row]["mask_BxT"].sum() == LENGTHS[row]
    assert kept[row]["denominator_BxT"].sum() == pytest.approx(1.0)
  assert not set(FLAT_ROWS) & set(_sequences(dapo))
  assert dapo.tokens == grpo.tokens - sum(LENGTHS[row] + 2 for row in FLAT_ROWS)


def test_nothing_but_flat_groups_leaves_an_empty_minibatch():
  (minibatch,) = _minibatches(policy.preset("dapo"), rewards=[[1.0] * 4] * 3)
  assert minibatch.microbatches == 0
  assert minibatch.tokens == 0
  assert minibatch.batch.ids_BxT.shape == (6, 2, 12)
  assert not minibatch.batch.segment_BxT.any()


@pytest.mark.parametrize(("count", "rows", "microbatches"), [(1, 2, 6), (5, 2, 2), (3, 1, 4)])
def test_shapes_have_room_for_any_rollout_and_used_microbatches_come_first(
  count, rows, microbatches
):
  minibatches = _minibatches(policy.preset("grpo"), count=count, shape=PackShape(rows, 12))
  assert len(minibatches) == count
  for minibatch in minibatches:
    segments = minibatch.batch.segment_BxT
    assert segments.shape == (microbatches, rows, 12)
    in_use = (segments > 0).any(axis=(1, 2))
    np.testing.assert_array_equal(in_use, np.arange(microbatches) < minibatch.microbatches)
    assert minibatch.tokens == (segments > 0).sum()
  sizes = [len(_sequences(minibatch)) for minibatch in minibatches]
  assert sum(sizes) == 12
  assert max(sizes) - min(sizes) <= 1


def test_more_minibatches_than_sequences_leave_some_empty():
  rewards = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
  minibatches = _minibatches(policy.preset("dapo"), count=5, rewards=rewards)
  assert sorted(len(_sequences(minibatch)) for minibatch in minibatches) == [0, 1, 1, 1, 1]


def test_packing_saves_rows():
  """75 tokens of twelve sequences: first-fit needs no more than eight rows of twelve."""
  (minibatch,) = _minibatches(policy.preset("grpo"))
  assert minibatch.tokens == sum(LENGTHS) + 4 * 3 + 4 * 2 + 4 * 4 == 75
  assert minibatch.microbatches <= 4


def test_aligned_sequences_start_at_multiples_and_keep_what_belongs_to_them():
  config = policy.preset("grpo")
  (plain,) = _minibatches(config)
  (aligned,) = _minibatches(config, shape=PackShape(rows=2, row_length=12, alignment=4))
  segment = np.asarray(aligned.batch.segment_BxT)
  previous = np.pad(segment[..., :-1], ((0, 0), (0, 0), (1, 0)))
  starts = np.nonzero((segment != previous) & (segment != 0))[-1]
  assert (starts % 4 == 0).all()
  assert starts.max() > 0
  assert aligned.tokens == plain.tokens
  want, got = _sequences(plain), _sequences(aligned)
  assert sorted(got) == sorted(want)
  for row, fields in want.items():
    for name, values in fields.items():
      np.testing.assert_array_equal(got[row][name], values)


def test_the_seed_decides_the_shuffle():
  draw = lambda seed: [
    tuple(sorted(_sequences(m))) for m in _minibatches(policy.preset("grpo"), count=3, seed=seed)
  ]
  assert draw((7, 1)) == draw((7, 1))
  assert draw((7, 1)) != draw((7, 2))
  assert draw((7, 1)) != draw((8, 1))
  groups = [{row // GROUP for row in part} for part in draw((7, 1))]
  assert max(map(len, groups)) > 1  # sequences are shuffled, not groups


@pytest.mark.parametrize("row_length", [8, 5])
def test_a_sequence_longer_than_a_row_is_an_error(row_length):
  """The longest is a prompt of 4 and a completion of 5."""
  with pytest.raises(ValueError, match=f"row_length={row_length}: a sequence of 9 tokens"):
    _minibatches(policy.preset("grpo"), shape=PackShape(2, row_length))
  assert _minibatches(policy.preset("grpo"), shape=PackShape(2, 9))[0].tokens == 75


def _direct(mode: str, loss: np.ndarray, mask: np.ndarray) -> float:
  """The aggregated loss over the rows that have any token, in the words of its definition."""
  rows = [row for row in range(len(mask)) if mask[row].any()]
  sums = {row: (loss[row] * mask[row]).sum() for row in rows}
  lengths = {row: mask[row].sum() for row in rows}
  if mode == "token_mean":
    return sum(sums.values()) / sum(lengths.values())
  if mode == "seq_mean_token_mean":
    return np.mean([sums[row] / lengths[row] for row in rows])
  if mode == "seq_mean_token_sum":
    return np.mean([sums[row] for row in rows])
  if mode == "seq_mean_token_const":
    return np.mean([sums[row] / BUDGET for row in rows])
  groups = sorted({row // GROUP for row in rows})
  in_group = lambda values, group: sum(values[r] for r in rows if r // GROUP == group)
  return np.mean([in_group(sums, g) / in_group(lengths, g) for g in groups])


MODES = (
  "token_mean",
  "seq_mean_token_mean",
  "seq_mean_token_sum",
  "seq_mean_token_const",
  "group_token_mean",
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("drop", [False, True])
def test_packed_weights_give_the_aggregation_over_the_rollout(mode, drop):
  """The sampler's log-probability stands in for the loss of each token."""
  config = policy.preset("grpo", aggregation=mode, drop_flat_groups=drop)
  numerator = denominator = 0.0
  for minibatch in _minibatches(config, count=2):
    batch = minibatch.batch
    loss = batch.sampler_logp_BxT.astype(np.float64)
    numerator += (batch.numerator_BxT * loss).sum()
    denominator += batch.denominator_BxT.sum(dtype=np.float64)
  mask = np.arange(BUDGET)[None, :] < np.array(LENGTHS)[:, None]
  if drop:
    mask[FLAT_ROWS.start : FLAT_ROWS.stop] = False
  expected = _direct(mode, _rollout().logp_BxT.astype(np.float64), mask)
  assert numerator / denominator == pytest.approx(expected, rel=1e-6)


def test_population_deviation_and_no_scale():
  (population,) = _minibatches(policy.preset("grpo", ddof=0))
  (unscaled,) = _minibatches(policy.preset("dr_grpo"))
  centred = np.array(REWARDS, np.float64) - np.mean(REWARDS, axis=1, keepdims=True)
  for row, fields in _sequences(population).items():
    assert fields["advantage_BxT"][-1] == pytest.approx(_advantage(ddof=0)[row], rel=1e-5)
  for row, fields in _sequences(unscaled).items():
    assert fields["advantage_BxT"][-1] == pytest.approx(centred.ravel()[row], rel=1e-5, abs=1e-7)


TOKENIZER = tokenizer_lib.of_symbols(tuple("0123456789="))
PROBLEMS = [Problem("1=", "1", 0), Problem("2=", "2", 0)]
TEXTS = [
  "<think>1</think><answer>1</answer>",
  "<think></think><answer>2</answer>",
  "2",
  "<think>2=2</think><answer>2</answer>",
]


def _written() -> Rollout:
  """The texts as completions of two prompts, two each; the third is cut off."""
  ids = [[*TOKENIZER.encode(text), EOS] for text in TEXTS]
  ids[2] = ids[2][:-1]
  token = np.zeros((4, 9), np.int32)
  for row, completion in enumerate(ids):
    token[row, : len(completion)] = completion
  length = np.array([len(completion) for completion in ids], np.int32)
  truncated = np.array([False, False, True, False])
  return Rollout([[1, 8], [1, 9]], token, np.zeros((4, 9), np.float32), length, truncated)


def _reward(problem: Problem, response: str) -> dict[str, Score]:
  right = f"<answer>{problem.answer}</answer>" in response
  accuracy = Score(1.0, "correct") if right else Score(0.0, "wrong")
  return {"accuracy": accuracy, "brevity": Score(1 / len(response), "measured")}


def test_score():
  weights = {"accuracy": 2.0, "brevity": 0.5}
  scores = rollout_lib.score(PROBLEMS, _written(), TOKENIZER, _reward, weights)
  assert scores.texts == TEXTS
  np.testing.assert_array_equal(scores.terms["accuracy"], [[1.0, 0.0], [0.0, 1.0]])
  brevity = [[1 / 34, 1 / 33], [1.0, 1 / 36]]
  np.testing.assert_allclose(scores.terms["brevity"], brevity, rtol=1e-6)
  expected = [[2 + 0.5 / 34, 0.5 / 33], [0.5, 2 + 0.5 / 36]]
  np.testing.assert_allclose(scores.reward_PxG, expected, rtol=1e-6)
  assert scores.reward_PxG.dtype == np.float32
  assert scores.reasons == {"accuracy": {"correct": 2, "wrong": 2}, "brevity": {"measured": 4}}


def test_a_term_without_weight_is_told_but_not_summed():
  scores = rollout_lib.score(PROBLEMS, _written(), TOKENIZER, _reward, {"accuracy": 1.0})
  np.testing.assert_array_equal(scores.reward_PxG, scores.terms["accuracy"])
  assert "brevity" in scores.terms


def test_a_weight_of_an_unknown_term_is_an_error():
  with pytest.raises(ValueError, match=r"\['style'\] name no term of \['accuracy', 'brevity'\]"):
    rollout_lib.score(PROBLEMS, _written(), TOKENIZER, _reward, {"accuracy": 1.0, "style": 0.1})


def test_statistics():
  """Lengths 7, 6, 1 and 9, EOS included; the first and the last are correct, and have thought."""
  rollout = _written()
  assert rollout.length_B.tolist() == [7, 6, 1, 9]
  scores = rollout_lib.score(PROBLEMS, rollout, TOKENIZER, _reward, {"accuracy": 1.0})
  stats = rollout_lib.statistics(rollout, scores)
  brevity = stats.pop("reward_brevity")
  assert brevity == pytest.approx((1 / 34 + 1 / 33 + 1 + 1 / 36) / 4, rel=1e-6)
  assert stats == {
    "reward_accuracy": 0.5,
    "accuracy": 0.5,
    "reward": 0.5,
    "length": 5.75,
    "length_correct": 8.0,
    "length_wrong": 3.5,
    "truncated": 0.25,
    "think_share": 0.5,
    "all_correct": 0.0,
    "all_wrong": 0.0,
    "flat_groups": 0.0,
    "generated_tokens": 23,
    "reason/accuracy/correct": 0.5,
    "reason/accuracy/wrong": 0.5,
    "reason/brevity/measured": 1.0,
  }


@pytest.mark.parametrize(
  ("accuracy", "expected"),
  [
    (
      [[1, 1], [0, 0]],
      {"all_correct": 0.5, "all_wrong": 0.5, "flat_groups": 1.0, "length_wrong": 5.0},
    ),
    ([[0, 0], [0, 0]], {"all_correct": 0.0, "all_wrong": 1.0, "length_correct": math.nan}),
    ([[1, 1], [1, 1]], {"all_correct": 1.0, "length_correct": 5.75, "length_wrong": math.nan}),
    ([[1, 1], [1, 0]], {"all_correct": 0.5, "all_wrong": 0.0, "flat_groups": 0.5}),
  ],
)
def test_statistics_of_groups(accuracy, expected):
  rollout, reward = _written(), np.array(accuracy, np.float32)
  stats = rollout_lib.statistics(rollout, Scores(TEXTS, {"accuracy": reward}, {}, reward))
  assert {name: stats[name] for name in expected} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("whiten", ["token", "sequence"])
def test_whitened_advantages_have_mean_zero_and_variance_one_over_the_rollout(whiten):
  config = policy.preset("grpo", scale="none", whiten=whiten)
  (minibatch,) = _minibatches(config)
  found = _sequences(minibatch)
  per_row = np.array([found[row]["advantage_BxT"][-1] for row in range(12)])
  weight = np.array(LENGTHS) if whiten == "token" else np.ones(12)
  mean = (per_row * weight).sum() / weight.sum()
  variance = ((per_row - mean) ** 2 * weight).sum() / (weight.sum() - 1)
  np.testing.assert_allclose([mean, variance], [0.0, 1.0], atol=1e-5)
  reward = np.array(REWARDS)
  centred = (reward - reward.mean(axis=1, keepdims=True)).ravel()
  np.testing.assert_allclose(np.corrcoef(per_row, centred)[0, 1], 1.0, rtol=1e-5)
