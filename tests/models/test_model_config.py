"""Every wrong model shape is refused with the name of the field."""

import dataclasses

import pytest
from model_cases import tiny

from reasonjax.models.attention_config import MLAConfig
from reasonjax.models.config import ModelConfig, YarnConfig

WRONG = [
  ("vocab_size", {"vocab_size": 0}),
  ("hidden_size", {"hidden_size": -1}),
  ("num_layers", {"num_layers": 0, "num_dense_layers": 0}),
  ("num_heads", {"num_heads": 0}),
  ("kv_lora_rank", {"kv_lora_rank": 0}),
  ("qk_nope_head_dim", {"qk_nope_head_dim": 0}),
  ("qk_rope_head_dim", {"qk_rope_head_dim": 0}),
  ("qk_rope_head_dim", {"qk_rope_head_dim": 5}),
  ("v_head_dim", {"v_head_dim": 0}),
  ("scan_unroll", {"scan_unroll": 0}),
  ("num_dense_layers", {"num_dense_layers": 3}),
  ("num_dense_layers", {"num_dense_layers": -1}),
  ("dense_ffn_size", {"dense_ffn_size": 0}),
  ("q_lora_rank", {"q_lora_rank": 0}),
  ("mtp_hidden", {"mtp_hidden": "both"}),
  ("num_mtp_modules", {"num_mtp_modules": -1}),
  ("remat", {"remat": "everything"}),
  ("moe_implementation", {"moe_implementation": "dense"}),
  ("num_routed_experts", {"num_routed_experts": 0}),
  ("moe_ffn_size", {"moe_ffn_size": 0}),
  ("num_shared_experts", {"num_shared_experts": -1}),
  ("num_expert_groups", {"num_expert_groups": 3}),
  ("num_expert_groups", {"num_expert_groups": 0}),
  ("num_expert_groups", {"num_expert_groups": 8}),
  ("num_limited_groups", {"num_limited_groups": 0}),
  ("num_limited_groups", {"num_limited_groups": 3}),
  ("experts_per_token", {"experts_per_token": 0}),
  ("experts_per_token", {"experts_per_token": 5}),
  ("experts_per_token", {"num_dense_layers": 2, "num_mtp_modules": 1, "experts_per_token": 99}),
  ("rope_theta", {"rope_theta": 1.0}),
  ("init_std", {"init_std": -0.1}),
  ("dtype", {"dtype": "floaty"}),
  ("param_dtype", {"param_dtype": "int8"}),
]


@pytest.mark.parametrize(("field", "change"), WRONG, ids=str)
def test_errors_name_the_field_and_its_value(field, change):
  with pytest.raises(ValueError, match=rf"^{field}={change[field]!r}: ."):
    tiny(**change)


def test_every_field_named_exists():
  parts = (ModelConfig, MLAConfig)
  fields = {field.name for part in parts for field in dataclasses.fields(part)}
  assert {field for field, _ in WRONG} <= fields


def test_replace_validates_too():
  with pytest.raises(ValueError, match="experts_per_token=5"):
    tiny().replace(experts_per_token=5)


@pytest.mark.parametrize(
  ("field", "change"),
  [
    ("factor", {"factor": 0.5}),
    ("beta_fast", {"beta_fast": 1.0}),
    ("beta_fast", {"beta_slow": 40}),
  ],
)
def test_yarn_errors_name_the_field(field, change):
  with pytest.raises(ValueError, match=rf"^yarn\.{field}="):
    YarnConfig(**change)


@pytest.mark.parametrize(
  "change",
  [
    {"num_dense_layers": 2, "num_routed_experts": 0, "experts_per_token": 0},
    {"num_dense_layers": 0, "dense_ffn_size": 0},
    {"num_shared_experts": 0},
    {"experts_per_token": 4},
    {"num_expert_groups": 4, "num_limited_groups": 4, "experts_per_token": 8},
    {
      "num_expert_groups": 1,
      "num_limited_groups": 1,
      "num_routed_experts": 1,
      "experts_per_token": 1,
    },
  ],
  ids=str,
)
def test_borders_are_allowed(change):
  assert tiny(**change) == tiny().replace(**change)


def test_queries_may_be_projected_directly():
  assert tiny(q_lora_rank=None).attention.q_lora_rank is None


def test_derived_sizes():
  config = tiny(num_layers=5, num_dense_layers=2, qk_nope_head_dim=8, qk_rope_head_dim=4)
  assert config.num_moe_layers == 3
  assert config.attention.qk_head_dim == 12


def test_a_config_is_frozen_and_hashable():
  config = tiny()
  assert hash(config) == hash(tiny())
  assert len({config, tiny(), config.replace(num_heads=4)}) == 2
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.num_heads = 3
