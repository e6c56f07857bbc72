"""Native sparse attention against float64 loops, its blocks, packing, the cache, whole models."""

import dataclasses
import functools

import attention_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_checks import CLOSE
from model_cases import jit, variables

from reasonjax.inference import score
from reasonjax.models import count, mask, nsa, rope
from reasonjax.models.attention_config import GQAConfig, MLAConfig, NSAConfig
from reasonjax.models.cache import EMPTY
from reasonjax.models.mask import Place
from reasonjax.models.nsa import NSA
from reasonjax.models.transformer import Transformer
from reasonjax.optim import build as optim
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import rules
from reasonjax.train import state as state_lib

SIZES = NSAConfig(
  num_kv_heads=2,
  head_dim=6,
  v_head_dim=4,
  block=4,
  stride=2,
  selection_block=4,
  num_selected=4,
  window=5,
  compress_size=7,
)
CONFIG = checks.model(SIZES, num_layers=2, num_dense_layers=2)
# Compressed blocks that do not overlap, many to a selection block; three strides in one block.
OTHERS = {
  "apart": {"block": 2, "stride": 2, "selection_block": 6, "num_selected": 3, "window": 3},
  "three_strides": {"block": 6, "stride": 2, "selection_block": 8, "num_selected": 3, "window": 40},
}
CONFIGS = {"overlap": CONFIG} | {
  name: CONFIG.replace(attention=NSAConfig(2, 6, 4, compress_size=7, **sizes))
  for name, sizes in OTHERS.items()
}
LENGTH = 33


def weights(config, layer=0):
  tree = variables(config)["params"]["dense_layers"]["attention"]
  return {name: np.asarray(leaf[layer], np.float64) for name, leaf in tree.items()}


def softmax(scores):
  weight = np.exp(np.array(scores) - max(scores))
  return weight / weight.sum()


