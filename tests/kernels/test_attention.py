"""Memory-saving attention against the plain form, NumPy and jax.nn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.kernels.attention import MASKED_SCORE, attention, masked_softmax, reference_attention

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
B, T, H, K, V = 2, 11, 2, 5, 3
SCALE = 0.4
SEGMENTS = {
  "one_document": np.ones((B, T), np.int32),
  "packed": np.array([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3], [1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0]]),
  "padding_row": np.array([[0] * T, [1] * 6 + [2] * 5]),
}


@functools.cache
def inputs(v_dim=V):
  rng = np.random.default_rng(0)
  shapes = [(B, T, H, K), (B, T, H, K), (B, T, H, v_dim), (B, T, H, v_dim)]
  return tuple(rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)


def jax_nn(q, k, v, segment, scale):
  causal = jnp.tril(jnp.ones((T, T), bool))[None, None]
  mask = causal & (segment[:, None, :, None] == segment[:, None, None, :])
  return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale)


@functools.cache
def value_and_grad(function):
  def loss(q, k, v, probe, segment):
    out = function(q, k, v, segment, SCALE)
    return (out * probe).sum(), out

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def run(function, name, v_dim=V):
  (_, out), grads = value_and_grad(function)(*inputs(v_dim), SEGMENTS[name].astype(np.int32))
  return out, grads


@pytest.mark.parametrize("name", SEGMENTS)
def test_reference_equals_float64(name):
  q, k, v, _ = (np.asarray(x, np.float64) for x in inputs())
  segment = SEGMENTS[name]
  want = np.zeros((B, T, H, V))
  for b in range(B):
    for t in range(T):
      seen = [s for s in range(t + 1) if segment[b, s] == segment[b, t]]
      for h in range(H):
        weight = np.exp(k[b, seen, h] @ q[b, t, h] * SCALE)
        want[b, t, h] = weight / weight.sum() @ v[b, seen, h]
  np.testing.assert_allclose(run(reference_attention, name)[0], want, **CLOSE)


@pytest.mark.parametrize("name", SEGMENTS)
def test_values_and_gradients_equal_the_reference(name):
  out, grads = run(attention, name)
  want, want_grads = run(reference_attention, name)
  np.testing.assert_allclose(out, want, **CLOSE)
  for got, expected in zip(grads, want_grads, strict=True):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("name", ["one_document", "packed"])
def test_values_and_gradients_equal_those_of_jax_nn(name):
  out, grads = run(attention, name, v_dim=K)
  want, want_grads = run(jax_nn, name, v_dim=K)
  np.testing.assert_allclose(out, want, **CLOSE)
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("function", [attention, reference_attention])
def test_rows_of_padding_are_finite(function):
  out, grads = run(function, "padding_row")
  assert all(np.isfinite(x).all() for x in (out, *grads))


def test_documents_do_not_reach_each_other():
  """The gradient of the second document's outputs is zero on the first's inputs."""
  q, k, v, _ = inputs()
  segment = SEGMENTS["packed"].astype(np.int32)
  probe = np.zeros((B, T, H, V), np.float32)
  probe[0, 4:6] = 1.0
  _, grads = value_and_grad(attention)(q, k, v, probe, segment)
  for grad in grads:
    np.testing.assert_array_equal(grad[1], np.zeros_like(grad[1]))
    np.testing.assert_array_equal(grad[0, :4], np.zeros_like(grad[0, :4]))
    np.testing.assert_array_equal(grad[0, 6:], np.zeros_like(grad[0, 6:]))
  assert np.abs(grads[2][0, 4:6]).max() > 0.1


def kept_shapes(function):
  """Shapes of what the backward pass keeps."""
  q, k, v, _ = inputs()
  segment = jnp.asarray(SEGMENTS["packed"], jnp.int32)
  kept = jax.eval_shape(
    lambda *qkv: jax.vjp(lambda q, k, v: function(q, k, v, segment, SCALE), *qkv)[1], q, k, v
  )
  return [leaf.shape for leaf in jax.tree.leaves(kept)]


def test_nothing_of_length_squared_is_kept():
  squared = lambda shapes: [shape for shape in shapes if shape.count(T) > 1]
  assert squared(kept_shapes(reference_attention))  # the plain form does keep some
  shapes = kept_shapes(attention)
  assert shapes
  assert not squared(shapes)
  assert sum(np.prod(shape) for shape in shapes) < B * T * (H * (2 * K + 2 * V + 1) + 2)


def test_large_scores_do_not_overflow():
  q, k, v, probe = inputs()
  segment = SEGMENTS["packed"].astype(np.int32)
  (_, out), grads = value_and_grad(attention)(q * 1e3, k * 1e3, v, probe, segment)
  (_, want), _ = value_and_grad(reference_attention)(q * 1e3, k * 1e3, v, probe, segment)
  np.testing.assert_allclose(out, want, **CLOSE)
  assert all(np.isfinite(grad).all() for grad in grads)


def test_bfloat16_keeps_its_dtype_and_float32_scores():
  q, k, v, probe = (jnp.asarray(x, jnp.bfloat16) for x in inputs())
  segment = SEGMENTS["packed"].astype(np.int32)
  (_, out), grads = value_and_grad(attention)(q, k, v, probe, segment)
  assert {x.dtype for x in (out, *grads)} == {jnp.dtype("bfloat16")}
  exact = [np.asarray(x, np.float32) for x in (q, k, v, probe)]
  (_, want), want_grads = value_and_grad(reference_attention)(*exact, segment)
  # Weights, values and outputs are each rounded to 2**-9; sums of a few of them.
  np.testing.assert_allclose(np.float32(out), want, rtol=0.01, atol=0.02)
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(np.float32(got), expected, rtol=0.02, atol=0.05)


# Grouped heads: two key heads for the queries of four.


@functools.cache
def grouped_inputs(heads=4, kv_heads=2):
  rng = np.random.default_rng(1)
  shapes = [(B, T, heads, K), (B, T, kv_heads, K), (B, T, kv_heads, V), (B, T, heads, V)]
  return tuple(rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)


def repeated(function):
  """The same with a copy of its key and value head for every query head."""

  def run(q, k, v, segment, scale):
    times = q.shape[2] // k.shape[2]
    return function(q, jnp.repeat(k, times, axis=2), jnp.repeat(v, times, axis=2), segment, scale)

  return run


repeated_reference = repeated(reference_attention)


def run_grouped(function, name, kv_heads=2):
  segment = SEGMENTS[name].astype(np.int32)
  (_, out), grads = value_and_grad(function)(*grouped_inputs(4, kv_heads), segment)
  return out, grads


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("function", [attention, reference_attention])
def test_grouped_heads_equal_repeated_ones(function, name):
  """Gradients of a key head are the sums over its queries' copies."""
  out, grads = run_grouped(function, name)
  want, want_grads = run_grouped(repeated_reference, name)
  np.testing.assert_allclose(out, want, **CLOSE)
  for got, expected in zip(grads, want_grads, strict=True):
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, **CLOSE)


