"""The whole network against the float64 reference, and its twins against each other."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from model_cases import CONFIGS, compiled, forward, grouped, jit, tiny, v2, variables

from reasonjax.inference import score
from reasonjax.models.transformer import Transformer, head_kernel

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
IDS, SEGMENT = fakes.packed(2, 9)


@functools.cache
def expected(name: str) -> reference.Result:
  config = CONFIGS[name]
  return reference.forward(config, variables(config), IDS, SEGMENT)


def test_the_packed_rows_hold_several_documents_and_padding():
  assert all(len(reference.documents(row)) == 3 for row in SEGMENT)
  assert (SEGMENT == 0).any()


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_float64_reference(name):
  config, want = CONFIGS[name], expected(name)
  out, logits = forward(config, IDS, SEGMENT)
  assert want.margin > 1e-4  # rounding cannot change which experts are chosen
  real = SEGMENT != 0
  assert want.logits[real].std() > 0.3
  np.testing.assert_allclose(logits[real], want.logits[real], **CLOSE)
  np.testing.assert_allclose(out.hidden_BxTxD[real], want.hidden[real], **CLOSE)
  np.testing.assert_allclose(out.entry_LxBxTxC[:, real], want.latent[:, real], **CLOSE)
  if config.num_moe_layers:
    stats = out.stats["layers"]
    np.testing.assert_array_equal(stats.load_E, want.load)
    assert want.load.sum() == config.num_moe_layers * config.experts_per_token * real.sum()
    np.testing.assert_allclose(stats.fraction_BxE, want.fraction, **CLOSE)
    np.testing.assert_allclose(stats.routed_BxE, want.routed, **CLOSE)
    np.testing.assert_allclose(stats.sent_BxJ, want.sent, **CLOSE)
    np.testing.assert_allclose(stats.probability_BxE, want.probability, **CLOSE)
    np.testing.assert_allclose(stats.importance_E, want.importance, **CLOSE)
  else:
    assert "layers" not in out.stats
  if config.num_mtp_modules:
    assert want.mtp_real.any(axis=(1, 2)).all()
    np.testing.assert_allclose(out.mtp_KxBxTxD[want.mtp_real], want.mtp[want.mtp_real], **CLOSE)
  else:
    assert out.mtp_KxBxTxD is None


@pytest.mark.parametrize("name", ["two_mtp_pre", "experts_in_mtp_only"])
def test_mtp_loads_count_the_rows_whose_further_token_exists(name):
  config, want = CONFIGS[name], expected(name)
  stats = forward(config, IDS, SEGMENT)[0].stats["mtp"]
  np.testing.assert_array_equal(stats.load_E, want.mtp_load)
  rows = want.mtp_real.sum(axis=(1, 2))
  assert (rows > 0).all()
  assert (rows < (SEGMENT != 0).sum()).all()
  np.testing.assert_array_equal(want.mtp_load.sum(axis=1), config.experts_per_token * rows)


def without_mtp(variables: dict) -> dict:
  params = {k: v for k, v in variables["params"].items() if not k.startswith("mtp")}
  return {"params": params, "router": {k: v for k, v in variables["router"].items() if k != "mtp"}}


@functools.cache
def plain_call(name: str = "v3"):
  """`(variables, ids, segment, position) -> logits` of a case without MTP modules."""
  return jit(Transformer(CONFIGS[name].replace(num_mtp_modules=0)).apply)


def test_logits_do_not_depend_on_mtp_modules():
  given = without_mtp(variables(CONFIGS["v3"]))
  _, want = forward(CONFIGS["v3"], IDS, SEGMENT)
  np.testing.assert_allclose(plain_call()(given, IDS, SEGMENT), want, **CLOSE)


@pytest.mark.parametrize("name", ["v3", "llama3_scaled"])
def test_only_differences_of_positions_matter(name):
  given, run = without_mtp(variables(CONFIGS[name])), plain_call(name)
  position = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11]] * 2, np.int32)
  one = np.ones_like(SEGMENT)
  want = run(given, IDS, one, position - 3)
  np.testing.assert_allclose(run(given, IDS, one, position), want, **CLOSE)
  assert np.abs(run(given, IDS, one, 2 * position) - want).max() > 1e-2


@pytest.mark.parametrize("name", ["v2_group_limited", "llama_all_biases"])
def test_left_padded_rows_equal_unpadded_ones(name):
  config = CONFIGS[name]
  given, lengths = variables(config), (9, 4)
  ids, real = np.full((2, 9), 7, np.int32), np.zeros((2, 9), np.int32)
  for row, length in enumerate(lengths):
    ids[row, 9 - length :], real[row, 9 - length :] = IDS[row, :length], 1
  got = score.logits(config, given, ids, real)
  _, want = forward(config, IDS, np.ones_like(IDS))
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(got[row, 9 - length :], want[row, :length], **CLOSE)


@pytest.mark.parametrize("name", ["v3", "v2_group_limited", "qwen2_tied"])
def test_rows_of_a_batch_do_not_reach_each_other(name):
  other = IDS.copy()
  other[1] = np.where(SEGMENT[1] != 0, 3 + (IDS[1] + 5) % 20, 0)
  _, want = forward(CONFIGS[name], IDS, SEGMENT)
  _, changed = forward(CONFIGS[name], other, SEGMENT)
  _, swapped = forward(CONFIGS[name], IDS[::-1], SEGMENT[::-1])
  np.testing.assert_allclose(changed[0], want[0], **CLOSE)
  assert np.abs(changed[1] - want[1]).max() > 0.1
  np.testing.assert_allclose(swapped[::-1], want, **CLOSE)


def renumbered(config, order, router_too: bool):
  """Variables with the experts of the main model's layers in another order."""
  given = variables(config)
  stack = dict(given["params"]["moe_layers"])
  ffn = dict(stack["ffn"])
  for name in ("gate", "up", "down"):
    ffn[name] = ffn[name][:, order]
  router = dict(given["router"])
  if router_too:
    ffn["router"] = ffn["router"][:, :, order]
    router |= {"layers": router["layers"][:, order]} if config.router_bias else {}
  stack["ffn"] = ffn
  return {"params": given["params"] | {"moe_layers": stack}, "router": router}


