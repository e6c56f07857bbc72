"""What training carries from step to step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from reasonjax.models.config import ModelConfig
from reasonjax.models.transformer import Transformer
from reasonjax.sharding import place
from reasonjax.sharding.rules import Rules


@struct.dataclass
class TrainState:
  """Everything an optimizer step changes; arrays only.

  Attributes:
    step: int32 scalar, optimizer steps done.
    params: the model's parameters.
    router: balancing biases of the routers; state, not parameters.
    opt_state: the optimizer's.
  """

  step: jax.Array
  params: dict
  router: dict
  opt_state: optax.OptState

  @property
  def variables(self) -> dict:
    """What `Transformer.apply` takes."""
    return {"params": self.params, "router": self.router}


def init_variables(config: ModelConfig, key: jax.Array) -> dict:
  """Boxed parameters and router biases; the boxes carry the logical axis names."""
  return Transformer(config).init(key, jnp.zeros((1, 2), jnp.int32))


def parameter_axes(config: ModelConfig) -> dict:
  """Logical axis names of every parameter of the model."""
  return place.logical_axes(
    jax.eval_shape(lambda: init_variables(config, jax.random.key(0)))["params"]
  )


def create(
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  mesh: Mesh,
  rules: Rules,
) -> TrainState:
  """A fresh state, born sharded.

  Args:
    config: the model's.
    optimizer: from `optim.build`.
    key: of the parameters.
    mesh: from `mesh.make`.
    rules: parallelism table; optimizer moments are split like their parameters.
  """

  def init(key):
    variables = init_variables(config, key)
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      router=variables.get("router", {}),
      opt_state=optimizer.init(params),
    )

  return place.initialize(init, mesh, rules, key)
