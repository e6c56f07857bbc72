"""The named shapes."""

import pytest

from reasonjax.models import presets
from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig


def test_names_are_sorted_and_all_build():
  names = presets.names()
  assert names == sorted(names)
  assert {"deepseek_v3_671b", "deepseek_v3_671b_paper", "deepseek_v3_tiny"} <= set(names)
  assert all(isinstance(presets.get(name), ModelConfig) for name in names)


def test_unknown_names_list_the_known():
  with pytest.raises(ValueError, match=r"preset='deepseek_v4'.*deepseek_v3_tiny"):
    presets.get("deepseek_v4")


def test_deepseek_v3_as_released():
  config = presets.get("deepseek_v3_671b")
  assert (config.vocab_size, config.hidden_size, config.num_layers) == (129280, 7168, 61)
  assert (config.num_dense_layers, config.num_heads) == (3, 128)
  assert config.attention == MLAConfig(1536, 512, 128, 64, 128)
  assert (config.dense_ffn_size, config.moe_ffn_size) == (18432, 2048)
  assert (config.num_routed_experts, config.num_shared_experts) == (256, 1)
  assert (config.experts_per_token, config.routed_scale) == (8, 2.5)
  assert (config.num_expert_groups, config.num_limited_groups) == (8, 4)
  assert config.normalize_weights
  assert not config.tie_embeddings
  assert (config.num_mtp_modules, config.mtp_hidden) == (1, "post")
  assert (config.rope_theta, config.norm_eps) == (10000.0, 1e-6)
  assert config.rope_scaling == YarnConfig(40.0, 4096, 32.0, 1.0, 1.0, 1.0)
  assert config.init_std == 0.02


def test_the_paper_differs_in_initialisation_and_context_only():
  released, paper = presets.get("deepseek_v3_671b"), presets.get("deepseek_v3_671b_paper")
  assert (paper.init_std, paper.rope_scaling) == (0.006, None)
  assert paper.replace(init_std=released.init_std, rope_scaling=released.rope_scaling) == released


def test_r1_has_the_shape_of_v3():
  assert presets.get("deepseek_r1") == presets.get("deepseek_r1_zero")
  assert presets.get("deepseek_r1") == presets.get("deepseek_v3_671b")


def test_deepseek_v2_as_released():
  config = presets.get("deepseek_v2_236b")
  assert (config.vocab_size, config.hidden_size, config.num_layers) == (102400, 5120, 60)
  assert (config.num_dense_layers, config.num_heads) == (1, 128)
  assert config.attention == MLAConfig(1536, 512, 128, 64, 128)
  assert (config.dense_ffn_size, config.moe_ffn_size) == (12288, 1536)
  assert (config.num_routed_experts, config.num_shared_experts) == (160, 2)
  assert (config.experts_per_token, config.routed_scale) == (6, 16.0)
  assert (config.num_expert_groups, config.num_limited_groups) == (8, 3)
  assert (config.score_function, config.normalize_weights) == ("softmax", False)
  assert not config.router_bias
  assert config.num_mtp_modules == 0
  assert config.rope_scaling == YarnConfig(40.0, 4096, 32.0, 1.0, 0.707, 0.707)
  paper = presets.get("deepseek_v2_236b_paper")
  assert config == paper.replace(init_std=0.02, rope_scaling=config.rope_scaling)
  assert (paper.init_std, paper.rope_scaling) == (0.006, None)


def test_deepseek_v2_lite_as_released():
  config = presets.get("deepseek_v2_lite")
  assert (config.vocab_size, config.hidden_size, config.num_layers) == (102400, 2048, 27)
  assert (config.num_dense_layers, config.num_heads) == (1, 16)
  assert config.attention == MLAConfig(None, 512, 128, 64, 128)
  assert (config.dense_ffn_size, config.moe_ffn_size) == (10944, 1408)
  assert (config.num_routed_experts, config.num_shared_experts) == (64, 2)
  assert (config.experts_per_token, config.routed_scale) == (6, 1.0)
  assert (config.num_expert_groups, config.num_limited_groups) == (1, 1)
  assert (config.score_function, config.normalize_weights) == ("softmax", False)
  assert config.rope_scaling == YarnConfig(40.0, 4096, 32.0, 1.0, 0.707, 0.707)


