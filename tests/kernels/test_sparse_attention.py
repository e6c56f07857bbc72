"""Attention to chosen blocks: both forms against each other and against float64 loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.kernels import sparse_attention
from reasonjax.kernels.sparse_attention import (
  block_attention,
  gathered_block_attention,
  over_queries,
  reference_block_attention,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
B, T, H, K, V, BLOCK, SCALE = 2, 19, 4, 5, 3, 4, 0.4
SEGMENT = np.zeros((B, T), np.int32)
SEGMENT[0] = 1
SEGMENT[1, :8], SEGMENT[1, 8:11], SEGMENT[1, 12:17] = 1, 2, 3  # row 11 and the end are padding
# Key heads and choosers: shared by groups, one a head, and neither a multiple of the other.
HEADS = {"groups": (2, 2, 4), "each_head": (1, 4, 4), "no_multiple": (2, 3, 6)}


@functools.cache
def inputs(name="groups", dtype="float32"):
  key_heads, choosers, heads = HEADS[name]
  rng = np.random.default_rng(0)
  q, k, v, probe = (
    rng.normal(0, 1, (B, T, n, width)).astype(dtype)
    for n, width in ((heads, K), (key_heads, K), (key_heads, V), (heads, V))
  )
  # Repeated blocks, later blocks, blocks of other documents and empty slots are all among them.
  chosen = rng.integers(-1, -(-T // BLOCK), (B, T, choosers, 3)).astype(np.int32)
  chosen[0, 0] = -1
  return q, k, v, probe, chosen


def naive(q, k, v, chosen):
  """float64 output, and how many tokens see nothing."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  heads, key_heads, choosers = q.shape[2], k.shape[2], chosen.shape[2]
  out, blind = np.zeros((B, T, heads, V)), 0
  for b in range(B):
    for t in range(T):
      for h in range(heads):
        n, picks = h * key_heads // heads, chosen[b, t, h * choosers // heads]
        seen = [
          s
          for s in range(t + 1)
          if SEGMENT[b, s] == SEGMENT[b, t] != 0 and s // BLOCK in picks.tolist()
        ]
        blind += not seen
        if seen:
          weight = np.exp(k[b, seen, n] @ q[b, t, h] * SCALE)
          out[b, t, h] = weight / weight.sum() @ v[b, seen, n]
  return out, blind


@functools.cache
def value_and_grad(function, **keywords):
  def loss(q, k, v, probe, chosen):
    out = function(q, k, v, SEGMENT, chosen, block=BLOCK, scale=SCALE, **keywords)
    return (out.astype(jnp.float32) * probe.astype(jnp.float32)).sum(), out

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def gathered(chunk):
  return functools.partial(gathered_block_attention, chunk=chunk)


@pytest.mark.parametrize("name", HEADS)
def test_reference_equals_float64(name):
  q, k, v, probe, chosen = inputs(name)
  want, blind = naive(q, k, v, chosen)
  assert 0 < blind < want[..., 0].size / 2
  (_, out), _ = value_and_grad(reference_block_attention)(q, k, v, probe, chosen)
  np.testing.assert_allclose(out, want, **CLOSE)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("chunk", [5, 64])
def test_values_and_gradients_equal_the_reference(name, chunk):
  (_, out), grads = value_and_grad(gathered(chunk))(*inputs(name))
  (_, want), want_grads = value_and_grad(reference_block_attention)(*inputs(name))
  np.testing.assert_allclose(out, want, **CLOSE)
  for got, expected in zip(grads, want_grads, strict=True):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("function", [reference_block_attention, gathered(5)])
def test_a_token_that_sees_nothing_gets_zero_and_gives_no_gradient(function):
  q, k, v, _, chosen = inputs()
  probe = np.zeros_like(q[..., :V])
  probe[0, 0], probe[1, 11], probe[1, 17:] = 1.0, 1.0, 1.0  # chose nothing; padding
  (_, out), grads = value_and_grad(function)(q, k, v, probe, chosen)
  np.testing.assert_array_equal(np.asarray(out)[probe == 1], 0.0)
  for grad in grads:
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_all_blocks_chosen_is_causal_attention():
  """Typed by hand: scores 0, so a token's output is the mean of the values it sees."""
  q, k = np.zeros((1, 4, 1, 2), np.float32), np.ones((1, 4, 1, 2), np.float32)
  v = np.array([[[[1.0]], [[3.0]], [[10.0]], [[20.0]]]], np.float32)
  chosen = np.array([[[[0, 1]], [[0, -1]], [[1, 0]], [[1, 1]]]], np.int32)
  args = (q, k, v, np.ones((1, 4), np.int32), chosen)
  want = [1.0, 2.0, 14 / 3, 15.0]
  for function in (reference_block_attention, gathered(3)):
    np.testing.assert_allclose(function(*args, block=2, scale=1.0).ravel(), want, rtol=1e-6)


