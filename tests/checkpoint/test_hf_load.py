"""Every family from a directory, value by value; sharded, in 8 bits, and whatever may be wrong."""

import functools
import json
import re

import hf_cases
import jax
import ml_dtypes
import numpy as np
import pytest
from hf_cases import FAMILIES, QWEN2, V3, V3_SMALL

from reasonjax.checkpoint import fp8, hf, hf_plan
from reasonjax.models.transformer import init_variables
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place, rules

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """Directories by family, dtype and number of files, written once."""
  root = tmp_path_factory.mktemp("hf")

  @functools.cache
  def make(name: str, dtype: str = "float32", shards: int = 1):
    values = FAMILIES[name] | {"torch_dtype": dtype}
    weights = hf_cases.tensors(values, np.dtype(dtype))
    return hf_cases.write(root / f"{name}_{dtype}_{shards}", values, weights, shards)

  return make


def same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


def half_split(rows, dim):
  """The last `dim` rows taken from neighbouring pairs to pairs (i, i + dim / 2), one by one."""
  rows = list(rows)
  fixed, tail = rows[:-dim], rows[-dim:]
  return np.stack(fixed + [tail[i] for i in range(0, dim, 2)] + [tail[i] for i in range(1, dim, 2)])


def expected_mla(values, weights, prefix):
  """Ours from theirs, head by head."""
  H, D = values["num_attention_heads"], values["hidden_size"]
  dn, dr, dv = (values[f"{n}_head_dim"] for n in ("qk_nope", "qk_rope", "v"))
  get = lambda name: weights[f"{prefix}.self_attn.{name}"]

  def heads(matrix, width, dim=0):
    blocks = [matrix[h * width : (h + 1) * width] for h in range(H)]
    blocks = [half_split(block, dim) if dim else block for block in blocks]
    return np.stack([block.T for block in blocks], axis=1)

  found = {
    "kv_a": half_split(get("kv_a_proj_with_mqa.weight"), dr).T,
    "kv_b": heads(get("kv_b_proj.weight"), dn + dv),
    "kv_norm": {"scale": get("kv_a_layernorm.weight")},
    "o": np.stack([get("o_proj.weight")[:, h * dv : (h + 1) * dv].T for h in range(H)]),
  }
  assert found["o"].shape == (H, dv, D)
  if values["q_lora_rank"] is None:
    found["q"] = heads(get("q_proj.weight"), dn + dr, dr)
  else:
    found["q_a"], found["q_b"] = (
      get("q_a_proj.weight").T,
      heads(get("q_b_proj.weight"), dn + dr, dr),
    )
    found["q_norm"] = {"scale": get("q_a_layernorm.weight")}
  if values["attention_bias"]:
    found["q_a_bias"], found["o_bias"] = get("q_a_proj.bias"), get("o_proj.bias")
    found["kv_a_bias"] = half_split(get("kv_a_proj_with_mqa.bias"), dr)
  return found


