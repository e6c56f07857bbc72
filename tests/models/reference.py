"""The whole model a second time: plain float64 NumPy, token by token, one document at a time."""

import dataclasses
import math

import numpy as np

from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig


@dataclasses.dataclass
class Result:
  """What one forward pass gives; entries of padding tokens are zero.

  Attributes:
    hidden: `[B, T, D]` after the final norm.
    logits: `[B, T, V]`.
    mtp: `[K, B, T, D]` after each module's norm.
    mtp_real: `[K, B, T]`, rows whose token k places on exists in the same document.
    load: `[L_moe, E]`, how often each expert was chosen.
    fraction: `[L_moe, B, E]`, f of the balance loss.
    routed: `[L_moe, B, E]`, f of the experts that were chosen.
    sent: `[L_moe, B, J]`, f'' of the communication loss.
    probability: `[L_moe, B, E]`, P of the balance loss.
    importance: `[L_moe, E]`, sums of gate values.
    mtp_load: `[K, E]`, over the rows of `mtp_real`.
    latent: `[L, B, T, C]`, what a cache stores.
    margin: the smallest gap between anything a router took and what it left.
  """

  hidden: np.ndarray
  logits: np.ndarray
  mtp: np.ndarray
  mtp_real: np.ndarray
  load: np.ndarray
  fraction: np.ndarray
  routed: np.ndarray
  sent: np.ndarray
  probability: np.ndarray
  importance: np.ndarray
  mtp_load: np.ndarray
  latent: np.ndarray
  margin: float


def rms_norm(x, scale, eps):
  return scale * x / math.sqrt(np.mean(x * x) + eps)


def silu(x):
  return x / (1.0 + np.exp(-x))


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def swiglu(x, weights):
  return (silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]


def yarn_multiplier(cfg: ModelConfig, pair: int):
  d, base, yarn = cfg.attention.rope_dim, cfg.rope_theta, cfg.rope_scaling

  def corr(turns):
    return d * math.log(yarn.original_length / (2 * math.pi * turns)) / (2 * math.log(base))

  low = max(math.floor(corr(yarn.beta_fast)), 0)
  high = min(math.ceil(corr(yarn.beta_slow)), d - 1)
  if low == high:
    high += 0.001
  ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
  return (1 - ramp) + ramp / yarn.factor


def llama3_multiplier(llama3: Llama3RopeConfig, frequency: float):
  wavelength = 2 * math.pi / frequency
  if wavelength > llama3.original_length / llama3.low_frequency_factor:
    return 1 / llama3.factor
  if wavelength < llama3.original_length / llama3.high_frequency_factor:
    return 1.0
  smooth = llama3.original_length / wavelength - llama3.low_frequency_factor
  smooth /= llama3.high_frequency_factor - llama3.low_frequency_factor
  return (1 - smooth) / llama3.factor + smooth