@pytest.mark.parametrize(
  ("name", "order"),
  [("v3", [6, 4, 5, 7, 1, 3, 2, 0]), ("v2_group_limited", [3, 2, 6, 7, 0, 1, 5, 4])],
)
def test_numbers_of_experts_mean_nothing_beyond_their_groups(name, order):
  """Whole groups change places, and experts inside them."""
  config = CONFIGS[name]
  out, want = forward(config, IDS, SEGMENT)
  got, logits = compiled(config)(renumbered(config, order, router_too=True), IDS, SEGMENT)
  np.testing.assert_allclose(logits, want, **CLOSE)
  loads = [np.asarray(o.stats["layers"].load_E) for o in (got, out)]
  np.testing.assert_array_equal(loads[0], loads[1][:, order])
  _, wrong = compiled(config)(renumbered(config, order, router_too=False), IDS, SEGMENT)
  assert np.abs(wrong - want).max() > 0.1


def test_without_segments_a_row_is_one_document():
  given = without_mtp(variables(CONFIGS["v3"]))
  _, want = forward(CONFIGS["v3"], IDS, np.ones_like(SEGMENT))
  np.testing.assert_allclose(plain_call()(given, IDS), want, **CLOSE)


def test_packed_documents_equal_each_document_alone():
  config = CONFIGS["two_mtp_pre"]
  spans = [(r, a, b) for r in range(len(IDS)) for a, b in reference.documents(SEGMENT[r])]
  ids, segment = np.zeros((len(spans), 9), np.int32), np.zeros((len(spans), 9), np.int32)
  for alone, (row, start, end) in enumerate(spans):
    ids[alone, : end - start] = IDS[row, start:end]
    segment[alone, : end - start] = 1
  packed, packed_logits = forward(config, IDS, SEGMENT)
  singles = [forward(config, ids[i : i + 2], segment[i : i + 2]) for i in range(0, len(spans), 2)]
  single_logits = np.concatenate([logits for _, logits in singles])
  single_mtp = np.concatenate([out.mtp_KxBxTxD for out, _ in singles], axis=1)
  for alone, (row, start, end) in enumerate(spans):
    size = end - start
    np.testing.assert_allclose(single_logits[alone, :size], packed_logits[row, start:end], **CLOSE)
    for k in range(config.num_mtp_modules):
      np.testing.assert_allclose(
        single_mtp[k, alone, : max(size - k - 1, 0)],
        packed.mtp_KxBxTxD[k, row, start : max(end - k - 1, start)],
        **CLOSE,
      )
  np.testing.assert_array_equal(
    sum(out.stats["layers"].load_E for out, _ in singles), packed.stats["layers"].load_E
  )


