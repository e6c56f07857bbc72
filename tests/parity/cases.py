"""The checkpoints that parity is shown for."""

from torch_models import Case

VOCAB = 96
_COMMON = {
  "vocab_size": VOCAB,
  "hidden_size": 32,
  "num_attention_heads": 4,
  "rms_norm_eps": 1e-6,
  "max_position_embeddings": 4096,
  "bos_token_id": 0,
  "eos_token_id": 1,
  "pad_token_id": None,
}
_DEEPSEEK = _COMMON | {
  "intermediate_size": 48,
  "moe_intermediate_size": 16,
  "num_hidden_layers": 3,
  "num_key_value_heads": 4,
  "first_k_dense_replace": 1,
  "q_lora_rank": 24,
  "kv_lora_rank": 20,
  "qk_nope_head_dim": 16,
  "qk_rope_head_dim": 8,
  "v_head_dim": 12,
  "n_routed_experts": 8,
  "num_experts_per_tok": 3,
  "n_group": 4,
  "topk_group": 2,
}
_V3 = _DEEPSEEK | {"n_shared_experts": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5}
_V2 = _DEEPSEEK | {
  "n_shared_experts": 2,
  "norm_topk_prob": False,
  "routed_scaling_factor": 16.0,
  "topk_method": "group_limited_greedy",
}
_V2_LITE = _V2 | {
  "q_lora_rank": None,
  "routed_scaling_factor": 1.0,
  "topk_method": "greedy",
  "n_group": 1,
  "topk_group": 1,
}
_DENSE = _COMMON | {
  "hidden_size": 64,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_key_value_heads": 2,
}
_YARN = {
  "rope_type": "yarn",
  "rope_theta": 10000.0,
  "factor": 40.0,
  "beta_fast": 32,
  "beta_slow": 1,
  "original_max_position_embeddings": 4096,
  "mscale": 1.0,
  "mscale_all_dim": 1.0,
}
_YARN_ALONE = {key: value for key, value in _YARN.items() if "mscale" not in key}
_LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 5e5,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}
# 144 rows of kv_a_proj_with_mqa and 168 of q_a_proj: the last block is not full, and size / blocks
# is not the size of a block.
_ODD_SIZES = {"hidden_size": 160, "q_lora_rank": 168, "kv_lora_rank": 136}


def _yarn(**changes) -> dict:
  return {"rope_parameters": _YARN | changes}


def _plain(theta: float) -> dict:
  return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def _v3(changes: dict | None = None, **case) -> Case:
  return Case("deepseek_v3", _V3 | _yarn() | (changes or {}), **case)


def _v2(sizes: dict, changes: dict | None = None, **case) -> Case:
  rope = _yarn(mscale=0.707, mscale_all_dim=0.707)
  return Case("deepseek_v2", sizes | rope | (changes or {}), **case)


def _qwen2(theta: float, **case) -> Case:
  return Case("qwen2", _DENSE | _plain(theta), **case)


def _llama(changes: dict, **case) -> Case:
  return Case("llama", _DENSE | {"rms_norm_eps": 1e-5} | changes, **case)


TIED = {"tie_word_embeddings": True}
CASES = {
  "V3: YaRN": _v3(),
  "V3: plain RoPE": _v3(_plain(10000.0)),
  "V3: mscale_all_dim 0": _v3(_yarn(mscale_all_dim=0.0)),
  "V3: mscale 1, mscale_all_dim 0.5": _v3(_yarn(mscale_all_dim=0.5)),
  "V3: mscale and mscale_all_dim 0.707": _v3(_yarn(mscale=0.707, mscale_all_dim=0.707)),
  "V3: half-split RoPE": _v3({"rope_interleave": False}),
  "V3: no query latent": _v3({"q_lora_rank": None}),
  "V3: no shared expert": _v3({"n_shared_experts": 0}),
  "V3: two shared experts": _v3({"n_shared_experts": 2}),
  "V3: raw gate values": _v3({"norm_topk_prob": False}),
  "V3: one group": _v3({"n_group": 1, "topk_group": 1}),
  "V3: negative biased scores": _v3(bias_mean=-1.2),
  "V3: every layer MoE": _v3({"first_k_dense_replace": 0}),
  "V3: tied head": _v3(TIED),
  "V3: attention biases": _v3({"attention_bias": True}),
  "V3: rms_norm_eps 0.05": _v3({"rms_norm_eps": 0.05}),
  "V3: MTP depth 1": _v3(mtp=1, bias_mean=-0.5),
  "V3: MTP depth 2": _v3(mtp=2, bias_mean=-0.5),
  "V3: old config.json": _v3(mtp=1, old_config=True, shards=3),
  "V3: old config.json, plain RoPE": _v3(_plain(5000.0), old_config=True),
  "V3: BF16 files": _v3(mtp=1, dtype="bfloat16"),
  "V3: F16 files": _v3(dtype="float16"),
  "V3: FP8 files": _v3(_ODD_SIZES, mtp=1, dtype="bfloat16", fp8=True, old_config=True, shards=2),
  "V2: group-limited": _v2(_V2),
  "V2: greedy": _v2(_V2, {"topk_method": "greedy"}),
  "V2: plain RoPE": _v2(_V2, _plain(10000.0)),
  "V2-Lite, old config.json": _v2(_V2_LITE, old_config=True),
  "Qwen2: untied": _qwen2(1e6),
  "Qwen2: tied, old config.json": Case("qwen2", _DENSE | _plain(1e4) | TIED, old_config=True),
  "Qwen2: BF16 files": _qwen2(1e4, dtype="bfloat16", shards=2),
  "Qwen2: YaRN": Case("qwen2", _DENSE | {"rope_parameters": _YARN_ALONE}),
  "Llama: attention biases, wide heads": _llama(
    _plain(1e4) | {"attention_bias": True, "head_dim": 24}
  ),
  "Llama: plain RoPE": _llama(_plain(5e5)),
  "Llama 3: scaled RoPE": _llama({"rope_parameters": _LLAMA3}),
  "Llama 3: tied, BF16, old config.json": _llama(
    {"rope_parameters": _LLAMA3} | TIED, dtype="bfloat16", old_config=True
  ),
}
