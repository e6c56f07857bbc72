"""Metrics on disk: what is written, resumed, torn and not finite."""

import csv
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.metrics import writer


def strict(line: str):
  """JSON proper: NaN and Infinity are Python's own additions."""

  def refuse(name):
    raise ValueError(f"{name} is no JSON")

  return json.loads(line, parse_constant=refuse)


def test_rows_are_json_lines_with_their_step(tmp_path):
  metrics = writer.Writer(tmp_path / "deep" / "run")
  metrics.write(1, {"loss": jnp.float32(0.5), "load": np.array([1, 2]), "name": "x", "n": 3})
  metrics.write(jnp.int32(2), {"loss": np.float64(0.25), "on": True})
  metrics.close()
  lines = (tmp_path / "deep" / "run" / "metrics.jsonl").read_text().splitlines()
  assert [strict(line) for line in lines] == [
    {"step": 1, "loss": 0.5, "load": [1, 2], "name": "x", "n": 3},
    {"step": 2, "loss": 0.25, "on": True},
  ]


def test_rows_are_on_disk_at_once(tmp_path):
  metrics = writer.Writer(tmp_path)
  metrics.write(1, {"loss": 0.5})
  assert writer.read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
  metrics.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_scalars_that_are_not_finite_become_null(tmp_path, value):
  metrics = writer.Writer(tmp_path)
  metrics.write(1, {"loss": value, "norm": 1.0})
  metrics.close()
  assert strict((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "norm": 1.0}


def test_array_entries_that_are_not_finite_become_null(tmp_path):
  metrics = writer.Writer(tmp_path)
  metrics.write(1, {"load": np.array([[1.0, math.nan], [math.inf, 2.0]])})
  metrics.close()
  row = strict((tmp_path / "metrics.jsonl").read_text())
  assert row == {"step": 1, "load": [[1.0, None], [None, 2.0]]}


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
  first = writer.Writer(tmp_path)
  for step in (1, 2, 3, 4):
    first.write(step, {"loss": 1.0 / step})
  resumed = writer.Writer(tmp_path, resumed_step=2)
  resumed.write(3, {"loss": 30.0})
  resumed.close()
  assert writer.read(tmp_path / "metrics.jsonl") == [
    {"step": 1, "loss": 1.0},
    {"step": 2, "loss": 0.5},
    {"step": 3, "loss": 30.0},
  ]


def test_starting_afresh_drops_everything(tmp_path):
  first = writer.Writer(tmp_path)
  first.write(1, {"loss": 1.0})
  first.close()
  writer.Writer(tmp_path).close()
  assert writer.read(tmp_path / "metrics.jsonl") == []


def test_an_interrupted_file_reads_like_an_uninterrupted_one(tmp_path):
  straight = writer.Writer(tmp_path / "straight")
  broken = writer.Writer(tmp_path / "broken")
  for step in range(1, 6):
    straight.write(step, {"loss": float(step)})
  for step in range(1, 4):
    broken.write(step, {"loss": float(step)})
  with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "lo')
  resumed = writer.Writer(tmp_path / "broken", resumed_step=2)
  for step in range(3, 6):
    resumed.write(step, {"loss": float(step)})
  straight.close()
  resumed.close()
  for name in ("metrics.jsonl", "metrics.csv"):
    texts = [(tmp_path / run / name).read_text() for run in ("straight", "broken")]
    assert texts[0] == texts[1]


def test_read_merges_rows_of_a_step_and_drops_a_torn_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(
    '{"step": 2, "loss": 1.0}\n{"step": 1, "loss": 3.0}\n'
    '{"step": 2, "eval/accuracy": 0.5}\n{"step": 3, "loss": 0.'
  )
  assert writer.read(path) == [
    {"step": 2, "loss": 1.0, "eval/accuracy": 0.5},
    {"step": 1, "loss": 3.0},
  ]


def test_read_of_no_file_is_empty(tmp_path):
  assert writer.read(tmp_path / "metrics.jsonl") == []


def test_csv_holds_the_scalars_as_one_table(tmp_path):
  metrics = writer.Writer(tmp_path)
  metrics.write(1, {"loss": 0.5, "load": [1, 2]})
  metrics.write(2, {"loss": math.nan, "accuracy": 0.75})
  metrics.close()
  with (tmp_path / "metrics.csv").open(newline="") as file:
    rows = list(csv.reader(file))
  assert rows == [["step", "loss", "accuracy"], ["1", "0.5", ""], ["2", "", "0.75"]]


def test_series_leaves_out_steps_without_the_metric():
  rows = [
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": None},
    {"step": 3},
    {"step": 4, "loss": 1.0},
  ]
  steps, values = writer.series(rows, "loss")
  np.testing.assert_array_equal(steps, [1, 4])
  np.testing.assert_array_equal(values, [2.0, 1.0])
  steps, values = writer.series(rows, "accuracy")
  assert steps.shape == values.shape == (0,)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  metrics = writer.Writer(tmp_path / "run", tensorboard=True)
  metrics.write(1, {"loss": 1.0})
  metrics.close()
  assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_finite_scalars(tmp_path, monkeypatch):
  tensorboard = pytest.importorskip("tensorboardX", reason="needs the extra `tensorboard`")
  logged = []
  monkeypatch.setattr(
    tensorboard.SummaryWriter,
    "add_scalar",
    lambda self, name, value, step: logged.append((name, value, step)),
  )
  metrics = writer.Writer(tmp_path, tensorboard=True)
  metrics.write(7, {"loss": 0.5, "norm": math.nan, "load": [1, 2], "name": "x"})
  metrics.close()
  assert logged == [("loss", 0.5, 7)]
  assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.skipif(
  importlib.util.find_spec("tensorboardX") is not None, reason="tensorboardX is installed"
)
def test_missing_tensorboard_names_the_extra(tmp_path):
  with pytest.raises(ImportError, match=r"pip install 'reasonjax\[tensorboard\]'"):
    writer.Writer(tmp_path, tensorboard=True)
