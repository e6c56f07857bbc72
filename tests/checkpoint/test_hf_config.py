"""config.json of old and new transformers, and everything that must not be read past."""

import dataclasses
import json

import pytest
from hf_cases import FAMILIES, LLAMA, LLAMA3, QWEN2, V2, V2_LITE, V3, YARN

from reasonjax.checkpoint import hf_config, hf_describe
from reasonjax.models import presets
from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig

# As released with DeepSeek-R1, fields without meaning for the model left out.
R1 = json.loads("""{
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
  "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
  "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
    "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true,
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
  "torch_dtype": "bfloat16", "use_cache": true, "v_head_dim": 128, "vocab_size": 129280
}""")


def read(values) -> ModelConfig:
  return hf_config.parse(values).model


def test_the_released_config_is_the_preset():
  source = hf_config.parse(R1)
  assert source.model.replace(remat="full") == presets.get("deepseek_v3_671b")
  assert (source.family, source.interleaved, source.block) == ("deepseek_v3", True, (128, 128))
  assert source.dtype == "bfloat16"


def test_new_transformers_say_the_same_with_other_words():
  new = {k: v for k, v in R1.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}
  rope = {k: v for k, v in R1["rope_scaling"].items() if k != "type"}
  new["rope_parameters"] = rope | {"rope_type": "yarn", "rope_theta": 10000.0}
  new["dtype"] = new.pop("torch_dtype", "bfloat16")
  new["num_mtp_layers"] = new.pop("num_nextn_predict_layers")
  for field in ("scoring_func", "topk_method", "moe_layer_freq"):
    del new[field]
  new["rope_interleave"] = True
  assert hf_config.parse(new) == hf_config.parse(R1)


def test_v2():
  config = read(V2)
  assert (config.score_function, config.router_bias) == ("softmax", False)
  assert (config.num_expert_groups, config.num_limited_groups) == (2, 1)
  assert (config.normalize_weights, config.routed_scale) == (False, 16.0)
  assert config.num_mtp_modules == 0
  config = read(V2_LITE)
  assert (config.num_expert_groups, config.attention.q_lora_rank) == (1, None)
  # Greedy choice looks at no groups, whatever their number.
  assert read(V2_LITE | {"n_group": 2}).num_expert_groups == 1
  # V2's published code either normalises or scales.
  config = read(V2 | {"norm_topk_prob": True})
  assert (config.normalize_weights, config.routed_scale) == (True, 1.0)


def test_dense_families():
  assert read(QWEN2).attention == GQAConfig(2, 4, qkv_bias=True, out_bias=False)
  assert read(LLAMA).attention == GQAConfig(2, 6, qkv_bias=False, out_bias=False)
  assert read(LLAMA | {"attention_bias": True}).attention == GQAConfig(2, 6, True, True)
  old = {k: v for k, v in LLAMA.items() if k not in ("head_dim", "num_key_value_heads")}
  assert read(old).attention == GQAConfig(4, 4, False, False)
  assert read(LLAMA).rope_scaling == Llama3RopeConfig(8.0, 1.0, 4.0, 32)
  assert (read(QWEN2).num_dense_layers, read(QWEN2).tie_embeddings) == (2, True)
  assert not read({k: v for k, v in QWEN2.items() if "tie" not in k}).tie_embeddings


def test_all_experts_may_be_absent():
  config = read(V3 | {"n_routed_experts": None})
  assert (config.num_dense_layers, config.num_moe_layers) == (3, 0)
  assert config.num_routed_experts == config.num_mtp_modules == 0


MSCALES = {
  "both": ({"mscale": 0.8, "mscale_all_dim": 0.6}, (0.8, 0.6)),
  "neither": ({}, (0.0, 0.0)),
  "one": ({"mscale": 0.707}, (0.707, 0.0)),
  "other": ({"mscale_all_dim": 0.707}, (0.0, 0.707)),
}


@pytest.mark.parametrize("case", MSCALES)
def test_attention_temperature_is_read_and_kept(case):
  told, expected = MSCALES[case]
  bare = {k: v for k, v in YARN.items() if "mscale" not in k}
  yarn = read(V3 | {"rope_scaling": bare | told}).rope_scaling
  assert (yarn.mscale, yarn.mscale_all_dim) == expected
  assert yarn == YarnConfig(4.0, 64, 32.0, 1.0, *expected)
  again = hf_describe.describe(read(V3 | {"rope_scaling": bare | told}), "float32")
  assert {k: v for k, v in again["rope_scaling"].items() if "mscale" in k} == told


def test_yarn_of_other_families_leaves_the_softmax_alone():
  bare = {k: v for k, v in YARN.items() if "mscale" not in k}
  yarn = read(QWEN2 | {"rope_scaling": bare | {"mscale_all_dim": 1.0}}).rope_scaling
  assert (yarn.mscale, yarn.mscale_all_dim) == (0.0, 0.0)
  with pytest.raises(ValueError, match=r"mscale_all_dim=1.0 is supported for DeepSeek only"):
    read(QWEN2 | {"rope_scaling": YARN})


def test_the_original_length_defaults_to_the_longest():
  scaling = {k: v for k, v in LLAMA3.items() if "original" not in k}
  assert read(LLAMA | {"rope_scaling": scaling}).rope_scaling.original_length == 256