def by_hand(config, w, x_TxD):
  """One document in float64, a token and head at a time: output, selected blocks, least margin."""
  a, T, H = config.attention, len(x_TxD), config.num_heads
  group, margin = H // a.num_kv_heads, np.inf
  turn = functools.partial(checks.rotated, theta=config.rope_theta)

  def compressed(name, head, i):
    rows = [
      x_TxD[s] @ w[f"{name}_cmp"][:, head] + w[f"{name}_place"][s - i * a.stride]
      for s in range(i * a.stride, i * a.stride + a.block)
    ]
    inner = np.concatenate(rows) @ w[f"{name}_up"]
    return (inner / (1 + np.exp(-inner))) @ w[f"{name}_down"]

  def attend(q, branch, head, seen):
    keys = [turn(x_TxD[s] @ w[f"k_{branch}"][:, head], s) for s in seen]
    values = [x_TxD[s] @ w[f"v_{branch}"][:, head] for s in seen]
    return softmax([q @ k / np.sqrt(a.head_dim) for k in keys]) @ np.array(values)

  out, chosen = np.zeros_like(x_TxD), np.zeros((T, a.num_kv_heads), object)
  whole = range(max((T - a.block) // a.stride + 1, 0))
  cmp = {
    (head, i): (turn(compressed("k", head, i), i * a.stride), compressed("v", head, i))
    for head in range(a.num_kv_heads)
    for i in whole
  }
  for t in range(T):
    gate = 1 / (1 + np.exp(-(x_TxD[t] @ w["gate"])))
    seen_blocks = [i for i in whole if i * a.stride + a.block - 1 <= t]
    newest = t // a.selection_block
    for head in range(a.num_kv_heads):
      heads = range(head * group, (head + 1) * group)
      q = {h: turn(x_TxD[t] @ w["q"][:, h], t) for h in heads}
      branch_cmp = dict.fromkeys(heads, np.zeros(a.v_head_dim))
      worth = np.zeros(newest + 1)
      for h in heads:
        if not seen_blocks:
          continue
        p = softmax([q[h] @ cmp[head, i][0] / np.sqrt(a.head_dim) for i in seen_blocks])
        branch_cmp[h] = sum(p[i] * cmp[head, i][1] for i in seen_blocks)
        for j in range(newest + 1):
          for i in seen_blocks:  # strides that compressed block i shares with selection block j
            start, end = i * a.stride, i * a.stride + a.block
            low, high = j * a.selection_block, (j + 1) * a.selection_block
            worth[j] += p[i] * max(min(end, high) - max(start, low), 0) / a.stride
      always = {0, newest, newest - 1} & set(range(newest + 1))
      rest = sorted(set(range(newest + 1)) - always, key=lambda j: -worth[j])
      free = a.num_selected - len(always)
      if 0 < free < len(rest):
        margin = min(margin, worth[rest[free - 1]] - worth[rest[free]])
      chosen[t, head] = sorted(always | set(rest[:free]))
      slc = [s for s in range(t + 1) if s // a.selection_block in chosen[t, head]]
      win = range(max(t - a.window + 1, 0), t + 1)
      for h in heads:
        branches = [branch_cmp[h], attend(q[h], "slc", head, slc), attend(q[h], "win", head, win)]
        mixed = sum(gate[3 * h + c] * branch for c, branch in enumerate(branches))
        out[t] += mixed @ w["o"][h]
  return out, chosen, margin


def layer(config):
  """Function giving output, cache entries and selected blocks of one attention layer."""

  def run(params, x_BxTxD, segment_BxT):
    position_BxT = mask.positions(segment_BxT)
    table = rope.cos_sin(position_BxT, config.attention.rope_dim, config.rope_theta)
    place = Place(position_BxT, segment_BxT, table)
    module = NSA(config).bind({"params": params})
    chosen = []
    original = nsa.block_attention
    nsa.block_attention = lambda *args, **keywords: (
      chosen.append(args[4]) or original(*args, **keywords)
    )
    try:
      out, entry = module(x_BxTxD, place)
    finally:
      nsa.block_attention = original
    return out, entry, chosen[0]

  return run


def one_layer(config, x_TxD, segment_T):
  params = {name: np.float32(leaf) for name, leaf in weights(config).items()}
  out = jit(layer(config))(params, np.float32(x_TxD)[None], segment_T[None].astype(np.int32))
  return [np.asarray(leaf[0]) for leaf in out]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_equals_the_formulas_in_float64(name):
  """Two documents of a packed row: outputs, and the very blocks that each token selects."""
  config, block = CONFIGS[name], CONFIGS[name].attention.selection_block
  segment = np.zeros(LENGTH + 3 * block + 3, np.int32)
  start = -(-LENGTH // block) * block
  segment[:LENGTH], segment[start : start + 2 * block + 1] = 1, 2
  x = np.random.default_rng(0).normal(0, 1, (len(segment), config.hidden_size))
  out, _, chosen = one_layer(config, x, segment)
  for at in checks.documents(segment):
    want, want_chosen, margin = by_hand(config, weights(config), x[at])
    assert margin > 1e-5
    np.testing.assert_allclose(out[at], want, **CLOSE)
    for t, head in np.ndindex(want_chosen.shape):
      blocks = sorted(j - at[0] // block for j in chosen[at[t], head].tolist() if j >= 0)
      assert blocks == want_chosen[t, head], (t, head)


def test_every_branch_and_choice_takes_part():
  """What the float64 test compares is neither all blocks nor the ones that are always taken."""
  x = np.random.default_rng(0).normal(0, 1, (LENGTH, CONFIG.hidden_size))
  _, chosen, _ = by_hand(CONFIG, weights(CONFIG), x)
  last = [set(chosen[t, head]) - {0, 7, 8} for t in (32,) for head in (0, 1)]
  assert all(len(free) == 1 for free in last)
  assert len({tuple(blocks) for blocks in chosen[28:32].ravel()}) > 1


def test_compression_by_hand():
  """Sums of two tokens and their places, one number each: silu(x) * 2."""
  x = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 5, 1, 1)
  place, up, down = jnp.array([[0.5], [0.25]]), jnp.ones((2, 1)), jnp.array([[2.0]])
  silu = lambda x: x / (1 + np.exp(-x))
  for stride, sums in ((1, [3.75, 6.75, 12.75, 24.75, 16.75]), (2, [3.75, 12.75, 16.75])):
    got = nsa.compress(x, place, up, down, stride)
    np.testing.assert_allclose(got[0, :, 0, 0], 2 * silu(np.array(sums)), rtol=1e-6)


def test_selection_scores_by_hand():
  """Paper's sizes: compressed block i covers strides i and i + 1, a selection block four strides.

  Block 0 has strides 0-3: blocks 0, 1, 2 share two with it, block 3 one. Block 1 has 4-7.
  """
  prob = jnp.array([[1.0, 10.0, 100.0, 1e3, 1e4, 1e5], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
  got = nsa.selection_scores(prob.reshape(1, 1, 1, 2, 6), strides=4, overlap=2)
  np.testing.assert_allclose(got[0, 0, 0], [1224.0, 221e3], rtol=1e-6)


def test_chosen_blocks_by_hand():
  """Block 0, the newest two, then the best; nothing later, nothing of the document before."""
  score = jnp.array([0.1, 0.5, 0.2, 0.9, 0.3, 0.0, 7.0])[None, None, None]
  score = jnp.broadcast_to(score, (1, 4, 1, 7))
  first, last = jnp.array([[0, 0, 2, 3]]), jnp.array([[5, 1, 5, 3]])
  got = nsa.choose_blocks(score, first, last, 4)[0, :, 0]
  assert [sorted(row) for row in got.tolist()] == [
    [0, 3, 4, 5],
    [-1, -1, 0, 1],
    [2, 3, 4, 5],
    [-1, -1, -1, 3],
  ]
  assert nsa.choose_blocks(score, first, last, 9).shape == (1, 4, 1, 7)


def test_gates_weigh_each_branch_by_itself():
  gate = jnp.array([0.5, 0.1, 1.0]).reshape(1, 1, 1, 3)
  branches = [jnp.full((1, 1, 1, 2), value) for value in (2.0, 10.0, 3.0)]
  np.testing.assert_allclose(nsa.combine(gate, branches)[0, 0, 0], [5.0, 5.0])


def test_tokens_before_the_first_whole_block_get_no_compressed_ones():
  q, k, v = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 1, 3)), jnp.ones((1, 4, 1, 2))
  seen = jnp.array([[[False] * 4, [True, True, False, False]]])
  out, prob = nsa.compressed_attention(q, k, v, seen, 0.7)
  np.testing.assert_array_equal(out[0, 0], 0.0)
  np.testing.assert_array_equal(prob[0, 0], 0.0)
  np.testing.assert_allclose(out[0, 1], 1.0, rtol=1e-6)
  np.testing.assert_allclose(prob[0, 1, 0, 0], [0.5, 0.5, 0.0, 0.0], rtol=1e-6)


def test_queries_in_chunks_equal_all_at_once(monkeypatch):
  segment = np.ones(LENGTH, np.int32)
  x = np.random.default_rng(1).normal(0, 1, (LENGTH, CONFIG.hidden_size))
  want, _, want_chosen = one_layer(CONFIG, x, segment)
  monkeypatch.setattr(nsa, "QUERIES", 8)
  got, _, chosen = one_layer(CONFIG, x, segment)
  np.testing.assert_allclose(got, want, **CLOSE)
  np.testing.assert_array_equal(chosen, want_chosen)


# Documents of 13, 6 and 2 tokens, each from a multiple of four on.
PACKED = np.array([1] * 13 + [0] * 3 + [2] * 6 + [0] * 2 + [3] * 2 + [0] * 3, np.int32)


def test_packed_equals_unpacked():
  checks.packed_equals_unpacked(CONFIG, PACKED)


def test_a_misaligned_document_gives_nan_and_other_rows_stay_as_they_are():
  """Row 0 has its first and last document one row too late; row 1 starts where blocks do."""
  segment = np.stack([np.roll(PACKED, 1), PACKED])
  ids = checks.random_ids(2, len(PACKED))
  got, _ = checks.hidden(CONFIG, ids, segment)
  assert np.isnan(got[0, segment[0] != 0]).all()
  want, _ = checks.hidden(CONFIG, np.roll(ids, 1, axis=0), np.stack([PACKED, PACKED]))
  np.testing.assert_allclose(got[1], want[0], **CLOSE)
  one = np.where(segment[0] == 3, 3, 0)  # the other two are gone, so what is left is one alone
  assert np.isnan(checks.hidden(CONFIG, ids, np.stack([one, PACKED]))[0][0, one != 0]).all()


@pytest.mark.parametrize(("name", "size"), [("overlap", 1), ("three_strides", 11)])
def test_decoding_equals_the_forward_pass(name, size):
  checks.decode_equals_forward(CONFIGS[name], LENGTH, size)


def test_completions_share_the_cache_of_their_prompt():
  checks.completions_share_the_cache_of_their_prompt(CONFIG, [18, 11], 26)


def test_padding_in_a_decoded_chunk_changes_nothing():
  """Row 0 begins with two slots of padding; their ids do not matter."""
  ids, position = checks.random_ids(2, 20), np.tile(np.arange(20, dtype=np.int32), (2, 1))
  want, _ = checks.hidden(CONFIG, ids, np.ones_like(ids))
  ids[0], position[0] = np.roll(ids[0], 2), np.roll(position[0], 2)
  position[0, :2] = EMPTY
  got, _ = checks.decode(CONFIG, ids, position, checks.cache_lib.empty(CONFIG, 2, 22), 0)
  np.testing.assert_allclose(got[0, 2:], want[0, :18], **CLOSE)
  np.testing.assert_allclose(got[1], want[1], **CLOSE)


def test_the_engine_samples_from_the_forward_pass():
  checks.engine_equals_forward(CONFIG, prompt_length=18, new=6)


@pytest.mark.parametrize("with_positions", [False, True])
def test_left_padded_rows_score_like_right_padded_ones(with_positions):
  ids, width = checks.random_ids(3, 14), 19
  starts, given = (5, 0, 2), variables(CONFIG)
  want = np.asarray(jit(Transformer(CONFIG).apply)(given, ids))
  padded, real = np.full((3, width), 9, np.int32), np.zeros((3, width), np.int32)
  position = np.zeros((3, width), np.int32)
  for row, start in enumerate(starts):
    at = slice(start, start + 14)
    padded[row, at], real[row, at], position[row, at] = ids[row], 1, np.arange(14)
  logits = jit(functools.partial(score.logits.__wrapped__, CONFIG))
  got = logits(given, padded, real, position if with_positions else None)
  for row, start in enumerate(starts):
    np.testing.assert_allclose(got[row, start : start + 14], want[row], **CLOSE)


def test_it_learns_and_every_weight_has_a_gradient():
  checks.learns(CONFIG, PACKED)


def test_gradients_equal_finite_differences():
  """Where no choice changes: along random directions, in every weight and the input at once."""
  x = np.random.default_rng(2).normal(0, 1, (1, LENGTH, CONFIG.hidden_size)).astype(np.float32)
  params = {name: np.float32(leaf) for name, leaf in weights(CONFIG).items()}
  segment = np.ones((1, LENGTH), np.int32)
  probe = np.random.default_rng(3).normal(0, 1, x.shape)
  loss = lambda params, x: (layer(CONFIG)(params, x, segment)[0] * np.float32(probe)).sum()
  grads = jit(jax.grad(loss, argnums=(0, 1)))(params, x)
  rng = np.random.default_rng(4)
  along = jax.tree.map(lambda leaf: rng.normal(0, 1, leaf.shape), (params, x))
  slope = sum(np.vdot(a, g) for a, g in zip(*map(jax.tree.leaves, (along, grads)), strict=True))

  def at(step):
    moved = jax.tree.map(lambda leaf, a: leaf + step * a, (params, x), along)
    w = {name: np.float64(leaf) for name, leaf in moved[0].items()}
    out, chosen, _ = by_hand(CONFIG, w, np.float64(moved[1][0]))
    return (out * probe[0]).sum(), chosen.tolist()

  (ahead, same), (behind, also) = at(1e-6), at(-1e-6)
  assert same == also
  np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-4)


def test_every_parameter_is_of_a_kind_that_optimizers_know():
  axes = state_lib.parameter_axes(CONFIG)
  kinds = optim.kinds_of(axes)["dense_layers"]["attention"]
  assert {name for name, kind in kinds.items() if kind == "table"} == {"k_place", "v_place"}
  others = {kind for name, kind in kinds.items() if not name.endswith("place")}
  assert others == {"matrix"}
  # Inputs of a matrix are its first axis, but for those that map into the residual stream.
  inputs = lambda name: optim.matrix_axes(axes["dense_layers"]["attention"][name]).reduction_axis
  assert {name: inputs(name) for name in ("k_cmp", "v_win", "k_up", "v_down", "gate", "o")} == {
    "k_cmp": (1,),
    "v_win": (1,),
    "k_up": (1,),
    "v_down": (1,),
    "gate": (1,),
    "o": (1, 2),
  }


@pytest.mark.parametrize(
  ("table", "shape"), [("tensor", {"tensor": 2}), ("full", {"fsdp": 2, "context": 2})]
)
def test_a_split_layer_equals_one_device(table, shape):
  ids = checks.random_ids(2, 28)
  segment = np.stack([PACKED[:28], np.ones(28, np.int32)])
  want, _ = checks.hidden(CONFIG, ids, segment)
  devices = jax.devices()[: int(np.prod(list(shape.values())))]
  model = Transformer(CONFIG, rules.get(table))
  with jax.set_mesh(mesh_lib.make(shape, devices=devices)):
    out = jit(functools.partial(model.apply, method="hidden"))(variables(CONFIG), ids, segment)
  np.testing.assert_allclose(out.hidden_BxTxD, want, **CLOSE)


@pytest.mark.parametrize("name", CONFIGS)
def test_counted_parameters_are_those_initialised(name):
  config = CONFIGS[name]
  shapes = jax.tree.leaves(variables(config)["params"]["dense_layers"]["attention"])
  assert count.attention(config) * config.num_layers == sum(leaf.size for leaf in shapes)


def test_tokens_read_by_the_paper_sizes():
  """At position 65536: 4095 compressed blocks, 16 blocks of 64, 512 of the window."""
  assert count.nsa_tokens_read(NSAConfig(), 65536) == 4095 + 1024 + 512 == 5631
  assert count.nsa_tokens_read(NSAConfig(), 30) == 0 + 31 + 31
  assert count.nsa_tokens_read(NSAConfig(), 31) == 1 + 32 + 32


@pytest.mark.parametrize(("stride", "compressing"), [(2, 0), (4, -390)])
def test_flops_by_hand(stride, compressing):
  """Two tokens read 1 + 1 and 2 + 2 keys of 6 and values of 4 with four heads in each layer.

  The 390 weights that compress, counted once a token, are used by two heads every `stride` tokens.
  """
  config = CONFIG.replace(attention=dataclasses.replace(SIZES, stride=stride))
  per_layer = 2 * 4 * (6 + 4) * 3 + compressing
  want = 2 * count.active(config) + 2 * per_layer
  assert count.forward_flops_per_token(config, 2) == want


def test_a_cache_holds_three_branches():
  assert SIZES.cache_width == 3 * 2 * (6 + 4)
  assert count.cache_bytes_per_token(CONFIG, 4) == 2 * 60 * 4


def test_only_blocks_need_alignment():
  assert (SIZES.alignment, NSAConfig().alignment) == (4, 64)
  assert GQAConfig(1, 2).alignment == MLAConfig(None, 2, 2, 2, 2).alignment == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stride": 0}, "stride=0"),
    ({"head_dim": 5}, "head_dim=5"),
    ({"block": 24}, "block=24.*stride=16"),
    ({"selection_block": 72}, "selection_block=72.*stride=16"),
    ({"block": 128}, "selection_block=64.*block=128"),
    ({"num_selected": 2}, "num_selected=2"),
    ({"window": 0}, "window=0"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    NSAConfig(**changes)