def expected_gqa(values, weights, prefix):
  get = lambda name: weights.get(f"{prefix}.self_attn.{name}")
  K = values.get("head_dim", values["hidden_size"] // values["num_attention_heads"])
  found = {}
  for name in "qkv":
    matrix, bias = get(f"{name}_proj.weight"), get(f"{name}_proj.bias")
    N = len(matrix) // K
    found[name] = np.stack([matrix[n * K : (n + 1) * K].T for n in range(N)], axis=1)
    if bias is not None:
      found[f"{name}_bias"] = np.stack([bias[n * K : (n + 1) * K] for n in range(N)])
  matrix = get("o_proj.weight")
  H = values["num_attention_heads"]
  found["o"] = np.stack([matrix[:, h * K : (h + 1) * K].T for h in range(H)])
  if get("o_proj.bias") is not None:
    found["o_bias"] = get("o_proj.bias")
  return found


def expected_block(values, weights, number):
  prefix = f"model.layers.{number}"
  deepseek = values["model_type"].startswith("deepseek")

  def mlp(name):
    get = lambda which: weights[f"{prefix}.mlp.{name}{which}_proj.weight"].T
    return {which: get(which) for which in ("gate", "up", "down")}

  if deepseek and number >= values["first_k_dense_replace"]:
    experts = [mlp(f"experts.{e}.") for e in range(values["n_routed_experts"])]
    ffn = {which: np.stack([expert[which] for expert in experts]) for which in experts[0]}
    ffn["router"] = weights[f"{prefix}.mlp.gate.weight"].T
    if values["n_shared_experts"]:
      ffn["shared"] = mlp("shared_experts.")
  else:
    ffn = mlp("")
  return {
    "attention": (expected_mla if deepseek else expected_gqa)(values, weights, prefix),
    "attention_norm": {"scale": weights[f"{prefix}.input_layernorm.weight"]},
    "ffn_norm": {"scale": weights[f"{prefix}.post_attention_layernorm.weight"]},
    "ffn": ffn,
  }


def expected(values, weights):
  """All variables of the model."""
  stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
  L, deepseek = values["num_hidden_layers"], values["model_type"].startswith("deepseek")
  dense = values["first_k_dense_replace"] if deepseek else L
  params = {
    "embedding": weights["model.embed_tokens.weight"],
    "final_norm": {"scale": weights["model.norm.weight"]},
    "dense_layers": stack([expected_block(values, weights, i) for i in range(dense)]),
  }
  if not values["tie_word_embeddings"]:
    params["head"] = weights["lm_head.weight"]
  if deepseek:
    params["moe_layers"] = stack([expected_block(values, weights, i) for i in range(dense, L)])
  mtp = values.get("num_nextn_predict_layers", 0)
  for k in range(mtp):
    get = lambda name, k=k: weights[f"model.layers.{L + k}.{name}.weight"]
    params[f"mtp_{k}"] = {
      "embedding_norm": {"scale": get("enorm")},
      "hidden_norm": {"scale": get("hnorm")},
      "project": get("eh_proj").T,
      "final_norm": {"scale": get("shared_head.norm")},
      "block": expected_block(values, weights, L + k),
    }
  router = {}
  if values["model_type"] == "deepseek_v3":
    bias = lambda i: weights[f"model.layers.{i}.mlp.gate.e_score_correction_bias"]
    router["layers"] = np.stack([bias(i) for i in range(dense, L)])
    if mtp:
      router["mtp"] = np.stack([bias(L + k) for k in range(mtp)])
  return {"params": params, "router": router}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_value_is_where_it_belongs(directory, name):
  config, variables = hf.load(directory(name))
  same(variables, expected(FAMILIES[name], hf_cases.tensors(FAMILIES[name])))
  shapes = jax.eval_shape(lambda: place.unbox(init_variables(config, jax.random.key(0))))
  like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), {"router": {}} | dict(shapes))
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == like


def test_half_split_checkpoints_are_left_alone(tmp_path):
  """The same matrices, once with their rotated rows as released, once already in our order."""
  values = FAMILIES["v2_lite"] | {"num_hidden_layers": 1, "n_routed_experts": None}
  weights = hf_cases.tensors(values | {"first_k_dense_replace": 1})
  values |= {"rope_interleave": False}
  _, variables = hf.load(hf_cases.write(tmp_path, values, weights))
  attention = variables["params"]["dense_layers"]["attention"]
  rows = weights["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
  np.testing.assert_array_equal(attention["kv_a"][0], rows.T)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_dtypes(directory, stored):
  source = directory("v3_small", stored)
  config, variables = hf.load(source)
  assert (config.dtype, config.param_dtype) == (stored, stored)
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables["params"])} == {stored}
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables["router"])} == {"float32"}
  weights = hf_cases.tensors(V3_SMALL, np.dtype(stored))
  same(variables, expected(V3_SMALL, weights))
  config, wide = hf.load(source, param_dtype="float32", dtype=np.float32)
  assert (config.dtype, config.param_dtype) == ("float32", "float32")
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide)} == {"float32"}
  weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
  same(wide, expected(V3_SMALL, weights))


def test_without_a_told_dtype_that_of_the_embedding_counts(directory, tmp_path):
  values = {name: value for name, value in QWEN2.items() if name != "torch_dtype"}
  config, _ = hf.load(hf_cases.write(tmp_path, values, hf_cases.tensors(values, BF16)))
  assert config.param_dtype == "bfloat16"


# With the part of one layer's `up` matrices [experts 4, out 12, in 16] that a device reads.
MESHES = {
  "fsdp": ({"fsdp": 2, "data": 4}, (4, 12, 8)),
  "expert": ({"expert": 4, "tensor": 2}, (1, 12, 16)),
  "full": ({"fsdp": 2, "expert": 2, "tensor": 2}, (2, 6, 8)),
}


