"""Loaded checkpoints against transformers: the same numbers from the same files.

The logits have a standard deviation of about 1. A wrong pairing of RoPE, a missing factor or a
wrong mask costs 1e-2 or more (see tests/test_mutations.py), rounding about 1e-6.
"""

import dataclasses
import functools
from pathlib import Path

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_models as tm
from jax.experimental import io_callback

from reasonjax.checkpoint import hf
from reasonjax.inference import score
from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.models import cache as cache_lib
from reasonjax.models import router
from reasonjax.models.config import ModelConfig
from reasonjax.models.transformer import Transformer

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
FAR_TOLERANCE = 2e-3  # angles of thousands of radians are rounded differently
SAFE_MARGIN = 1e-5  # below it rounding decides which expert is chosen
SAFE_LEAD = 1e-3  # the same for the most likely token

B, T = 2, 24
IDS = np.random.default_rng(0).integers(3, cases.VOCAB, (B, T)).astype(np.int32)
ONES = np.ones((B, T), np.int32)
PADDED = (np.arange(T)[None] >= np.array([[7], [0]])).astype(np.int32)
FAR = np.tile(97 * np.arange(T, dtype=np.int32), (B, 1))

MOE = [name for name, case in cases.CASES.items() if case.family.startswith("deepseek")]
MTP = [name for name, case in cases.CASES.items() if case.mtp]
GREEDY = [
  "V3: YaRN",
  "V2: group-limited",
  "V2-Lite, old config.json",
  "Qwen2: untied",
  "Llama 3: scaled RoPE",
]

# Compiling takes longer than running here, and LLVM's optimisations change no result.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
logits = jit(score.logits, static_argnums=0)


@dataclasses.dataclass
class Loaded:
  """One checkpoint, read by both sides in float32."""

  name: str
  directory: Path
  reference: tm.Reference
  config: ModelConfig
  variables: dict


@pytest.fixture(scope="module", params=cases.CASES)
def loaded(request, tmp_path_factory):
  directory = tmp_path_factory.mktemp("checkpoint")
  reference = tm.write(cases.CASES[request.param], directory)
  config, variables = hf.load(directory, param_dtype="float32", dtype="float32")
  with jax.default_matmul_precision("highest"):
    yield Loaded(request.param, directory, reference, config, variables)


def of(names):
  return pytest.mark.parametrize("loaded", names, indirect=True)


def check(loaded, record, column, ours, theirs, tolerance=TOLERANCE):
  error = np.abs(np.asarray(ours) - theirs).max()
  record(loaded.name, column, f"{error:.1e}")
  assert error < tolerance
  assert np.std(theirs) > 0.5  # a model that says little would agree with anything


def test_logits(loaded, record):
  ours = logits(loaded.config, loaded.variables, IDS, ONES)
  assert ours.dtype == jnp.float32
  check(loaded, record, "logits", ours, tm.run(loaded.reference, IDS).logits)


def test_logits_of_a_left_padded_batch(loaded, record):
  ours = logits(loaded.config, loaded.variables, IDS, PADDED)
  theirs = tm.run(loaded.reference, IDS, PADDED).logits
  real = PADDED == 1
  check(loaded, record, "left-padded", np.asarray(ours)[real], theirs[real])


def test_logits_at_far_positions(loaded, record):
  ours = logits(loaded.config, loaded.variables, IDS, ONES, FAR)
  theirs = tm.run(loaded.reference, IDS, positions=FAR).logits
  check(loaded, record, "far", ours, theirs, FAR_TOLERANCE)


def test_logits_through_the_cache(loaded, record):
  """Every token in decoding's form: absorbed for MLA."""
  model = Transformer(loaded.config)

  def run(variables, ids, positions):
    cache = cache_lib.empty(loaded.config, B, T)
    hidden, _ = model.apply(variables, ids, positions, cache, 0, method="decode")
    return model.apply(variables, hidden, method="logits")

  ours = jit(run)(loaded.variables, IDS, np.cumsum(ONES, axis=1) - 1)
  check(loaded, record, "cache", ours, tm.run(loaded.reference, IDS).logits)


