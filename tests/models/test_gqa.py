"""Grouped-query attention: which query heads share a key head, biases, and the cache's layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from model_cases import grouped, jit, variables

from reasonjax.models import rope
from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.cache import EMPTY, Memory, visible
from reasonjax.models.gqa import GQA, join, split
from reasonjax.models.mask import Place

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
B, T = 2, 6
POSITION = np.tile(np.arange(T, dtype=np.int32), (B, 1))
ONE = np.ones((B, T), np.int32)
# All four query heads share one key head, two share each, or each has its own; with biases too.
KINDS = {
  "one": grouped(num_kv_heads=1),
  "two": grouped(num_kv_heads=2),
  "two_biased": grouped(num_kv_heads=2, qkv_bias=True, out_bias=True),
  "all": grouped(num_kv_heads=4, qkv_bias=True),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def weights(kind) -> dict:
  return jax.tree.map(lambda w: w[0], variables(KINDS[kind])["params"]["dense_layers"]["attention"])


def residual(width=16, batch=B):
  return np.random.default_rng(2).normal(0, 1, (batch, T, width)).astype(np.float32)


def place(config, position, segment=None) -> Place:
  cos_sin = rope.cos_sin(position, config.attention.rope_dim, config.rope_theta)
  return Place(position, segment, cos_sin)


@functools.cache
def call(kind):
  config = KINDS[kind]

  def run(weights, x, position, segment):
    return GQA(config).apply({"params": weights}, x, place(config, position, segment))

  return jit(run)


def forward(kind, given=None, position=POSITION):
  return call(kind)(given or weights(kind), residual(), position, ONE)


@kinds
def test_equals_float64(kind):
  out, entry = forward(kind)
  for row in range(B):
    given = reference.float64(weights(kind))
    want, entries = reference.gqa(KINDS[kind], given, list(residual()[row].astype(np.float64)))
    np.testing.assert_allclose(out[row], want, **CLOSE)
    np.testing.assert_allclose(entry[row], entries, **CLOSE)
  assert np.abs(out).max() > 0.5


def with_own_heads(given, order):
  """Weights of the kind "all" whose key head h is a copy of head `order[h]`."""
  return given | {name: given[name][:, order] for name in ("k", "v")}


def test_consecutive_query_heads_share_a_key_head():
  """Repeating each key head for its run of queries is the same; tiling the heads is not."""
  given, plain = weights("two"), KINDS["all"].replace(attention=GQAConfig(4, 8))
  run = jit(lambda w: GQA(plain).apply({"params": w}, residual(), place(plain, POSITION, ONE))[0])
  want, _ = forward("two")
  np.testing.assert_allclose(run(with_own_heads(given, [0, 0, 1, 1])), want, **CLOSE)
  tiled = run(with_own_heads(given, [0, 1, 0, 1]))
  assert np.abs(tiled - want).max() > 0.1


def test_with_one_key_head_all_queries_share_it():
  """Equal queries in all heads then give equal outputs of all heads."""
  given = dict(weights("one"))
  given["q"] = np.repeat(given["q"][:, :1], 4, axis=1)
  head = np.repeat(given["o"][:1], 4, axis=0)
  together, _ = forward("one", given | {"o": head})
  alone, _ = forward("one", given | {"o": head * np.float32([4, 0, 0, 0])[:, None, None]})
  np.testing.assert_allclose(together, alone, **CLOSE)


@pytest.mark.parametrize("name", ["q_bias", "k_bias", "v_bias", "o_bias"])
def test_every_bias_counts(name):
  given = weights("two_biased")
  want, _ = forward("two_biased")
  without, _ = forward("two_biased", given | {name: np.zeros_like(given[name])})
  assert np.abs(without - want).max() > 1e-2


def test_biases_exist_only_where_asked_for():
  assert set(weights("two")) == {"q", "k", "v", "o"}
  assert set(weights("all")) == {"q", "k", "v", "o", "q_bias", "k_bias", "v_bias"}


def test_biases_are_added_before_rotation():
  """With weights of zero, keys at position 0 are the bias and those further on its rotations."""
  given = weights("two_biased")
  given = given | {"k": np.zeros_like(given["k"]), "v": np.zeros_like(given["v"])}
  _, entry = forward("two_biased", given)
  keys, values = np.split(np.asarray(entry).reshape(B, T, 2, 2, 8), 2, axis=2)
  np.testing.assert_allclose(keys[:, 0, 0], np.tile(given["k_bias"], (B, 1, 1)), **CLOSE)
  norm = np.linalg.norm(given["k_bias"], axis=-1)
  np.testing.assert_allclose(np.linalg.norm(keys[:, 4, 0], axis=-1), np.tile(norm, (B, 1)), **CLOSE)
  assert np.abs(keys[:, 4] - keys[:, 0]).max() > 0.1
  np.testing.assert_allclose(values[0, :, 0], np.tile(given["v_bias"], (T, 1, 1)), **CLOSE)


def test_only_distances_count():
  want, _ = forward("two_biased")
  far, _ = forward("two_biased", position=POSITION + 40)
  # Angles up to 45 radians are rounded at 2e-6.
  np.testing.assert_allclose(far, want, rtol=1e-4, atol=5e-5)
  stretched, _ = forward("two_biased", position=2 * POSITION)
  assert np.abs(stretched - want).max() > 1e-2


def test_join_and_split_are_inverse():
  rng = np.random.default_rng(0)
  k, v = rng.normal(0, 1, (2, B, T, 3, 4)).astype(np.float32)
  entry = join(k, v)
  np.testing.assert_array_equal(entry[..., :12], k.reshape(B, T, 12))
  got = split(Memory(entry, POSITION, visible(POSITION, POSITION)), 3)
  np.testing.assert_array_equal(got, (k, v))


@functools.cache
def compiled_decode(kind):
  config = KINDS[kind]

  def run(weights, x, position, memories):
    seen = [visible(position, memory[1]) for memory in memories]
    write = lambda new: (new, [Memory(*m, s) for m, s in zip(memories, seen, strict=True)])
    given = {"params": weights}
    return GQA(config).apply(given, x, place(config, position), write, method="decode")[0]

  return jit(run)


@kinds
def test_decoding_equals_the_full_form(kind):
  out, entry = forward(kind)
  got = compiled_decode(kind)(weights(kind), residual(), POSITION, [(entry, POSITION)])
  np.testing.assert_allclose(got, out, **CLOSE)


def test_a_memory_of_fewer_rows_is_shared_group_major():
  """Rows 0 and 1 read the first shared row, rows 2 and 3 the second."""
  rng = np.random.default_rng(1)
  x = residual(batch=4)[:, :2]
  shared = rng.normal(0, 1, (2, 3, 32)).astype(np.float32)
  own = rng.normal(0, 1, (4, 2, 32)).astype(np.float32)
  seen = np.array([[0, 1, EMPTY], [0, 2, 1]], np.int32)
  position = np.tile(np.int32([3, 4]), (4, 1))

  def run(order):
    rows = slice(None) if order is None else np.array(order)
    memories = [(own, position), (shared[rows], seen[rows])]
    return compiled_decode("two")(weights("two"), x, position, memories)

  np.testing.assert_allclose(run(None), run([0, 0, 1, 1]), **CLOSE)
  assert np.abs(run(None) - run([0, 1, 0, 1])).max() > 1e-2


@pytest.mark.parametrize(
  ("field", "value"), [("num_kv_heads", 0), ("head_dim", 0), ("head_dim", 5)], ids=str
)
def test_wrong_sizes_are_refused(field, value):
  with pytest.raises(ValueError, match=rf"^{field}={value}: ."):
    GQAConfig(**{"num_kv_heads": 1, "head_dim": 4} | {field: value})


def test_key_heads_must_divide_query_heads():
  with pytest.raises(ValueError, match=r"^num_kv_heads=3: must divide num_heads=4"):
    grouped(num_kv_heads=3)


def test_the_cache_holds_keys_and_values_of_key_heads_only():
  _, entry = forward("two")
  assert entry.shape == (B, T, 2 * 2 * 8)
  assert KINDS["two"].attention.cache_width == 2 * 2 * 8


def test_half_precision_keeps_its_dtype():
  config = KINDS["two_biased"].replace(dtype="bfloat16", param_dtype="bfloat16")
  given = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), weights("two_biased"))
  x = jnp.asarray(residual(), jnp.bfloat16)
  out, entry = GQA(config).apply({"params": given}, x, place(config, POSITION, ONE))
  assert out.dtype == entry.dtype == jnp.bfloat16
  want, _ = forward("two_biased")
  # About ten roundings of 2**-9 each.
  assert np.abs(np.float32(out) - want).std() < 0.02 * np.std(want)
