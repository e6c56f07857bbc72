"""Closed-form sizes against really initialised shapes and against published numbers."""

import math

import jax
import pytest
from model_cases import CONFIGS, tiny, variables

from reasonjax.models import cache as cache_lib
from reasonjax.models import count, presets

V3 = presets.get("deepseek_v3_671b")


def size(tree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def split(name):
  """Sizes of the main model and of the MTP modules, from the initialised shapes."""
  given = variables(CONFIGS[name])
  further = {k: v for k, v in given["params"].items() if k.startswith("mtp")}
  main = {k: v for k, v in given["params"].items() if not k.startswith("mtp")}
  router = given["router"]
  return (
    size(main) + size(router.get("layers", ())),
    size(further) + size(router.get("mtp", ())),
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_counts_equal_the_initialised_sizes(name):
  main, further = split(name)
  assert count.total(CONFIGS[name]) == main
  assert count.mtp(CONFIGS[name]) == further


@pytest.mark.parametrize("name", CONFIGS)
def test_layer_counts_equal_the_initialised_sizes(name):
  config, params = CONFIGS[name], variables(CONFIGS[name])["params"]
  if config.num_dense_layers:
    stack = params["dense_layers"]
    assert count.dense_layer(config) * config.num_dense_layers == size(stack)
    assert count.attention(config) * config.num_dense_layers == size(stack["attention"])
  if config.num_moe_layers:
    biases = size(variables(config)["router"]["layers"])
    assert count.moe_layer(config) * config.num_moe_layers == size(params["moe_layers"]) + biases


def test_active_leaves_out_unchosen_experts_and_the_embedding():
  config = tiny(num_routed_experts=8, experts_per_token=2, num_layers=3)
  unchosen = 2 * (8 - 2) * 3 * config.hidden_size * config.moe_ffn_size
  embedding = config.vocab_size * config.hidden_size
  assert count.active(config) == count.total(config) - unchosen - embedding
  # A tied table is the head, and counted.
  assert count.active(config.replace(tie_embeddings=True)) == count.active(config)
  assert count.total(config.replace(tie_embeddings=True)) == count.total(config) - embedding


def test_published_sizes_of_deepseek_v3():
  assert count.attention(V3) == 187_107_328
  assert count.dense_layer(V3) == 583_483_392
  assert count.moe_layer(V3) == 11_507_286_272
  assert count.moe_layer(V3, experts=8) == 585_318_656
  assert count.total(V3) == 671_026_419_200
  assert count.active(V3) == 36_625_618_432
  assert count.mtp(V3) == 11_610_068_224


def test_published_costs_of_deepseek_v3():
  assert count.train_flops_per_token(V3, 4096) / 1e9 == pytest.approx(250.46, abs=0.005)
  assert count.cache_bytes_per_token(V3) == 70_272


def test_flops_grow_with_attention_alone():
  """Each further token of length costs every layer and head half a key and half a value."""
  config = tiny()
  per_token = (
    config.num_layers
    * config.num_heads
    * (config.attention.qk_head_dim + config.attention.v_head_dim)
  )
  grown = count.forward_flops_per_token(config, 11) - count.forward_flops_per_token(config, 10)
  assert grown == per_token
  assert count.forward_flops_per_token(config, 0) == 2 * count.active(config)
  assert count.train_flops_per_token(config, 7) == 3 * count.forward_flops_per_token(config, 7)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_cache_bytes_equal_those_of_a_cache(dtype, width):
  config = tiny(num_layers=3, dtype=dtype)
  cache = jax.eval_shape(lambda: cache_lib.empty(config, 2, 5))
  held = cache.entry_LxBxSxC.size * cache.entry_LxBxSxC.dtype.itemsize
  assert count.cache_bytes_per_token(config, width) * 2 * 5 == held


def test_the_whole_released_model_can_be_traced():
  """Shapes only; nothing is allocated."""
  given = jax.eval_shape(lambda: init(V3))
  assert size(given) == count.total(V3) + count.mtp(V3)


def init(config):
  from reasonjax.train import state as state_lib

  return state_lib.init_variables(config, jax.random.key(0))
