"""The decoding cache: an explicit pytree of latents, in and out of every call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from reasonjax.models.config import ModelConfig

EMPTY = -1


@struct.dataclass
class Cache:
  """Latents of every layer.

  Attributes:
    latent_LxBxSxC: `[c after norm (R) | k_rope after RoPE]`, activation dtype.
    position_BxS: int32 position of the token in each slot; EMPTY where there is none.
  """

  latent_LxBxSxC: jax.Array
  position_BxS: jax.Array


def empty(config: ModelConfig, batch: int, length: int) -> Cache:
  """A cache of `length` free slots for each of `batch` rows."""
  width = config.kv_lora_rank + config.qk_rope_head_dim
  shape = (config.num_layers, batch, length, width)
  return Cache(jnp.zeros(shape, config.dtype), jnp.full((batch, length), EMPTY, jnp.int32))


def visible(position_BxT: jax.Array, memory_PxS: jax.Array) -> jax.Array:
  """Which slots each query sees: filled ones, up to its own position.

  Args:
    position_BxT: positions of the queries.
    memory_PxS: positions of the slots; row p is shared by B / P consecutive queries.

  Returns: `[B, T, S]` bool.

  >>> visible(jnp.array([[1]]), jnp.array([[0, 1, 2, EMPTY]])).tolist()
  [[[True, True, False, False]]]
  """
  memory = jnp.repeat(memory_PxS, position_BxT.shape[0] // memory_PxS.shape[0], axis=0)
  return (memory[:, None, :] != EMPTY) & (memory[:, None, :] <= position_BxT[:, :, None])