def kept_shapes(function):
  """Shapes of what the backward pass keeps."""
  q, k, v, _, chosen = inputs()
  run = lambda *qkv: function(*qkv, jnp.asarray(SEGMENT), chosen, block=BLOCK, scale=SCALE)
  kept = jax.eval_shape(lambda *qkv: jax.vjp(run, *qkv)[1], q, k, v)
  return [leaf.shape for leaf in jax.tree.leaves(kept)]


def test_nothing_gathered_is_kept():
  """Neither `[T, S]` nor each query's own copy of its keys: a few times the inputs at most."""
  inputs_size = sum(x.size for x in inputs()[:3])
  size = lambda shapes: sum(np.prod(shape) for shape in shapes)
  assert size(kept_shapes(reference_block_attention)) > 4 * inputs_size
  assert size(kept_shapes(gathered(5))) < 3 * inputs_size


def test_the_form_with_fewer_rows_is_taken(monkeypatch):
  """Three blocks of four rows of 19 are gathered; of 12 rows all are read anyway."""
  taken = []
  for name in ("reference_block_attention", "gathered_block_attention"):
    monkeypatch.setattr(
      sparse_attention, name, lambda *_, name=name, **keywords: taken.append(name)
    )
  q, k, v, _, chosen = inputs()
  for length in (T, 12):
    args = (x[:, :length] for x in (q, k, v, SEGMENT, chosen))
    block_attention(*args, block=BLOCK, scale=SCALE)
  assert taken == ["gathered_block_attention", "reference_block_attention"]


def test_the_chosen_form_gives_the_same():
  (_, out), _ = value_and_grad(block_attention)(*inputs())
  (_, want), _ = value_and_grad(reference_block_attention)(*inputs())
  np.testing.assert_allclose(out, want, **CLOSE)


def test_bfloat16_keeps_its_dtype_and_adds_gradients_in_float32():
  args = (*(jnp.asarray(x, jnp.bfloat16) for x in inputs()[:4]), inputs()[4])
  (_, out), grads = value_and_grad(gathered(5))(*args)
  assert {x.dtype for x in (out, *grads)} == {jnp.dtype("bfloat16")}
  exact = (*(np.asarray(x, np.float32) for x in args[:4]), args[4])
  (_, want), want_grads = value_and_grad(reference_block_attention)(*exact)
  # Weights, values and outputs are each rounded to 2**-9; sums of a few of them.
  np.testing.assert_allclose(np.float32(out), want, rtol=0.01, atol=0.02)
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(np.float32(got), expected, rtol=0.02, atol=0.05)


def test_wrong_shapes_are_refused():
  q, k, v, _, chosen = inputs()
  with pytest.raises(ValueError, match="19 queries and 4 keys"):
    block_attention(q, k[:, :4], v[:, :4], SEGMENT, chosen, block=BLOCK, scale=SCALE)
  three = np.repeat(chosen[:, :, :1], 3, axis=2)
  with pytest.raises(ValueError, match="4 query heads do not divide over 2 key heads and 3 choose"):
    block_attention(q, k, v, SEGMENT, three, block=BLOCK, scale=SCALE)


def test_over_queries_is_the_function_itself():
  x = jnp.arange(14.0).reshape(1, 7, 2)
  row = jnp.arange(7)[None]
  function = lambda x, row: {"sum": x.sum(axis=-1) + row, "twice": 2 * x}
  for chunk in (3, 7, 10):
    got = over_queries(function, (x, row.astype(jnp.float32)), chunk)
    want = [1.0, 6.0, 11.0, 16.0, 21.0, 26.0, 31.0]
    np.testing.assert_allclose(got["sum"], [want])
    np.testing.assert_allclose(got["twice"], 2 * x)
