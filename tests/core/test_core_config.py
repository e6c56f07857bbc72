"""Strict building of dataclasses from mappings, and the lines of a difference."""

import dataclasses
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from reasonjax.core import config


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float
  name: str


@dataclasses.dataclass(frozen=True)
class Outer:
  steps: int
  inner: Inner
  maybe: Inner | None
  rank: int | None
  sizes: tuple[int, ...]
  options: dict[str, Any]
  on: bool
  anything: Any


def values(**changes) -> dict:
  return {
    "steps": 3,
    "inner": {"rate": 0.5, "name": "x"},
    "maybe": None,
    "rank": None,
    "sizes": (1, 2),
    "options": {"k": 1},
    "on": True,
    "anything": None,
  } | changes


def test_builds_nested_dataclasses():
  assert config.build(Outer, values()) == Outer(
    3, Inner(0.5, "x"), None, None, (1, 2), {"k": 1}, True, None
  )


def test_builds_what_is_optional_when_it_is_given():
  built = config.build(Outer, values(maybe={"rate": 2.0, "name": "y"}, rank=4))
  assert built.maybe == Inner(2.0, "y")
  assert built.rank == 4


def test_lists_become_tuples_and_whole_numbers_floats():
  built = config.build(Outer, values(sizes=[4, 5], inner={"rate": 2, "name": "x"}))
  assert built.sizes == (4, 5)
  assert type(built.sizes) is tuple
  assert type(built.inner.rate) is float


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  st.builds(
    Outer,
    steps=st.integers(),
    inner=st.builds(Inner, rate=st.floats(allow_nan=False), name=st.text()),
    maybe=st.none() | st.builds(Inner, rate=st.floats(allow_nan=False), name=st.text()),
    rank=st.none() | st.integers(),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    options=st.dictionaries(st.text(), st.integers(), max_size=3),
    on=st.booleans(),
    anything=st.none() | st.text(),
  )
)
def test_build_inverts_to_dict(outer):
  assert config.build(Outer, config.to_dict(outer)) == outer


@pytest.mark.parametrize(
  ("changes", "path"),
  [
    ({"steps": 3.0}, "run.steps=3.0"),
    ({"steps": "3"}, "run.steps='3'"),
    ({"steps": True}, "run.steps=True"),
    ({"steps": None}, "run.steps=None"),
    ({"on": 1}, "run.on=1"),
    ({"rank": 1.5}, "run.rank=1.5"),
    ({"sizes": 3}, "run.sizes=3"),
    ({"options": [1]}, r"run.options=\[1\]"),
    ({"inner": 3}, "run.inner=3"),
    ({"inner": None}, "run.inner=None"),
    ({"inner": {"rate": "fast", "name": "x"}}, "run.inner.rate='fast'"),
    ({"inner": {"rate": True, "name": "x"}}, "run.inner.rate=True"),
    ({"maybe": {"rate": 1.0, "name": 2}}, "run.maybe.name=2"),
  ],
)
def test_wrong_types_are_named_by_path(changes, path):
  with pytest.raises(ValueError, match=f"^{path}: expected"):
    config.build(Outer, values(**changes), "run")


def test_unknown_fields_are_named():
  with pytest.raises(ValueError, match=r"^run has no field \['stepz'\]; known: .*'steps'"):
    config.build(Outer, values(stepz=1), "run")
  with pytest.raises(ValueError, match=r"^run.inner has no field \['rat'\]"):
    config.build(Outer, values(inner={"rate": 1.0, "name": "x", "rat": 1}), "run")


def test_missing_fields_are_named():
  short = values()
  del short["sizes"], short["on"]
  with pytest.raises(ValueError, match=r"^run lacks \['on', 'sizes'\]"):
    config.build(Outer, short, "run")
  with pytest.raises(ValueError, match=r"^run.maybe lacks \['name'\]"):
    config.build(Outer, values(maybe={"rate": 1.0}), "run")


def test_differences_list_changed_added_and_removed_values_by_path():
  old = {"a": {"b": 1, "c": 2}, "d": "x", "gone": 5}
  new = {"a": {"b": 1, "c": 3}, "d": "y", "new": 6}
  assert config.differences(old, new) == [
    "a.c: 2 -> 3",
    "d: x -> y",
    "gone: 5 -> None",
    "new: None -> 6",
  ]


def test_differences_see_through_json():
  assert config.differences({"sizes": (1, (2, 3))}, {"sizes": [1, [2, 3]]}) == []
  assert config.differences({"sizes": (1, 2)}, {"sizes": [1, 3]}) == ["sizes: (1, 2) -> [1, 3]"]


def test_a_mapping_that_became_a_value_differs():
  assert config.differences({"a": {"b": 1}}, {"a": None}) == ["a: {'b': 1} -> None"]
