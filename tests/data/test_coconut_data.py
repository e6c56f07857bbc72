"""Rows of continuous thoughts: the curriculum by hand, the exact loss mask, mixing, resuming."""

import json

import numpy as np
import pytest

from reasonjax.data import coconut
from reasonjax.data.coconut import Curriculum, Example, Layout, Markers
from reasonjax.data.tokenizer import SymbolTokenizer, of_symbols

# Ids: pad 0, BOS 1, EOS 2, tags 3 to 6, then "1" 7, "2" 8, "=" 9, ";" 10.
TOKENIZER = of_symbols(("1", "2", "=", ";"))
MARKERS = coconut.markers(TOKENIZER, vocab_size=20)
BOT, EOT, LATENT = 17, 18, 19
STEPS = ("1;", "2;", "1;", "2;")
EXAMPLE = Example("12=", STEPS, "2")


def rng():
  return np.random.default_rng(0)


def layout(curriculum, stage, row_length=32, text_length=16):
  return Layout(curriculum, stage, row_length, text_length)


# Stage: thoughts, and how many of four steps are still written.
@pytest.mark.parametrize(
  ("c", "table"),
  [
    (1, [(0, 4), (1, 3), (2, 2), (3, 1), (3, 0)]),
    (2, [(0, 4), (2, 3), (4, 2), (6, 1), (6, 0)]),
  ],
)
def test_the_curriculum_with_three_stages(c, table):
  curriculum = Curriculum(stages=3, latents_per_step=c, mixing=0.0)
  assert curriculum.last == 4
  for stage, (latents, written) in enumerate(table):
    assert curriculum.latents(stage) == latents
    assert curriculum.written(stage, STEPS) == STEPS[len(STEPS) - written :]
    ids = layout(curriculum, stage).row(EXAMPLE, TOKENIZER, MARKERS, rng())["ids"].tolist()
    assert ids.count(LATENT) == latents
    assert ids.count(10) == written


def test_a_row_and_its_loss():
  """BOS 1 2 = <bot> 2 thoughts <eot> <think> step step </think> <answer> 2 </answer> EOS."""
  row = layout(Curriculum(3, 1, 0.0), 2, row_length=24).row(EXAMPLE, TOKENIZER, MARKERS, rng())
  prompt = [1, 7, 8, 9, BOT, LATENT, LATENT, EOT]
  response = [3, 7, 10, 8, 10, 4, 5, 8, 6, 2]
  assert row["ids"].tolist() == [*prompt, *response, *[0] * 6]
  assert row["segment"].tolist() == [1] * 18 + [0] * 6
  assert row["loss"].tolist() == [0.0] * 8 + [1.0] * 10 + [0.0] * 6


def test_fewer_steps_than_the_stage_takes_away_still_get_its_thoughts():
  short = Example("1=", ("1;",), "1")
  row = layout(Curriculum(3, 2, 0.0), 3).row(short, TOKENIZER, MARKERS, rng())
  assert row["ids"].tolist()[:17] == [1, 7, 9, BOT, *[LATENT] * 6, EOT, 3, 4, 5, 7, 6, 2]


def test_mixing_draws_earlier_stages_evenly():
  curriculum, numbers = Curriculum(4, 1, mixing=0.3), rng()
  drawn = np.bincount([curriculum.draw(3, numbers) for _ in range(20_000)], minlength=5) / 20_000
  np.testing.assert_allclose(drawn, [0.1, 0.1, 0.1, 0.7, 0.0], atol=0.01)
  assert {curriculum.draw(0, numbers) for _ in range(50)} == {0}
  never = Curriculum(4, 1, mixing=0.0)
  assert {never.draw(3, numbers) for _ in range(50)} == {3}


def test_what_does_not_fit_is_refused():
  """Stage 0 of the example needs 5 slots before `<eot>` and 15 from there on."""

  def row(row_length, text_length):
    fitted = layout(Curriculum(3, 1, 0.0), 0, row_length, text_length)
    return fitted.row(EXAMPLE, TOKENIZER, MARKERS, rng())

  assert row(20, 15)["segment"].all()
  with pytest.raises(ValueError, match=r"^text_length=14: .* needs 15 slots"):
    row(30, 14)
  with pytest.raises(ValueError, match=r"^row_length - text_length=4: .* needs 5 slots"):
    row(19, 15)


