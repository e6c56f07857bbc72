"""A model whose sizes divide over up to eight devices, and its state placed on any mesh."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.config import ModelConfig
from reasonjax.sharding import mesh as mesh_lib
from reasonjax.sharding import place
from reasonjax.sharding.rules import Rules
from reasonjax.train import state as state_lib
from reasonjax.train.state import TrainState

# Both stacks, query latent, shared expert, MTP; heads, widths and vocabulary divide by 4.
WHOLE = fakes.model_config(num_heads=4)
# One MoE layer and nothing else: the fewest arrays that use every logical axis but "mlp".
SMALL = fakes.model_config(
  num_heads=4,
  num_layers=1,
  num_dense_layers=0,
  q_lora_rank=None,
  num_shared_experts=0,
  num_mtp_modules=0,
)
# Grouped heads with biases, and DeepSeek-V2's routing.
GROUPED = fakes.model_config(
  attention=GQAConfig(num_kv_heads=2, head_dim=4, qkv_bias=True, out_bias=True),
  num_heads=4,
  num_layers=1,
  num_dense_layers=0,
  num_mtp_modules=0,
  rope_scaling=None,
  score_function="softmax",
  normalize_weights=False,
  num_shared_experts=2,
)


def one_device() -> jax.sharding.Mesh:
  return mesh_lib.make({"data": 1}, devices=jax.devices()[:1])


@functools.cache
def boxed_shapes(config: ModelConfig) -> dict:
  """Shapes of the variables in boxes that carry their logical axes."""
  return jax.eval_shape(lambda key: state_lib.init_variables(config, key), jax.random.key(0))


@functools.cache
def drawn(config: ModelConfig, seed: int = 0) -> dict:
  """Host variables drawn by NumPy, which needs no compilation; router biases are not zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.endswith("scale"):
      return rng.normal(1.0, 0.2, leaf.shape).astype(np.float32)
    std = 0.1 if name.startswith("router") else 0.2
    return rng.normal(0.0, std, leaf.shape).astype(np.float32)

  return {"router": {}} | jax.tree_util.tree_map_with_path(draw, place.unbox(boxed_shapes(config)))


def placed_state(config: ModelConfig, optimizer, mesh, rules: Rules) -> TrainState:
  """A state with the drawn variables, laid out as `state.create` lays out a fresh one."""

  def abstract():
    boxed = state_lib.init_variables(config, jax.random.key(0))
    params, router = boxed["params"], boxed.get("router", {})
    return TrainState(jnp.zeros((), jnp.int32), params, router, optimizer.init(params))

  boxed, variables = jax.eval_shape(abstract), drawn(config)
  host = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), place.unbox(boxed))
  host = host.replace(params=variables["params"], router=variables["router"])
  return jax.device_put(host, place.shardings(boxed, mesh, rules))


def placed_variables(config: ModelConfig, mesh, rules: Rules) -> dict:
  boxed = {"router": {}} | boxed_shapes(config)
  return jax.device_put(drawn(config), place.shardings(boxed, mesh, rules))
