"""Parity runs only when asked for (importing torch takes seconds), and ends with its table."""

import collections

import pytest

COLUMNS = ("logits", "left-padded", "far", "cache", "MTP", "routers", "greedy", "round trip")
ROWS = pytest.StashKey[dict]()


def pytest_ignore_collect(collection_path, config):
  return True if "not parity" in config.option.markexpr else None


@pytest.fixture(scope="session")
def record(pytestconfig):
  """Function `(case, column, text)` that fills a cell of the table."""
  rows = pytestconfig.stash.setdefault(ROWS, collections.defaultdict(dict))

  def fill(case: str, column: str, text: str):
    assert column in COLUMNS
    rows[case][column] = text

  return fill


def pytest_terminal_summary(terminalreporter, config):
  rows = config.stash.get(ROWS, {})
  if not rows:
    return
  terminalreporter.section("largest difference from transformers, float32")
  terminalreporter.write_line(f"| {' | '.join(('checkpoint', *COLUMNS))} |")
  terminalreporter.write_line(f"|{'---|' * (len(COLUMNS) + 1)}")
  for case, cells in rows.items():
    line = (case, *(cells.get(column, "") for column in COLUMNS))
    terminalreporter.write_line(f"| {' | '.join(line)} |")