def test_markers_are_ids_that_no_text_has():
  assert Markers(BOT, EOT, LATENT) == MARKERS
  tight = SymbolTokenizer(("a", "b"))
  assert coconut.markers(tight, 8) == Markers(5, 6, 7)
  with pytest.raises(ValueError, match=r"model.vocab_size=7: .* choose 8 or more"):
    coconut.markers(tight, 7)


def test_a_bad_curriculum_is_refused():
  for values in ((-1, 1, 0.0), (1, -1, 0.0), (1, 1, 1.5)):
    with pytest.raises(ValueError, match="curriculum"):
      Curriculum(*values)
  with pytest.raises(ValueError, match=r"stage=5: choose 0\.\.4"):
    layout(Curriculum(3, 1, 0.0), 5)


def test_documents_are_taken_apart():
  found = coconut.parse("1=<think>1;2</think><answer>2</answer>", ";")
  assert found == Example("1=", ("1;", "2"), "2")
  assert coconut.parse("1=<think></think><answer>2</answer>", ";").steps == ()
  for broken in ("1=2", "1=<think>1;</think>2"):
    with pytest.raises(ValueError, match="expected a prompt, a think and an answer block"):
      coconut.parse(broken, ";")


def write(path, rows):
  path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
  return path


def test_a_file_of_examples(tmp_path):
  rows = [{"question": "1=", "steps": ["<<1+1=2>>", "so 2"], "answer": "2", "idx": 0}]
  assert coconut.read(write(tmp_path / "a", rows)) == [
    Example("1=", ("<<1+1=2>>\n", "so 2\n"), "2")
  ]
  with pytest.raises(ValueError, match="no example"):
    coconut.read(write(tmp_path / "empty", []))
  with pytest.raises(ValueError, match="line 2 is held out"):
    coconut.read(write(tmp_path / "b", [*rows, rows[0] | {"split": "test"}]))


@pytest.mark.parametrize("line", ['{"question": "1="}', "[1]", "not json", '{"question": "1=", '])
def test_a_bad_line_is_named(line, tmp_path):
  good = {"question": "1=", "steps": [], "answer": "2"}
  with pytest.raises(ValueError, match="a, line 2: expected an object"):
    coconut.read(write(tmp_path / "a", [good, line]))
  with pytest.raises(ValueError, match="steps is no list"):
    coconut.read(write(tmp_path / "a", [good, good | {"steps": "1+1=2"}]))


def stream(mixing=0.5):
  def document(index):
    return f"{'1' * (index + 1)}=<think>1;2;1;</think><answer>2</answer>"

  examples = coconut.GeneratedExamples(document, ";", count=6)
  return coconut.batches(
    examples,
    layout(Curriculum(2, 1, mixing), 2),
    TOKENIZER,
    MARKERS,
    seed=3,
    microbatches=2,
    rows=3,
  )


def test_every_epoch_has_every_example_in_another_order():
  batches = stream()
  prompts = [(np.asarray(next(batches).ids_BxT) == BOT).argmax(axis=-1).ravel() for _ in range(3)]
  assert all(sorted(epoch) == [3, 4, 5, 6, 7, 8] for epoch in prompts)
  assert len({tuple(epoch) for epoch in prompts}) == 3


def test_the_position_is_saved_and_restored_bit_for_bit():
  """With stages mixed, so that the drawn stages resume, too."""
  first = stream()
  next(first)
  state = json.loads(json.dumps(first.get_state()))
  expected = [next(first) for _ in range(4)]
  latents = {(batch.ids_BxT == LATENT).sum(axis=-1).tobytes() for batch in expected}
  assert len(latents) > 1
  second = stream()
  second.set_state(state)
  for batch in expected:
    got = next(second)
    assert got.ids_BxT.shape == (2, 3, 32)
    for name in ("ids_BxT", "segment_BxT", "loss_BxT"):
      np.testing.assert_array_equal(getattr(got, name), getattr(batch, name))