def frequencies(cfg: ModelConfig):
  """Angle per position of each pair."""
  out, d = [], cfg.attention.rope_dim
  for pair in range(d // 2):
    frequency = cfg.rope_theta ** (-2 * pair / d)
    if isinstance(cfg.rope_scaling, YarnConfig):
      frequency *= yarn_multiplier(cfg, pair)
    elif isinstance(cfg.rope_scaling, Llama3RopeConfig):
      frequency *= llama3_multiplier(cfg.rope_scaling, frequency)
    out.append(frequency)
  return out


def temperature(factor, coefficient):
  return 0.1 * coefficient * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotate(cfg: ModelConfig, x, position):
  """RoPE of one vector: pair (i, i + d/2) as a complex number."""
  attention = 1.0
  if isinstance(cfg.rope_scaling, YarnConfig):
    factor, one, all_dims = (
      cfg.rope_scaling.factor,
      cfg.rope_scaling.mscale,
      cfg.rope_scaling.mscale_all_dim,
    )
    attention = temperature(factor, 1.0)
    if one and all_dims:
      attention = temperature(factor, one) / temperature(factor, all_dims)
  out, half = np.zeros_like(x), len(x) // 2
  for i, frequency in enumerate(frequencies(cfg)):
    turned = (x[i] + 1j * x[i + half]) * np.exp(1j * position * frequency) * attention
    out[i], out[i + half] = turned.real, turned.imag
  return out


def softmax_scale(cfg: ModelConfig, head_dim: int):
  scale = head_dim**-0.5
  if isinstance(cfg.rope_scaling, YarnConfig) and cfg.rope_scaling.mscale_all_dim:
    scale *= temperature(cfg.rope_scaling.factor, cfg.rope_scaling.mscale_all_dim) ** 2
  return scale


def mla(cfg: ModelConfig, w, xs):
  """MLA over one document; gives outputs and latents of each token."""
  nope, rank = cfg.attention.qk_nope_head_dim, cfg.attention.kv_lora_rank
  scale = softmax_scale(cfg, nope + cfg.attention.qk_rope_head_dim)
  latents, outs = [], []
  for t, x in enumerate(xs):
    joint = x @ w["kv_a"] + w.get("kv_a_bias", 0.0)
    c = rms_norm(joint[:rank], w["kv_norm"]["scale"], cfg.attention.latent_norm_eps)
    latents.append(np.concatenate([c, rotate(cfg, joint[rank:], t)]))
    if cfg.attention.q_lora_rank is None:
      source, up = x, w["q"]
    else:
      compressed = x @ w["q_a"] + w.get("q_a_bias", 0.0)
      source = rms_norm(compressed, w["q_norm"]["scale"], cfg.attention.latent_norm_eps)
      up = w["q_b"]
    out = np.zeros(cfg.hidden_size) + w.get("o_bias", 0.0)
    for head in range(cfg.num_heads):
      q = source @ up[:, head]
      q_rope = rotate(cfg, q[nope:], t)
      key_b, value_b = w["kv_b"][:, head, :nope], w["kv_b"][:, head, nope:]
      scores, values = [], []
      for latent in latents:
        c_s, k_rope = latent[:rank], latent[rank:]
        scores.append((q[:nope] @ (c_s @ key_b) + q_rope @ k_rope) * scale)
        values.append(c_s @ value_b)
      mixed = softmax(np.array(scores)) @ np.array(values)
      out += mixed @ w["o"][head]
    outs.append(out)
  return outs, latents


def gqa(cfg: ModelConfig, w, xs):
  """Grouped-query attention over one document; gives outputs, and keys and values of each token.

  Each query head h is given a copy of the key and value head that h falls to when query heads are
  dealt out in consecutive runs of equal length, one run a key head.
  """
  kv_heads = cfg.attention.num_kv_heads
  run = cfg.num_heads // kv_heads
  head_of = [kv_head for kv_head in range(kv_heads) for _ in range(run)]
  scale = softmax_scale(cfg, cfg.attention.head_dim)

  def project(name, x, head):
    out = x @ w[name][:, head]
    return out + w[f"{name}_bias"][head] if f"{name}_bias" in w else out

  keys, values, entries, outs = [], [], [], []
  for t, x in enumerate(xs):
    keys.append([rotate(cfg, project("k", x, head), t) for head in range(kv_heads)])
    values.append([project("v", x, head) for head in range(kv_heads)])
    entries.append(np.concatenate(keys[-1] + values[-1]))
    out = np.zeros(cfg.hidden_size) + w.get("o_bias", 0.0)
    for head in range(cfg.num_heads):
      q = rotate(cfg, project("q", x, head), t)
      scores = [q @ keys[s][head_of[head]] * scale for s in range(t + 1)]
      mixed = softmax(np.array(scores)) @ np.array([v[head_of[head]] for v in values])
      out += mixed @ w["o"][head]
    outs.append(out)
  return outs, entries


ATTENTION = {MLAConfig: mla, GQAConfig: gqa}


def take_best(values, count):
  """Numbers of the `count` largest values, and the gap to the largest that was left."""
  order = sorted(range(len(values)), key=lambda i: -values[i])
  gap = values[order[count - 1]] - values[order[count]] if count < len(values) else math.inf
  return order[:count], gap


def route(cfg: ModelConfig, w, bias, u):
  """One token: chosen experts, their weights, all scores, unbiased choice, smallest gap."""
  experts, groups = cfg.num_routed_experts, cfg.num_expert_groups
  if cfg.score_function == "sigmoid":
    scores = 1.0 / (1.0 + np.exp(-(u @ w["router"])))
    biased, counted = scores + bias, 2
  else:
    scores = softmax(u @ w["router"])
    biased, counted = scores, 1
  size, gap = experts // groups, math.inf
  allowed = list(range(experts))
  if groups > 1:
    worths = []
    for group in range(groups):
      inside = sorted(biased[group * size : (group + 1) * size])
      worths.append(sum(inside[-counted:]))
    kept, gap = take_best(worths, cfg.num_limited_groups)
    allowed = [e for e in allowed if e // size in kept]
  best, gap_experts = take_best([biased[e] for e in allowed], cfg.experts_per_token)
  chosen = [allowed[i] for i in best]
  weights = np.array([scores[e] for e in chosen])
  if cfg.normalize_weights:
    weights = weights / (weights.sum() + 1e-20)
  unbiased, gap_unbiased = take_best(scores, cfg.experts_per_token)
  return chosen, weights * cfg.routed_scale, scores, unbiased, min(gap, gap_experts, gap_unbiased)


def moe(cfg: ModelConfig, w, bias, u):
  chosen, weights, scores, unbiased, gap = route(cfg, w, bias, u)
  out = np.zeros(cfg.hidden_size)
  for expert, weight in zip(chosen, weights, strict=True):
    out += weight * swiglu(u, {name: w[name][expert] for name in ("gate", "up", "down")})
  if cfg.num_shared_experts:
    out += swiglu(u, w["shared"])
  return out, (chosen, weights, scores, unbiased, gap)


def block(cfg: ModelConfig, w, bias, xs):
  """One layer over one document; `bias` is None where a router has none."""
  normed = [rms_norm(x, w["attention_norm"]["scale"], cfg.norm_eps) for x in xs]
  outs, latents = ATTENTION[type(cfg.attention)](cfg, w["attention"], normed)
  xs = [x + out for x, out in zip(xs, outs, strict=True)]
  routings = []
  for t, x in enumerate(xs):
    u = rms_norm(x, w["ffn_norm"]["scale"], cfg.norm_eps)
    if "router" not in w["ffn"]:
      xs[t] = x + swiglu(u, w["ffn"])
    else:
      out, routing = moe(cfg, w["ffn"], bias, u)
      xs[t] = x + out
      routings.append(routing)
  return xs, latents, routings


def documents(segment):
  """Start and end of each run of equal, nonzero numbers."""
  out, start = [], 0
  for t in range(1, len(segment) + 1):
    if t == len(segment) or segment[t] != segment[start]:
      if segment[start] != 0:
        out.append((start, t))
      start = t
  return out


def pick(tree, index):
  return {
    name: pick(leaf, index) if isinstance(leaf, dict) else leaf[index]
    for name, leaf in tree.items()
  }


def float64(tree):
  return {
    name: float64(leaf) if isinstance(leaf, dict) else np.asarray(leaf, np.float64)
    for name, leaf in tree.items()
  }


def forward(cfg: ModelConfig, variables, ids, segment) -> Result:
  """The model on packed rows, document after document."""
  params, router = float64(variables["params"]), float64(variables.get("router", {}))
  batch, length = ids.shape
  depth, experts = cfg.num_mtp_modules, cfg.num_routed_experts
  layers = [(pick(params["dense_layers"], i), None) for i in range(cfg.num_dense_layers)]
  for i in range(cfg.num_moe_layers):
    bias = router["layers"][i] if cfg.router_bias else None
    layers.append((pick(params["moe_layers"], i), bias))
  head = params["embedding"] if cfg.tie_embeddings else params["head"]
  groups, size = cfg.num_expert_groups, max(experts // cfg.num_expert_groups, 1)
  out = Result(
    hidden=np.zeros((batch, length, cfg.hidden_size)),
    logits=np.zeros((batch, length, cfg.vocab_size)),
    mtp=np.zeros((depth, batch, length, cfg.hidden_size)),
    mtp_real=np.zeros((depth, batch, length), bool),
    load=np.zeros((cfg.num_moe_layers, experts)),
    fraction=np.zeros((cfg.num_moe_layers, batch, experts)),
    routed=np.zeros((cfg.num_moe_layers, batch, experts)),
    sent=np.zeros((cfg.num_moe_layers, batch, groups)),
    probability=np.zeros((cfg.num_moe_layers, batch, experts)),
    importance=np.zeros((cfg.num_moe_layers, experts)),
    mtp_load=np.zeros((depth, experts)),
    latent=np.zeros((cfg.num_layers, batch, length, cfg.attention.cache_width)),
    margin=math.inf,
  )
  for row in range(batch):
    real = (segment[row] != 0).sum()
    for start, end in documents(segment[row]):
      xs = [params["embedding"][token] for token in ids[row, start:end]]
      for number, (w, bias) in enumerate(layers):
        xs, latents, routings = block(cfg, w, bias, xs)
        out.latent[number, row, start:end] = latents
        moe_number = number - cfg.num_dense_layers
        for chosen, weights, scores, unbiased, gap in routings:
          share = experts / (cfg.experts_per_token * real)
          out.load[moe_number, chosen] += 1
          out.importance[moe_number, chosen] += weights
          out.fraction[moe_number, row, unbiased] += share
          out.routed[moe_number, row, chosen] += share
          for group in {e // size for e in chosen}:
            out.sent[moe_number, row, group] += groups / (cfg.num_limited_groups * real)
          out.probability[moe_number, row] += scores / scores.sum() / real
          out.margin = min(out.margin, gap)
      normed = [rms_norm(x, params["final_norm"]["scale"], cfg.norm_eps) for x in xs]
      out.hidden[row, start:end] = normed
      out.logits[row, start:end] = [head @ x for x in normed]
      before = normed if cfg.mtp_hidden == "post" else xs
      for k in range(1, depth + 1):
        w, xs = params[f"mtp_{k - 1}"], []
        for i in range(max(end - start - k, 0)):
          further = params["embedding"][ids[row, start + i + k]]
          further = rms_norm(further, w["embedding_norm"]["scale"], cfg.norm_eps)
          behind = rms_norm(before[i], w["hidden_norm"]["scale"], cfg.norm_eps)
          xs.append(np.concatenate([further, behind]) @ w["project"])
        bias = router["mtp"][k - 1] if cfg.router_bias else None
        xs, _, routings = block(cfg, w["block"], bias, xs)
        before = [rms_norm(x, w["final_norm"]["scale"], cfg.norm_eps) for x in xs]
        for i, x in enumerate(before):
          out.mtp[k - 1, row, start + i] = x
          out.mtp_real[k - 1, row, start + i] = True
        for chosen, _, _, _, gap in routings:
          out.mtp_load[k - 1, chosen] += 1
          out.margin = min(out.margin, gap)
  return out
