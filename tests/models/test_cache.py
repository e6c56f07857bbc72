"""Which cache slots a query sees, and the shape of an empty cache."""

import jax
import jax.numpy as jnp
import numpy as np
from model_cases import tiny

from reasonjax.models import cache as cache_lib
from reasonjax.models.cache import EMPTY


def test_a_query_sees_filled_slots_up_to_its_own_position():
  position = jnp.array([[1, 3], [0, EMPTY]])
  memory = jnp.array([[3, EMPTY, 0, 1], [0, 1, EMPTY, 2]])
  want = [
    [[False, False, True, True], [True, False, True, True]],
    [[True, False, False, False], [False] * 4],
  ]
  np.testing.assert_array_equal(cache_lib.visible(position, memory), want)


def test_a_row_of_memory_serves_consecutive_queries():
  position = jnp.array([[5], [5], [5], [5]])
  memory = jnp.array([[0, EMPTY], [EMPTY, 0]])
  want = [[[True, False]], [[True, False]], [[False, True]], [[False, True]]]
  np.testing.assert_array_equal(cache_lib.visible(position, memory), want)


def test_an_empty_cache():
  config = tiny(num_layers=3, dtype="bfloat16")
  cache = cache_lib.empty(config, batch=2, length=5)
  assert cache.position_BxS.shape == (2, 5)
  assert cache.entry_LxBxSxC.shape == (3, 2, 5, config.attention.cache_width)
  assert cache.entry_LxBxSxC.dtype == jnp.bfloat16
  np.testing.assert_array_equal(cache.position_BxS, np.full((2, 5), EMPTY))
  assert not cache_lib.visible(jnp.full((2, 1), 100), cache.position_BxS).any()


def test_a_cache_is_a_pytree():
  cache = cache_lib.empty(tiny(), batch=1, length=2)
  assert len(jax.tree.leaves(cache)) == 2
  assert jax.eval_shape(lambda c: c, cache).position_BxS.shape == (1, 2)
