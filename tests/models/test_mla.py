"""Multi-head latent attention: the two forms, and what the cache stores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import reference
from model_cases import CONFIGS, tiny, variables

from reasonjax.models import rope
from reasonjax.models.cache import EMPTY, Memory, visible
from reasonjax.models.mla import MLA, absorbed_attention, expanded_attention

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NOPE, ROPE, RANK, HEADS, VALUE, T = 5, 4, 6, 3, 7, 6
SCALE = 0.3
POSITION = np.tile(np.arange(T, dtype=np.int32), (2, 1))


@functools.cache
def inputs(batch=2):
  rng = np.random.default_rng(0)

  def draw(*shape):
    return rng.normal(0, 1, shape).astype(np.float32)

  q, latent = draw(batch, T, HEADS, NOPE + ROPE), draw(batch, T, RANK + ROPE)
  return q, latent, draw(RANK, HEADS, NOPE + VALUE)


@jax.jit
def expanded(q, latent, kv_b, segment):
  return expanded_attention(q, latent, kv_b, segment, nope_dim=NOPE, scale=SCALE)


@jax.jit
def absorbed(q, kv_b, memories):
  """Pairs of latents and positions as memories of queries at positions 0 to T - 1."""
  position = jnp.broadcast_to(jnp.arange(T)[None], q.shape[:2])
  memories = [Memory(*memory, visible(position, memory[1])) for memory in memories]
  return absorbed_attention(q, kv_b, memories, nope_dim=NOPE, scale=SCALE)


def by_hand(q, latent, kv_b):
  """Float64, one head and one token at a time."""
  q, latent, kv_b = (np.asarray(x, np.float64) for x in (q, latent, kv_b))
  out = np.zeros((*q.shape[:3], VALUE))
  for row in range(q.shape[0]):
    for t in range(T):
      for head in range(HEADS):
        keys, values = [], []
        for s in range(t + 1):
          both = latent[row, s, :RANK] @ kv_b[:, head]
          keys.append(np.concatenate([both[:NOPE], latent[row, s, RANK:]]))
          values.append(both[NOPE:])
        prob = reference.softmax(np.array(keys) @ q[row, t, head] * SCALE)
        out[row, t, head] = prob @ np.array(values)
  return out


def test_expanded_form_equals_float64():
  q, latent, kv_b = inputs()
  got = expanded(q, latent, kv_b, np.ones((2, T), np.int32))
  np.testing.assert_allclose(got, by_hand(q, latent, kv_b), **CLOSE)


def test_absorbed_form_equals_the_expanded():
  q, latent, kv_b = inputs()
  want = expanded(q, latent, kv_b, np.ones((2, T), np.int32))
  np.testing.assert_allclose(absorbed(q, kv_b, [(latent, POSITION)]), want, **CLOSE)


def test_one_softmax_runs_over_all_memories():
  q, latent, kv_b = inputs()
  parts = [(latent[:, :2], POSITION[:, :2]), (latent[:, 2:], POSITION[:, 2:])]
  want = absorbed(q, kv_b, [(latent, POSITION)])
  np.testing.assert_allclose(absorbed(q, kv_b, parts), want, **CLOSE)


def test_a_memory_of_fewer_rows_is_shared_group_major():
  q, _, kv_b = inputs(batch=4)
  rng = np.random.default_rng(1)
  shared = rng.normal(0, 1, (2, 3, RANK + ROPE)).astype(np.float32)
  own = rng.normal(0, 1, (4, T, RANK + ROPE)).astype(np.float32)
  seen = np.array([[0, 1, EMPTY], [0, 3, 2]], np.int32)
  causal = np.tile(POSITION[:1], (4, 1))
  got = absorbed(q, kv_b, [(own, causal), (shared, seen)])
  copied = np.array([0, 0, 1, 1])
  want = absorbed(q, kv_b, [(own, causal), (shared[copied], seen[copied])])
  np.testing.assert_allclose(got, want, **CLOSE)
  swapped = np.array([0, 1, 0, 1])
  other = absorbed(q, kv_b, [(own, causal), (shared[swapped], seen[swapped])])
  assert np.abs(got - other).max() > 0.05


def test_a_query_that_sees_nothing_is_finite():
  q, latent, kv_b = inputs()
  assert np.isfinite(absorbed(q, kv_b, [(latent, np.full((2, T), EMPTY, np.int32))])).all()


def test_latents_are_normalised_and_keys_rotated_without_norm():
  config = tiny(norm_eps=0.5, latent_norm_eps=1e-6)
  weights = jax.tree.map(lambda w: w[0], variables(config)["params"]["moe_layers"]["attention"])
  x = np.random.default_rng(2).normal(0, 1, (1, 4, config.hidden_size)).astype(np.float32)
  position = jnp.array([[0, 1, 2, 9]])
  rotated, scaling = config.attention.rope_dim, config.rope_scaling
  cos_sin = rope.cos_sin(position, rotated, config.rope_theta, scaling)
  latent = MLA(config).apply({"params": weights}, x, cos_sin, method="latents")
  rank = config.attention.kv_lora_rank
  c = np.asarray(latent[..., :rank]) / weights["kv_norm"]["scale"]
  np.testing.assert_allclose((c * c).mean(-1), 1.0, rtol=1e-4)  # epsilon against a mean of ~1
  raw = x @ weights["kv_a"][:, rank:]
  np.testing.assert_allclose(latent[:, 0, rank:], raw[:, 0], **CLOSE)  # position 0: no rotation
  np.testing.assert_allclose(
    np.linalg.norm(latent[..., rank:], axis=-1), np.linalg.norm(raw, axis=-1), **CLOSE
  )
  assert np.abs(latent[:, 3, rank:] - raw[:, 3]).max() > 0.1


def test_only_the_last_query_dimensions_are_rotated():
  config = CONFIGS["direct_query"]
  weights = jax.tree.map(lambda w: w[0], variables(config)["params"]["moe_layers"]["attention"])
  x = np.random.default_rng(2).normal(0, 1, (1, 2, config.hidden_size)).astype(np.float32)
  x[0, 1] = x[0, 0]
  cos_sin = rope.cos_sin(jnp.array([[0, 3]]), config.attention.rope_dim, config.rope_theta)
  q = MLA(config).apply({"params": weights}, x, cos_sin, method="queries")
  nope = config.attention.qk_nope_head_dim
  np.testing.assert_allclose(q[0, 0], np.einsum("d,dhk->hk", x[0, 0], weights["q"]), **CLOSE)
  np.testing.assert_allclose(q[0, 1, :, :nope], q[0, 0, :, :nope], **CLOSE)
  assert np.abs(q[0, 1, :, nope:] - q[0, 0, :, nope:]).max() > 0.1
