"""The golden comparisons see the bugs that implementations of these models really have.

Each mutation puts one of them into the model, or into what is loaded, and must cost more than ten
times the tolerance of tests/checkpoint/test_golden_parity.py. What each costs is printed by
`pytest -n 0 -s tests/test_mutations.py`.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import goldens

from reasonjax.models import gqa, mla, norm, rope, router

V3, V2, QWEN2, LLAMA3 = goldens.NAMES
CLEAN = {
  run: goldens.jit(run, static_argnums=0)
  for run in (goldens.logits, goldens.cached_logits, goldens.mtp_logits)
}


def error(golden, run, config, variables, compiled) -> float:
  """Largest difference from what transformers computes, over what can be compared."""
  expected = golden.expected
  ours = np.asarray(compiled(config, variables, expected["ids"]))
  if run is goldens.mtp_logits:
    return max(
      np.abs(ours - expected["mtp_logits"])[k - 1, :, :-k].max() for k in range(1, len(ours) + 1)
    )
  return np.abs(ours - expected["logits"]).max()


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One bug.

  Attributes:
    golden: the checkpoint that shows it.
    code: changes the library through a monkeypatch.
    config: changes the loaded config.
    weights: changes a copy of the loaded variables, as a wrong loader would.
    run: what is compared.
  """

  golden: str
  code: Callable = lambda patch: None
  config: Callable = lambda config: config
  weights: Callable = lambda config, variables: None
  run: Callable = goldens.logits


def mutate(function: Callable) -> Callable:
  """Makes `function(original, *args)` a bug that can be put in the place of an original.

  Returns: `(module, name) -> code` of a Mutation.
  """

  def at(module, name):
    def code(patch):
      patch.setattr(module, name, functools.partial(function, getattr(module, name)))

    return code

  return at


# Attention.


@mutate
def neighbouring_pairs(rotate, x, cos, sin):
  pairs = x.reshape(*x.shape[:-1], -1, 2)
  halves = jnp.concatenate([pairs[..., 0], pairs[..., 1]], axis=-1)
  return rotate(halves, cos, sin)


@mutate
def temperature_once(softmax_scale, head_dim, scaling):
  return math.sqrt(softmax_scale(head_dim, scaling) / math.sqrt(head_dim))


@mutate
def no_temperature(softmax_scale, head_dim, scaling):
  return softmax_scale(head_dim, None)


@mutate
def scale_of_latent_width(absorbed, q, kv_b, *args, nope_dim, scale):
  width = kv_b.shape[0] + q.shape[-1] - nope_dim
  return absorbed(q, kv_b, *args, nope_dim=nope_dim, scale=scale * math.sqrt(q.shape[-1] / width))


@mutate
def bfloat16_table(cos_sin, *args):
  return tuple(x.astype(jnp.bfloat16).astype(jnp.float32) for x in cos_sin(*args))


@mutate
def tiled_key_heads(attention, q, k, v, *args):
  """Key heads repeated as a whole instead of each for its group of query heads."""
  times = q.shape[2] // k.shape[2]
  return attention(q, jnp.tile(k, (1, 1, times, 1)), jnp.tile(v, (1, 1, times, 1)), *args)


def unrounded_ramp(patch):
  whole = types.SimpleNamespace(**vars(math) | {"floor": float, "ceil": float})
  patch.setattr(rope, "math", whole)


def no_latent_norm(width: str):
  def code(patch):
    rms_norm, size = norm.rms_norm, getattr(goldens.read(V3).config.attention, width)
    patch.setattr(
      norm, "rms_norm", lambda x, *args: x if x.shape[-1] == size else rms_norm(x, *args)
    )

  return code


def latent_norms_with_config_epsilon(config):
  attention = dataclasses.replace(config.attention, latent_norm_eps=config.norm_eps)
  return config.replace(attention=attention)


def each_attention(variables):
  """The attention parameters of every stack of layers."""
  for part in variables["params"].values():
    if isinstance(part, dict) and "attention" in part.get("block", part):
      yield part.get("block", part)["attention"]


def keys_of_all_heads_first(config, variables):
  """kv_b read as all keys, then all values, instead of head by head."""
  nope, heads = config.attention.qk_nope_head_dim, config.num_heads
  for weights in each_attention(variables):
    flat = np.asarray(weights["kv_b"])
    lead = flat.shape[:-2]
    flat = flat.reshape(*lead, -1)
    keys = flat[..., : heads * nope].reshape(*lead, heads, nope)
    values = flat[..., heads * nope :].reshape(*lead, heads, -1)
    weights["kv_b"] = np.concatenate([keys, values], axis=-1)


def rotated_rows_first(config, variables):
  rotated = config.attention.rope_dim
  for weights in each_attention(variables):
    weights["q_b"] = np.roll(weights["q_b"], -rotated, axis=-1)


def no_input_bias(config, variables):
  for weights in each_attention(variables):
    weights |= {name: np.zeros_like(weights[name]) for name in weights if name.endswith("_bias")}


# Routing.


