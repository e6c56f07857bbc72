"""Token scores against a float64 softmax, chunking, cross entropy, z-loss and MTP."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.losses import lm

ROWS, LENGTH, WIDTH, VOCAB = 3, 7, 5, 37
TOKENS = ROWS * LENGTH


def inputs(seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  hidden = jnp.asarray(scale * rng.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
  head = jnp.asarray(rng.normal(size=(VOCAB, WIDTH)), jnp.float32)
  return hidden, head, jnp.asarray(rng.integers(0, VOCAB, (ROWS, LENGTH)), jnp.int32)


def softmax64(hidden, head, target, temperature=1.0):
  """Log-probability, entropy and log-normaliser in float64."""
  logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64).T / temperature
  top = logits.max(axis=-1, keepdims=True)
  log_z = (top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)))[..., 0]
  logp = logits - log_z[..., None]
  chosen = np.take_along_axis(logp, np.asarray(target)[..., None], axis=-1)[..., 0]
  return chosen, -(np.exp(logp) * logp).sum(axis=-1), log_z


@pytest.mark.parametrize("chunk", [None, 1, 4, TOKENS, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_scores_against_float64(chunk, temperature):
  hidden, head, target = inputs()
  scores = lm.score_tokens(hidden, head, target, temperature=temperature, chunk=chunk)
  expected = softmax64(hidden, head, target, temperature)
  for ours, theirs in zip(
    (scores.logp_BxT, scores.entropy_BxT, scores.log_z_BxT), expected, strict=True
  ):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_large_logits_keep_their_precision():
  """A confident model has logits of a hundred; entropy must not be a difference of two of them."""
  hidden, head, target = inputs(scale=10.0)
  scores = lm.score_tokens(hidden, head, target)
  logp, entropy, log_z = softmax64(hidden, head, target)
  assert log_z.max() > 60
  # Logits of a hundred round by 4e-6 each, and sum over five products.
  np.testing.assert_allclose(scores.logp_BxT, logp, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(scores.log_z_BxT, log_z, rtol=1e-6)
  np.testing.assert_allclose(scores.entropy_BxT, entropy, rtol=1e-5, atol=2e-5)


def test_overflow_is_out_of_reach():
  hidden, head, target = inputs(scale=1000.0)
  scores = lm.score_tokens(hidden, head, target)
  logp, _, _ = softmax64(hidden, head, target)
  assert logp.min() < -3000
  np.testing.assert_allclose(scores.logp_BxT, logp, rtol=1e-5, atol=5e-3)
  assert np.isfinite(scores.entropy_BxT).all()


def test_uniform_distribution():
  scores = lm.score_tokens(jnp.zeros((1, 2, 3)), jnp.ones((8, 3)), jnp.array([[0, 7]]))
  for value in (-scores.logp_BxT, scores.entropy_BxT, scores.log_z_BxT):
    np.testing.assert_allclose(value, np.log(8.0), rtol=1e-6)


def test_half_precision_states_give_float32_logits():
  hidden, head, target = inputs()
  hidden, rounded = hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
  scores = lm.score_tokens(hidden, head, target, chunk=4)
  logp, entropy, _ = softmax64(hidden.astype(jnp.float32), rounded.astype(jnp.float32), target)
  assert scores.logp_BxT.dtype == jnp.float32
  # Products of two bfloat16 are exact in float32, so only their sums round.
  np.testing.assert_allclose(scores.logp_BxT, logp, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(scores.entropy_BxT, entropy, rtol=1e-5, atol=1e-5)


def summed(hidden, head, target, chunk):
  """A scalar that reaches every score, with different weights."""
  scores = lm.score_tokens(hidden, head, target, temperature=0.7, chunk=chunk)
  weight = jnp.arange(TOKENS, dtype=jnp.float32).reshape(ROWS, LENGTH) / TOKENS
  return (weight * (scores.logp_BxT - 0.3 * scores.entropy_BxT + scores.log_z_BxT**2)).sum()


@pytest.mark.parametrize("chunk", [1, 4, 20])
def test_chunks_change_neither_value_nor_gradient(chunk):
  args = inputs()
  value, gradient = jax.value_and_grad(summed, argnums=(0, 1))(*args, chunk)
  whole, expected = jax.value_and_grad(summed, argnums=(0, 1))(*args, None)
  np.testing.assert_allclose(value, whole, rtol=1e-6)
  for ours, theirs in zip(gradient, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradient_of_log_probability_by_hand():
  """d log p / d logits is the one-hot target minus the probabilities, over the temperature."""
  hidden, head, target = inputs()
  temperature = 0.7

  def total(hidden, head):
    return lm.score_tokens(hidden, head, target, temperature=temperature, chunk=4).logp_BxT.sum()

  to_hidden, to_head = jax.grad(total, argnums=(0, 1))(hidden, head)
  logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64).T / temperature
  prob = np.exp(logits - logits.max(axis=-1, keepdims=True))
  prob /= prob.sum(axis=-1, keepdims=True)
  slope = (np.eye(VOCAB)[np.asarray(target)] - prob) / temperature
  np.testing.assert_allclose(to_hidden, slope @ np.asarray(head), rtol=1e-5, atol=1e-5)
  expected = np.einsum("btv,btd->vd", slope, np.asarray(hidden, np.float64))
  np.testing.assert_allclose(to_head, expected, rtol=1e-5, atol=1e-5)


def shapes(jaxpr):
  """Shapes of everything a program computes, inner programs included."""
  for equation in jaxpr.eqns:
    yield from (out.aval.shape for out in equation.outvars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from shapes(inner)


def largest_logits(chunk, gradient):
  function = jax.grad(summed, argnums=(0, 1)) if gradient else summed
  program = jax.make_jaxpr(lambda *args: function(*args, chunk))(*inputs())
  return max(np.prod(shape) for shape in shapes(program.jaxpr) if VOCAB in shape)


@pytest.mark.parametrize("gradient", [False, True])
def test_no_array_holds_the_logits_of_all_tokens(gradient):
  assert largest_logits(None, gradient) >= TOKENS * VOCAB
  # The head itself, or its gradient, is the largest thing with a vocabulary axis.
  assert largest_logits(4, gradient) <= VOCAB * WIDTH


@pytest.mark.parametrize("chunk", [0, -3])
def test_chunk_must_be_positive(chunk):
  with pytest.raises(ValueError, match=f"chunk={chunk}"):
    lm.score_tokens(*inputs(), chunk=chunk)


@pytest.mark.parametrize("z_coefficient", [0.0, 1e-4, 0.3])
def test_cross_entropy_against_float64(z_coefficient):
  hidden, head, target = inputs()
  weight = np.random.default_rng(1).choice([0.0, 0.5, 1.0], (ROWS, LENGTH))
  scores = lm.score_tokens(hidden, head, target)
  total, divisor, metrics = lm.cross_entropy(
    scores, jnp.asarray(weight, jnp.float32), z_coefficient=z_coefficient
  )
  logp, entropy, log_z = softmax64(hidden, head, target)
  expected = {"ce": -(weight * logp).sum(), "z": (weight * log_z**2).sum()}
  expected["entropy"] = (weight * entropy).sum()
  np.testing.assert_allclose(total, expected["ce"] + z_coefficient * expected["z"], rtol=1e-5)
  np.testing.assert_allclose(divisor, weight.sum(), rtol=1e-6)
  assert set(metrics) == set(expected)
  for name, (value, metric_weight) in metrics.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(metric_weight, weight.sum(), rtol=1e-6)


def test_cross_entropy_by_hand():
  """Of three targets with probability 1/2, 1/4 and 1/8, the last left out."""
  scores = lm.TokenScores(
    logp_BxT=jnp.log(jnp.array([[0.5, 0.25, 0.125]])),
    entropy_BxT=jnp.array([[1.0, 2.0, 50.0]]),
    log_z_BxT=jnp.array([[2.0, -3.0, 50.0]]),
  )
  total, weight, metrics = lm.cross_entropy(scores, jnp.array([[1.0, 1.0, 0.0]]), z_coefficient=0.1)
  np.testing.assert_allclose(total, 2.0794415 + 0.1 * 13.0, rtol=1e-6)
  assert weight == 2.0
  np.testing.assert_allclose([metrics["z"][0], metrics["entropy"][0]], [13.0, 3.0], rtol=1e-6)


def test_z_loss_pulls_the_normaliser_to_one():
  hidden, head, target = inputs()

  def z(hidden):
    scores = lm.score_tokens(hidden, head, target)
    weight = jnp.ones((ROWS, LENGTH))
    with_z = lm.cross_entropy(scores, weight, z_coefficient=1.0)[0]
    return with_z - lm.cross_entropy(scores, weight)[0]

  # d log^2 Z / d h is twice log Z times the mean head row under the softmax.
  logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64).T
  log_z = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  expected = 2 * log_z * (np.exp(logits - log_z) @ np.asarray(head, np.float64))
  np.testing.assert_allclose(jax.grad(z)(hidden), expected, rtol=1e-5, atol=1e-5)


def test_mtp_depth_loss_against_float64():
  hidden, head, target = inputs()
  weight = np.ones((ROWS, LENGTH))
  weight[:, -2:] = 0.0  # the second module has two targets fewer
  total, divisor = lm.mtp_depth_loss(
    lm.score_tokens(hidden, head, target), jnp.asarray(weight, jnp.float32)
  )
  np.testing.assert_allclose(total, -(softmax64(hidden, head, target)[0] * weight).sum(), rtol=1e-5)
  assert divisor == ROWS * (LENGTH - 2)


@pytest.mark.parametrize(
  ("totals", "coefficient", "expected"),
  [([3.0], 0.3, 0.9), ([2.0, 4.0], 0.5, 1.5), ([1.0, 2.0, 6.0], 0.1, 0.3)],
)
def test_mtp_loss_by_hand(totals, coefficient, expected):
  loss = lm.mtp_loss([jnp.float32(total) for total in totals], coefficient)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
