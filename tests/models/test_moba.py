"""MoBA: what is chosen and what comes out against float64, packed rows, the cache, whole models."""

import functools

import attention_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import CLOSE
from model_cases import jit, variables

from reasonjax.models import count, mask, rope
from reasonjax.models.attention_config import GQAConfig, MoBAConfig
from reasonjax.models.cache import EMPTY, Memory, visible
from reasonjax.models.mask import Place
from reasonjax.models.moba import (
  MoBA,
  block_means,
  cached_block_means,
  choose_blocks,
  gate,
)

BLOCK, TOP_K = 3, 2
CONFIG = checks.model(MoBAConfig(2, 4, block=BLOCK, top_k=TOP_K))
HYBRID = checks.model(MoBAConfig(2, 4, block=BLOCK, top_k=TOP_K, full_layers=1))
# Documents of 10, 2 and 5 tokens, each from a multiple of the block on.
SEGMENT = np.array([1] * 10 + [0] * 2 + [2] * 2 + [0] + [3] * 5 + [0], np.int32)


def weights(config, layer):
  tree = variables(config)["params"]["dense_layers"]["attention"]
  return {name: np.asarray(leaf[layer], np.float64) for name, leaf in tree.items()}


def naive(q, k, v, block, top_k):
  """The authors' plain algorithm on one document, in float64: a bias of 0 or -inf on every score.

  Returns: outputs `[T, H, K]`, and which blocks each head of each query reads, `[T, H, Y]`.
  """
  T, H, width = q.shape
  k, v = (np.repeat(x, H // x.shape[1], axis=1) for x in (k, v))
  blocks = -(-T // block)
  mean = np.stack([k[i * block : (i + 1) * block].mean(axis=0) for i in range(blocks)])
  out, read = np.zeros_like(q), np.zeros((T, H, blocks), bool)
  for head in range(H):
    score = q[:, head] @ mean[:, head].T
    for i in range(blocks):
      score[: i * block, i] = -np.inf
      score[i * block : (i + 1) * block, i] = np.inf
    for t in range(T):
      best = np.argsort(-score[t], kind="stable")[:top_k]
      read[t, head, best] = score[t, best] > -np.inf
    bias = np.where(np.repeat(read[:, head], block, axis=1)[:, :T], 0.0, -np.inf)
    bias[np.triu_indices(T, 1)] = -np.inf
    weight = np.exp(q[:, head] @ k[:, head].T / np.sqrt(width) + bias)
    out[:, head] = weight / weight.sum(axis=-1, keepdims=True) @ v[:, head]
  return out, read


def by_hand(config, w, x_TxD):
  """Float64 output of one layer for one document."""
  sizes = config.attention
  q, k, v = (np.einsum("td,dhk->thk", x_TxD, w[name]) for name in ("q", "k", "v"))
  for t in range(len(x_TxD)):
    for heads in (q, k):
      for h in range(heads.shape[1]):
        heads[t, h] = checks.rotated(heads[t, h], t, config.rope_theta)
  out, read = naive(q, k, v, sizes.block, sizes.top_k)
  return np.einsum("thk,hkd->td", out, w["o"]), read


@functools.cache
def compiled_layer(config):
  def run(params, x_BxTxD, segment_BxT, layer):
    position_BxT = mask.positions(segment_BxT)
    cos_sin = rope.cos_sin(position_BxT, config.attention.rope_dim, config.rope_theta)
    place = Place(position_BxT, segment_BxT, cos_sin, layer)
    return MoBA(config).apply({"params": params}, x_BxTxD, place)[0]

  return jit(run)


def one_layer(config, layer, x, segment):
  params = {name: leaf.astype(np.float32) for name, leaf in weights(config, layer).items()}
  return np.asarray(compiled_layer(config)(params, x, segment, jnp.int32(layer)))


def batch(segment_T, seed=0):
  """Rows of two kinds: packed documents, and one document that fills its row."""
  segment = np.stack([segment_T, np.ones_like(segment_T)])
  x = np.random.default_rng(seed).normal(0, 1, (*segment.shape, CONFIG.hidden_size))
  return x.astype(np.float32), segment


@pytest.mark.parametrize("config", [CONFIG, HYBRID], ids=["moba", "hybrid"])
def test_layers_equal_float64(config):
  x, segment = batch(SEGMENT)
  got = one_layer(config, 0, x, segment)
  for row in range(2):
    for at in checks.documents(segment[row]):
      want, read = by_hand(config, weights(config, 0), x[row, at].astype(np.float64))
      np.testing.assert_allclose(got[row, at], want, **CLOSE)
  assert len({tuple(blocks) for blocks in read[-1].tolist()}) > 1  # heads choose for themselves
  assert read[-1].sum(axis=-1).tolist() == [TOP_K] * 4


def test_the_last_layers_see_all():
  x, segment = batch(SEGMENT)
  wide = checks.model(MoBAConfig(2, 4, block=BLOCK, top_k=7))  # all blocks there are
  for layer in (2, 3):
    sparse = one_layer(CONFIG, layer, x, segment)
    hybrid, full = one_layer(HYBRID, layer, x, segment), one_layer(wide, layer, x, segment)
    want = full if layer == 3 else sparse
    np.testing.assert_allclose(hybrid[segment != 0], want[segment != 0], **CLOSE)
    assert np.abs(full - sparse)[segment != 0].max() > 0.05


@pytest.mark.parametrize("config", [CONFIG, HYBRID], ids=["moba", "hybrid"])
def test_layers_beyond_the_last_are_like_it(config):
  """MTP modules, whose numbers go on: over packed rows and over a cache."""
  x, segment = batch(np.ones_like(SEGMENT))
  params = {name: leaf.astype(np.float32) for name, leaf in weights(config, 3).items()}
  position = np.tile(np.arange(x.shape[1], dtype=np.int32), (2, 1))

  @jit
  def over_a_cache(x):
    place = Place(position, None, rope.cos_sin(position, 4, config.rope_theta), jnp.int32(4))
    write = lambda entry_BxTxC: (
      entry_BxTxC,
      [Memory(entry_BxTxC, position, visible(position, position))],
    )
    return MoBA(config).apply({"params": params}, x, place, write, method="decode")[0]

  want = one_layer(config, 3, x, segment)
  np.testing.assert_allclose(
    compiled_layer(config)(params, x, segment, jnp.int32(4)), want, **CLOSE
  )
  np.testing.assert_allclose(over_a_cache(x), want, **CLOSE)


def test_many_blocks_are_full_attention():
  wide = checks.model(MoBAConfig(2, 4, block=BLOCK, top_k=7))
  ids = checks.random_ids(1, len(SEGMENT))
  want, _ = checks.hidden(checks.model(GQAConfig(2, 4)), ids, SEGMENT[None])
  got, _ = checks.hidden(wide, ids, SEGMENT[None])
  np.testing.assert_allclose(got[0, SEGMENT != 0], want[0, SEGMENT != 0], **CLOSE)


def test_choices_equal_the_authors_algorithm():
  rng = np.random.default_rng(2)
  q, k = rng.normal(0, 1, (2, 20, 4, 6)), rng.normal(0, 1, (2, 20, 2, 6))
  last = np.tile(np.arange(20, dtype=np.int32) // BLOCK, (2, 1))

  @jit
  def choose(q, k):
    return choose_blocks(gate(q, block_means(k, BLOCK)), jnp.zeros_like(last), last, 4)

  chosen = np.asarray(choose(q.astype(np.float32), k.astype(np.float32)))
  assert chosen.shape == (2, 20, 4, 4)
  np.testing.assert_array_equal(chosen[..., 0], np.tile(last[:, :, None], (1, 1, 4)))
  for row in range(2):
    _, want = naive(q[row], k[row], k[row], BLOCK, 4)
    got = (chosen[row, ..., None] == np.arange(7)).any(axis=2)
    np.testing.assert_array_equal(got, want)


def test_choices_stay_inside_the_document():
  """By hand: block 2 is the query's, 1 the first of its document, 0 and 3 fit best but are not."""
  scores = jnp.array([9.0, 1.0, -5.0, 8.0]).reshape(1, 1, 1, 4)
  first, last = jnp.array([[1]]), jnp.array([[2]])
  assert choose_blocks(scores, first, last, 3).tolist() == [[[[2, 1, -1]]]]
  assert choose_blocks(scores, first, last, 1).tolist() == [[[[2]]]]
  assert choose_blocks(scores, first * 0, last, 2).tolist() == [[[[2, 0]]]]


def test_means_do_not_depend_on_where_the_cache_holds_a_token():
  """Seven tokens, the first three shared by two rows; two slots empty, the others shuffled."""
  rng = np.random.default_rng(3)
  whole = rng.normal(0, 1, (2, 7, 2, 4)).astype(np.float32)
  whole[1, :3] = whole[0, :3]
  order = np.array([5, 3, EMPTY, 6, 4])
  own = np.where((order == EMPTY)[None, :, None, None], 99.0, whole[:, order])
  memories = [
    (jnp.asarray(own, jnp.float32), jnp.tile(order[None], (2, 1))),
    (jnp.asarray(whole[:1, [2, 0, 1, 1]]), jnp.array([[2, 0, 1, EMPTY]])),
  ]
  got = jit(lambda memories: cached_block_means(memories, 2, BLOCK))(memories)
  assert got.shape == (2, 3, 2, 4)
  np.testing.assert_allclose(got[:, :2], block_means(jnp.asarray(whole), BLOCK)[:, :2], **CLOSE)
  np.testing.assert_allclose(got[:, 2], whole[:, 6], **CLOSE)


def test_no_gradient_through_the_choice():
  """The gradient is that of attention under a mask that the choice made and that stays."""
  x, segment = batch(np.ones_like(SEGMENT))
  x, segment = x[:1], segment[:1]
  params = {name: leaf.astype(np.float32) for name, leaf in weights(CONFIG, 0).items()}
  _, read = by_hand(CONFIG, weights(CONFIG, 0), x[0].astype(np.float64))
  T = len(SEGMENT)
  seen = np.repeat(read, BLOCK, axis=-1)[..., :T] & np.tril(np.ones((T, T), bool))[:, None]
  position = mask.positions(jnp.asarray(segment))
  place = Place(position, segment, rope.cos_sin(position, 4, CONFIG.rope_theta), jnp.int32(0))

  def chosen(params):
    return (MoBA(CONFIG).apply({"params": params}, x, place)[0] ** 2).sum()

  def masked(params):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in ("q", "k", "v"))
    q, k = rope.rotate(q, *place.cos_sin), rope.rotate(k, *place.cos_sin)
    k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
    score = jnp.where(seen[None], jnp.einsum("bthk,bshk->bths", q, k) / 2, -jnp.inf)
    out = jnp.einsum("bths,bshk->bthk", jax.nn.softmax(score), v)
    return (jnp.einsum("bthk,hkd->btd", out, params["o"]) ** 2).sum()

  got, want = jit(jax.grad(chosen))(params), jit(jax.grad(masked))(params)
  for name in params:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-4)
  assert np.abs(want["k"]).max() > 1


def test_misaligned_documents_give_nan():
  x, _ = batch(SEGMENT)
  segment = np.zeros_like(SEGMENT)
  segment[:4], segment[4:9], segment[9:15] = 1, 2, 3  # at rows 0, 4 and 9
  out = one_layer(CONFIG, 0, x[:1], segment[None])
  assert np.isnan(out[0, 4:9]).all()
  assert np.isfinite(out[0, :4]).all()
  assert np.isfinite(out[0, 9:15]).all()
  assert CONFIG.attention.alignment == BLOCK


@pytest.mark.parametrize("config", [CONFIG, HYBRID], ids=["moba", "hybrid"])
def test_packed_documents_equal_documents_alone(config):
  checks.packed_equals_unpacked(config, SEGMENT)


@pytest.mark.parametrize("size", [1, 4])
def test_decoding_equals_the_forward_pass(size):
  checks.decode_equals_forward(HYBRID, length=16, size=size)


def test_completions_share_the_cache_of_their_prompt():
  """A prompt of 7 tokens ends inside a block, one of 6 with it; completions begin a third."""
  checks.completions_share_the_cache_of_their_prompt(CONFIG, lengths=[7, 6], length=15)


def test_the_engine_generates_what_the_forward_pass_prefers():
  checks.engine_equals_forward(CONFIG, prompt_length=8, new=8)


@pytest.mark.parametrize("config", [CONFIG, HYBRID], ids=["moba", "hybrid"])
def test_it_learns(config):
  checks.learns(config, SEGMENT)


def test_parameters_are_those_of_grouped_query_attention():
  plain = checks.model(GQAConfig(2, 4))
  assert count.total(CONFIG) == count.total(plain)
  assert count.cache_bytes_per_token(CONFIG) == count.cache_bytes_per_token(plain)
  shapes = jax.tree.map(np.shape, variables(CONFIG)["params"])
  assert shapes == jax.tree.map(np.shape, variables(plain)["params"])


def test_flops_by_hand():
  """Blocks of 3, two of them read, 8 tokens in blocks of 3, 3 and 2."""
  plain = checks.model(GQAConfig(2, 4))
  per_key = 4 * 4 * 4  # two products, of four heads four wide, two operations each
  base = count.forward_flops_per_token(plain, 8) - 4 * per_key * 8 / 2
  keys = (3 * 3 / 2 + 3 * (3 + 3 / 2) + 2 * (3 + 2 / 2)) / 8  # one block behind, besides the own
  means = (3 * 0 + 3 * 1 + 2 * 2) / 8 / 2  # without values
  got = count.forward_flops_per_token(CONFIG, 8)
  assert got == pytest.approx(base + 4 * per_key * (keys + means))
  hybrid = count.forward_flops_per_token(HYBRID, 8)
  assert hybrid == pytest.approx(base + per_key * (3 * (keys + means) + 8 / 2))


@pytest.mark.parametrize(
  ("field", "value"), [("block", 0), ("top_k", 0), ("full_layers", -1), ("num_kv_heads", 0)]
)
def test_impossible_sizes_are_named(field, value):
  with pytest.raises(ValueError, match=f"{field}={value}"):
    MoBAConfig(**({"num_kv_heads": 2, "head_dim": 4} | {field: value}))


def test_more_full_layers_than_layers():
  with pytest.raises(ValueError, match="full_layers=5"):
    variables(checks.model(MoBAConfig(2, 4, full_layers=5)))
