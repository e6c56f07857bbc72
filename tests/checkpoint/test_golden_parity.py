"""Checkpoints against what transformers computed from them; needs no torch."""

import jax
import numpy as np
import pytest
from golden import goldens
from golden.goldens import FAR_TOLERANCE, TOLERANCE
from jax.experimental import io_callback

from reasonjax.checkpoint import hf
from reasonjax.checkpoint.safetensors import Reader
from reasonjax.inference import score
from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.models import router
from reasonjax.models.transformer import Transformer


@pytest.fixture(params=goldens.NAMES)
def golden(request):
  with jax.default_matmul_precision("highest"):
    yield goldens.read(request.param)


def of(*names):
  return pytest.mark.parametrize("golden", names, indirect=True)


def check(ours, theirs, tolerance=TOLERANCE):
  np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance)
  assert np.std(theirs) > 0.5  # a model that says little would agree with anything


def test_logits(golden):
  expected = golden.expected
  run = goldens.jit(score.logits, static_argnums=0)
  ones = np.ones_like(expected["mask"])
  check(run(golden.config, golden.variables, expected["ids"], ones), expected["logits"])
  # A left-padded row counts its positions from its first real token.
  real, ids = expected["mask"] == 1, np.where(expected["mask"], expected["ids"], 0)
  padded = np.asarray(run(golden.config, golden.variables, ids, expected["mask"]))
  check(padded[real], expected["padded_logits"][real])


def test_logits_at_far_positions(golden):
  run = goldens.jit(score.logits, static_argnums=0)
  ids, far = golden.expected["ids"], golden.expected["far"]
  ours = run(golden.config, golden.variables, ids, np.ones_like(ids), far)
  check(ours, golden.expected["far_logits"], FAR_TOLERANCE)


def test_logits_through_the_cache(golden):
  run = goldens.jit(goldens.cached_logits, static_argnums=0)
  ours = run(golden.config, golden.variables, golden.expected["ids"])
  check(ours, golden.expected["logits"])


@of("deepseek_v3")
def test_mtp_logits(golden):
  run = goldens.jit(goldens.mtp_logits, static_argnums=0)
  ours = np.asarray(run(golden.config, golden.variables, golden.expected["ids"]))
  theirs = golden.expected["mtp_logits"]
  assert ours.shape == theirs.shape
  assert len(ours) == 2
  for depth in range(1, 3):  # the last tokens have none so far ahead
    check(ours[depth - 1, :, :-depth], theirs[depth - 1, :, :-depth])


@of("deepseek_v3", "deepseek_v2")
def test_routers_choose_the_same_experts(golden, monkeypatch):
  chosen, route = [], router.route

  def watched(*args, **kwargs):
    out = route(*args, **kwargs)
    io_callback(lambda index: chosen.append(np.sort(index, axis=-1)), None, out[0], ordered=True)
    return out

  monkeypatch.setattr(router, "route", watched)
  model = Transformer(golden.config)
  run = goldens.jit(lambda variables: model.apply(variables, golden.expected["ids"]))
  run(golden.variables).block_until_ready()
  jax.effects_barrier()
  np.testing.assert_array_equal(chosen, golden.expected["experts"])


@of("deepseek_v3")
def test_greedy_decoding(golden):
  """Prefill and the compiled loop over the cache, against full forward passes."""
  expected = golden.expected["greedy"]
  never = golden.config.vocab_size  # no token ends a completion
  shape = {"rows": 1, "prompt_buckets": (8,), "new_token_buckets": (len(expected),)}
  engine = Engine(golden.config, golden.variables, eos_id=never, **shape)
  prompt = golden.expected["ids"][0, :8].tolist()
  sampling = Sampling(len(expected), temperature=0.0)
  rollout = engine.generate([prompt], sampling, jax.random.key(0))
  np.testing.assert_array_equal(rollout.token_BxT[0], expected)


@of("deepseek_v3", "qwen2")
def test_saved_again_the_files_are_the_same(golden, tmp_path, request):
  """What is loaded in the files' dtype and saved has the same tensors, bit for bit."""
  name = request.node.callspec.params["golden"]
  hf.save(tmp_path / "again", *hf.load(goldens.FOLDER / name))
  before, after = Reader(goldens.FOLDER / name), Reader(tmp_path / "again")
  assert set(after.entries) == set(before.entries)
  for key, entry in before.entries.items():
    assert after.entries[key].dtype == entry.dtype, key
    assert after.view(key).tobytes() == before.view(key).tobytes(), key
