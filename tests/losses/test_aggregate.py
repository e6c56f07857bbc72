"""Loss aggregation against float64 loops over sequences and tokens."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.losses import aggregate

GROUP, LENGTH_LIMIT = 3, 11
LOSS = [[1.0, 3.0, 0.0, 0.0], [2.0, 2.0, 2.0, 6.0]]
MASK = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


def needs(mode):
  return {
    "group_token_mean": {"group": GROUP},
    "seq_mean_token_const": {"max_length": LENGTH_LIMIT},
  }.get(mode, {})


def aggregated(loss, mask, mode, **options):
  numerator, denominator = aggregate.token_weights(jnp.asarray(mask, jnp.float32), mode, **options)
  assert numerator.dtype == denominator.dtype == jnp.float32
  assert numerator.shape == denominator.shape == np.shape(mask)
  total = (np.asarray(numerator, np.float64) * loss).sum()
  return total / np.asarray(denominator, np.float64).sum()


def looped(loss, mask, mode, group=GROUP, limit=LENGTH_LIMIT):
  """The definitions, one token at a time; sequences without a token are left out."""
  sequences = [
    [float(value) for value, kept in zip(*row, strict=True) if kept]
    for row in zip(loss, mask, strict=True)
  ]
  if mode == "group_token_mean":
    means = []
    for start in range(0, len(sequences), group):
      tokens = list(itertools.chain(*sequences[start : start + group]))
      if tokens:
        means.append(sum(tokens) / len(tokens))
    return sum(means) / len(means)
  sequences = [tokens for tokens in sequences if tokens]
  if mode == "token_mean":
    return sum(map(sum, sequences)) / sum(map(len, sequences))
  divide = {
    "seq_mean_token_mean": len,
    "seq_mean_token_sum": lambda tokens: 1,
    "seq_mean_token_const": lambda tokens: limit,
  }[mode]
  return sum(sum(tokens) / divide(tokens) for tokens in sequences) / len(sequences)


def random_batch(seed=0, empty=()):
  """Nine sequences, three groups, with prompts and padding of different lengths around them."""
  rng = np.random.default_rng(seed)
  loss, mask = rng.normal(size=(9, 10)), np.zeros((9, 10))
  for row in range(9):
    start = rng.integers(0, 4)
    mask[row, start : start + rng.integers(1, 7)] = row not in empty
  return loss, mask


def test_modes_are_complete():
  assert aggregate.MODES == (
    "token_mean",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_mean_token_const",
    "group_token_mean",
  )


@pytest.mark.parametrize(
  ("mode", "options", "expected"),
  [
    ("token_mean", {}, 16 / 6),
    ("seq_mean_token_mean", {}, 2.5),
    ("seq_mean_token_sum", {}, 8.0),
    ("seq_mean_token_const", {"max_length": 8}, 1.0),
    ("group_token_mean", {"group": 1}, 2.5),
    ("group_token_mean", {"group": 2}, 16 / 6),
  ],
)
def test_hand_values(mode, options, expected):
  np.testing.assert_allclose(aggregated(LOSS, MASK, mode, **options), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", aggregate.MODES)
@pytest.mark.parametrize("empty", [(), (4,), (0, 3, 4, 5)], ids=["none", "one", "whole group"])
def test_against_loops(mode, empty):
  loss, mask = random_batch(seed=1, empty=empty)
  np.testing.assert_allclose(
    aggregated(loss, mask, mode, **needs(mode)), looped(loss, mask, mode), rtol=1e-5
  )


@pytest.mark.parametrize("mode", aggregate.MODES)
def test_rows_without_tokens_have_no_weight(mode):
  numerator, denominator = aggregate.token_weights(jnp.zeros((3, 4)), mode, **needs(mode))
  np.testing.assert_array_equal(numerator, 0.0)
  np.testing.assert_array_equal(denominator, 0.0)


@pytest.mark.parametrize("mode", aggregate.MODES)
def test_padding_and_order_change_nothing(mode):
  loss, mask = random_batch(seed=2, empty=(1,))
  expected = aggregated(loss, mask, mode, **needs(mode))
  wider = [np.pad(x, ((0, 0), (2, 5)), constant_values=v) for x, v in ((loss, 9.0), (mask, 0))]
  np.testing.assert_allclose(aggregated(*wider, mode, **needs(mode)), expected, rtol=1e-6)
  groups = np.array([2, 0, 1])
  order = (groups[:, None] * GROUP + np.array([1, 2, 0])).ravel()
  shuffled = loss[order], mask[order]
  np.testing.assert_allclose(aggregated(*shuffled, mode, **needs(mode)), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", aggregate.MODES)
def test_weights_travel_with_their_tokens(mode):
  """Tokens shuffled over all rows and split into unequal microbatches add up to the same loss."""
  loss, mask = random_batch(seed=3)
  weights = aggregate.token_weights(jnp.asarray(mask, jnp.float32), mode, **needs(mode))
  numerator, denominator = (np.asarray(x, np.float64).ravel() for x in weights)
  order = np.random.default_rng(0).permutation(loss.size)
  total = weight = 0.0
  for part in np.split(order, [7, 40]):
    total += (numerator[part] * loss.ravel()[part]).sum()
    weight += denominator[part].sum()
  np.testing.assert_allclose(total / weight, looped(loss, mask, mode), rtol=1e-5)


def test_mean_of_microbatch_means_would_differ():
  """The trap that returning sums avoids, shown on the hand example."""
  means = [aggregated(LOSS[i : i + 1], MASK[i : i + 1], "token_mean") for i in range(2)]
  np.testing.assert_allclose(np.mean(means), 2.5, rtol=1e-6)
  np.testing.assert_allclose(aggregated(LOSS, MASK, "token_mean"), 16 / 6, rtol=1e-6)


def test_boolean_masks_are_as_good():
  weights = aggregate.token_weights(jnp.array(MASK) > 0, "seq_mean_token_mean")
  expected = aggregate.token_weights(jnp.array(MASK), "seq_mean_token_mean")
  for ours, theirs in zip(weights, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
  ("mode", "options", "message"),
  [
    ("mean", {}, "aggregation='mean'"),
    ("seq_mean_token_const", {}, "max_length=None"),
    ("seq_mean_token_const", {"max_length": 0}, "max_length=0"),
    ("seq_mean_token_const", {"max_length": -1}, "max_length=-1"),
    ("group_token_mean", {"group": 2}, "group=2"),
  ],
)
def test_errors(mode, options, message):
  with pytest.raises(ValueError, match=message):
    aggregate.token_weights(jnp.ones((3, 2)), mode, **options)
