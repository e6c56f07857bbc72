"""Closed-form sizes against really initialised shapes and against published numbers."""

import math

import jax
import pytest
from model_cases import CONFIGS, grouped, tiny, variables

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
  config, given = CONFIGS[name], variables(CONFIGS[name])
  params = given["params"]
  if config.num_dense_layers:
    stack = params["dense_layers"]
    assert count.dense_layer(config) * config.num_dense_layers == size(stack)
    assert count.attention(config) * config.num_dense_layers == size(stack["attention"])
  if config.num_moe_layers:
    biases = size(given["router"].get("layers", ()))
    assert count.moe_layer(config) * config.num_moe_layers == size(params["moe_layers"]) + biases


def test_active_leaves_out_unchosen_experts_and_the_embedding():
  config = tiny(num_routed_experts=8, experts_per_token=2, num_layers=3)
  unchosen = 2 * (8 - 2) * 3 * config.hidden_size * config.moe_ffn_size
  embedding = config.vocab_size * config.hidden_size
  assert count.active(config) == count.total(config) - unchosen - embedding
  # A tied table is the head, and counted.
  assert count.active(config.replace(tie_embeddings=True)) == count.active(config)
  assert count.total(config.replace(tie_embeddings=True)) == count.total(config) - embedding


@pytest.mark.parametrize("name", [name for name in presets.names() if name.endswith("_tiny")])
def test_counts_of_tiny_presets_equal_the_initialised_sizes(name):
  config = presets.get(name)
  assert count.total(config) + count.mtp(config) == size(jax.eval_shape(lambda: init(config)))


# Parameters of every released model, typed in from the papers and model cards or, where these only
# round, from the shapes of the published tensors.
PUBLISHED = {
  "deepseek_v3_671b": 671_026_419_200,
  "deepseek_v3_671b_paper": 671_026_419_200,
  "deepseek_r1": 671_026_419_200,
  "deepseek_r1_zero": 671_026_419_200,
  "deepseek_v2_236b": 235_741_434_880,
  "deepseek_v2_236b_paper": 235_741_434_880,
  "deepseek_v2_lite": 15_706_484_224,
  "r1_distill_qwen_1.5b": 1_777_088_000,
  "r1_distill_qwen_7b": 7_615_616_512,
  "r1_distill_qwen_14b": 14_770_033_664,
  "r1_distill_qwen_32b": 32_763_876_352,
  "r1_distill_llama_8b": 8_030_261_248,
  "r1_distill_llama_70b": 70_553_706_496,
  "qwen2.5_0.5b": 494_032_768,
  "qwen2.5_1.5b": 1_543_714_304,
  "qwen2.5_3b": 3_085_938_688,
  "qwen2.5_7b": 7_615_616_512,
  "qwen2.5_14b": 14_770_033_664,
  "qwen2.5_32b": 32_763_876_352,
  "qwen2.5_72b": 72_706_203_648,
  "qwen2.5_math_1.5b": 1_543_714_304,
  "qwen2.5_math_7b": 7_615_616_512,
  "llama3_8b": 8_030_261_248,
  "llama3_70b": 70_553_706_496,
  "llama3.1_8b": 8_030_261_248,
  "llama3.1_70b": 70_553_706_496,
  "llama3.1_405b": 405_853_388_800,
  "llama3.2_1b": 1_235_814_400,
  "llama3.2_3b": 3_212_749_824,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
  assert count.total(presets.get(name)) == PUBLISHED[name]


def test_every_released_model_has_a_published_size():
  assert {name for name in presets.names() if not name.endswith("_tiny")} == set(PUBLISHED)


# Bytes that a bfloat16 cache grows by with each token.
CACHE = {
  "deepseek_v3_671b": 70_272,
  "deepseek_v2_236b": 69_120,  # 60 layers of 576 values
  "r1_distill_qwen_1.5b": 28_672,
  "r1_distill_qwen_7b": 57_344,
  "r1_distill_qwen_14b": 196_608,
  "r1_distill_qwen_32b": 262_144,
  "r1_distill_llama_8b": 131_072,
  "r1_distill_llama_70b": 327_680,
  "qwen2.5_72b": 327_680,
  "llama3.1_405b": 516_096,
}


@pytest.mark.parametrize("name", CACHE)
def test_published_cache_sizes(name):
  assert count.cache_bytes_per_token(presets.get(name)) == CACHE[name]


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


def test_flops_of_grouped_heads_do_not_depend_on_the_key_heads():
  """4 heads of width 8, 2 layers: products with keys and with values, half a key each further."""
  for kv_heads in (1, 4):
    config = grouped(num_kv_heads=kv_heads)
    grown = count.forward_flops_per_token(config, 11) - count.forward_flops_per_token(config, 10)
    assert grown == 2 * 4 * (8 + 8)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("make", [tiny, grouped])
def test_cache_bytes_equal_those_of_a_cache(make, dtype, width):
  config = make(dtype=dtype)
  cache = jax.eval_shape(lambda: cache_lib.empty(config, 2, 5))
  held = cache.entry_LxBxSxC.size * cache.entry_LxBxSxC.dtype.itemsize
  assert count.cache_bytes_per_token(config, width) * 2 * 5 == held


@pytest.mark.parametrize(
  "name", ["deepseek_v3_671b", "deepseek_v2_236b", "qwen2.5_0.5b", "r1_distill_llama_70b"]
)
def test_whole_released_models_can_be_traced(name):
  """Shapes only; nothing is allocated."""
  config = presets.get(name)
  given = jax.eval_shape(lambda: init(config))
  assert size(given) == count.total(config) + count.mtp(config)


def init(config):
  from reasonjax.train import state as state_lib

  return state_lib.init_variables(config, jax.random.key(0))