@pytest.mark.parametrize("table", MESHES)
def test_sharded_loading_equals_unsharded(directory, table, monkeypatch):
  sizes, part = MESHES[table]
  mesh, source = mesh_lib.make(sizes), directory("v3_small", "float32", 3)
  read = set()
  make = jax.make_array_from_callback

  def spy(shape, sharding, callback):
    def counted(index):
      found = callback(index)
      if shape == (4, 12, 16):
        read.add(found.shape)
      return found

    return make(shape, sharding, counted)

  monkeypatch.setattr(jax, "make_array_from_callback", spy)
  config, variables = hf.load(source, mesh=mesh, rules=rules.get(table))
  boxed = jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))
  found = jax.tree.map(lambda leaf: leaf.sharding, variables)
  assert found == place.shardings(boxed, mesh, rules.get(table))
  same(variables, expected(V3_SMALL, hf_cases.tensors(V3_SMALL)))
  assert read == {part}


def test_the_rules_default_to_all_that_the_mesh_offers(directory):
  mesh = mesh_lib.make({"tensor": 2, "data": 4})
  _, variables = hf.load(directory("qwen2"), mesh=mesh)
  q = variables["params"]["dense_layers"]["attention"]["q"]
  assert q.sharding.shard_shape(q.shape) == (2, 16, 2, 4)
  same(variables, expected(FAMILIES["qwen2"], hf_cases.tensors(FAMILIES["qwen2"])))


def test_dequantize_by_hand():
  value = np.ones((3, 5), ml_dtypes.float8_e4m3fn)
  scale = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
  rows = [[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 4, 4]]
  np.testing.assert_array_equal(fp8.dequantize(value, scale, (2, 3)), np.array(rows, np.float32))


@pytest.mark.parametrize("block", [None, (64, 32)])
def test_eight_bits_with_partial_blocks(tmp_path, block):
  """Dimensions 130 and 200, blocks of 128 unless config.json tells others."""
  values = hf_cases.LLAMA | {"hidden_size": 200, "intermediate_size": 130, "num_hidden_layers": 1}
  stored, meant = hf_cases.quantized(hf_cases.tensors(values), block or (128, 128))
  quantization = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
  quantization |= {"weight_block_size": list(block)} if block else {}
  told = values | {"quantization_config": quantization}
  assert stored["model.layers.0.mlp.gate_proj.weight"].dtype.itemsize == 1
  _, variables = hf.load(hf_cases.write(tmp_path, told, stored))
  same(variables, expected(values, meant))


@pytest.mark.parametrize("mesh", [None, {"expert": 4, "tensor": 2}])
def test_eight_bit_experts_and_latents(tmp_path, mesh):
  block = (16, 8)
  stored, meant = hf_cases.quantized(hf_cases.tensors(V3_SMALL), block)
  quantization = {"quant_method": "fp8", "weight_block_size": list(block)}
  told = V3_SMALL | {"quantization_config": quantization}
  mesh = mesh and mesh_lib.make(mesh)
  _, variables = hf.load(hf_cases.write(tmp_path, told, stored), mesh=mesh)
  same(variables, expected(V3_SMALL, meant))


def test_tensors_that_nobody_needs_may_be_there(tmp_path):
  weights = hf_cases.tensors(QWEN2)
  extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2) for i in range(2)}
  extra["lm_head.weight"] = weights["model.embed_tokens.weight"]
  _, variables = hf.load(hf_cases.write(tmp_path, QWEN2, weights | extra))
  same(variables, expected(QWEN2, weights))


def test_mtp_modules_may_have_been_left_out(tmp_path):
  weights = hf_cases.tensors(V3)
  main = {
    n: w for n, w in weights.items() if not n.startswith(("model.layers.3", "model.layers.4"))
  }
  config, variables = hf.load(hf_cases.write(tmp_path, V3, main))
  assert config.num_mtp_modules == 0
  same(variables, expected(V3 | {"num_nextn_predict_layers": 0}, weights))


def test_memory_is_given_back(directory, monkeypatch):
  released = []
  original = hf_plan.Reader.release
  spy = lambda self, name: (released.append(name), original(self, name))
  monkeypatch.setattr(hf_plan.Reader, "release", spy)
  hf.load(directory("qwen2"))
  assert sorted(released) == sorted(hf_cases.shapes(FAMILIES["qwen2"]))


