"""Out again: bit for bit, as other readers expect it, whole or not at all."""

import errno
import json
import math

import hf_cases
import jax
import numpy as np
import pytest
from hf_cases import FAMILIES, QWEN2, V3, V3_SMALL
from safetensors.numpy import load_file

from reasonjax.checkpoint import hf, safetensors
from reasonjax.models import presets
from reasonjax.models.attention_config import GQAConfig
from reasonjax.sharding import mesh as mesh_lib


def read_all(directory) -> dict[str, np.ndarray]:
  """Every tensor, by the library."""
  found = {}
  for file in directory.glob("*.safetensors"):
    found |= load_file(file)
  return found


def assert_same(left: dict, right: dict):
  assert set(left) == set(right)
  for name, value in left.items():
    assert right[name].dtype == value.dtype, name
    np.testing.assert_array_equal(right[name], value, err_msg=name)


def loaded(tmp_path, values, weights, **options):
  return hf.load(hf_cases.write(tmp_path / "in", values, weights), **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_round_trip_changes_no_bit(tmp_path, name):
  dtype = ["float32", "bfloat16", "float16"][sorted(FAMILIES).index(name) % 3]
  values = FAMILIES[name] | {"torch_dtype": dtype}
  weights = hf_cases.tensors(values, np.dtype(dtype))
  config, variables = loaded(tmp_path, values, weights)
  hf.save(tmp_path / "out", config, variables)
  assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
    "config.json",
    "model.safetensors",
  ]
  assert_same(read_all(tmp_path / "out"), weights)
  told = json.loads((tmp_path / "out" / "config.json").read_text())
  changed = {field for field, value in values.items() if told.get(field, value) != value}
  assert changed <= {"rope_scaling"}  # two names for its type
  assert {"type", "rope_type"} <= set(told["rope_scaling"] or ("type", "rope_type"))
  again, same = hf.load(tmp_path / "out")
  assert again == config
  jax.tree.map(np.testing.assert_array_equal, variables, same)


def test_sharded_arrays_and_sharded_files(tmp_path):
  weights = hf_cases.tensors(V3_SMALL)
  mesh = mesh_lib.make({"fsdp": 2, "expert": 2, "tensor": 2})
  config, variables = loaded(tmp_path, V3_SMALL, weights, mesh=mesh)
  hf.save(tmp_path / "out", config, variables, max_shard_bytes=8000)
  assert_same(read_all(tmp_path / "out"), weights)
  files = sorted((tmp_path / "out").glob("*.safetensors"))
  assert [file.name for file in files] == [
    f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
  ]
  sizes = [sum(weight.nbytes for weight in load_file(file).values()) for file in files]
  index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == sum(sizes)
  # Every file is as full as it may be: the first tensor of the next would not have fitted.
  first = {file: name for name, file in reversed(index["weight_map"].items())}
  for file, size, following in zip(files, sizes, files[1:], strict=False):
    assert size <= 8000 < size + weights[first[following.name]].nbytes, file
  # Layers are written one after the other.
  order = [name for name in index["weight_map"] if name.endswith("input_layernorm.weight")]
  assert order == [f"model.layers.{i}.input_layernorm.weight" for i in range(2)]


def test_another_dtype(tmp_path):
  weights = hf_cases.tensors(V3_SMALL)
  config, variables = loaded(tmp_path, V3_SMALL, weights)
  hf.save(tmp_path / "out", config, variables, dtype="bfloat16")
  bias = "model.layers.1.mlp.gate.e_score_correction_bias"
  expected = {name: weight.astype("bfloat16") for name, weight in weights.items()}
  assert_same(read_all(tmp_path / "out"), expected | {bias: weights[bias]})
  assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
  return loaded(tmp_path_factory.mktemp("qwen"), QWEN2, hf_cases.tensors(QWEN2))