def test_padding_changes_nothing():
  real = SEGMENT != 0
  out, logits = forward(CONFIGS["v3"], IDS, SEGMENT)
  other, other_logits = forward(CONFIGS["v3"], np.where(real, IDS, 17), SEGMENT)
  assert np.abs(logits - other_logits)[~real].max() > 0.1
  np.testing.assert_allclose(other_logits[real], logits[real], **CLOSE)
  for a, b in zip(
    jax.tree.leaves(other.stats["layers"]), jax.tree.leaves(out.stats["layers"]), strict=True
  ):
    np.testing.assert_allclose(a, b, **CLOSE)


def test_a_token_changes_only_later_logits_of_its_own_document():
  row, (_, end) = 0, reference.documents(SEGMENT[0])[1]
  changed = IDS.copy()
  changed[row, end - 1] = 3 + (changed[row, end - 1] + 1) % 20
  assert changed[row, end - 1] != IDS[row, end - 1]
  _, logits = forward(CONFIGS["v3"], IDS, SEGMENT)
  _, after = forward(CONFIGS["v3"], changed, SEGMENT)
  moved = np.abs(after - logits).max(axis=-1) > 1e-5
  want = np.zeros_like(moved)
  want[row, end - 1] = True
  np.testing.assert_array_equal(moved, want)


# Gradients.

DEEP = tiny(num_layers=3, num_mtp_modules=1)
TIED = tiny(
  tie_embeddings=True, q_lora_rank=None, rope_scaling=None, num_mtp_modules=0, scan_unroll=2
)
BIASED = v2(attention=grouped(qkv_bias=True, out_bias=True).attention, num_heads=4)


def probes(config):
  """Fixed random weights on everything a loss can read, zero where a row means nothing."""
  rng = np.random.default_rng(5)
  real = SEGMENT != 0
  logits = rng.normal(0, 1, (*IDS.shape, config.vocab_size)) * real[..., None]
  mtp = rng.normal(0, 1, (config.num_mtp_modules, *IDS.shape, config.hidden_size))
  for k in range(config.num_mtp_modules):
    for row in range(len(IDS)):
      kept = np.zeros(IDS.shape[1], bool)
      for start, end in reference.documents(SEGMENT[row]):
        kept[start : max(end - k - 1, start)] = True
      mtp[k, row] *= kept[:, None]
  share = rng.normal(0, 1, (config.num_moe_layers, len(IDS), config.num_routed_experts))
  importance = rng.normal(0, 1, (config.num_moe_layers, config.num_routed_experts))
  return {"logits": logits, "mtp": mtp, "share": share, "importance": importance}


def loss(config, params, router):
  model, weight = Transformer(config), jax.tree.map(jnp.float32, probes(config))
  given = {"params": params, "router": router}
  out = model.apply(given, IDS, SEGMENT, method="hidden", with_mtp=True)
  logits = model.apply(given, out.hidden_BxTxD, method="logits")
  total = (logits * weight["logits"]).sum()
  stats = out.stats["layers"]
  total += (stats.probability_BxE * weight["share"]).sum()
  total += (stats.importance_E * weight["importance"]).sum()
  return total + (0 if out.mtp_KxBxTxD is None else (out.mtp_KxBxTxD * weight["mtp"]).sum())


@functools.cache
def value_and_grad(config, base):
  given = variables(base)
  return jit(jax.value_and_grad(functools.partial(loss, config), argnums=(0, 1)))(
    given["params"], given["router"]
  )


