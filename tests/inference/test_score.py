"""Logits and log-probabilities of given text: padding, alignment, packing."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.inference import score
from reasonjax.models.transformer import Transformer

CONFIG = fakes.model_config()
TEXTS = np.array([[3, 9, 4, 30, 7, 11], [5, 5, 1, 6, 29, 2], [8, 1, 31, 2, 2, 20]], np.int32)
ROWS, LENGTH = TEXTS.shape
WIDTH = 14


def logits(ids, mask=None, positions=None):
  ids = jnp.asarray(ids, jnp.int32)
  return np.asarray(score.logits(CONFIG, fakes.variables(CONFIG), ids, mask, positions))


@functools.partial(jax.jit, static_argnames="chunk")
def _token_scores(variables, ids, segment, temperature, chunk):
  model = Transformer(CONFIG)
  options = {"temperature": temperature, "chunk": chunk}
  return score.token_scores(model, variables, ids, segment, **options)


def token_scores(ids, segment, temperature=1.0, chunk=None):
  ids, segment = jnp.asarray(ids, jnp.int32), jnp.asarray(segment, jnp.int32)
  temperature = jnp.float32(temperature)
  return _token_scores(fakes.variables(CONFIG), ids, segment, temperature, chunk)


def log_softmax(x, temperature):
  x = np.asarray(x, np.float64) / temperature
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("starts", [(0, 8, 4), (8, 4, 0)])
@pytest.mark.parametrize("length", [LENGTH, 2])
def test_padding_on_either_side_changes_nothing(starts, length):
  """A text's beginning is scored without its rest, so all lengths share what the whole gave."""
  ids, mask = np.full((ROWS, WIDTH), 17), np.zeros((ROWS, WIDTH), np.int32)
  for row, start in enumerate(starts):
    ids[row, start : start + length] = TEXTS[row, :length]
    mask[row, start : start + length] = 1
  padded, alone = logits(ids, mask=jnp.asarray(mask)), logits(TEXTS)
  assert padded.dtype == np.float32
  assert padded.shape == (ROWS, WIDTH, CONFIG.vocab_size)
  for row, start in enumerate(starts):
    ours = padded[row, start : start + length]
    np.testing.assert_allclose(ours, alone[row, :length], rtol=1e-5, atol=1e-5)


def test_only_distances_between_positions_count():
  counted = jnp.broadcast_to(jnp.arange(LENGTH)[None], TEXTS.shape)
  expected = logits(TEXTS)
  for same in (counted, counted + 5):
    np.testing.assert_allclose(logits(TEXTS, positions=same), expected, rtol=1e-5, atol=1e-5)
  assert np.abs(logits(TEXTS, positions=2 * counted) - expected).max() > 1e-4


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, None), (0.6, 5)])
def test_scores_stand_at_the_token_they_speak_of(temperature, chunk):
  ids, segment = fakes.packed(ROWS, WIDTH, CONFIG.vocab_size)
  scores = token_scores(ids, segment, temperature, chunk)
  forward = jax.jit(Transformer(CONFIG).apply)
  whole = forward(fakes.variables(CONFIG), jnp.asarray(ids), jnp.asarray(segment))
  logp = log_softmax(whole, temperature)
  for row in range(ROWS):
    for t in range(1, WIDTH):
      previous = logp[row, t - 1]
      expected = previous[ids[row, t]], -(np.exp(previous) * previous).sum()
      ours = scores.logp_BxT[row, t], scores.entropy_BxT[row, t]
      np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
  for value in jax.tree.leaves(scores):
    assert value.shape == ids.shape
    np.testing.assert_array_equal(value[:, 0], 0.0)


def test_packed_documents_score_as_they_do_alone():
  ids, segment = np.full((ROWS, WIDTH), 17), np.zeros((ROWS, WIDTH), np.int32)
  ids[0, : 2 * LENGTH], segment[0, : 2 * LENGTH] = TEXTS[:2].ravel(), [1] * 6 + [2] * 6
  ids[1, :8], segment[1, :8] = [*TEXTS[0, :2], *TEXTS[2]], [1] * 2 + [2] * 6
  packed = np.asarray(token_scores(ids, segment).logp_BxT)
  alone = log_softmax(logits(TEXTS), 1.0)
  for text, (row, start) in enumerate([(0, 0), (0, 6), (1, 2)]):
    for t in range(1, LENGTH):
      expected = alone[text, t - 1, TEXTS[text, t]]
      np.testing.assert_allclose(packed[row, start + t], expected, rtol=1e-5, atol=1e-5)


def test_later_tokens_are_not_seen():
  changed = np.concatenate([TEXTS[:, :3], 31 - TEXTS[:, 3:]], axis=1)
  first, second = logits(TEXTS), logits(changed)
  np.testing.assert_allclose(second[:, :3], first[:, :3], rtol=1e-6, atol=1e-6)
  assert np.abs(second[:, 3:] - first[:, 3:]).max(axis=-1).min() > 1e-4


@pytest.mark.parametrize("name", ["head", "embedding"])
def test_shifted_scores_by_hand(name):
  """Logits are the hidden states themselves; without a head the embedding is the head."""
  hidden = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]]]))
  params = {"embedding": jnp.zeros((3, 3))} | {name: jnp.eye(3)}
  scores = score.shifted_scores(hidden, params, jnp.array([[0, 1, 2]]))
  np.testing.assert_allclose(scores.logp_BxT, [[0.0, np.log(0.3), np.log(0.8)]], rtol=1e-5)
  np.testing.assert_allclose(scores.entropy_BxT, [[0.0, 1.0296530, 0.6390319]], rtol=1e-5)
  np.testing.assert_allclose(scores.log_z_BxT, 0.0, atol=1e-6)
  halved = score.shifted_scores(hidden, params, jnp.array([[0, 1, 2]]), temperature=0.5)
  squares = [0.3**2 / 0.38, 0.8**2 / 0.66]
  np.testing.assert_allclose(halved.logp_BxT[0, 1:], np.log(squares), rtol=1e-5)
