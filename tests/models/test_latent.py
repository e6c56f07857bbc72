"""Continuous thoughts: passes over a cache equal full passes, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from model_cases import NO_EXPERTS, jit, tiny, variables

from reasonjax.models import latent
from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.latent import LatentTransformer
from reasonjax.models.transformer import Transformer

BOT, EOT, LATENT = 29, 30, 31
CONFIGS = {
  "mla_moe": tiny(num_mtp_modules=0),
  "gqa": tiny(num_mtp_modules=0, rope_scaling=None, **NO_EXPERTS).replace(
    attention=GQAConfig(num_kv_heads=1, head_dim=8, qkv_bias=True)
  ),
}
NAMES = list(CONFIGS)
# Prompts and texts of several lengths; two, one and no thoughts.
ROWS = (
  (1, 5, 6, 7, BOT, LATENT, LATENT, EOT, 8, 9, 2),
  (1, 11, BOT, LATENT, LATENT, EOT, 12, 2),
  (1, 9, 8, 7, 6, BOT, LATENT, EOT, 2),
  (1, 9, 13, BOT, EOT, 4, 4, 2),
)
LATENTS, TEXT_LENGTH = 2, 4


def padded(rows, length: int = 14, left: int = 0):
  """Ids and segments with `left` slots of padding before every row."""
  ids, segment = np.full((len(rows), length), 17, np.int32), np.zeros((len(rows), length), np.int32)
  for i, row in enumerate(rows):
    ids[i, left : left + len(row)], segment[i, left : left + len(row)] = row, 1
  return ids, segment


def network(config, latents=LATENTS, text_length=TEXT_LENGTH) -> LatentTransformer:
  markers = {"latent_id": LATENT, "eot_id": EOT}
  return LatentTransformer(config, latents=latents, text_length=text_length, **markers)


@functools.cache
def compiled(name: str):
  return jit(functools.partial(network(CONFIGS[name]).apply, method="hidden"))


def hidden(name, ids, segment, given=None):
  given = variables(CONFIGS[name]) if given is None else given
  return np.asarray(compiled(name)(given, ids, segment).hidden_BxTxD)


def close(got, want, real=...):
  scale = np.abs(want[real]).max()
  np.testing.assert_allclose(got[real], want[real], rtol=0, atol=1e-5 * scale)


def value_and_gradient(name, method, ids, segment):
  """Hidden states, and gradients of a loss on the text alone, which reach the prompt by thoughts.

  Weights are halved, as each thought multiplies what the one before has rounded.
  """
  config = CONFIGS[name]
  given = jax.tree.map(lambda leaf: 0.5 * leaf, variables(config))
  after = (np.cumsum(ids == EOT, axis=1) > 0) & (segment > 0)
  weight = np.random.default_rng(0).normal(size=(*ids.shape, config.hidden_size))
  weight = np.where(after[..., None], weight, 0).astype(np.float32)

  def loss(params):
    out = network(config).apply(given | {"params": params}, ids, segment, method=method)
    out = out.hidden_BxTxD if method == "hidden" else out
    return (jnp.sin(out) * weight).sum(), out

  gradient, out = jit(jax.grad(loss, has_aux=True))(given["params"])
  return np.asarray(out), gradient


@pytest.mark.parametrize("name", NAMES)
def test_passes_over_a_cache_equal_full_passes_in_values_and_gradients(name):
  ids, segment = padded(ROWS)
  got, got_gradient = value_and_gradient(name, "hidden", ids, segment)
  want, want_gradient = value_and_gradient(name, "hidden_by_full_passes", ids, segment)
  close(got, want, segment > 0)
  for path, leaf in jax.tree_util.tree_leaves_with_path(want_gradient):
    found = functools.reduce(lambda tree, key: tree[key.key], path, got_gradient)
    assert np.abs(leaf).max() > 0 or path[0].key == "head", path
    close(np.asarray(found), np.asarray(leaf))
  assert not np.asarray(got_gradient["embedding"])[LATENT].any()


def test_a_thought_is_the_hidden_state_before_it():
  """Against a float64 model that knows embeddings only: each thought becomes a new word of it."""
  config, given = CONFIGS["mla_moe"], variables(CONFIGS["mla_moe"])
  row = [1, 5, 6, BOT, LATENT, LATENT, EOT, 8, 2]
  table = [*np.asarray(given["params"]["embedding"], np.float64)]
  words = []
  for token in row:
    if token == LATENT:
      with_thoughts = given | {"params": given["params"] | {"embedding": np.array(table)}}
      so_far = np.array([words])
      before = reference.forward(config, with_thoughts, so_far, np.ones_like(so_far))
      table.append(before.hidden[0, -1])
      token = len(table) - 1
    words.append(token)
  with_thoughts = given | {"params": given["params"] | {"embedding": np.array(table)}}
  want = reference.forward(config, with_thoughts, np.array([words]), np.ones((1, len(row)), int))
  assert want.margin > 1e-4
  ids, segment = padded([row, *ROWS[1:]])
  got = hidden("mla_moe", ids, segment)[:1, : len(row)]
  close(got, want.hidden, np.ones((1, len(row)), bool))


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_neighbours_change_nothing(name):
  """Every row moved to the right among the others, and one alone in as few slots as it needs."""
  got = hidden(name, *padded(ROWS))
  moved = hidden(name, *padded(ROWS, left=3))
  for i, row in enumerate(ROWS):
    np.testing.assert_allclose(moved[i, 3 : 3 + len(row)], got[i, : len(row)], atol=1e-5)
  alone = network(CONFIGS[name], text_length=len(ROWS[1]) - ROWS[1].index(EOT))
  run = jit(functools.partial(alone.apply, method="hidden"))
  out = run(variables(CONFIGS[name]), np.array([ROWS[1]], np.int32))
  np.testing.assert_allclose(out.hidden_BxTxD[0], got[1, : len(ROWS[1])], atol=1e-5)


def test_the_token_at_a_latent_position_is_never_read():
  given = variables(CONFIGS["gqa"])
  want = hidden("gqa", *padded(ROWS))
  other = given["params"]["embedding"].copy()
  other[LATENT] += 5.0
  got = hidden("gqa", *padded(ROWS), given | {"params": given["params"] | {"embedding": other}})
  np.testing.assert_array_equal(got, want)
  other[BOT] += 5.0
  got = hidden("gqa", *padded(ROWS), given | {"params": given["params"] | {"embedding": other}})
  assert np.abs(got - want).max() > 0.1


def test_entries_are_those_of_the_slots_they_stand_in():
  """Appending tokens one by one to an ordinary cache gives the same entries, thoughts apart."""
  config, given = CONFIGS["gqa"], variables(CONFIGS["gqa"])
  ids, segment = padded(ROWS[-1:])  # without thoughts, so that an ordinary prefill is the same
  run = functools.partial(network(config).apply, method="hidden", with_entries=True)
  got = jit(run)(given, ids, segment).entry_LxBxTxC
  run = functools.partial(Transformer(config).apply, method="hidden", with_entries=True)
  want = jit(run)(given, ids, segment).entry_LxBxTxC
  np.testing.assert_allclose(got[:, 0, segment[0] > 0], want[:, 0, segment[0] > 0], atol=1e-5)


def test_without_thoughts_it_is_an_ordinary_model():
  config, given = CONFIGS["mla_moe"], variables(CONFIGS["mla_moe"])
  ids, segment = padded(ROWS)
  got = jit(functools.partial(network(config, latents=0).apply, method="hidden"))(
    given, ids, segment
  )
  want = jit(functools.partial(Transformer(config).apply, method="hidden"))(given, ids, segment)
  np.testing.assert_array_equal(got.hidden_BxTxD, want.hidden_BxTxD)
  np.testing.assert_array_equal(got.stats["layers"].load_E, want.stats["layers"].load_E)


def test_what_thoughts_cannot_have_is_refused():
  config = tiny()
  ids, given = padded(ROWS)[0], variables(config)
  with pytest.raises(ValueError, match=r"with_mtp=True: .* set the loss's mtp to 0"):
    network(config).apply(given, ids, method="hidden", with_mtp=True)
  with pytest.raises(ValueError, match="row length=6: leave slots for a prompt"):
    network(config).apply(given, ids[:, :6], method="hidden")


def test_a_thought_costs_what_a_token_does():
  config = CONFIGS["gqa"]
  # Per layer: q 16x2x8, k and v 16x8 each with biases 16 + 8 + 8, o 16x16, norms 2 x 16, SwiGLU
  # 3 x 16 x 24; then the final norm and the head 32 x 16.
  layer = 256 + 256 + 32 + 256 + 32 + 1152
  active = 2 * layer + 16 + 512
  # Products with keys and values: 2 FLOPs x 2 heads x (8 + 8) x half of 10 slots, per layer.
  per_slot = 2 * active + 2 * (2 * 2 * 16 * 5)
  assert latent.forward_flops(config, tokens=7, latents=3) == 10 * per_slot