# D, FFN width, L, heads, key heads, head width, V, theta, epsilon, tied.
DENSE = {
  "r1_distill_qwen_1.5b": (1536, 8960, 28, 12, 2, 128, 151936, 1e4, 1e-6, False),
  "r1_distill_qwen_7b": (3584, 18944, 28, 28, 4, 128, 152064, 1e4, 1e-6, False),
  "r1_distill_qwen_14b": (5120, 13824, 48, 40, 8, 128, 152064, 1e6, 1e-5, False),
  "r1_distill_qwen_32b": (5120, 27648, 64, 40, 8, 128, 152064, 1e6, 1e-5, False),
  "r1_distill_llama_8b": (4096, 14336, 32, 32, 8, 128, 128256, 5e5, 1e-5, False),
  "r1_distill_llama_70b": (8192, 28672, 80, 64, 8, 128, 128256, 5e5, 1e-5, False),
  "qwen2.5_0.5b": (896, 4864, 24, 14, 2, 64, 151936, 1e6, 1e-6, True),
  "qwen2.5_1.5b": (1536, 8960, 28, 12, 2, 128, 151936, 1e6, 1e-6, True),
  "qwen2.5_7b": (3584, 18944, 28, 28, 4, 128, 152064, 1e6, 1e-6, False),
  "qwen2.5_math_1.5b": (1536, 8960, 28, 12, 2, 128, 151936, 1e4, 1e-6, True),
  "qwen2.5_math_7b": (3584, 18944, 28, 28, 4, 128, 152064, 1e4, 1e-6, False),
  "llama3_8b": (4096, 14336, 32, 32, 8, 128, 128256, 5e5, 1e-5, False),
  "llama3.2_1b": (2048, 8192, 16, 32, 8, 64, 128256, 5e5, 1e-5, True),
  "llama3.2_3b": (3072, 8192, 28, 24, 8, 128, 128256, 5e5, 1e-5, True),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_models_as_released(name):
  config = presets.get(name)
  D, ffn, layers, heads, kv_heads, head_dim, vocab, theta, eps, tied = DENSE[name]
  assert (config.hidden_size, config.dense_ffn_size) == (D, ffn)
  assert config.num_layers == config.num_dense_layers == layers
  assert config.attention == GQAConfig(kv_heads, head_dim, qkv_bias="qwen" in name)
  assert (config.num_heads, config.vocab_size) == (heads, vocab)
  assert (config.rope_theta, config.norm_eps, config.tie_embeddings) == (theta, eps, tied)


@pytest.mark.parametrize(
  ("name", "factor"),
  [
    ("llama3_8b", None),
    ("llama3_70b", None),
    ("llama3.1_8b", 8.0),
    ("llama3.1_70b", 8.0),
    ("llama3.1_405b", 8.0),
    ("llama3.2_1b", 32.0),
    ("llama3.2_3b", 32.0),
    ("r1_distill_llama_8b", 8.0),
    ("r1_distill_llama_70b", 8.0),
    ("r1_distill_qwen_32b", None),
  ],
)
def test_context_extension_as_released(name, factor):
  scaling = factor and Llama3RopeConfig(factor, 1.0, 4.0, 8192)
  assert presets.get(name).rope_scaling == scaling


RELEASED = [name for name in presets.names() if not name.endswith("_tiny")]


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_are_in_16_bits_and_recompute(name):
  config = presets.get(name)
  assert (config.dtype, config.param_dtype, config.remat) == ("bfloat16", "bfloat16", "full")


TWINS = {
  "deepseek_v3_tiny": "deepseek_v3_671b",
  "deepseek_v2_tiny": "deepseek_v2_236b",
  "deepseek_v2_lite_tiny": "deepseek_v2_lite",
  "qwen2_tiny": "qwen2.5_1.5b",
  "llama3_tiny": "llama3.1_8b",
}


@pytest.mark.parametrize("name", TWINS)
def test_tiny_presets_have_every_part_of_the_large_one(name):
  small, large = presets.get(name), presets.get(TWINS[name])
  same = ("score_function", "normalize_weights", "routed_scale", "num_shared_experts")
  same += ("num_mtp_modules", "mtp_hidden", "rope_theta", "norm_eps", "tie_embeddings")
  for field in same:
    assert getattr(small, field) == getattr(large, field), field
  assert type(small.attention) is type(large.attention)
  assert type(small.rope_scaling) is type(large.rope_scaling)
  assert small.num_dense_layers > 0
  assert (small.num_moe_layers > 0) == (large.num_moe_layers > 0)
  limited = [c.num_limited_groups < c.num_expert_groups for c in (small, large)]
  assert limited[0] == limited[1]
  if isinstance(large.attention, MLAConfig):
    assert (small.attention.q_lora_rank is None) == (large.attention.q_lora_rank is None)
  else:
    assert 1 < small.attention.num_kv_heads < small.num_heads
    assert small.attention.qkv_bias == large.attention.qkv_bias
