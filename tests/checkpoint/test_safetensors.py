import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from reasonjax.checkpoint.safetensors import DTYPES, Reader, Writer

BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


def arrays():
  """One tensor of every dtype, and the shapes that are easily got wrong."""
  rng = np.random.default_rng(0)
  made = {name: rng.integers(0, 2, (3, 5)).astype(dtype) for name, dtype in DTYPES.items()}
  return made | {"scalar": np.array(2.5, F32), "empty": np.zeros((0, 4), F32)}


def write_raw(path, header: dict | bytes, data: bytes = b"", length: int | None = None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(text) if length is None else length
  path.write_bytes(length.to_bytes(8, "little") + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_library_writes(tmp_path):
  expected = arrays()
  save_file(expected, tmp_path / "model.safetensors")
  reader = Reader(tmp_path)
  assert set(reader.entries) == set(expected)
  for name, value in expected.items():
    found = reader.view(name)
    assert found.dtype == value.dtype
    assert found.shape == value.shape
    np.testing.assert_array_equal(found, value)
    reader.release(name)
    np.testing.assert_array_equal(reader.view(name), value)


def planned(values):
  return [(name, value.shape, value.dtype) for name, value in values.items()]


def write(directory, values, max_shard_bytes=10**9):
  writer = Writer(directory, planned(values), max_shard_bytes)
  for name, value in values.items():
    writer.write(name, value)
  writer.finish()
  return writer


def test_the_library_reads_what_is_written(tmp_path):
  # Five 16-bit values leave the float32 that follows unaligned, unless wide types come first.
  values = {"a": np.arange(5).astype(BF16), "b": np.arange(3, dtype=F32), "c": np.array(1.5, F32)}
  values["transposed"] = np.arange(6, dtype=F32).reshape(2, 3).T
  write(tmp_path, values)
  assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
  found = load_file(tmp_path / "model.safetensors")
  assert set(found) == set(values)
  for name, value in values.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)
  for name, place in Reader(tmp_path).entries.items():
    assert place.start % values[name].itemsize == 0
  with safe_open(tmp_path / "model.safetensors", framework="np") as file:
    assert file.metadata() == {"format": "pt"}


def test_shards_are_filled_in_order_and_indexed(tmp_path):
  values = {name: np.full(10, i, F32) for i, name in enumerate("abcde")}  # 40 bytes each
  values["wide"] = np.full(100, 9, F32)  # larger than a shard
  write(tmp_path, values, max_shard_bytes=90)
  index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
  files = [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
  assert index["metadata"] == {"total_size": 600}
  assert index["weight_map"] == {
    "a": files[0],
    "b": files[0],
    "c": files[1],
    "d": files[1],
    "e": files[2],
    "wide": files[3],
  }
  assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == files
  reader = Reader(tmp_path)
  for name, value in values.items():
    np.testing.assert_array_equal(reader.view(name), value)
    np.testing.assert_array_equal(load_file(tmp_path / index["weight_map"][name])[name], value)


BROKEN = {
  "empty file": (None, b"", "header should have 0 bytes, but the file has 0"),
  "no header": (50, b"{}", "header should have 50 bytes, but the file has 10"),
  "no JSON": (None, b"{'a': 1}", "header is corrupt"),
  "no object": (None, b"[1]", "header is corrupt"),
  "no offsets": (None, b'{"t": {"dtype": "F32", "shape": [2]}}', "header is corrupt"),
  "dtype": ({"t": entry("F7")}, bytes(8), "t has dtype 'F7'; known: F64, F32"),
  "size": ({"t": entry(shape=(3,))}, bytes(8), r"t F32 \[3\] takes 12 bytes .* says 0..8"),
  "gap": ({"t": entry(offsets=(4, 12))}, bytes(12), "should start at byte 0 of the data"),
  "overlap": ({"t": entry(), "u": entry(offsets=(4, 12))}, bytes(12), "u F32 .* start at byte 8"),
  "truncated": ({"t": entry()}, bytes(5), "tells of 8 bytes of data, but the file has 5"),
  "too long": ({"t": entry()}, bytes(9), "tells of 8 bytes of data, but the file has 9"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, case):
  header, data, message = BROKEN[case]
  path = tmp_path / "model.safetensors"
  if isinstance(header, dict):
    write_raw(path, header, data)
  elif case == "empty file":
    path.write_bytes(b"")
  else:
    write_raw(path, data, length=header)
  with pytest.raises(ValueError, match=message) as error:
    Reader(tmp_path)
  assert str(path) in str(error.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
  save_file({"t": np.arange(3, dtype=F32)}, tmp_path / "whole.safetensors")
  whole = (tmp_path / "whole.safetensors").read_bytes()
  for length in range(len(whole)):
    (tmp_path / "model.safetensors").write_bytes(whole[:length])
    with pytest.raises(ValueError, match="Fetch it again"):
      Reader(tmp_path)


def shard(directory, weight_map, **files):
  for name, values in files.items():
    save_file(values, directory / f"{name}.safetensors")
  index = {"weight_map": {name: f"{file}.safetensors" for name, file in weight_map.items()}}
  (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_index_and_files_must_agree(tmp_path):
  one = np.ones(2, F32)
  with pytest.raises(FileNotFoundError, match=r"neither model.safetensors.index.json nor"):
    Reader(tmp_path)
  shard(tmp_path, {"t": "x", "u": "y"}, x={"t": one})
  with pytest.raises(FileNotFoundError, match=r"index.json names absent files: y.safetensors"):
    Reader(tmp_path)
  shard(tmp_path, {"t": "x", "u": "y"}, x={"t": one}, y={"t": one, "u": one})
  with pytest.raises(ValueError, match=r"t is both in .*x.safetensors and in .*y.safetensors"):
    Reader(tmp_path)
  shard(tmp_path, {"t": "x", "u": "y"}, x={"t": one, "u": one}, y={"v": one})
  with pytest.raises(ValueError, match=r"u should be in y.safetensors, found .*x.safetensors"):
    Reader(tmp_path)
  shard(tmp_path, {"t": "x", "u": "x"}, x={"t": one})
  with pytest.raises(ValueError, match=r"u should be in x.safetensors, found None"):
    Reader(tmp_path)
  (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ')
  with pytest.raises(ValueError, match=r"model.safetensors.index.json: no index"):
    Reader(tmp_path)
