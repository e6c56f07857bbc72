"""Tiny random models of transformers: their files, and what they compute."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `parity`: torch and transformers")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
st = pytest.importorskip("safetensors.torch", reason="needs safetensors")

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CLASSES = {
  "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
  "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
  "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
  "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}
FP8_BLOCK = 128
FP8_MAX = 448.0


@dataclasses.dataclass(frozen=True)
class Case:
  """One checkpoint.

  Attributes:
    family: `model_type` of its config.json.
    fields: arguments of its transformers config.
    bias_mean: mean of the routers' correction biases; below -1 every biased score is negative.
    mtp: multi-token-prediction modules.
    dtype: of the files.
    fp8: whether linear weights are stored in FP8 with one scale a block of 128 x 128.
    old_config: whether config.json uses the names of the first releases.
    shards: number of files.
    seed: of the weights.
  """

  family: str
  fields: dict
  bias_mean: float = 0.0
  mtp: int = 0
  dtype: str = "float32"
  fp8: bool = False
  old_config: bool = False
  shards: int = 1
  seed: int = 0


@dataclasses.dataclass
class Reference:
  """A model of transformers in float32 that holds what its files say.

  Attributes:
    model: the main model.
    mtp: one MTP module each: its layers by their names in a checkpoint ("" is the block).
    tensors: everything in the files, by name.
  """

  model: torch.nn.Module
  mtp: list[dict[str, torch.nn.Module]]
  tensors: dict[str, torch.Tensor]


@dataclasses.dataclass
class Result:
  """What a forward pass gives, as NumPy arrays.

  Attributes:
    logits: `[B, T, V]`.
    hidden: `[B, T, D]` after the final norm.
    experts: `[L_moe, B, T, K]` chosen experts in ascending order.
    margin: `[L_moe, B, T]`, gap between the worst that the router took and the best that it left.
  """

  logits: np.ndarray
  hidden: np.ndarray
  experts: np.ndarray
  margin: np.ndarray


def write(case: Case, directory: Path) -> Reference:
  """Builds a random model, writes it as a checkpoint and reads the reference's weights back."""
  config_class, model_class = CLASSES[case.family]
  config = config_class(**case.fields, attn_implementation="eager")
  model = model_class(config).float().eval()
  reference = Reference(model, [_mtp_module(model) for _ in range(case.mtp)], {})
  _randomise(reference, case)
  model.save_pretrained(directory)
  tensors = st.load_file(directory / "model.safetensors") | _mtp_tensors(reference)
  reference.tensors = _stored(tensors, case)
  _write_tensors(reference.tensors, directory, case.shards)
  _write_config(directory / "config.json", case)
  _assign(reference)
  return reference


def _mtp_module(model) -> dict[str, torch.nn.Module]:
  """Layers of one MTP module, made of the classes of the main model's last layer."""
  last, config = model.model.layers[-1], model.config

  def norm():
    return type(last.input_layernorm)(config.hidden_size, eps=config.rms_norm_eps)

  project = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
  block = type(last)(config, layer_idx=config.num_hidden_layers).eval()
  return {
    "enorm": norm(),
    "hnorm": norm(),
    "eh_proj": project,
    "shared_head.norm": norm(),
    "": block,
  }


def _states(reference: Reference):
  """The prefix in a checkpoint, and parameters and buffers, of the model and the MTP layers."""
  yield "", reference.model.state_dict()
  top = reference.model.config.num_hidden_layers
  for number, module in enumerate(reference.mtp):
    for name, layer in module.items():
      yield f"model.layers.{top + number}.{name}{'.' if name else ''}", layer.state_dict()


@torch.no_grad()
def _randomise(reference: Reference, case: Case):
  """Weights of unit gain, norm scales about 1, so that logits have a deviation of about 1."""
  generator = torch.Generator().manual_seed(case.seed)
  tied = reference.model.config.tie_word_embeddings
  for _, state in _states(reference):
    for name, value in state.items():
      noise = torch.randn(value.shape, generator=generator)
      if name.endswith("e_score_correction_bias"):
        value.copy_(case.bias_mean + 0.2 * noise)
      elif name.endswith("bias"):
        value.copy_(0.5 * noise)
      elif value.ndim == 1:
        value.copy_(1.0 + 0.25 * noise)
      elif "embed_tokens" in name and not tied:
        value.copy_(noise)
      else:
        value.copy_(noise / math.sqrt(max(value.shape[-1], 1)))


