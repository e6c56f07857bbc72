"""iRoPE: both kinds of layers against float64, chunks in packed rows, the cache, whole models."""

import functools

import attention_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import CLOSE
from model_cases import jit, variables

from reasonjax.models import count, mask, rope
from reasonjax.models.attention_config import GQAConfig, IRoPEConfig
from reasonjax.models.irope import IRoPE, chunks, temperature
from reasonjax.models.mask import Place

SIZES = IRoPEConfig(
  num_kv_heads=2, head_dim=4, nope_every=2, chunk=4, attn_scale=0.5, floor_scale=3
)
CONFIG = checks.model(SIZES)
LONG_CHUNKS = checks.model(IRoPEConfig(2, 4, qkv_bias=True, nope_every=2, chunk=7, qk_norm=False))
# Documents of 7, 1 and 6 tokens; none but the first starts at a multiple of the chunk.
SEGMENT = np.array([1] * 7 + [2] + [3] * 6 + [0] * 2, np.int32)


def weights(config, layer):
  tree = variables(config)["params"]["dense_layers"]["attention"]
  return {name: np.asarray(leaf[layer], np.float64) for name, leaf in tree.items()}


def by_hand(config, w, layer, x_TxD):
  """Float64 output of one document, one token and head at a time."""
  sizes, T = config.attention, len(x_TxD)
  nope = layer % sizes.nope_every == sizes.nope_every - 1

  def project(name, t, head):
    bias = w[f"{name}_bias"][head] if sizes.qkv_bias else 0.0
    return x_TxD[t] @ w[name][:, head] + bias

  def positioned(vector, t):
    turned = checks.rotated(vector, t, config.rope_theta)
    if sizes.qk_norm:
      turned = turned / np.sqrt(np.mean(turned**2) + config.norm_eps)
    return turned

  out = np.zeros_like(x_TxD)
  for t in range(T):
    for head in range(config.num_heads):
      shared = head * sizes.num_kv_heads // config.num_heads
      q = project("q", t, head)
      seen = [s for s in range(t + 1) if nope or s // sizes.chunk == t // sizes.chunk]
      keys = [project("k", s, shared) for s in seen]
      if nope:
        q = q * (1.0 + sizes.attn_scale * np.log(1 + (t + 1) // sizes.floor_scale))
      else:
        q, keys = positioned(q, t), [positioned(k, s) for k, s in zip(keys, seen, strict=True)]
      weight = np.exp(np.array(keys) @ q / np.sqrt(sizes.head_dim))
      values = np.array([project("v", s, shared) for s in seen])
      out[t] += (weight / weight.sum()) @ values @ w["o"][head]
  return out


@functools.cache
def compiled_layer(config):
  def run(params, x_BxTxD, segment_BxT, layer):
    position_BxT = mask.positions(segment_BxT)
    cos_sin = rope.cos_sin(position_BxT, config.attention.rope_dim, config.rope_theta)
    place = Place(position_BxT, segment_BxT, cos_sin, layer)
    return IRoPE(config).apply({"params": params}, x_BxTxD, place)[0]

  return jit(run)


def one_layer(config, layer, x, segment):
  params = {name: leaf.astype(np.float32) for name, leaf in weights(config, layer).items()}
  return np.asarray(compiled_layer(config)(params, x, segment, jnp.int32(layer)))


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("config", [CONFIG, LONG_CHUNKS], ids=["linear_form", "one_softmax"])
def test_layers_equal_float64(config, layer):
  """Chunks of 4 in rows of 16 take the form linear in the length; chunks of 7 the other."""
  x = np.random.default_rng(0).normal(0, 1, (2, 16, config.hidden_size)).astype(np.float32)
  segment = np.stack([SEGMENT, np.ones_like(SEGMENT)])
  got = one_layer(config, layer, x, segment)
  for row in range(2):
    for at in checks.documents(segment[row]):
      want = by_hand(config, weights(config, layer), layer, x[row, at].astype(np.float64))
      np.testing.assert_allclose(got[row, at], want, **CLOSE)


def test_chunks_are_counted_inside_documents():
  position = np.array([[0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0, 1]])
  segment = np.array([[1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 0, 0]])
  want = [[1, 1, 1, 2, 3, 4, 4, 4, 5, 5, 0, 0]]
  assert chunks(jnp.asarray(position), jnp.asarray(segment), 3).tolist() == want
  # A document that starts at position 2 of its first chunk.
  assert chunks(jnp.array([[2, 3, 4, 5, 6]]), jnp.ones((1, 5), int), 3).tolist() == [
    [1, 2, 2, 2, 3]
  ]


def test_temperature_of_llama_4():
  """ln 2 and ln 3 by hand, at the published 0.1 and 8192."""
  got = temperature(jnp.array([0, 8190, 8191, 16382, 16383]), 0.1, 8192)
  np.testing.assert_allclose(got, [1, 1, 1.0693147, 1.0693147, 1.1098612], rtol=1e-6)
  assert temperature(jnp.array([7]), 0.0, 2).tolist() == [1.0]


SHIFT = 8  # two chunks of CONFIG: what its layers with RoPE see stays the same


@pytest.mark.parametrize(
  ("attention_config", "shift", "moves"),
  [
    (GQAConfig(2, 4), SHIFT, False),
    (GQAConfig(2, 4), 3, False),
    (SIZES, SHIFT, True),
    (IRoPEConfig(2, 4, nope_every=2, chunk=4, attn_scale=0.0), SHIFT, False),
    (IRoPEConfig(2, 4, nope_every=2, chunk=4, attn_scale=0.0), 3, True),
  ],
  ids=["gqa", "gqa_odd", "temperature", "no_temperature", "other_chunks"],
)
def test_a_shift_of_all_positions(attention_config, shift, moves):
  """Moves nothing under RoPE alone; the temperature counts positions, and so do chunks."""
  config, ids = checks.model(attention_config), checks.random_ids(1, 9)
  position, segment = np.arange(9, dtype=np.int32)[None], np.ones_like(ids)
  here, _ = checks.hidden(config, ids, segment, position)
  there, _ = checks.hidden(config, ids, segment, position + shift)
  if moves:
    assert np.abs(here - there).max() > 1e-2
  else:
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)  # angles are rounded elsewhere


def test_packed_documents_equal_documents_alone():
  checks.packed_equals_unpacked(CONFIG, SEGMENT)
  checks.packed_equals_unpacked(LONG_CHUNKS, SEGMENT)


@pytest.mark.parametrize("size", [1, 3])
def test_decoding_equals_the_forward_pass(size):
  checks.decode_equals_forward(CONFIG, length=12, size=size)


def test_completions_share_the_cache_of_their_prompt():
  """A prompt of 6 tokens ends inside a chunk, one of 4 with it."""
  checks.completions_share_the_cache_of_their_prompt(CONFIG, lengths=[6, 4], length=12)


def test_the_engine_generates_what_the_forward_pass_prefers():
  checks.engine_equals_forward(CONFIG, prompt_length=6, new=8)


def test_it_learns():
  checks.learns(CONFIG, SEGMENT)


def test_parameters_are_those_of_grouped_query_attention():
  plain = checks.model(GQAConfig(2, 4, qkv_bias=True))
  assert count.attention(LONG_CHUNKS) == count.attention(plain)
  leaves = jax.tree.leaves(variables(LONG_CHUNKS)["params"]["dense_layers"]["attention"])
  assert 4 * count.attention(LONG_CHUNKS) == sum(leaf.size for leaf in leaves)


def test_layers_with_rope_cost_their_chunk():
  """Two of four layers see 4 keys at most. Over 10 tokens: 1 + ... + 4 twice, then 1 + 2."""
  plain = checks.model(GQAConfig(2, 4))
  per_key = 4 * 4 * 4  # two products, of four heads four wide, two operations each
  saved = count.forward_flops_per_token(plain, 10) - count.forward_flops_per_token(CONFIG, 10)
  assert saved == pytest.approx(
    2 * per_key * (10 / 2 - 2 * (4 * 4 / 2 + 4 * 4 / 2 + 2 * 2 / 2) / 20)
  )
  whole = count.forward_flops_per_token(CONFIG, 4)
  assert whole == count.forward_flops_per_token(plain, 4)


@pytest.mark.parametrize(
  ("field", "value"),
  [("nope_every", 0), ("chunk", 0), ("floor_scale", -1), ("attn_scale", -0.1), ("head_dim", 3)],
)
def test_impossible_sizes_are_named(field, value):
  with pytest.raises(ValueError, match=f"{field}={value}"):
    IRoPEConfig(**({"num_kv_heads": 2, "head_dim": 4} | {field: value}))