PER_LAYER = {"full_attention": {"rope_type": "default"}, "rope_theta": 1e4}
REFUSED = {
  "architecture": (
    V3 | {"model_type": "kimi"},
    "model_type='kimi' is not supported.*'deepseek_v2'",
  ),
  "activation": (LLAMA | {"hidden_act": "gelu"}, "hidden_act='gelu'.*'silu'"),
  "mlp bias": (LLAMA | {"mlp_bias": True}, "mlp_bias=True.*False"),
  "sliding window": (QWEN2 | {"use_sliding_window": True}, "use_sliding_window=True.*False"),
  "layer types": (
    QWEN2 | {"layer_types": ["full_attention", "sliding_attention"]},
    r"layer_types\[1\].kind='sliding_attention' is not supported",
  ),
  "rope": (QWEN2 | {"rope_scaling": {"rope_type": "dynamic"}}, "rope_scaling.rope_type='dynamic'"),
  "old rope": (QWEN2 | {"rope_scaling": {"type": "linear"}}, "rope_scaling.type='linear'.*'yarn'"),
  "new rope": (QWEN2 | {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type"),
  "rope by layer": (QWEN2 | {"rope_parameters": PER_LAYER}, "only one for all is supported"),
  "partial rope": (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
  "attention factor": (
    V3 | {"rope_scaling": YARN | {"attention_factor": 1.2}},
    "rope_scaling.attention_factor=1.2",
  ),
  "truncate": (V3 | {"rope_scaling": YARN | {"truncate": False}}, "truncate=False"),
  "yarn factor": (V3 | {"rope_scaling": YARN | {"factor": None}}, "rope_scaling.factor is missing"),
  "quantization": (
    QWEN2 | {"quantization_config": {"quant_method": "awq"}},
    "quantization_config.quant_method='awq'.*'fp8'",
  ),
  "quantization format": (
    V3 | {"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}},
    "quantization_config.fmt='e5m2'",
  ),
  "block": (
    V3 | {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}},
    "weight_block_size=None should be two positive integers",
  ),
  "V3 method": (V3 | {"topk_method": "greedy"}, "topk_method='greedy'.*'noaux_tc'"),
  "V3 score": (V3 | {"scoring_func": "softmax"}, "scoring_func='softmax'.*'sigmoid'"),
  "V2 method": (V2 | {"topk_method": "noaux_tc"}, "topk_method='noaux_tc'.*'greedy'"),
  "V2 score": (V2 | {"scoring_func": "sigmoid"}, "scoring_func='sigmoid'.*'softmax'"),
  "sparse layers": (V3 | {"moe_layer_freq": 2}, "moe_layer_freq=2.*1"),
  "two depths": (V3 | {"num_mtp_layers": 1}, "num_nextn_predict_layers and num_mtp_layers differ"),
  "missing": ({k: v for k, v in V3.items() if k != "kv_lora_rank"}, "kv_lora_rank is missing"),
  "no rank": ({k: v for k, v in V3.items() if k != "q_lora_rank"}, "q_lora_rank is missing; null"),
  "type": (V3 | {"hidden_size": "16"}, "hidden_size='16' should be int"),
  "impossible": (V3 | {"n_group": 3}, "num_expert_groups=3: must divide num_routed_experts=4"),
  "dtype": (V3 | {"torch_dtype": "int8"}, "dtype='int8': choose from"),
  "no object": ([], "should be a JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case, tmp_path):
  values, message = REFUSED[case]
  (tmp_path / "config.json").write_text(json.dumps(values))
  with pytest.raises(ValueError, match=message) as error:
    hf_config.read(tmp_path)
  assert str(error.value).startswith(f"{tmp_path}/config.json: ")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_reads_back(name):
  config = read(FAMILIES[name])
  described = hf_describe.describe(config, "float32")
  assert read(json.loads(json.dumps(described))) == config
  assert described["architectures"] == [hf_config.ARCHITECTURES[described["model_type"]]]


def test_what_does_not_decide_the_output_is_not_told():
  config = read(V3).replace(remat="full", scan_unroll=3, moe_implementation="loop")
  assert hf_describe.describe(config, "float32") == hf_describe.describe(read(V3), "float32")
  dense = read(QWEN2).replace(moe_ffn_size=7, routed_scale=9.0, mtp_hidden="pre")
  assert hf_describe.describe(dense, "float32") == hf_describe.describe(read(QWEN2), "float32")


def test_the_state_that_mtp_modules_read_is_told_if_it_is_not_the_usual():
  config = read(V3).replace(mtp_hidden="pre")
  assert "mtp_hidden" not in hf_describe.describe(read(V3), "float32")
  assert read(hf_describe.describe(config, "float32")).mtp_hidden == "pre"


LATENT = read(V3).attention
UNTOLD = {
  "latent eps": (
    read(V3).replace(attention=dataclasses.replace(LATENT, latent_norm_eps=0.1)),
    "attention.latent_norm_eps: 0.1 -> 1e-06",
  ),
  "normalised and scaled": (
    read(V2).replace(normalize_weights=True),
    "routed_scale: 16.0 -> 1.0",
  ),
  "MTP of V2": (read(V2).replace(num_mtp_modules=1), "num_mtp_modules: 1 -> 0"),
  "experts": (
    read(QWEN2).replace(
      num_dense_layers=0, num_routed_experts=4, experts_per_token=1, moe_ffn_size=4
    ),
    "num_routed_experts: 4 -> 0",
  ),
  "MTP of a dense model": (read(QWEN2).replace(num_mtp_modules=1), "num_mtp_modules: 1 -> 0"),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_config_json_cannot_tell_is_refused(case):
  config, message = UNTOLD[case]
  with pytest.raises(ValueError, match=message):
    hf_describe.describe(config, "float32")


def test_other_attention_has_no_family():
  @dataclasses.dataclass(frozen=True)
  class Other(MLAConfig):
    pass

  other = Other(**dataclasses.asdict(LATENT))
  with pytest.raises(ValueError, match="attention=Other: no Hugging Face family"):
    hf_describe.describe(read(V3).replace(attention=other), "float32")
