"""Multi-token prediction modules: which tokens they see, and what they are made of."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CONFIGS, compiled, forward, jit, tiny, variables

from reasonjax.models import rope
from reasonjax.models.mask import Place
from reasonjax.models.mtp import MTPModule, stack_stats
from reasonjax.models.router import RouterStats
from reasonjax.models.transformer import Transformer

CONFIG = CONFIGS["two_mtp_pre"]
IDS, SEGMENT = fakes.packed(2, 9)
WIDTH = CONFIG.hidden_size


@functools.cache
def module():
  model = MTPModule(CONFIG)

  def run(params, embedded_BxTxD, hidden_BxTxD):
    position = jnp.broadcast_to(jnp.arange(4)[None], (1, 4))
    rotated, scaling = CONFIG.attention.rope_dim, CONFIG.rope_scaling
    cos_sin = rope.cos_sin(position, rotated, CONFIG.rope_theta, scaling)
    place = Place(position, jnp.ones((1, 4), jnp.int32), cos_sin)
    bias = jnp.zeros(CONFIG.num_routed_experts)
    return model.apply({"params": params}, embedded_BxTxD, hidden_BxTxD, 2, bias, place)

  return jit(run)


def inputs():
  rng = np.random.default_rng(0)
  return tuple(rng.normal(0, 1, (2, 1, 4, WIDTH)).astype(np.float32))


@pytest.mark.parametrize("half", ["embedding", "hidden"])
def test_the_embedding_comes_first_in_the_projection(half):
  """With one half of the rows zero, the other input alone decides."""
  params = dict(variables(CONFIG)["params"]["mtp_0"])
  rows = slice(0, WIDTH) if half == "embedding" else slice(WIDTH, None)
  params["project"] = params["project"].copy()
  params["project"][rows] = 0.0
  embedded, hidden = inputs()
  want, _ = module()(params, embedded, hidden)
  other_embedded, _ = module()(params, embedded[:, ::-1], hidden)
  other_hidden, _ = module()(params, embedded, hidden[:, ::-1])
  ignored, used = (
    (other_embedded, other_hidden) if half == "embedding" else (other_hidden, other_embedded)
  )
  np.testing.assert_array_equal(ignored, want)
  assert np.abs(used - want).max() > 0.1


def test_both_inputs_are_normalised():
  params = variables(CONFIG)["params"]["mtp_0"]
  embedded, hidden = inputs()
  want, _ = module()(params, embedded, hidden)
  got, _ = module()(params, embedded * 100, hidden * 0.5)
  # Not exact: epsilon 1e-6 against mean squares of about 1 and 0.25.
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_output_is_normalised_by_the_modules_own_norm():
  params = variables(CONFIG)["params"]["mtp_1"]
  out, _ = module()(params, *inputs())
  normed = np.asarray(out) / params["final_norm"]["scale"]
  np.testing.assert_allclose((normed**2).mean(-1), 1.0, rtol=1e-4)


def test_module_k_sees_tokens_up_to_k_places_on():
  one = np.ones_like(IDS)
  changed = IDS.copy()
  changed[0, 6] = 3 + (changed[0, 6] + 1) % 20
  before = forward(CONFIG, IDS, one)[0].mtp_KxBxTxD
  after = forward(CONFIG, changed, one)[0].mtp_KxBxTxD
  moved = np.abs(after - before).max(axis=-1) > 1e-5
  for k in (1, 2):
    np.testing.assert_array_equal(moved[k - 1, 0], np.arange(9) >= 6 - k)
    assert not moved[k - 1, 1].any()


def test_module_1_reads_the_hidden_state_of_the_configured_side():
  """The final norm's scale reaches module 1 only if it reads the normalised state."""
  for name, depends in (("two_mtp_pre", False), ("two_mtp_post", True)):
    config = CONFIGS[name]
    assert config.mtp_hidden == name.removeprefix("two_mtp_")
    given, run = variables(config), compiled(config)
    scale = np.random.default_rng(9).uniform(0.5, 1.5, WIDTH).astype(np.float32)
    other = given | {"params": given["params"] | {"final_norm": {"scale": scale}}}
    before, after = (run(v, IDS, SEGMENT)[0].mtp_KxBxTxD for v in (given, other))
    moved = np.abs(before - after).max()
    assert moved > 0.1 if depends else moved == 0.0


def test_modules_run_only_when_asked_for():
  shapes = jax.eval_shape(
    lambda: Transformer(CONFIG).apply(variables(CONFIG), IDS, SEGMENT, method="hidden")
  )
  assert shapes.mtp_KxBxTxD is None
  assert shapes.entry_LxBxTxC is None
  assert set(shapes.stats) == {"layers"}


def test_statistics_have_the_structure_of_the_biases():
  """So that one tree map updates all of them."""
  out, _ = forward(CONFIG, IDS, SEGMENT)
  router = variables(CONFIG)["router"]
  assert jax.tree.map(lambda bias: bias.shape, router) == {
    name: stats.load_E.shape for name, stats in out.stats.items()
  }


def test_stack_stats():
  rows = jnp.ones((3, 2))
  one = RouterStats(jnp.ones(2), rows, rows, rows, rows, jnp.ones(2))
  got = stack_stats([one, jax.tree.map(lambda x: 2 * x, one)])
  np.testing.assert_array_equal(got.load_E, [[1, 1], [2, 2]])
  assert got.fraction_BxE.shape == (2, 3, 2)
  assert stack_stats([None, None]) is None


def test_a_model_without_experts_has_dense_modules():
  config = tiny(num_dense_layers=2, num_routed_experts=0)
  block = variables(config)["params"]["mtp_0"]["block"]
  assert set(block["ffn"]) == {"gate", "up", "down"}
  assert variables(config)["router"] == {}
