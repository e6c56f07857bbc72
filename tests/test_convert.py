"""Conversion by its command line, alone and with two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs.convert import from_hf, to_hf
from experiments import convert
from reasonjax.core import config as config_lib
from reasonjax.models.config import ModelConfig
from reasonjax.sharding import mesh, rules
from reasonjax.train import state

ROOT = Path(__file__).parent.parent
VALUES = {
  "model_type": "qwen2",
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "vocab_size": 16,
  "max_position_embeddings": 64,
  "torch_dtype": "bfloat16",
}
SHAPES = {"input_layernorm.weight": (8,), "post_attention_layernorm.weight": (8,)}
SHAPES |= {f"self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"}
SHAPES |= {f"self_attn.{name}_proj.bias": (8,) for name in "qkv"}
SHAPES |= {f"mlp.{name}_proj.weight": (12, 8) for name in ("gate", "up")}
SHAPES |= {"mlp.down_proj.weight": (8, 12)}


@pytest.fixture
def source(tmp_path):
  rng = np.random.default_rng(0)
  shapes = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}
  shapes |= {"model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8)}
  shapes |= {"model.norm.weight": (8,)}
  weights = {name: rng.normal(size=shape).astype("bfloat16") for name, shape in shapes.items()}
  folder = tmp_path / "source"
  folder.mkdir()
  save_file(weights, folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(VALUES))
  (folder / "tokenizer.json").write_text('{"model": {}}')
  (folder / "README.md").write_text("not a tokenizer")
  return folder


def assert_same_weights(left, right):
  left, right = (load_file(folder / "model.safetensors") for folder in (left, right))
  assert set(left) == set(right)
  for name, value in left.items():
    assert right[name].dtype == value.dtype
    np.testing.assert_array_equal(right[name], value)


def run(config, workdir, **changes):
  config.update(changes)
  convert.main(config, str(workdir))


def test_there_and_back(source, tmp_path):
  run(from_hf.get_config(), tmp_path / "run", source=str(source))
  checkpoints = tmp_path / "run" / "convert" / "checkpoints"
  told = json.loads((tmp_path / "run" / "config.json").read_text())
  model = config_lib.build(ModelConfig, told["model"])
  assert model.attention.qkv_bias
  variables = state.load_variables(checkpoints, model, mesh.make({"data": -1}), rules.get("data"))
  embedding = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
  np.testing.assert_array_equal(variables["params"]["embedding"], embedding)
  run(to_hf.get_config(), tmp_path / "back", source=str(checkpoints))
  assert_same_weights(source, tmp_path / "back")
  assert (tmp_path / "back" / "tokenizer.json").read_text() == '{"model": {}}'
  names = sorted(file.name for file in (tmp_path / "back").iterdir())
  assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_dry_run_only_prints(source, tmp_path, capsys):
  run(from_hf.get_config(), tmp_path / "run", source=str(source), dry_run=True)
  lines = capsys.readouterr().out.splitlines()
  name, ours = "model.layers.1.self_attn.k_proj.weight", "params/dense_layers/attention/k[1]"
  assert f"{name} [8, 8] -> {ours} [8, 2, 4] BF16" in lines
  assert lines[-1] == "Nothing is missing, nothing is extra."
  assert not (tmp_path / "run").exists()
  run(from_hf.get_config(), tmp_path / "run", source=str(source))
  capsys.readouterr()
  checkpoints = str(tmp_path / "run" / "convert" / "checkpoints")
  run(to_hf.get_config(), tmp_path / "back", source=checkpoints, dry_run=True)
  assert f"{name} [8, 8] -> {ours} [8, 2, 4]" in capsys.readouterr().out.splitlines()
  assert not (tmp_path / "back").exists()


def test_mistakes_are_named(source, tmp_path):
  with pytest.raises(ValueError, match="to='torch': choose 'orbax' or 'hf'"):
    run(from_hf.get_config(), tmp_path / "run", source=str(source), to="torch")
  with pytest.raises(FileNotFoundError, match=r"config.json does not exist; it would tell"):
    run(to_hf.get_config(), tmp_path / "back", source=str(tmp_path / "a" / "b" / "checkpoints"))
  assert sorted(folder.name for folder in tmp_path.iterdir()) == ["source"]


def together(config: str, workdir: Path, source: Path) -> None:
  """The command line in two processes of two devices each."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{probe.getsockname()[1]}"
  command = [sys.executable, "-m", "experiments.convert", f"--config=configs/convert/{config}.py"]
  command += [f"--workdir={workdir}", f"--config.source={source}", "--cpu_devices=2"]
  command += ["--distributed", f"--coordinator={address}", "--num_processes=2"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  processes = [
    subprocess.Popen([*command, f"--process_id={i}"], cwd=ROOT, env=environment, **pipes)
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  for process, output in zip(processes, outputs, strict=True):
    assert process.returncode == 0, output


def test_two_processes_convert_together(source, tmp_path):
  together("from_hf", tmp_path / "run", source)
  together("to_hf", tmp_path / "back", tmp_path / "run" / "convert" / "checkpoints")
  assert_same_weights(source, tmp_path / "back")
  assert (tmp_path / "back" / "tokenizer.json").exists()