def test_tiled_heads_are_something_else():
  q, k, v, _ = grouped_inputs()
  segment = SEGMENTS["packed"].astype(np.int32)
  tiled = attention(q, np.tile(k, (1, 1, 2, 1)), np.tile(v, (1, 1, 2, 1)), segment, SCALE)
  assert np.abs(tiled - run_grouped(attention, "packed")[0]).max() > 0.1


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_float64(kv_heads):
  q, k, v, _ = (np.asarray(x, np.float64) for x in grouped_inputs(4, kv_heads))
  segment, want = SEGMENTS["packed"], np.zeros((B, T, 4, V))
  for b in range(B):
    for t in range(T):
      seen = [s for s in range(t + 1) if segment[b, s] == segment[b, t]]
      for kv_head in range(kv_heads):
        for member in range(4 // kv_heads):
          h = kv_head * (4 // kv_heads) + member
          weight = np.exp(k[b, seen, kv_head] @ q[b, t, h] * SCALE)
          want[b, t, h] = weight / weight.sum() @ v[b, seen, kv_head]
  np.testing.assert_allclose(run_grouped(attention, "packed", kv_heads)[0], want, **CLOSE)


@pytest.mark.parametrize("function", [attention, reference_attention])
def test_key_heads_that_do_not_divide_the_query_heads_are_refused(function):
  with pytest.raises(ValueError, match="4 query heads do not divide over 3 key heads"):
    function(*grouped_inputs(4, 3)[:3], jnp.ones((B, T), jnp.int32), SCALE)


@pytest.mark.parametrize("function", [attention, reference_attention])
def test_queries_and_keys_of_different_lengths_are_refused(function):
  q, k, v, _ = inputs()
  with pytest.raises(ValueError, match="11 queries and 4 keys"):
    function(q, k[:, :4], v[:, :4], jnp.ones((B, T), jnp.int32), SCALE)


def test_masked_softmax():
  score = jnp.array([[1.0, 2.0, 3.0], [5.0, 1e4, 5.0], [1.0, 2.0, 3.0]])
  visible = jnp.array([[True, True, True], [True, False, True], [False, False, False]])
  want = [[0.09003057, 0.24472847, 0.66524096], [0.5, 0.0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
  np.testing.assert_allclose(masked_softmax(score, visible), want, rtol=1e-6)
  grad = jax.grad(lambda s: (masked_softmax(s, visible) ** 2).sum())(score)
  assert np.isfinite(grad).all()
  np.testing.assert_array_equal(grad[2], np.zeros(3))


def test_masked_scores_are_finite_in_float32():
  assert np.isfinite(np.float32(MASKED_SCORE))
  assert np.isfinite(np.float32(MASKED_SCORE) * np.float32(10))
