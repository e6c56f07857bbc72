"""What every kind of attention must satisfy: checks of whole small models, and shared pieces."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax
from model_cases import jit, variables

from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.models import cache as cache_lib
from reasonjax.models.cache import EMPTY, Cache
from reasonjax.models.config import ModelConfig
from reasonjax.models.transformer import Transformer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def model(attention, **changes) -> ModelConfig:
  """Four narrow dense layers with four query heads."""
  plain = {"num_layers": 4, "num_dense_layers": 4, "num_heads": 4, "num_routed_experts": 0}
  plain |= {"num_mtp_modules": 0, "rope_scaling": None, "rope_theta": 100.0}
  return fakes.model_config(attention=attention, **(plain | changes))


def random_ids(rows: int, length: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(3, 32, (rows, length)).astype(np.int32)


@functools.cache
def _hidden(config: ModelConfig):
  return jit(functools.partial(Transformer(config).apply, method="hidden", with_entries=True))


def hidden(config: ModelConfig, ids, segment, position=None):
  """`(hidden_BxTxD, entry_LxBxTxC)` of one compiled forward pass with random weights."""
  out = _hidden(config)(variables(config), ids, segment, position)
  return np.asarray(out.hidden_BxTxD), np.asarray(out.entry_LxBxTxC)


@functools.cache
def _decode(config: ModelConfig):
  return jit(functools.partial(Transformer(config).apply, method="decode"))


def decode(config: ModelConfig, ids, position, cache, slot, prefix=None):
  return _decode(config)(variables(config), ids, position, cache, np.int32(slot), prefix)


def packed_equals_unpacked(config: ModelConfig, segment_T: np.ndarray) -> None:
  """Each document of a packed row gives what it gives alone."""
  length = len(segment_T)
  ids = random_ids(1, length)
  packed, _ = hidden(config, ids, segment_T[None])
  assert np.isfinite(packed).all()
  numbers = [number for number in np.unique(segment_T) if number]
  for number in numbers:
    (at,) = np.nonzero(segment_T == number)
    alone = np.zeros((1, length), np.int32)
    alone[0, : len(at)] = ids[0, at]
    real = (np.arange(length) < len(at)).astype(np.int32)[None]
    want, _ = hidden(config, alone, real)
    np.testing.assert_allclose(packed[0, at], want[0, : len(at)], **CLOSE)


def decode_equals_forward(config: ModelConfig, length: int, size: int) -> None:
  """Tokens fed `size` at a time see what they see in one forward pass; some slots stay free."""
  ids = random_ids(2, length)
  position = np.tile(np.arange(length, dtype=np.int32), (2, 1))
  cache, parts = cache_lib.empty(config, 2, length + 2), []
  for start in range(0, length, size):
    span = slice(start, start + size)
    out, cache = decode(config, ids[:, span], position[:, span], cache, start)
    parts.append(out)
  want, entries = hidden(config, ids, np.ones_like(ids))
  np.testing.assert_allclose(np.concatenate(parts, axis=1), want, **CLOSE)
  np.testing.assert_allclose(cache.entry_LxBxSxC[:, :, :length], entries, **CLOSE)


def completions_share_the_cache_of_their_prompt(config: ModelConfig, lengths, length: int) -> None:
  """Two prompts of these unequal lengths, two completions each, up to `length` tokens in all."""
  new = length - max(lengths)
  real = np.arange(length) < np.array(lengths)[:, None]
  prompts = np.where(real, random_ids(2, length, seed=1), 9).astype(np.int32)
  _, entries = hidden(config, np.repeat(prompts, 2, axis=0), np.repeat(real, 2, axis=0) * 1)
  slot = np.tile(np.arange(length, dtype=np.int32), (2, 1))
  prefix = Cache(entries[:, ::2], np.where(real, slot, EMPTY).astype(np.int32))
  tails = random_ids(4, new, seed=2)
  start = np.repeat(lengths, 2)[:, None]
  position = (start + np.arange(new)).astype(np.int32)
  cache, parts = cache_lib.empty(config, 4, new), []
  for t in range(new):
    at = slice(t, t + 1)
    out, cache = decode(config, tails[:, at], position[:, at], cache, t, prefix)
    parts.append(out)
  got = np.concatenate(parts, axis=1)

  ids, segment = np.repeat(prompts, 2, axis=0), np.zeros((4, length), np.int32)
  for row in range(4):
    end = start[row, 0] + new
    ids[row, start[row, 0] : end] = tails[row]
    segment[row, :end] = 1
  want, _ = hidden(config, ids, segment)
  for row in range(4):
    at = slice(start[row, 0], start[row, 0] + new)
    np.testing.assert_allclose(got[row], want[row, at], **CLOSE)


def engine_equals_forward(config: ModelConfig, prompt_length: int, new: int) -> None:
  """Greedy completions are the likeliest tokens of a full forward pass, with its likelihoods."""
  given = variables(config)
  prompts = [random_ids(1, n, seed=n)[0].tolist() for n in (prompt_length, prompt_length // 2)]
  engine = Engine(
    config,
    given,
    eos_id=0,
    rows=4,
    prompt_buckets=(prompt_length,),
    new_token_buckets=(new,),
  )
  rollout = engine.generate(prompts, Sampling(new, samples=2, temperature=0.0), jax.random.key(0))
  assert rollout.length_B.min() > 1
  ids = np.zeros((4, prompt_length + new), np.int32)
  segment = np.zeros_like(ids)
  for row, (tokens, size) in enumerate(zip(rollout.token_BxT, rollout.length_B, strict=True)):
    whole = [*prompts[row // 2], *tokens[:size]]
    ids[row, : len(whole)], segment[row, : len(whole)] = whole, 1
  logits = jit(Transformer(config).apply)(given, ids, segment)
  for row, size in enumerate(rollout.length_B):
    start = len(prompts[row // 2])
    before = np.asarray(logits[row, start - 1 : start - 1 + size])
    np.testing.assert_array_equal(before.argmax(-1), rollout.token_BxT[row, :size])


def learns(config: ModelConfig, segment_T: np.ndarray, steps: int = 20) -> None:
  """Every weight has a finite gradient that is not zero, and the loss of one batch falls."""
  ids, segment = random_ids(2, len(segment_T)), np.tile(segment_T, (2, 1))
  optimizer = optax.adam(1e-2)
  params = variables(config)["params"]

  def loss(params):
    logits = Transformer(config).apply({"params": params}, ids[:, :-1], segment[:, :-1])
    real = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] != 0)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
    return jnp.where(real, each, 0.0).sum() / np.float32(real.sum())

  @jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion("standard"):
      updates, state = optimizer.update(grads, state)
    return value, grads, optax.apply_updates(params, updates), state

  state, losses = optimizer.init(params), []
  for number in range(steps):
    value, grads, params, state = step(params, state)
    losses.append(float(value))
    if number == 0:
      for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path
  assert losses[-1] < 0.7 * losses[0]


def rotated(x: np.ndarray, position: int, theta: float) -> np.ndarray:
  """RoPE of one float64 vector: pair (i, i + d/2) as a complex number."""
  half = len(x) // 2
  angle = position * theta ** (-np.arange(half) / half)
  turned = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag])


def documents(segment_T: np.ndarray) -> list[np.ndarray]:
  """Rows of each document."""
  return [np.nonzero(segment_T == number)[0] for number in np.unique(segment_T) if number]
