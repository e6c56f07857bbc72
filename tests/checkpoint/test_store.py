"""Checkpoints: what comes back is what went in, where it was, and only when it is whole."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from reasonjax.checkpoint.store import Store
from reasonjax.sharding import mesh as mesh_lib

POSITION = {"data": {"next_index": 3, "parent": {"rows": [1, 2]}}, "phases": {"train": 1.5}}


@pytest.fixture
def mesh():
  return mesh_lib.make({"fsdp": 4, "tensor": 2})


def state(mesh, scale: float = 1.0) -> dict:
  def put(array, *spec):
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

  return {
    "params": {
      "w": put(jnp.arange(64, dtype=jnp.float32).reshape(8, 8) * scale, "fsdp", "tensor"),
      "half": put(jnp.arange(8, dtype=jnp.bfloat16) / 3, "tensor"),
    },
    "empty": {},
    "moments": (put(jnp.full((4,), 0.1 * scale), "fsdp"),),
    "step": put(jnp.int32(7)),
  }


def zeros_like(tree) -> dict:
  return jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), tree)


def assert_same(one, other) -> None:
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def store(tmp_path):
  made = Store(tmp_path / "deep" / "checkpoints")
  yield made
  made.close()


def test_round_trip_keeps_bits_dtypes_and_shardings(store, mesh):
  saved = state(mesh)
  store.save(5, saved, POSITION)
  store.wait()
  restored, position = store.restore(zeros_like(saved))
  assert_same(restored, saved)
  assert len(restored["params"]["w"].addressable_shards) == 8
  assert restored["params"]["w"].addressable_shards[0].data.shape == (2, 4)
  assert position == POSITION
  assert json.loads(json.dumps(position)) == POSITION


def test_restores_onto_the_shardings_it_is_asked_for(store, mesh):
  saved = state(mesh)
  store.save(1, saved, POSITION)
  store.wait()
  other = mesh_lib.make({"data": 2}, devices=jax.devices()[:2])
  like = jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(other, PartitionSpec())), zeros_like(saved)
  )
  restored, _ = store.restore(like)
  assert restored["params"]["w"].sharding.device_set == set(jax.devices()[:2])
  np.testing.assert_array_equal(
    np.asarray(restored["params"]["w"]), np.arange(64, dtype=np.float32).reshape(8, 8)
  )


def test_saving_is_not_disturbed_by_a_later_overwrite(store, mesh):
  """A step may reuse the memory of the state it was given while the store still writes."""
  saved = state(mesh)
  expected = np.asarray(saved["params"]["w"]).copy()
  store.save(1, saved, POSITION)
  jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(saved)
  store.wait()
  restored, _ = store.restore(zeros_like(state(mesh)))
  np.testing.assert_array_equal(np.asarray(restored["params"]["w"]), expected)


@pytest.mark.parametrize(("keep", "steps"), [(1, [3]), (2, [2, 3])])
def test_only_the_newest_are_kept(tmp_path, mesh, keep, steps):
  store = Store(tmp_path, keep=keep)
  for step in (1, 2, 3):
    store.save(step, state(mesh, float(step)), {"step": step})
  store.wait()
  assert store.latest == 3
  assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()) == steps
  like = zeros_like(state(mesh))
  for step in steps:
    restored, position = store.restore(like, step)
    assert_same(restored, state(mesh, float(step)))
    assert position == {"step": step}
  with pytest.raises(FileNotFoundError):
    store.restore(like, 3 - keep)
  store.close()


def test_the_newest_is_the_default(store, mesh):
  for step in (2, 10):
    store.save(step, state(mesh, float(step)), {"step": step})
  store.wait()
  assert store.latest == 10
  assert store.restore(zeros_like(state(mesh)))[1] == {"step": 10}


def test_an_empty_directory_has_nothing_to_restore(store, mesh, tmp_path):
  assert store.latest is None
  with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}/deep/checkpoints"):
    store.restore(state(mesh))


def test_a_step_that_is_there_is_left_alone(store, mesh):
  store.save(4, state(mesh, 1.0), {"turn": 1})
  store.save(4, state(mesh, 2.0), {"turn": 2})
  store.wait()
  store.save(4, state(mesh, 3.0), {"turn": 3})
  store.wait()
  restored, position = store.restore(zeros_like(state(mesh)))
  assert_same(restored, state(mesh, 1.0))
  assert position == {"turn": 1}


def test_a_new_process_goes_on_where_the_old_one_stopped(tmp_path, mesh):
  first = Store(tmp_path)
  first.save(1, state(mesh, 1.0), {"step": 1})
  first.close()
  second = Store(tmp_path)
  assert second.latest == 1
  second.save(2, state(mesh, 2.0), {"step": 2})
  second.wait()
  assert second.restore(zeros_like(state(mesh)))[1] == {"step": 2}
  second.close()


def test_a_half_written_checkpoint_is_ignored(tmp_path, mesh):
  first = Store(tmp_path)
  first.save(1, state(mesh, 1.0), {"step": 1})
  first.close()
  torn = tmp_path / "2.orbax-checkpoint-tmp-1700000000"
  (torn / "state").mkdir(parents=True)
  (torn / "state" / "manifest.ocdbt").write_bytes(b"half")
  second = Store(tmp_path)
  assert second.latest == 1
  restored, position = second.restore(zeros_like(state(mesh)))
  assert_same(restored, state(mesh, 1.0))
  assert position == {"step": 1}
  second.save(2, state(mesh, 2.0), {"step": 2})
  second.wait()
  assert_same(second.restore(zeros_like(state(mesh)))[0], state(mesh, 2.0))
  second.close()
