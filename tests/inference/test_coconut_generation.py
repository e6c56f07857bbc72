"""Sampling after continuous thoughts: what the full forward passes say, in groups, on devices."""

import functools

import fakes
import jax
import numpy as np
import pytest

from reasonjax.data.coconut import Markers
from reasonjax.inference.coconut import LatentEngine
from reasonjax.inference.logits import Sampling
from reasonjax.metrics.throughput import compilations
from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.latent import LatentTransformer
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import rules

MARKERS = Markers(29, 30, 31)
LATENTS, NEW = 2, 4
PROMPTS = [[1, 5, 6, 7, 8], [1, 9], [1, 4, 11]]
CONFIGS = {
  "mla_moe": fakes.model_config(num_mtp_modules=0, init_std=0.25),
  "gqa": fakes.model_config(
    num_mtp_modules=0, init_std=0.25, num_dense_layers=2, num_routed_experts=0
  ).replace(attention=GQAConfig(num_kv_heads=1, head_dim=8)),
}


@functools.cache
def engine(name, latents=LATENTS, table=None) -> LatentEngine:
  return LatentEngine(
    CONFIGS[name],
    fakes.variables(CONFIGS[name]),
    latents=latents,
    markers=MARKERS,
    eos_id=2,
    rows=4,
    prompt_buckets=(6,),
    new_token_buckets=(NEW,),
    rules=table and rules.get(table),
  )


@functools.cache
def reference(name):
  """Log-probabilities of the next token by full passes."""
  model = LatentTransformer(
    CONFIGS[name], latents=LATENTS, latent_id=MARKERS.latent_id, eot_id=MARKERS.eot_id
  )

  def run(given, ids, segment):
    hidden = model.apply(given, ids, segment, method="hidden_by_full_passes")
    return jax.nn.log_softmax(model.apply(given, hidden, method="logits"))

  return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


def check(name, rollout, greedy: bool):
  """Every sampled token against the log-probabilities of its whole row."""
  width = 6 + LATENTS + 2 + NEW
  count = len(rollout.length_B)
  # A sampled <latent> is a token like any other, but the reference would take it for a thought.
  assert not (rollout.token_BxT == MARKERS.latent_id).any(), "choose another key"
  ids, segment = np.zeros((6, width), np.int32), np.zeros((6, width), np.int32)
  for row in range(count):
    whole = [*rollout.prompts[row // rollout.group], *rollout.completion(row)]
    ids[row, : len(whole)], segment[row, : len(whole)] = whole, 1
  logp = np.asarray(reference(name)(fakes.variables(CONFIGS[name]), ids, segment))
  for row in range(count):
    start = len(rollout.prompts[row // rollout.group])
    tokens = rollout.completion(row)
    want = logp[row, start - 1 : start - 1 + len(tokens)]
    got = rollout.logp_BxT[row, : len(tokens)]
    np.testing.assert_allclose(got, want[np.arange(len(tokens)), tokens], rtol=1e-5, atol=1e-5)
    if greedy:
      assert tokens == want.argmax(axis=-1).tolist()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_greedy_tokens_are_those_of_full_passes(name):
  sampling = Sampling(NEW, samples=2, temperature=0.0)
  rollout = engine(name).generate(PROMPTS, sampling, jax.random.key(0))
  assert rollout.prompts == [[*prompt, 29, 31, 31, 30] for prompt in PROMPTS]
  assert rollout.token_BxT.shape == (6, NEW)
  check(name, rollout, greedy=True)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_group_shares_its_thoughts(name):
  sampling = Sampling(NEW, samples=2, temperature=1.0)
  rollout = engine(name).generate(PROMPTS, sampling, jax.random.key(2))
  assert rollout.completion(0) != rollout.completion(1)
  check(name, rollout, greedy=False)


def test_prompts_of_other_lengths_compile_nothing():
  sampling = Sampling(NEW, samples=2, temperature=0.0)
  engine("gqa").generate(PROMPTS, sampling, jax.random.key(0))
  with compilations() as compiled:
    engine("gqa").generate([[1, 4, 5, 6, 7, 8], [1]], sampling, jax.random.key(2))
  assert compiled.count == 0


def test_devices_sample_the_same():
  sampling = Sampling(NEW, samples=2, temperature=0.0)
  want = engine("gqa").generate(PROMPTS, sampling, jax.random.key(0))
  with jax.set_mesh(mesh_lib.make({"data": -1}, devices=jax.devices()[:2])):
    got = engine("gqa", table="data").generate(PROMPTS, sampling, jax.random.key(0))
  np.testing.assert_array_equal(got.token_BxT, want.token_BxT)


def test_thoughts_change_the_completion():
  """Else nothing above would tell thinking from not thinking."""
  sampling = Sampling(NEW, samples=1, temperature=0.0)
  with_thoughts = engine("gqa").generate(PROMPTS, sampling, jax.random.key(0))
  without = engine("gqa", latents=0).generate(PROMPTS, sampling, jax.random.key(0))
  assert without.prompts[1] == [1, 9, 29, 30]
  assert np.abs(with_thoughts.logp_BxT - without.logp_BxT).max() > 1e-2
