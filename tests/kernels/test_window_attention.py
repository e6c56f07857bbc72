"""Attention in a sliding window: three forms against each other and against float64 loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.kernels.attention import attention, reference_attention, window_attention

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
B, T, H, N, K, V, SCALE = 2, 19, 4, 2, 5, 3, 0.4
SEGMENT = np.ones((B, T), np.int32)
SEGMENT[1, 6:10], SEGMENT[1, 10:17], SEGMENT[1, 17:] = 2, 3, 0
REAL = (SEGMENT > 0)[..., None, None].astype(np.float32)
WINDOWS = [1, 4, 6, 7, 30]


@functools.cache
def inputs():
  rng = np.random.default_rng(0)
  shapes = [(B, T, H, K), (B, T, N, K), (B, T, N, V), (B, T, H, V)]
  return tuple(rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)


@functools.cache
def run(function, window):
  """Output and gradients on real tokens; those of padding mean nothing."""

  def loss(q, k, v):
    out = function(q, k, v, SEGMENT, SCALE, window)
    return (out * inputs()[3] * REAL).sum(), out

  values = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
  (_, out), grads = values(*inputs()[:3])
  return [np.where(REAL > 0, x, 0.0) for x in (out, *grads)]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_holds_the_newest_tokens_of_the_document(window):
  """As many tokens as the window is wide, the token itself among them."""
  q, k, v, _ = (np.asarray(x, np.float64) for x in inputs())
  want = np.zeros((B, T, H, V))
  for b, t, h in np.ndindex(B, T, H):
    if SEGMENT[b, t]:
      seen = [s for s in range(T) if t - window < s <= t and SEGMENT[b, s] == SEGMENT[b, t]]
      weight = np.exp(k[b, seen, h // 2] @ q[b, t, h] * SCALE)
      want[b, t, h] = weight / weight.sum() @ v[b, seen, h // 2]
  np.testing.assert_allclose(run(reference_attention, window)[0], want, **CLOSE)


@pytest.mark.parametrize("function", [attention, window_attention])
@pytest.mark.parametrize("window", WINDOWS)
def test_values_and_gradients_equal_the_reference(function, window):
  want = run(reference_attention, window)
  for got, expected in zip(run(function, window), want, strict=True):
    assert np.abs(expected).max() > 0.1 or window == 1
    np.testing.assert_allclose(got, expected, **CLOSE)


def test_padding_is_finite():
  *qkv, probe = inputs()
  function = lambda *qkv: window_attention(*qkv, SEGMENT, SCALE, 4)
  out, pull = jax.vjp(function, *qkv)
  assert all(np.isfinite(x).all() for x in (out, *pull(jnp.asarray(probe))))


def cost(function, length):
  """FLOPs of a forward and backward pass in a window of 4."""
  shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
  segment = jnp.ones((1, length), jnp.int32)
  run = lambda q, k, v: function(q, k, v, segment, SCALE, 4).sum()
  return (
    jax.jit(jax.grad(run, argnums=(0, 1, 2))).lower(*[shape] * 3).compile().cost_analysis()["flops"]
  )


def test_the_cost_is_linear_in_the_length():
  assert cost(attention, 256) > 3.5 * cost(attention, 128)
  assert cost(window_attention, 256) < 2.1 * cost(window_attention, 128)


def test_lengths_that_differ_are_refused():
  q, k, v, _ = inputs()
  with pytest.raises(ValueError, match="19 queries and 4 keys"):
    window_attention(q, k[:, :4], v[:, :4], SEGMENT, SCALE, 3)