@of(MOE)
def test_routers_choose_the_same_experts(loaded, record, monkeypatch):
  chosen, route = [], router.route

  def watched(*args, **kwargs):
    out = route(*args, **kwargs)
    io_callback(lambda index: chosen.append(np.sort(index, axis=-1)), None, out[0], ordered=True)
    return out

  monkeypatch.setattr(router, "route", watched)
  run = jit(lambda variables: Transformer(loaded.config).apply(variables, IDS))
  run(loaded.variables).block_until_ready()
  jax.effects_barrier()
  theirs = tm.run(loaded.reference, IDS)
  safe = theirs.margin > SAFE_MARGIN
  assert len(chosen) == len(theirs.experts) == loaded.config.num_moe_layers
  assert safe.mean() > 0.95
  assert len(np.unique(theirs.experts)) > loaded.config.experts_per_token
  np.testing.assert_array_equal(np.array(chosen)[safe], theirs.experts[safe])
  record(loaded.name, "routers", f"{safe.sum()} equal")


@of(MTP)
def test_mtp_logits(loaded, record):
  model = Transformer(loaded.config)

  def run(variables):
    out = model.apply(variables, IDS, method="hidden", with_mtp=True)
    return [model.apply(variables, mtp, method="logits") for mtp in out.mtp_KxBxTxD]

  ours = jit(run)(loaded.variables)
  theirs = tm.mtp_logits(loaded.reference, IDS, tm.run(loaded.reference, IDS).hidden)
  depth = cases.CASES[loaded.name].mtp
  assert len(ours) == len(theirs) == depth
  real = np.concatenate([np.asarray(ours[k])[:, : T - k - 1] for k in range(depth)], axis=1)
  expected = np.concatenate([theirs[k][:, : T - k - 1] for k in range(depth)], axis=1)
  check(loaded, record, "MTP", real, expected)


@of(GREEDY)
def test_greedy_decoding(loaded, record):
  """Prefill and the compiled loop over the cache, against full forward passes of transformers."""
  prompts = [IDS[0, :5].tolist(), IDS[1, :9].tolist()]
  never = cases.VOCAB  # no token ends a completion
  shape = {"rows": 2, "prompt_buckets": (16,), "new_token_buckets": (16,)}
  engine = Engine(loaded.config, loaded.variables, eos_id=never, **shape)
  rollout = engine.generate(prompts, Sampling(16, temperature=0.0), jax.random.key(0))
  for prompt, ours in zip(prompts, rollout.token_BxT, strict=True):
    theirs, leads = tm.greedy(loaded.reference, prompt, 16)
    clear = int(np.argmax(leads <= SAFE_LEAD)) if (leads <= SAFE_LEAD).any() else 16
    assert clear >= 8
    assert ours[:clear].tolist() == theirs[:clear]
    record(loaded.name, "greedy", f"{clear} of 16 equal")


def test_round_trip(loaded, record, tmp_path):
  """Saved again, every tensor has the same bits, and transformers reads the same model."""
  case, model = cases.CASES[loaded.name], (loaded.config, loaded.variables)
  if case.dtype != "float32" and not case.fp8:
    model = hf.load(loaded.directory)
  hf.save(tmp_path, *model)
  # FP8 comes back in float32, and the pairs that RoPE rotates always come back as neighbours.
  comparable = not case.fp8 and case.fields.get("rope_interleave", True)
  if comparable:
    saved, stored = {}, loaded.reference.tensors
    for file in tmp_path.glob("*.safetensors"):
      saved |= tm.st.load_file(file)
    assert set(saved) == set(stored)
    for name, value in stored.items():
      assert saved[name].dtype == value.dtype, name
      assert tm.torch.equal(saved[name], value), name
  again = tm.transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype=tm.torch.float32, attn_implementation="eager"
  )
  theirs = tm.run(tm.Reference(again.eval(), [], {}), IDS).logits
  expected = tm.run(loaded.reference, IDS).logits
  np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-6)
  record(loaded.name, "round trip", "same bits" if comparable else "same logits")
