"""The compiled sampler against the full forward pass, and where rows end."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.inference import decode, score
from reasonjax.inference import logits as logits_lib
from reasonjax.inference.decode import Request
from reasonjax.inference.logits import SamplingArrays
from reasonjax.models.transformer import Transformer

CONFIG = fakes.model_config()
NEVER, PAD = CONFIG.vocab_size, 0  # no token has the first number, so no row ends by it
PROMPTS = [[3, 9, 4, 30, 7], [5], [8, 1, 31], [12, 12, 6, 2]]
WIDTH, NEW = 5, 8


@functools.cache
def variables():
  """Random weights, sharpened by a larger head so that the best token is clearly the best."""
  made = fakes.variables(CONFIG, bias_std=0.1)
  return made | {"params": made["params"] | {"head": 8.0 * made["params"]["head"]}}


@functools.partial(jax.jit, static_argnames="truncates")
def _generate(variables, request, key, eos_id, pad_id, truncates):
  return decode.generate(
    Transformer(CONFIG),
    variables,
    request,
    key,
    new_tokens=NEW,
    eos_id=eos_id,
    pad_id=pad_id,
    truncates=truncates,
  )


def make_request(prompts, group=1, width=WIDTH, budget=NEW, temperature=1.0, seeds=None):
  rows = len(prompts) * group
  ids = np.full((len(prompts), width), 29, np.int32)  # a real token as padding must not be seen
  for row, prompt in enumerate(prompts):
    ids[row, : len(prompt)] = prompt
  seeds = np.arange(rows) if seeds is None else seeds
  return Request(
    ids_PxS=ids,
    length_P=np.array([len(prompt) for prompt in prompts], np.int32),
    budget_B=np.broadcast_to(np.asarray(budget, np.int32), rows),
    seed_B=np.asarray(seeds, np.uint32),
    sampling=SamplingArrays(
      temperature_B=np.broadcast_to(np.asarray(temperature, np.float32), rows),
      top_k_B=np.zeros(rows, np.int32),
      top_p_B=np.ones(rows, np.float32),
      min_p_B=np.zeros(rows, np.float32),
    ),
  )


def generate(request, eos=NEVER, pad=PAD, seed=0):
  out = _generate(
    variables(), request, jax.random.key(seed), jnp.int32(eos), jnp.int32(pad), truncates=False
  )
  return jax.device_get(out)


def full_logits(texts):
  """Float32 logits of the full forward pass at every position of every text, padded."""
  ids = np.full((len(texts), WIDTH + NEW), 29, np.int32)
  mask = np.zeros_like(ids)
  for row, text in enumerate(texts):
    ids[row, : len(text)], mask[row, : len(text)] = text, 1
  return np.asarray(score.logits(CONFIG, variables(), jnp.asarray(ids), jnp.asarray(mask)))


def forced_logp(prompts, completions, temperature):
  """Float64 log-probabilities of completions by one full forward pass."""
  texts = [[*prompt, *tokens] for prompt, tokens in zip(prompts, completions, strict=True)]
  logits, rows = full_logits(texts), []
  for row, (prompt, tokens) in enumerate(zip(prompts, completions, strict=True)):
    scaled = logits[row].astype(np.float64) / temperature[row]
    at = np.arange(len(tokens)) + len(prompt) - 1
    log_z = np.log(np.exp(scaled[at]).sum(axis=-1))
    rows.append(scaled[at, tokens] - log_z)
  return rows


@functools.cache
def greedy():
  """Without any end: what most tests below are compared with."""
  return generate(make_request(PROMPTS, temperature=0.0))


def completions(out):
  return [row[:length].tolist() for row, length in zip(out.token_BxT, out.length_B, strict=True)]


def test_greedy_is_repeated_argmax_of_the_full_forward():
  texts = [list(prompt) for prompt in PROMPTS]
  for _ in range(NEW):
    logits = full_logits(texts)
    for row, text in enumerate(texts):
      best = np.sort(logits[row, len(text) - 1])
      assert best[-1] - best[-2] > 1e-4  # no tie that rounding could decide
      text.append(int(logits[row, len(text) - 1].argmax()))
  expected = [text[len(prompt) :] for prompt, text in zip(PROMPTS, texts, strict=True)]
  assert greedy().token_BxT.tolist() == expected
  assert len({token for row in expected for token in row}) > 5
  forced = forced_logp(PROMPTS, expected, np.ones(len(PROMPTS)))
  np.testing.assert_allclose(greedy().logp_BxT, np.stack(forced), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_log_probabilities_are_those_of_teacher_forcing(seed):
  """At temperatures of their own, of completions that end early and late, the EOS included."""
  temperature = np.array([0.6, 1.0, 1.7, 0.9])
  endless = generate(make_request(PROMPTS, temperature=temperature), seed=seed)
  eos = int(endless.token_BxT[2, 3])
  out = generate(make_request(PROMPTS, temperature=temperature), eos=eos, seed=seed)
  assert out.ended_B[2]
  assert out.length_B[2] <= 4
  assert not out.ended_B.all()
  forced = forced_logp(PROMPTS, completions(out), temperature)
  for row, expected in enumerate(forced):
    ours = out.logp_BxT[row, : out.length_B[row]]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_shared_prefill_equals_a_prompt_a_row():
  pair, group = [PROMPTS[0], PROMPTS[2]], 2
  shared = generate(make_request(pair, group=group))
  apart = generate(make_request([PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[2]]))
  np.testing.assert_array_equal(shared.token_BxT, apart.token_BxT)
  np.testing.assert_allclose(shared.logp_BxT, apart.logp_BxT, rtol=1e-5, atol=1e-5)
  # Samples of one prompt have streams of their own.
  assert (shared.token_BxT[0] != shared.token_BxT[1]).any()
  assert (shared.token_BxT[2] != shared.token_BxT[3]).any()


def test_a_row_depends_on_nothing_but_itself():
  """Neither on its place, nor on the other rows, nor on the width that prompts are padded to."""
  together = generate(make_request(PROMPTS))
  order = [2, 0, 3, 1]
  moved = generate(make_request([PROMPTS[row] for row in order], seeds=order))
  np.testing.assert_array_equal(moved.token_BxT, together.token_BxT[order])
  np.testing.assert_allclose(moved.logp_BxT, together.logp_BxT[order], rtol=1e-5, atol=1e-5)
  others = make_request(
    [PROMPTS[0], [1, 2], [30], [7]], budget=[NEW, 0, 2, 5], temperature=[1.0, 0.0, 3.0, 0.1]
  )
  np.testing.assert_array_equal(generate(others).token_BxT[0], together.token_BxT[0])
  for row in (0, 1):
    alone = generate(make_request([PROMPTS[row]], seeds=[row], width=len(PROMPTS[0])))
    np.testing.assert_array_equal(alone.token_BxT[0], together.token_BxT[row])
    np.testing.assert_allclose(alone.logp_BxT[0], together.logp_BxT[row], rtol=1e-5, atol=1e-5)


def test_streams_differ_by_key_and_by_row_number():
  first = generate(make_request(PROMPTS))
  np.testing.assert_array_equal(generate(make_request(PROMPTS)).token_BxT, first.token_BxT)
  other_key = generate(make_request(PROMPTS), seed=1)
  assert (other_key.token_BxT != first.token_BxT).any(axis=1).all()
  renumbered = generate(make_request(PROMPTS, seeds=[7, 8, 9, 10]))
  assert (renumbered.token_BxT != first.token_BxT).any(axis=1).all()


def test_every_step_draws_anew():
  """With all tokens equally likely, only the stream decides."""
  params = variables()["params"]
  uniform = variables() | {"params": params | {"head": jnp.zeros_like(params["head"])}}
  ends = jnp.int32(NEVER), jnp.int32(PAD)
  out = _generate(uniform, make_request(PROMPTS), jax.random.key(0), *ends, truncates=False)
  assert min(len(set(row)) for row in out.token_BxT.tolist()) > NEW // 2
  np.testing.assert_allclose(out.logp_BxT, -np.log(CONFIG.vocab_size), rtol=1e-6)


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_row_ends_with_its_eos(pad_is_eos):
  endless = greedy().token_BxT
  eos = int(endless[0, 4])
  pad = eos if pad_is_eos else PAD
  out = generate(make_request(PROMPTS, temperature=0.0), eos=eos, pad=pad)
  assert out.ended_B[0]
  assert out.length_B[0] <= 5
  assert not out.ended_B.all()
  for row in range(len(PROMPTS)):
    endless_row = endless[row].tolist()
    ended = eos in endless_row
    length = endless_row.index(eos) + 1 if ended else NEW
    assert out.length_B[row] == length
    assert out.ended_B[row] == ended
    assert out.token_BxT[row].tolist() == endless_row[:length] + [pad] * (NEW - length)
    np.testing.assert_allclose(
      out.logp_BxT[row, :length], greedy().logp_BxT[row, :length], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(out.logp_BxT[row, length:], 0.0)


def test_budgets_are_by_row():
  budget = [3, 0, NEW, 1]
  out = generate(make_request(PROMPTS, budget=budget, temperature=0.0))
  assert out.length_B.tolist() == budget
  assert not out.ended_B.any()
  for row, length in enumerate(budget):
    expected = greedy().token_BxT[row, :length].tolist() + [PAD] * (NEW - length)
    assert out.token_BxT[row].tolist() == expected
    np.testing.assert_array_equal(out.logp_BxT[row, length:], 0.0)
    assert (out.logp_BxT[row, :length] < 0).all()


def test_an_eos_on_the_last_token_of_the_budget_is_no_truncation():
  eos = int(greedy().token_BxT[0, 0])
  out = generate(make_request(PROMPTS, budget=1, temperature=0.0), eos=eos)
  assert out.length_B.tolist() == [1] * 4
  assert out.ended_B.tolist() == [int(row[0]) == eos for row in greedy().token_BxT]


def test_the_loop_ends_with_the_last_row(monkeypatch):
  """One draw a step, and no step more than the longest completion has tokens."""
  draws, real = [], logits_lib.sample

  def counted(*args, **options):
    jax.debug.callback(lambda: draws.append(1))
    return real(*args, **options)

  monkeypatch.setattr(logits_lib, "sample", counted)
  program = jax.jit(lambda *args: _generate.__wrapped__(*args, truncates=False))

  def steps(head, **options):
    """Draws of one call; with `head` 0 all logits are equal, and the best token is the first."""
    draws.clear()
    weights = variables() | {"params": variables()["params"] | {"head": head}}
    request = make_request(PROMPTS, temperature=0.0, **options)
    out = program(weights, request, jax.random.key(0), jnp.int32(0), jnp.int32(PAD))
    jax.block_until_ready(out)
    jax.effects_barrier()
    return len(draws), out

  head = variables()["params"]["head"]
  assert 0 not in greedy().token_BxT
  assert steps(head)[0] == NEW
  assert steps(head, budget=[0, 3, 1, 2])[0] == 3
  count, out = steps(jnp.zeros_like(head))
  assert count == 1
  assert out.length_B.tolist() == [1] * 4
  assert out.ended_B.all()
  count, out = steps(head, budget=0)
  assert count == 1
  assert out.length_B.tolist() == [0] * 4
