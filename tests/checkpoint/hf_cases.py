"""Tiny Hugging Face directories, written name by name, and what each tensor should become."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

YARN = {
  "type": "yarn",
  "factor": 4.0,
  "original_max_position_embeddings": 64,
  "beta_fast": 32,
  "beta_slow": 1,
  "mscale": 1.0,
  "mscale_all_dim": 1.0,
}
LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
_COMMON = {
  "hidden_act": "silu",
  "initializer_range": 0.02,
  "max_position_embeddings": 256,
  "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0,
  "tie_word_embeddings": False,
  "torch_dtype": "float32",
  "vocab_size": 24,
  "hidden_size": 16,
  "intermediate_size": 40,
  "num_attention_heads": 4,
}
_DEEPSEEK = _COMMON | {
  "num_hidden_layers": 3,
  "num_key_value_heads": 4,
  "first_k_dense_replace": 1,
  "moe_layer_freq": 1,
  "q_lora_rank": 12,
  "kv_lora_rank": 10,
  "qk_nope_head_dim": 6,
  "qk_rope_head_dim": 8,
  "v_head_dim": 4,
  "attention_bias": False,
  "moe_intermediate_size": 12,
  "n_routed_experts": 4,
  "n_shared_experts": 2,
  "num_experts_per_tok": 2,
  "n_group": 2,
  "topk_group": 1,
  "rope_scaling": YARN,
}
V3 = _DEEPSEEK | {
  "model_type": "deepseek_v3",
  "scoring_func": "sigmoid",
  "topk_method": "noaux_tc",
  "norm_topk_prob": True,
  "routed_scaling_factor": 2.5,
  "num_nextn_predict_layers": 2,
}
V2 = _DEEPSEEK | {
  "model_type": "deepseek_v2",
  "scoring_func": "softmax",
  "topk_method": "group_limited_greedy",
  "norm_topk_prob": False,
  "routed_scaling_factor": 16.0,
}
V2_LITE = V2 | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1}
_DENSE = _COMMON | {"num_hidden_layers": 2, "num_key_value_heads": 2}
QWEN2 = _DENSE | {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": False}
LLAMA = _DENSE | {"model_type": "llama", "head_dim": 6, "rope_scaling": LLAMA3}

V3_SMALL = V3 | {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}

FAMILIES = {
  "v3": V3,
  "v3_small": V3_SMALL,
  "v3_bias": V3 | {"attention_bias": True, "num_nextn_predict_layers": 0, "n_shared_experts": 0},
  "v2": V2,
  "v2_lite": V2_LITE,
  "qwen2_tied": QWEN2,
  "qwen2": QWEN2 | {"tie_word_embeddings": False},
  "llama": LLAMA,
  "llama_bias": LLAMA | {"attention_bias": True},
}


def shapes(values: dict) -> dict[str, tuple[int, ...]]:
  """Name and shape of every tensor of a released checkpoint with this config.json."""
  D, V, F = values["hidden_size"], values["vocab_size"], values["intermediate_size"]
  found = {"model.embed_tokens.weight": (V, D)}
  deepseek = values["model_type"].startswith("deepseek")
  layers, mtp = values["num_hidden_layers"], values.get("num_nextn_predict_layers", 0)
  for i in range(layers + mtp):
    layer = f"model.layers.{i}"
    found[f"{layer}.input_layernorm.weight"] = (D,)
    found[f"{layer}.post_attention_layernorm.weight"] = (D,)
    attention = _mla(values) if deepseek else _gqa(values)
    found |= {f"{layer}.self_attn.{name}": shape for name, shape in attention.items()}
    if deepseek and i >= values["first_k_dense_replace"]:
      found |= {f"{layer}.mlp.{name}": shape for name, shape in _experts(values).items()}
    else:
      found |= {f"{layer}.mlp.{name}": shape for name, shape in _mlp(D, F).items()}
    if i >= layers:
      found |= {f"{layer}.{name}.weight": (D,) for name in ("enorm", "hnorm", "shared_head.norm")}
      found[f"{layer}.eh_proj.weight"] = (D, 2 * D)
      found[f"{layer}.embed_tokens.weight"] = found[f"{layer}.shared_head.head.weight"] = (V, D)
  found["model.norm.weight"] = (D,)
  if not values["tie_word_embeddings"]:
    found["lm_head.weight"] = (V, D)
  return found


def _mla(values: dict) -> dict[str, tuple[int, ...]]:
  D, H, R = values["hidden_size"], values["num_attention_heads"], values["kv_lora_rank"]
  dn, dr, dv = (values[f"{n}_head_dim"] for n in ("qk_nope", "qk_rope", "v"))
  found = {
    "kv_a_proj_with_mqa.weight": (R + dr, D),
    "kv_a_layernorm.weight": (R,),
    "kv_b_proj.weight": (H * (dn + dv), R),
    "o_proj.weight": (D, H * dv),
  }
  rank = values["q_lora_rank"]
  if rank is None:
    found["q_proj.weight"] = (H * (dn + dr), D)
  else:
    found["q_a_proj.weight"], found["q_a_layernorm.weight"] = (rank, D), (rank,)
    found["q_b_proj.weight"] = (H * (dn + dr), rank)
  if values["attention_bias"]:
    found |= {"q_a_proj.bias": (rank,), "kv_a_proj_with_mqa.bias": (R + dr,), "o_proj.bias": (D,)}
  return found


def _gqa(values: dict) -> dict[str, tuple[int, ...]]:
  D, H, N = values["hidden_size"], values["num_attention_heads"], values["num_key_value_heads"]
  K = values.get("head_dim", D // H)
  found = {"q_proj.weight": (H * K, D), "k_proj.weight": (N * K, D), "v_proj.weight": (N * K, D)}
  if values["model_type"] == "qwen2" or values.get("attention_bias"):
    found |= {"q_proj.bias": (H * K,), "k_proj.bias": (N * K,), "v_proj.bias": (N * K,)}
  if values.get("attention_bias"):
    found["o_proj.bias"] = (D,)
  return found | {"o_proj.weight": (D, H * K)}


def _mlp(D: int, F: int) -> dict[str, tuple[int, ...]]:
  return {"gate_proj.weight": (F, D), "up_proj.weight": (F, D), "down_proj.weight": (D, F)}


def _experts(values: dict) -> dict[str, tuple[int, ...]]:
  D, F, E = values["hidden_size"], values["moe_intermediate_size"], values["n_routed_experts"]
  found = {"gate.weight": (E, D)}
  if values["model_type"] == "deepseek_v3":
    found["gate.e_score_correction_bias"] = (E,)
  for e in range(E):
    found |= {f"experts.{e}.{name}": shape for name, shape in _mlp(D, F).items()}
  if values["n_shared_experts"]:
    shared = _mlp(D, F * values["n_shared_experts"])
    found |= {f"shared_experts.{name}": shape for name, shape in shared.items()}
  return found


def tensors(values: dict, dtype=np.float32, seed: int = 0) -> dict[str, np.ndarray]:
  """Random weights; correction biases are always float32."""
  rng = np.random.default_rng(seed)

  def draw(name, shape):
    kind = np.float32 if name.endswith("e_score_correction_bias") else dtype
    return rng.normal(0.0, 0.5, shape).astype(kind)

  made = {name: draw(name, shape) for name, shape in shapes(values).items()}
  for name in made:
    if name.endswith(".shared_head.head.weight"):
      made[name] = made["lm_head.weight"]
    elif ".layers." in name and name.endswith(".embed_tokens.weight"):
      made[name] = made["model.embed_tokens.weight"]
  return made


def write(directory: Path, values: dict, weights: dict[str, np.ndarray], shards: int = 1) -> Path:
  """A directory as `save_pretrained` leaves it."""
  directory.mkdir(exist_ok=True)
  (directory / "config.json").write_text(json.dumps(values))
  if shards == 1:
    save_file(weights, directory / "model.safetensors")
    return directory
  names, weight_map = list(weights), {}
  for number in range(shards):
    file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
    held = names[number::shards]
    save_file({name: weights[name] for name in held}, directory / file)
    weight_map |= dict.fromkeys(held, file)
  index = {"metadata": {}, "weight_map": weight_map}
  (directory / "model.safetensors.index.json").write_text(json.dumps(index))
  return directory


def quantized(
  weights: dict[str, np.ndarray], block: tuple[int, int], seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Projections inside layers in 8 bits with scales, and the float32 weights that they stand for.

  Every value is multiplied by the scale of its block in a plain loop.
  """
  rng = np.random.default_rng(seed)
  stored, meant = {}, {}
  for name, weight in weights.items():
    stored[name] = meant[name] = weight
    # The router, the MTP projection and all tables keep 16 bits in the release.
    linear = weight.ndim == 2 and name.endswith("_proj.weight") and "eh_proj" not in name
    if not linear:
      continue
    rows, columns = (-(-n // b) for n, b in zip(weight.shape, block, strict=True))
    scale = rng.uniform(0.001, 0.01, (rows, columns)).astype(np.float32)
    value = (weight * 100).astype(ml_dtypes.float8_e4m3fn)
    product = np.zeros(weight.shape, np.float32)
    for r in range(weight.shape[0]):
      for c in range(weight.shape[1]):
        product[r, c] = np.float32(value[r, c]) * scale[r // block[0], c // block[1]]
    stored[name], meant[name] = value, product
    stored[f"{name}_scale_inv"] = scale
  return stored, meant
