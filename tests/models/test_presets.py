"""The named shapes."""

import pytest

from reasonjax.models import presets
from reasonjax.models.attention_config import MLAConfig
from reasonjax.models.config import ModelConfig, YarnConfig


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


def test_the_tiny_preset_has_every_part_of_the_large_one():
  config = presets.get("deepseek_v3_tiny")
  assert 0 < config.num_dense_layers < config.num_layers
  assert config.attention.q_lora_rank
  assert config.num_shared_experts
  assert config.num_mtp_modules
  assert config.rope_scaling
  assert 1 <= config.num_limited_groups < config.num_expert_groups
