"""What training carries from step to step."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from reasonjax.models.transformer import Transformer
from reasonjax.optim import build as optim
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


def parameter_axes(model: Transformer) -> dict:
  """Logical axis names of every parameter of the model."""
  return place.logical_axes(_abstract(model)["params"])


def _abstract(model: Transformer):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


def create(
  model: Transformer,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  mesh: Mesh,
  rules: Rules,
) -> TrainState:
  """A fresh state, born sharded.

  Args:
    model: the network.
    optimizer: from `optim.build`.
    key: of the parameters.
    mesh: from `mesh.make`.
    rules: parallelism table; optimizer moments are split like their parameters.
  """

  def init(key):
    variables = model.init(key, jnp.zeros((1, 2), jnp.int32))
    params = variables["params"]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      router=variables.get("router", {}),
      opt_state=optimizer.init(params),
    )

  return place.initialize(init, mesh, rules, key)


def with_optimizer(state: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
  """The same model at the start of a new stage: step 0 and a fresh optimizer state."""
  return state.replace(step=jnp.zeros((), jnp.int32), opt_state=optimizer.init(state.params))