def test_a_save_that_fails_leaves_nothing(tmp_path, qwen, monkeypatch):
  written, write = [], safetensors.Writer.write

  def until_the_disk_is_full(self, name, value):
    written.append(name)
    if len(written) == 9:
      raise OSError(errno.ENOSPC, "No space left on device")
    write(self, name, value)

  monkeypatch.setattr(safetensors.Writer, "write", until_the_disk_is_full)
  with pytest.raises(OSError, match="No space left"):
    hf.save(tmp_path / "out", *qwen)
  assert list(tmp_path.iterdir()) == []
  monkeypatch.setattr(safetensors.Writer, "write", write)
  # What a killed process left behind does not disturb the next.
  (tmp_path / "out.partial").mkdir()
  (tmp_path / "out.partial" / "model-00001-of-00009.safetensors").write_text("half")
  hf.save(tmp_path / "out", *qwen)
  assert [folder.name for folder in tmp_path.iterdir()] == ["out"]
  assert len(list((tmp_path / "out").iterdir())) == 2


def test_only_into_an_absent_or_empty_directory(tmp_path, qwen):
  (tmp_path / "mine.txt").write_text("precious")
  with pytest.raises(FileExistsError, match=f"{tmp_path} is not empty"):
    hf.save(tmp_path, *qwen)
  with pytest.raises(FileExistsError, match=r"mine.txt is not empty"):
    hf.save(tmp_path / "mine.txt", *qwen)
  (tmp_path / "empty").mkdir()
  hf.save(tmp_path / "empty", *qwen)
  assert (tmp_path / "empty" / "model.safetensors").exists()


def test_variables_must_be_those_of_the_config(tmp_path, qwen):
  config, variables = qwen
  with pytest.raises(ValueError, match=r"params/embedding should be \(25, 16\), found \(24, 16\)"):
    hf.save(tmp_path / "out", config.replace(vocab_size=25), variables)
  with pytest.raises(ValueError, match=r"params/head should be \(24, 16\), found nothing"):
    hf.save(tmp_path / "out", config.replace(tie_embeddings=False), variables)
  more = variables | {"router": {"layers": np.zeros((1, 4))}}
  with pytest.raises(ValueError, match=r"router/layers should be absent, found \(1, 4\)"):
    hf.save(tmp_path / "out", config, more)
  assert list(tmp_path.iterdir()) == []


def test_tied_mtp_modules_get_copies_of_the_embedding(tmp_path):
  values = V3 | {"tie_word_embeddings": True, "num_nextn_predict_layers": 1}
  values |= {"num_hidden_layers": 2}
  weights = hf_cases.tensors(V3 | {"num_hidden_layers": 2, "num_nextn_predict_layers": 1})
  del weights["lm_head.weight"]
  config, variables = loaded(tmp_path, values, weights)
  hf.save(tmp_path / "out", config, variables)
  found = load_file(tmp_path / "out" / "model.safetensors")
  for name in ("embed_tokens", "shared_head.head"):
    copy = found[f"model.layers.2.{name}.weight"]
    np.testing.assert_array_equal(copy, weights["model.embed_tokens.weight"])


def test_what_no_family_has_is_refused(tmp_path, qwen):
  config, variables = qwen
  attention = GQAConfig(num_kv_heads=2, head_dim=4, qkv_bias=False, out_bias=True)
  with pytest.raises(ValueError, match=r"attention.out_bias: True -> False"):
    hf.save(tmp_path / "out", config.replace(attention=attention), variables)
  assert list(tmp_path.iterdir()) == []


def test_the_released_v3_has_just_these_tensors():
  """91,991 tensors, of which 45,808 are scales, and 684,489,845,504 weights."""
  _, pieces = hf.describe(presets.get("deepseek_v3_671b"), "bfloat16")
  shapes = {name: piece.layout.stored_shape for piece in pieces for name in piece.names}
  scaled = [name for name in shapes if "_proj" in name and "eh_proj" not in name]
  assert len(shapes) + len(scaled) == 91_991
  assert sum(map(math.prod, shapes.values())) == 684_489_845_504
  assert shapes["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"] == (576, 7168)
  assert shapes["model.layers.61.eh_proj.weight"] == (7168, 14336)