@pytest.mark.parametrize("config", [DEEP, TIED, BIASED], ids=["deep", "tied", "biased"])
def test_gradients_equal_finite_differences_of_the_reference(config):
  """Directional derivative along a random direction of every parameter array in turn."""
  given, weight = variables(config), probes(config)
  value, (grads, _) = value_and_grad(config, config)

  def reference_loss(params):
    want = reference.forward(config, {"params": params, "router": given["router"]}, IDS, SEGMENT)
    assert want.margin > 1e-4
    total = (want.logits * weight["logits"]).sum() + (want.mtp * weight["mtp"]).sum()
    total += (want.importance * weight["importance"]).sum()
    return total + (want.probability * weight["share"]).sum()

  params = reference.float64(given["params"])
  np.testing.assert_allclose(value, reference_loss(params), rtol=1e-5, atol=1e-4)
  leaves, tree = jax.tree.flatten(params)
  rng, step = np.random.default_rng(7), 1e-5
  names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
  for number, (name, grad) in enumerate(zip(names, jax.tree.leaves(grads), strict=True)):
    direction = rng.normal(0, 1, grad.shape)
    sides = []
    for sign in (1, -1):
      moved = [x + sign * step * direction if i == number else x for i, x in enumerate(leaves)]
      sides.append(reference_loss(jax.tree.unflatten(tree, moved)))
    numeric = (sides[0] - sides[1]) / (2 * step)
    norm = np.linalg.norm(grad)
    assert norm > 1e-3, name
    assert abs((np.asarray(grad, np.float64) * direction).sum() - numeric) < 1e-5 * norm, name


@pytest.mark.parametrize(
  "change",
  [{"moe_implementation": "loop"}, {"remat": "full"}, {"remat": "dots"}, {"scan_unroll": 2}],
  ids=lambda change: "-".join(map(str, change.values())),
)
def test_values_and_gradients_do_not_depend_on_how_they_are_computed(change):
  want_value, (want, _) = value_and_grad(DEEP, DEEP)
  value, (grads, _) = value_and_grad(DEEP.replace(**change), DEEP)
  np.testing.assert_allclose(value, want_value, rtol=1e-5, atol=1e-4)
  for (path, got), expected in zip(
    jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(want), strict=True
  ):
    size = float(np.abs(expected).max())  # sums over all tokens: rounding is of their size
    np.testing.assert_allclose(
      got, expected, rtol=1e-5, atol=1e-5 * size, err_msg=jax.tree_util.keystr(path)
    )


def test_router_biases_get_no_gradient():
  _, (_, grads) = value_and_grad(DEEP, DEEP)
  assert grads["layers"].shape == (2, 8)
  assert grads["mtp"].shape == (1, 8)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def kept_values(config) -> int:
  """Numbers that the backward pass keeps."""
  given = variables(DEEP)
  kept = jax.eval_shape(
    lambda params: jax.vjp(lambda p: loss(config, p, given["router"]), params)[1],
    given["params"],
  )
  return sum(leaf.size for leaf in jax.tree.leaves(kept))


def test_remat_keeps_less():
  none, dots, full = (kept_values(DEEP.replace(remat=r)) for r in ("none", "dots", "full"))
  assert full < dots < none


# bfloat16.


def test_bfloat16_activations_are_close_to_float32():
  """Every expert is used, so that rounding cannot change a choice: errors are rounding alone."""
  config = tiny(num_expert_groups=1, experts_per_token=8, num_mtp_modules=0)
  _, want = forward(config, IDS, SEGMENT)
  half = config.replace(dtype="bfloat16")
  out, logits = compiled(half)(variables(config), IDS, SEGMENT)
  assert out.hidden_BxTxD.dtype == out.entry_LxBxTxC.dtype == jnp.bfloat16
  assert logits.dtype == out.stats["layers"].load_E.dtype == jnp.float32
  real = SEGMENT != 0
  error = np.abs(logits - want)[real].std() / np.std(want[real])
  assert 1e-4 < error < 0.02  # about ten roundings of 2**-9 each along a path


def test_bfloat16_parameters_run():
  config = tiny(param_dtype="bfloat16", dtype="bfloat16", num_mtp_modules=0)
  assert {str(x.dtype) for x in jax.tree.leaves(variables(config)["params"])} == {"bfloat16"}
  assert variables(config)["router"]["layers"].dtype == jnp.float32
  out, logits = forward(config, IDS, SEGMENT)
  assert np.isfinite(logits).all()
  assert out.stats["layers"].load_E.sum() == float(2 * (SEGMENT != 0).sum())


def test_head_kernel_is_the_head_or_the_tied_embedding():
  untied = variables(CONFIGS["v3"])["params"]
  tied = variables(CONFIGS["tied_no_groups_no_shared"])["params"]
  assert head_kernel(untied) is untied["head"]
  assert "head" not in tied
  assert head_kernel(tied) is tied["embedding"]
