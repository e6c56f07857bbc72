"""Training with recurrent depth: runs, resumption, and eight devices in place of one."""

import math

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import optax

from reasonjax.core.types import TokenBatch
from reasonjax.metrics import writer
from reasonjax.models.config import RecurrentConfig
from reasonjax.models.transformer import Transformer
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place, rules
from reasonjax.train import loop, pretrain
from reasonjax.train import state as state_lib
from reasonjax.train import step as step_lib
from reasonjax.train.session import LoopConfig
from reasonjax.train.state import TrainState

CONFIG = fakes.model_config(
  num_layers=3,
  num_dense_layers=3,
  num_heads=4,
  q_lora_rank=None,
  num_routed_experts=0,
  num_mtp_modules=0,
  block_norms="sandwich",
  embedding_scale=4.0,
  init_std=0.2,
  recurrent=RecurrentConfig(1, 1, 1, mean_steps=2, backprop_steps=2, eval_steps=3),
)
# Compiling is nearly all of the time here, and LLVM's optimisations come after partitioning.
QUICK = {"xla_backend_optimization_level": 0}


def test_a_run_learns_and_goes_on_bit_for_bit_from_its_checkpoint(tmp_path):
  """The noise of a step is that of its number, in a resumed run, too."""
  setup = fakes.setup(CONFIG)

  def run(directory, steps):
    rhythm = LoopConfig(steps, log_every=1, eval_every=0, checkpoint_every=6, tensorboard=False)
    config = loop.SupervisedConfig(
      seed=3,
      loop=rhythm,
      batch=loop.BatchConfig(microbatches=2, rows=2, row_length=16),
      optim=fakes.optim("adamw"),
      loss=loop.LMLossConfig(mtp=0.0, z=0.0, balance=0.0, chunk=None),
      bias_rate=0.0,
    )
    with jax.set_mesh(setup.mesh):
      state, _ = pretrain.run(config, setup, directory)
    return state, [row["loss"] for row in writer.read(directory / "metrics.jsonl")]

  whole, losses = run(tmp_path / "whole", 12)
  assert np.mean(losses[-3:]) < 0.8 * losses[0]
  run(tmp_path / "parts", 6)
  resumed, again = run(tmp_path / "parts", 12)
  assert again == losses
  for got, want in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
    np.testing.assert_array_equal(got, want)


def trained_on(table: str, sizes: dict):
  """State and metrics after one step on some devices, on the host."""
  mesh = mesh_lib.make(sizes, devices=jax.devices()[: math.prod(sizes.values())])
  table, optimizer = rules.get(table), optax.sgd(1.0)
  boxed = jax.eval_shape(lambda: state_lib.init_variables(CONFIG, jax.random.key(0)))["params"]
  with jax.set_mesh(mesh):
    params = fakes.variables(CONFIG)["params"]
    params = jax.device_put(params, place.shardings(boxed, mesh, table))
    state = TrainState(jnp.int32(0), params, {}, optimizer.init(params))
    loss = loop.make_loss(Transformer(CONFIG, table), loop.LMLossConfig(0.0, 0.0, 0.0, None))
    make = step_lib.make(loss, optimizer, bias_rate=0.0, seed=0)
    ids, segments = fakes.packed(8, 8)
    batch = TokenBatch(ids[None], segments[None], (segments[None] > 0).astype(np.float32))
    batch = place.batch(batch, mesh, table, (None, "batch", "length"))
    return jax.device_get(jax.jit(make, compiler_options=QUICK)(state, batch, 1))


def test_eight_devices_do_what_one_does():
  """The same noise, too: it is drawn as one array, wherever its parts lie."""
  alone, metrics = trained_on("data", {"data": 1})
  assert metrics["grad_norm"] > 0.1
  for table, sizes in (
    ("fsdp", {"fsdp": 8}),
    ("full", {"data": 2, "context": 2, "tensor": 2}),
  ):
    got = trained_on(table, sizes)
    for shared, one in zip(jax.tree.leaves(got), jax.tree.leaves((alone, metrics)), strict=True):
      np.testing.assert_allclose(shared, one, rtol=1e-5, atol=1e-5)