# What is done to the weights of QWEN2, and the one line that it should bring.
NAME = "model.layers.1.self_attn.k_proj.weight"
SCALE = f"{NAME}_scale_inv"
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
ONES = np.ones((8, 16), E4M3)
BAD_WEIGHTS = {
  "missing": ({NAME: None}, f"1 missing: {NAME}"),
  "extra": ({"model.layers.2.mlp.up_proj.weight": ONES}, "1 not expected: model.layers.2.mlp.up"),
  "shape": (
    {NAME: np.ones((16, 8), np.float32)},
    rf"model.safetensors: {NAME}: expected F32 or BF16 or F16 or F8_E4M3 \[8, 16\], "
    r"found F32 \[16, 8\]",
  ),
  "dtype": ({NAME: np.ones((8, 16), np.int8)}, rf"{NAME}: expected F32 .*, found I8 \[8, 16\]"),
  "no scale": ({NAME: ONES}, rf"{NAME} is F8_E4M3, but lacks {SCALE}"),
  "scale shape": (
    {NAME: ONES, SCALE: np.ones((8, 1), np.float32)},
    rf"{SCALE}: expected F32 \[1, 1\], found F32 \[8, 1\]",
  ),
  "scale dtype": (
    {NAME: ONES, SCALE: np.ones((1, 1), BF16)},
    rf"{SCALE}: expected F32 \[1, 1\], found BF16 \[1, 1\]",
  ),
  "scale of a wide weight": ({SCALE: np.ones((1, 1), np.float32)}, f"not expected: {SCALE}"),
  "vector in 8 bits": (
    {"model.norm.weight": np.ones(16, E4M3)},
    r"model.norm.weight: expected F32 or BF16 or F16 \[16\], found F8_E4M3 \[16\]",
  ),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_wrong_weights_are_named_before_any_is_read(tmp_path, case, monkeypatch):
  changes, message = BAD_WEIGHTS[case]
  weights = hf_cases.tensors(QWEN2) | changes
  present = {name: weight for name, weight in weights.items() if weight is not None}
  hf_cases.write(tmp_path, QWEN2, present)
  monkeypatch.setattr(hf_plan.Reader, "view", None)  # whoever reads, fails
  with pytest.raises(ValueError, match=message) as error:
    hf.load(tmp_path)
  assert len(str(error.value).splitlines()) == 2
  assert str(tmp_path) in str(error.value)


def test_long_lists_are_cut(tmp_path):
  weights = {name: w for name, w in hf_cases.tensors(V3).items() if ".experts." not in name}
  hf_cases.write(tmp_path, V3, weights)
  with pytest.raises(ValueError, match="48 missing") as error:  # 3 x 4 experts x (2 layers + 2 MTP)
    hf.load(tmp_path)
  assert str(error.value).count(".experts.") == 10


def test_experts_of_one_layer_have_one_dtype(tmp_path):
  weights = hf_cases.tensors(V3)
  name = "model.layers.1.mlp.experts.2.up_proj.weight"
  hf_cases.write(tmp_path, V3, weights | {name: weights[name].astype(BF16)})
  with pytest.raises(ValueError, match=r"dtypes \['BF16', 'F32'\]; experts of a layer should"):
    hf.load(tmp_path)


def test_files_that_are_absent_or_cut(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
    hf.load(tmp_path)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json"))):
    hf.load(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(QWEN2))
  with pytest.raises(FileNotFoundError, match=r"neither model.safetensors.index.json nor"):
    hf.load(tmp_path)
  hf_cases.write(tmp_path, QWEN2, hf_cases.tensors(QWEN2))
  file = tmp_path / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match=f"{file}.*truncated"):
    hf.load(tmp_path)


def test_the_plan_can_be_read(tmp_path):
  weights = hf_cases.tensors(V3, BF16)
  del weights["model.norm.weight"]
  lines = str(hf_plan.make(hf_cases.write(tmp_path, V3, weights))).splitlines()
  experts = "model.layers.{}.mlp.experts.{}.gate_proj.weight"
  assert (
    f"{experts.format(2, 0)} .. {experts.format(2, 3)} [12, 16] -> "
    "params/moe_layers/ffn/gate[1] [4, 16, 12] BF16"
  ) in lines
  assert "model.layers.3.enorm.weight [16] -> params/mtp_0/embedding_norm/scale [16] BF16" in lines
  assert "model.norm.weight [16] -> params/final_norm/scale [16] absent" in lines
  assert lines[-1] == "1 missing: model.norm.weight"
