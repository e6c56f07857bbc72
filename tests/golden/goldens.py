"""The golden checkpoints, and ways to run them; made by make.py."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.checkpoint import hf
from reasonjax.models import cache as cache_lib
from reasonjax.models.config import ModelConfig
from reasonjax.models.transformer import Transformer

FOLDER = Path(__file__).parent
NAMES = ("deepseek_v3", "deepseek_v2", "qwen2", "llama3")
TOLERANCE = 1e-4
FAR_TOLERANCE = 2e-3  # angles of thousands of radians are rounded differently

# Compiling takes longer than running here, and LLVM's optimisations change no result.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@dataclasses.dataclass(frozen=True)
class Golden:
  """A loaded checkpoint, in float32, and what transformers computes from it.

  Attributes:
    config: the model's.
    variables: its parameters and router biases.
    expected: see make.py.
  """

  config: ModelConfig
  variables: dict
  expected: dict[str, np.ndarray]


@functools.cache
def read(name: str) -> Golden:
  config, variables = hf.load(FOLDER / name, param_dtype="float32", dtype="float32")
  with np.load(FOLDER / name / "expected.npz") as file:
    return Golden(config, variables, dict(file))


def logits(config, variables, ids, mask=None, positions=None):
  """`[B, T, V]` logits of a full forward pass."""
  return Transformer(config).apply(variables, ids, mask, positions)


def cached_logits(config, variables, ids):
  """The same with every token in decoding's form, over a cache."""
  model = Transformer(config)
  positions = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
  cache = cache_lib.empty(config, *ids.shape)
  hidden, _ = model.apply(variables, ids, positions, cache, 0, method="decode")
  return model.apply(variables, hidden, method="logits")


def mtp_logits(config, variables, ids):
  """`[K, B, T, V]` logits of the MTP modules."""
  model = Transformer(config)
  out = model.apply(variables, ids, method="hidden", with_mtp=True)
  return jnp.stack([model.apply(variables, mtp, method="logits") for mtp in out.mtp_KxBxTxD])
