"""Decoding over cached latents equals the full forward pass."""

import functools

import jax
import numpy as np
import pytest
import reference
from model_cases import CONFIGS, forward, jit, variables

from reasonjax.models import cache as cache_lib
from reasonjax.models.cache import EMPTY, Cache
from reasonjax.models.transformer import Transformer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NAMES = ["v3", "direct_query", "all_dense", "all_moe", "v2_group_limited", "mla_bias"]
NAMES += ["qwen2_tied", "llama3_scaled", "llama_all_biases"]
LENGTH = 9
IDS = np.random.default_rng(3).integers(3, 32, (2, LENGTH)).astype(np.int32)
POSITION = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))


@functools.cache
def full(name: str):
  return forward(CONFIGS[name], IDS, np.ones_like(IDS))[0]


@functools.cache
def compiled_decode(name: str):
  return jit(functools.partial(Transformer(CONFIGS[name]).apply, method="decode"))


def decode(name, ids, position, cache, slot, prefix=None):
  given = variables(CONFIGS[name])
  return compiled_decode(name)(given, ids, position, cache, np.int32(slot), prefix)


def in_chunks(name, size):
  """Hidden states and the cache after feeding IDS in chunks of `size` tokens."""
  cache, hidden = cache_lib.empty(CONFIGS[name], 2, 11), []
  for start in range(0, LENGTH, size):
    span = slice(start, start + size)
    out, cache = decode(name, IDS[:, span], POSITION[:, span], cache, start)
    hidden.append(out)
  return np.concatenate(hidden, axis=1), cache


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_equal_the_full_forward_pass(name, size):
  want = full(name)
  hidden, cache = in_chunks(name, size)
  np.testing.assert_allclose(hidden, want.hidden_BxTxD, **CLOSE)
  np.testing.assert_allclose(cache.entry_LxBxSxC[:, :, :LENGTH], want.entry_LxBxTxC, **CLOSE)
  np.testing.assert_array_equal(cache.position_BxS[:, :LENGTH], POSITION)
  np.testing.assert_array_equal(cache.position_BxS[:, LENGTH:], EMPTY)
  np.testing.assert_array_equal(cache.entry_LxBxSxC[:, :, LENGTH:], 0.0)


@pytest.mark.parametrize("name", ["v3", "llama_all_biases"])
def test_the_cache_holds_what_attention_reads(name):
  """MLA: normalised latents and rotated shared keys; GQA: rotated keys and values."""
  config = CONFIGS[name]
  want = reference.forward(config, variables(config), IDS, np.ones_like(IDS))
  assert want.margin > 1e-4
  _, cache = in_chunks(name, 3)
  np.testing.assert_allclose(cache.entry_LxBxSxC[:, :, :LENGTH], want.latent, **CLOSE)


def prefix_of(name: str, ids, lengths) -> Cache:
  """Prompts, padded on the right, as a shared cache."""
  slot = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
  real = slot < np.array(lengths)[:, None]
  out, _ = forward(CONFIGS[name], ids, real.astype(np.int32))
  return Cache(out.entry_LxBxTxC, np.where(real, slot, EMPTY).astype(np.int32))


@pytest.mark.parametrize("name", ["v3", "direct_query", "llama3_scaled"])
def test_completions_share_the_cache_of_their_prompt(name):
  """Two prompts of 5 and 3 tokens, two completions each, fed two tokens and then one."""
  lengths, new = [5, 3], 3
  prompts = np.where(np.arange(LENGTH) < np.array(lengths)[:, None], IDS, 9).astype(np.int32)
  prefix = prefix_of(name, prompts, lengths)
  tails = np.random.default_rng(4).integers(3, 32, (4, new)).astype(np.int32)
  start = np.repeat(lengths, 2)[:, None]
  position = (start + np.arange(new)).astype(np.int32)
  cache = cache_lib.empty(CONFIGS[name], 4, 4)
  first, cache = decode(name, tails[:, :2], position[:, :2], cache, 0, prefix)
  second, cache = decode(name, tails[:, 2:], position[:, 2:], cache, 2, prefix)
  got = np.concatenate([first, second], axis=1)

  ids, segment = np.zeros((4, LENGTH), np.int32), np.zeros((4, LENGTH), np.int32)
  for row in range(4):
    size = lengths[row // 2]
    ids[row, :size] = IDS[row // 2, :size]
    ids[row, size : size + new] = tails[row]
    segment[row, : size + new] = 1
  pairs = [forward(CONFIGS[name], ids[i : i + 2], segment[i : i + 2])[0] for i in (0, 2)]
  want = np.concatenate([out.hidden_BxTxD for out in pairs])
  for row in range(4):
    at = slice(lengths[row // 2], lengths[row // 2] + new)
    np.testing.assert_allclose(got[row], want[row, at], **CLOSE)


def test_empty_positions_are_seen_by_nobody():
  """Row 0 starts with two tokens of padding; its padding's ids change nothing."""
  want = full("v3").hidden_BxTxD

  def run(filler):
    ids, position = IDS.copy(), POSITION.copy()
    ids[0], position[0] = np.roll(IDS[0], 2), np.roll(POSITION[0], 2)
    ids[0, :2], position[0, :2] = filler, EMPTY
    cache, hidden = cache_lib.empty(CONFIGS["v3"], 2, 11), []
    for start in (0, 3, 6):
      span = slice(start, start + 3)
      out, cache = decode("v3", ids[:, span], position[:, span], cache, start)
      hidden.append(out)
    return np.concatenate(hidden, axis=1)

  got, other = run([5, 6]), run([20, 3])
  np.testing.assert_allclose(got[0, 2:], want[0, :7], **CLOSE)
  np.testing.assert_allclose(got[1], want[1], **CLOSE)
  np.testing.assert_array_equal(other[0, 2:], got[0, 2:])
  assert np.isfinite(got).all()


def test_a_slot_can_be_written_again():
  """A rejected continuation is overwritten in place: the cache is as if it had never been."""
  cache, span = cache_lib.empty(CONFIGS["v3"], 2, 11), slice(3, 6)
  _, cache = decode("v3", IDS[:, :3], POSITION[:, :3], cache, 0)
  out, wrong = decode("v3", IDS[:, span] * 0 + 7, POSITION[:, span], cache, 3)
  again, _ = decode("v3", IDS[:, span], POSITION[:, span], wrong, 3)
  want = full("v3").hidden_BxTxD[:, span]
  np.testing.assert_allclose(again, want, **CLOSE)
  assert np.abs(out - want).max() > 0.1


def test_the_cache_is_no_larger_than_its_latents():
  config = CONFIGS["v3"]
  cache = cache_lib.empty(config, 3, 5)
  width = config.attention.cache_width
  assert cache.entry_LxBxSxC.shape == (config.num_layers, 3, 5, width)
  assert sum(leaf.size for leaf in jax.tree.leaves(cache)) == 3 * 5 * (2 * width + 1)