def _mtp_tensors(reference: Reference) -> dict[str, torch.Tensor]:
  """Tensors of the MTP modules as the releases store them, which transformers does not."""
  out = {}
  for prefix, state in list(_states(reference))[1:]:
    for key, value in state.items():
      stem, projection = f"{prefix}{key}".rsplit(".", 1)
      if projection == "gate_up_proj":
        for expert, both in enumerate(value):
          gate, up = both.chunk(2)
          out[f"{stem}.{expert}.gate_proj.weight"] = gate
          out[f"{stem}.{expert}.up_proj.weight"] = up
      elif projection == "down_proj":
        out |= {f"{stem}.{expert}.down_proj.weight": down for expert, down in enumerate(value)}
      else:
        out[f"{prefix}{key}"] = value
  state = reference.model.state_dict()
  top = reference.model.config.num_hidden_layers
  for layer in range(top, top + len(reference.mtp)):  # repeated, as in the releases
    out[f"model.layers.{layer}.embed_tokens.weight"] = state["model.embed_tokens.weight"]
    out[f"model.layers.{layer}.shared_head.head.weight"] = state["lm_head.weight"]
  return out


def _stored(tensors: dict, case: Case) -> dict[str, torch.Tensor]:
  """Tensors as the files hold them: in their dtype, linear weights in FP8 if asked for."""
  out = {}
  for name, value in tensors.items():
    if not value.numel():  # transformers writes the empty weights of zero shared experts
      continue
    if name.endswith("e_score_correction_bias"):
      out[name] = value.float().clone()
    elif case.fp8 and ".layers." in name and value.ndim == 2 and not _kept_in_bf16(name):
      out[name], out[f"{name}_scale_inv"] = _quantise(value)
    else:
      out[name] = value.to(getattr(torch, case.dtype)).clone()
  return out


def _kept_in_bf16(name: str) -> bool:
  return any(part in name for part in ("mlp.gate.", "eh_proj", "embed_tokens", "shared_head"))


def _blocks(shape):
  """Slices of the FP8 blocks of a matrix, and the place of their scale."""
  for i in range(math.ceil(shape[0] / FP8_BLOCK)):
    for j in range(math.ceil(shape[1] / FP8_BLOCK)):
      rows = slice(i * FP8_BLOCK, min((i + 1) * FP8_BLOCK, shape[0]))
      yield (i, j), (rows, slice(j * FP8_BLOCK, min((j + 1) * FP8_BLOCK, shape[1])))


def _quantise(weight):
  """FP8 values and the factor of each block; blocks differ in magnitude, so factors do."""
  scale = torch.zeros([math.ceil(size / FP8_BLOCK) for size in weight.shape])
  out = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
  for number, (place, block) in enumerate(_blocks(weight.shape)):
    values = weight[block] * (1.0 + number)
    scale[place] = values.abs().max() / FP8_MAX
    out[block] = (values / scale[place]).to(torch.float8_e4m3fn)
  return out, scale


def _dequantise(weight, scale):
  out = torch.zeros(weight.shape)
  for place, block in _blocks(weight.shape):
    out[block] = weight[block].float() * scale[place]
  return out