def biased_weights(patch):
  """The bias, meant for the choice alone, enters the weights."""
  select, gate_values = router.select, router.gate_values
  seen = []

  def watched(score, bias, **options):
    seen.append(bias)
    return select(score, bias, **options)

  patch.setattr(router, "select", watched)
  patch.setattr(
    router,
    "gate_values",
    lambda score, *args, **options: gate_values(score + seen[-1][None], *args, **options),
  )


@mutate
def best_of_group(inside, *args, best):
  return inside(*args, best=1)


@mutate
def two_best_of_group(inside, *args, best):
  return inside(*args, best=2)


@mutate
def masked_with_zero(inside, *args, **options):
  masked = inside(*args, **options)
  return jnp.where(jnp.isneginf(masked), 0.0, masked)


def unlike(**changes):
  return lambda config: config.replace(**changes)


def softmax_score(patch):
  patch.setattr(router, "affinity", router.softmax_affinity)


def sigmoid_score(patch):
  patch.setattr(router, "softmax_affinity", router.affinity)


# Multi-token prediction.


def hidden_state_first(config, variables):
  for k in range(config.num_mtp_modules):
    module = variables["params"][f"mtp_{k}"]
    module["project"] = np.roll(module["project"], config.hidden_size, axis=0)


def final_norm_of_the_model(config, variables):
  for k in range(config.num_mtp_modules):
    variables["params"][f"mtp_{k}"]["final_norm"] = variables["params"]["final_norm"]


MTP = {"golden": V3, "run": goldens.mtp_logits}
MUTATIONS = {
  "RoPE over neighbours of half-split weights": Mutation(
    V3, code=neighbouring_pairs(rope, "rotate")
  ),
  "YaRN temperature not squared": Mutation(V3, code=temperature_once(rope, "softmax_scale")),
  "no YaRN temperature in the softmax": Mutation(V3, code=no_temperature(rope, "softmax_scale")),
  "YaRN ramp without floor and ceil": Mutation(V3, code=unrounded_ramp),
  "cos and sin in bfloat16": Mutation(V3, code=bfloat16_table(rope, "cos_sin")),
  "no norm on the query latent": Mutation(V3, code=no_latent_norm("q_lora_rank")),
  "no norm on the key/value latent": Mutation(V3, code=no_latent_norm("kv_lora_rank")),
  "latent norms with rms_norm_eps": Mutation(V3, config=latent_norms_with_config_epsilon),
  "kv_b split into all keys and all values": Mutation(V3, weights=keys_of_all_heads_first),
  "rotated rows of q_b first": Mutation(V3, weights=rotated_rows_first),
  "absorbed scale of the latent's width": Mutation(
    V3, code=scale_of_latent_width(mla, "absorbed_attention"), run=goldens.cached_logits
  ),
  "router bias in the weights": Mutation(V3, code=biased_weights),
  "no expert groups": Mutation(V3, config=unlike(num_expert_groups=1, num_limited_groups=1)),
  "groups scored by their best expert": Mutation(
    V3, code=best_of_group(router, "_inside_best_groups")
  ),
  "other groups masked with 0": Mutation(V3, code=masked_with_zero(router, "_inside_best_groups")),
  "weights not normalised": Mutation(V3, config=unlike(normalize_weights=False)),
  "no routed scale": Mutation(V3, config=unlike(routed_scale=1.0)),
  "softmax scores": Mutation(V3, code=softmax_score),
  "MTP: hidden state before embedding": Mutation(weights=hidden_state_first, **MTP),
  "MTP: hidden state before the final norm": Mutation(config=unlike(mtp_hidden="pre"), **MTP),
  "MTP: the model's final norm": Mutation(weights=final_norm_of_the_model, **MTP),
  "V2: groups scored by their two best": Mutation(
    V2, code=two_best_of_group(router, "_inside_best_groups")
  ),
  "V2: no expert groups": Mutation(V2, config=unlike(num_expert_groups=1, num_limited_groups=1)),
  "V2: weights normalised": Mutation(V2, config=unlike(normalize_weights=True)),
  "V2: sigmoid scores": Mutation(V2, code=sigmoid_score),
  "GQA: key heads tiled, not repeated": Mutation(QWEN2, code=tiled_key_heads(gqa, "attention")),
  "Qwen2: no biases": Mutation(QWEN2, weights=no_input_bias),
  "Llama 3: unscaled RoPE": Mutation(LLAMA3, config=unlike(rope_scaling=None)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_costs_ten_times_the_tolerance(name, monkeypatch):
  mutation = MUTATIONS[name]
  golden, run = goldens.read(mutation.golden), mutation.run
  clean = error(golden, run, golden.config, golden.variables, CLEAN[run])
  assert clean < goldens.TOLERANCE
  variables = jax.tree.map(lambda x: x, golden.variables)  # fresh dicts, the same arrays
  config = mutation.config(golden.config)
  mutation.weights(golden.config, variables)
  mutation.code(monkeypatch)
  changes_weights_only = mutation.weights is not Mutation.weights
  # A function of its own, so that nothing compiled before is used.
  again = goldens.jit(lambda *args: run(*args), static_argnums=0)
  compiled = CLEAN[run] if changes_weights_only else again
  cost = error(golden, run, config, variables, compiled)
  print(f"\n{name}: {cost:.1e}", end="")
  assert cost > 10 * goldens.TOLERANCE
