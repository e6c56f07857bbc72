"""Truncation and sampling against plain NumPy, and the distribution that is really drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.inference import logits as logits_lib
from reasonjax.inference.logits import Sampling, SamplingArrays

ROWS, VOCAB = 64, 9  # one shape, so that little is compiled
PROBABILITY = [0.1, 0.5, 0.15, 0.25]


def arrays(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
  """Settings of every row; numbers are repeated."""

  def fill(value, dtype):
    return jnp.asarray(np.broadcast_to(np.asarray(value, dtype), rows))

  return SamplingArrays(
    temperature_B=fill(temperature, np.float32),
    top_k_B=fill(top_k, np.int32),
    top_p_B=fill(top_p, np.float32),
    min_p_B=fill(min_p, np.float32),
  )


sample = jax.jit(logits_lib.sample, static_argnames="truncates")
truncate = jax.jit(logits_lib.truncate)


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  top = logits.max()
  return logits - top - np.log(np.exp(logits - top).sum())


def kept(logits, top_k, top_p, min_p):
  """The set of token numbers that each filter leaves, intersected."""
  prob = np.exp(log_softmax(logits))
  order = sorted(range(len(prob)), key=lambda token: -prob[token])
  best = order[: top_k or None]
  nucleus, mass = [], 0.0
  for token in order:
    nucleus.append(token)
    mass += prob[token]
    if mass >= top_p and top_p < 1:
      break
  likely = [token for token in order if prob[token] >= min_p * prob[order[0]]]
  return (set(best) & set(nucleus) & set(likely)) | {order[0]}


def survivors(logits, settings):
  """Numbers of the tokens that `truncate` leaves, a set a row."""
  logits = jnp.asarray(logits, jnp.float32)
  truncated = np.asarray(truncate(logits, settings))
  finite = np.isfinite(truncated)
  np.testing.assert_array_equal(truncated[finite], np.asarray(logits)[finite])
  assert (truncated[~finite] == -np.inf).all()
  return [set(np.flatnonzero(row).tolist()) for row in finite]


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({}, {0, 1, 2, 3}),
    ({"top_k": 1}, {1}),
    ({"top_k": 3}, {1, 2, 3}),
    ({"top_k": 99}, {0, 1, 2, 3}),
    ({"top_p": 0.01}, {1}),
    ({"top_p": 0.0}, {1}),  # the most likely stays even if no filter would keep it
    ({"min_p": 1.5}, {1}),
    ({"top_p": 0.7}, {1, 3}),
    ({"top_p": 0.8}, {1, 2, 3}),
    ({"top_p": 0.95}, {0, 1, 2, 3}),
    ({"min_p": 0.4}, {1, 3}),
    ({"min_p": 0.25}, {1, 2, 3}),
    ({"min_p": 1.0}, {1}),
    ({"top_k": 3, "top_p": 0.8, "min_p": 0.4}, {1, 3}),
    ({"top_k": 2, "top_p": 0.95, "min_p": 0.25}, {1, 3}),
    ({"top_k": 3, "top_p": 0.3, "min_p": 0.1}, {1}),
  ],
)
def test_truncation_by_hand(settings, expected):
  assert survivors([np.log(PROBABILITY)], arrays(1, **settings)) == [expected]


def test_filters_are_judged_on_the_same_distribution():
  """Top-p counts the mass of all tokens, not of those that top-k left."""
  # Of all: .5 + .25 < .8 needs a third. Renormalised over the top 2, .5 / .75 would not reach .7.
  assert survivors([np.log(PROBABILITY)], arrays(1, top_k=2, top_p=0.7)) == [{1, 3}]
  assert survivors([np.log([0.45, 0.3, 0.25])], arrays(1, top_k=2, top_p=0.5)) == [{0, 1}]


@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_truncation_of_random_rows_with_settings_of_their_own(spread):
  rng = np.random.default_rng(int(spread))
  rows, vocab = ROWS, VOCAB
  logits = np.float32(rng.normal(0, spread, (rows, vocab)))
  top_k = rng.choice([0, 1, 2, 5, 8, 9, 40], rows)
  top_p = np.where(rng.random(rows) < 0.3, 1.0, rng.uniform(0.01, 0.999, rows))
  min_p = np.where(rng.random(rows) < 0.3, 0.0, 10 ** rng.uniform(-4, 0, rows))
  result = survivors(logits, arrays(rows, 1.0, top_k, top_p, min_p))
  for row in range(rows):
    expected = kept(logits[row], top_k[row], top_p[row], min_p[row])
    assert result[row] == expected, row
    assert int(logits[row].argmax()) in result[row]


def test_nothing_goes_when_nothing_is_asked():
  """Even tokens so unlikely that the running sum reaches one before them."""
  logits = np.array([[0.0, -30.0, -80.0, 5.0, -1000.0]])
  assert survivors(logits, arrays(1)) == [{0, 1, 2, 3, 4}]


def test_equally_likely_tokens_at_a_border_all_stay():
  logits = [[1.0, 2.0, 1.0, 1.0, 0.0]]
  assert survivors(logits, arrays(1, top_k=2)) == [{0, 1, 2, 3}]
  assert survivors([[3.0] * 4], arrays(1, top_p=0.2)) == [{0, 1, 2, 3}]


@pytest.mark.parametrize("truncates", [False, True])
def test_log_probability_is_that_of_the_distribution_drawn_from(truncates):
  rng = np.random.default_rng(1)
  rows, vocab = ROWS, VOCAB
  logits = np.float32(rng.normal(0, 2, (rows, vocab)))
  temperature = np.float32(rng.uniform(0.3, 2.0, rows))
  top_k = rng.choice([0, 3, 6], rows)
  top_p = rng.choice([1.0, 0.6, 0.95], rows)
  min_p = rng.choice([0.0, 0.02, 0.2], rows)
  settings = arrays(rows, temperature, top_k, top_p, min_p)
  token, logp = sample(jnp.asarray(logits), settings, keys(rows), truncates=truncates)
  assert token.dtype == jnp.int32
  for row in range(rows):
    scaled = logits[row].astype(np.float64) / temperature[row]
    if truncates:  # the temperature comes first
      alive = sorted(kept(scaled, top_k[row], top_p[row], min_p[row]))
      assert int(token[row]) in alive
    else:
      alive = list(range(vocab))
    expected = log_softmax(scaled[alive])[alive.index(int(token[row]))]
    np.testing.assert_allclose(logp[row], expected, rtol=1e-5, atol=1e-5)


def test_greedy_rows_take_the_best_at_temperature_one():
  rng = np.random.default_rng(2)
  logits = np.float32(rng.normal(0, 2, (ROWS, VOCAB)))
  temperature = np.where(np.arange(ROWS) % 3 == 0, 0.0, 1.2)
  settings = arrays(ROWS, temperature, top_k=3, top_p=0.5)
  for truncates in (False, True):
    token, logp = sample(jnp.asarray(logits), settings, keys(ROWS), truncates=truncates)
    for row in range(0, ROWS, 3):
      assert token[row] == logits[row].argmax()
      np.testing.assert_allclose(logp[row], log_softmax(logits[row]).max(), rtol=1e-5, atol=1e-6)


def test_a_row_depends_on_nothing_but_itself():
  rng = np.random.default_rng(3)
  logits = jnp.asarray(rng.normal(size=(ROWS, VOCAB)), jnp.float32)
  settings = arrays(ROWS, 0.9, rng.choice([0, 4], ROWS), rng.choice([1.0, 0.8], ROWS))
  order = jnp.asarray(rng.permutation(ROWS))
  token, logp = sample(logits, settings, keys(ROWS), truncates=True)
  moved = jax.tree.map(lambda x: x[order], (logits, settings, keys(ROWS)))
  moved_token, moved_logp = sample(*moved, truncates=True)
  np.testing.assert_array_equal(moved_token, token[order])
  np.testing.assert_array_equal(moved_logp, logp[order])
  other = sample(logits, settings, keys(ROWS, seed=1), truncates=True)[0]
  assert (other != token).any()


@pytest.mark.parametrize(
  ("temperature", "settings"),
  [(1.0, {}), (0.7, {}), (1.5, {"top_p": 0.9}), (0.8, {"top_k": 4, "min_p": 0.1})],
)
def test_frequencies_of_many_draws(temperature, settings):
  draws = 20_000
  logits = np.random.default_rng(4).normal(0, 1.2, 8)
  token, _ = sample(
    jnp.asarray(np.tile(np.float32(logits), (draws, 1))),
    arrays(draws, temperature, **settings),
    keys(draws, seed=5),
    truncates=bool(settings),
  )
  count = np.bincount(np.asarray(token), minlength=8)
  scaled = logits / temperature
  alive = kept(
    scaled, settings.get("top_k", 0), settings.get("top_p", 1.0), settings.get("min_p", 0)
  )
  expected = np.where([t in alive for t in range(8)], np.exp(scaled - scaled.max()), 0.0)
  expected /= expected.sum()
  # Five standard deviations of a count; a token with no probability is never drawn.
  bound = 5 * np.sqrt(draws * expected * (1 - expected))
  np.testing.assert_array_less(np.abs(count - draws * expected), bound + 1e-9)


@pytest.mark.parametrize(
  ("settings", "truncates"),
  [
    ({}, False),
    ({"temperature": 0.0}, False),
    ({"top_k": 1}, True),
    ({"top_p": 0.99}, True),
    ({"min_p": 0.01}, True),
  ],
)
def test_what_counts_as_truncation(settings, truncates):
  assert Sampling(8, **settings).truncates is truncates


@pytest.mark.parametrize(
  "settings",
  [
    {"max_new_tokens": 0},
    {"samples": 0},
    {"temperature": -0.1},
    {"top_k": -1},
    {"top_p": 0.0},
    {"top_p": 1.1},
    {"min_p": -0.1},
    {"min_p": 1.1},
  ],
)
def test_errors_name_field_and_value(settings):
  ((name, value),) = settings.items()
  with pytest.raises(ValueError, match=f"{name}={value}"):
    Sampling(**({"max_new_tokens": 8} | settings))