def _write_tensors(tensors: dict, directory: Path, shards: int):
  if shards == 1:
    st.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return
  (directory / "model.safetensors").unlink()
  names = sorted(tensors)
  weight_map = {}
  for shard in range(shards):
    file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
    part = {name: tensors[name] for name in names[shard::shards]}
    st.save_file(part, directory / file, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(part, file)
  size = sum(value.numel() * value.element_size() for value in tensors.values())
  index = {"metadata": {"total_size": size}, "weight_map": weight_map}
  (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_config(path: Path, case: Case):
  """Corrects the config.json of transformers for the files' dtype, and ages it if asked for."""
  config = json.loads(path.read_text())
  config["dtype"] = case.dtype
  if case.family == "deepseek_v3":
    config["num_nextn_predict_layers"] = case.mtp
  if case.fp8:
    config["quantization_config"] = {
      "activation_scheme": "dynamic",
      "fmt": "e4m3",
      "quant_method": "fp8",
      "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
    }
  if case.old_config:
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # DeepSeek's files say "type", Llama's "rope_type".
    key = "rope_type" if case.family == "llama" else "type"
    config["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    if case.family.startswith("deepseek"):
      sigmoid = case.family == "deepseek_v3"
      config |= {"scoring_func": "sigmoid" if sigmoid else "softmax", "moe_layer_freq": 1}
      config |= {"topk_method": "noaux_tc"} if sigmoid else {}
      config |= {"ep_size": 1, "aux_loss_alpha": 0.001, "seq_aux": True}
      for new in ("head_dim", "qk_head_dim", "rope_interleave", "mlp_bias"):
        config.pop(new, None)
    if case.family == "qwen2":
      for new in ("layer_types", "head_dim"):
        config.pop(new, None)
  path.write_text(json.dumps(config, indent=2))


@torch.no_grad()
def _assign(reference: Reference):
  """Gives the reference the values that the files say, in float32."""
  files = {
    name: _dequantise(value, reference.tensors[f"{name}_scale_inv"])
    if f"{name}_scale_inv" in reference.tensors
    else value.float()
    for name, value in reference.tensors.items()
  }
  for prefix, state in _states(reference):
    for key, value in state.items():
      name, projection = f"{prefix}{key}", key.rsplit(".", 1)[-1]
      if value.numel() == 0 or (name == "lm_head.weight" and name not in files):
        continue
      if ".experts." in name:
        stem = name.rsplit(".", 1)[0]
        kinds = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[projection]
        for expert in range(value.shape[0]):
          parts = [files[f"{stem}.{expert}.{kind}.weight"] for kind in kinds]
          value[expert].copy_(torch.cat(parts))
      else:
        value.copy_(files[name])


@torch.no_grad()
def run(reference: Reference, ids, mask=None, positions=None) -> Result:
  """One forward pass; `mask` and `positions` as transformers takes them."""
  model, batch = reference.model, ids.shape
  ids = torch.as_tensor(ids, dtype=torch.long)
  # Without a mask, transformers takes far positions for packed sequences.
  mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask, dtype=torch.long)
  if positions is None:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
  routed = []
  gates = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
  hooks = [gate.register_forward_hook(lambda *call: routed.append(call)) for gate in gates]
  positions = torch.as_tensor(positions, dtype=torch.long)
  hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=positions)[0]
  for hook in hooks:
    hook.remove()
  experts = [np.sort(out[2].numpy(), axis=-1).reshape(*batch, -1) for _, _, out in routed]
  margin = [_margin(gate, out[0].double().numpy()).reshape(batch) for gate, _, out in routed]
  logits = model.lm_head(hidden).numpy()
  return Result(logits, hidden.numpy(), np.array(experts), np.array(margin))


def _margin(gate, logits: np.ndarray) -> np.ndarray:
  """Gap of each token's routing decisions, groups' and experts', in float64."""
  biased = hasattr(gate, "e_score_correction_bias")
  if biased:
    score = 1.0 / (1.0 + np.exp(-logits)) + gate.e_score_correction_bias.double().numpy()
  else:
    score = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  gap = np.full(len(score), np.inf)
  limited = biased or gate.topk_method == "group_limited_greedy"
  if limited and gate.topk_group < gate.num_group:
    grouped = np.sort(score.reshape(len(score), gate.num_group, -1), axis=-1)
    worth = grouped[..., -2:].sum(axis=-1) if biased else grouped[..., -1]
    ranked = np.sort(worth, axis=-1)[:, ::-1]
    last = ranked[:, gate.topk_group - 1 : gate.topk_group]
    gap = (last - ranked[:, gate.topk_group : gate.topk_group + 1])[:, 0]
    score = np.where((worth >= last)[..., None], score.reshape(grouped.shape), -np.inf)
    score = score.reshape(len(worth), -1)
  ranked = np.sort(score, axis=-1)[:, ::-1]
  return np.minimum(gap, ranked[:, gate.top_k - 1] - ranked[:, gate.top_k])


@torch.no_grad()
def mtp_logits(reference: Reference, ids, hidden) -> np.ndarray:
  """`[K, B, T, V]` logits of the MTP modules; row i of module k is real where i + k < T.

  transformers drops these layers, so the modules are put together here of its own layers, embedding
  first, each module reading the normed output of the one before.
  """
  model, ids = reference.model, torch.as_tensor(ids, dtype=torch.long)
  batch, length = ids.shape
  previous = torch.as_tensor(hidden)
  out = np.zeros((len(reference.mtp), batch, length, model.config.vocab_size), np.float32)
  for depth, module in enumerate(reference.mtp, start=1):
    rows = length - depth
    further = model.model.embed_tokens(ids[:, depth:])
    joined = torch.cat([module["enorm"](further), module["hnorm"](previous[:, :rows])], dim=-1)
    x = module["eh_proj"](joined)
    positions = torch.arange(rows)[None]
    previous = module[""](
      x,
      attention_mask=torch.full((rows, rows), -math.inf).triu(1)[None, None],
      position_embeddings=model.model.rotary_emb(x, positions),
      position_ids=positions,
    )
    previous = module["shared_head.norm"](previous)
    out[depth - 1, :, :rows] = model.lm_head(previous).numpy()
  return out


@torch.no_grad()
def greedy(reference: Reference, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
  """Most likely tokens by full forward passes, and by how much each led the second."""
  ids, leads = list(prompt), []
  for _ in range(count):
    logits = run(reference, np.array([ids])).logits[0, -1]
    second, first = np.sort(logits)[-2:]
    leads.append(first - second)
    ids.append(int(logits.argmax()))
  return ids[len(prompt) :], np.array(leads)
