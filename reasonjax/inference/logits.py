"""From logits to a sampled token: temperature and truncation as functions of arrays, a row each."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample; the same for every completion of one request.

  Attributes:
    max_new_tokens: tokens a completion may have, EOS included.
    samples: G, completions of each prompt.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the fewest most likely tokens whose probability reaches this; 1 keeps all.
    min_p: keep tokens at least this times as likely as the most likely one; 0 keeps all.
  """

  max_new_tokens: int
  samples: int = 1
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0

  def __post_init__(self):
    if self.max_new_tokens < 1 or self.samples < 1:
      raise ValueError(
        f"max_new_tokens={self.max_new_tokens} and samples={self.samples} must be positive."
      )
    if self.temperature < 0:
      raise ValueError(f"temperature={self.temperature}: use 0 for greedy, or a positive number.")
    if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
      raise ValueError(
        f"top_k={self.top_k} must be >= 0, top_p={self.top_p} in (0, 1], min_p={self.min_p} in "
        "[0, 1]."
      )

  @property
  def truncates(self) -> bool:
    """Whether any token is ever excluded."""
    return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@struct.dataclass
class SamplingArrays:
  """The run-time values of Sampling, one a row, so that changing them compiles nothing."""

  temperature_B: jax.Array
  top_k_B: jax.Array
  top_p_B: jax.Array
  min_p_B: jax.Array


def truncate(logits_BxV: jax.Array, sampling: SamplingArrays) -> jax.Array:
  """Sets the logits of excluded tokens to -inf; the most likely token always stays.

  The three filters are judged on the same distribution and intersected. Of equally likely tokens at
  a border all stay.

  Args:
    logits_BxV: float32, temperature already applied.
    sampling: top-k, top-p and min-p of each row.

  Returns: `[B, V]`.

  >>> one = lambda x: jnp.array([x])
  >>> arrays = SamplingArrays(one(1.0), one(0), one(0.7), one(0.0))
  >>> print(jnp.isfinite(truncate(jnp.log(jnp.array([[0.1, 0.5, 0.4]])), arrays)))
  [[False  True  True]]
  """
  V = logits_BxV.shape[-1]
  sorted_BxV = jnp.sort(logits_BxV, axis=-1, descending=True)
  prob_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
  rank_V = jnp.arange(V)[None, :]
  top_k_B = jnp.where(sampling.top_k_B > 0, sampling.top_k_B, V)
  # A token stays while the probability before it has not reached top_p.
  before_BxV = jnp.cumsum(prob_BxV, axis=-1) - prob_BxV
  # At top_p = 1 nothing may go, though rounding lets the sum reach 1 before the last token.
  nucleus_BxV = (before_BxV < sampling.top_p_B[:, None]) | (sampling.top_p_B[:, None] >= 1.0)
  likely_BxV = prob_BxV >= sampling.min_p_B[:, None] * prob_BxV[:, :1]
  keep_BxV = (rank_V < top_k_B[:, None]) & nucleus_BxV & likely_BxV
  keep_BxV = keep_BxV.at[:, 0].set(True)
  border_B = jnp.where(keep_BxV, sorted_BxV, jnp.inf).min(axis=-1)
  return jnp.where(logits_BxV >= border_B[:, None], logits_BxV, -jnp.inf)


def sample(
  logits_BxV: jax.Array, sampling: SamplingArrays, key_B: jax.Array, *, truncates: bool
) -> tuple[jax.Array, jax.Array]:
  """Draws one token a row.

  Args:
    logits_BxV: float32 raw logits.
    sampling: a row each.
    key_B: PRNG keys, one a row, so that a row's draw depends on nothing but itself.
    truncates: static; False skips top-k, top-p and min-p and their sort.

  Returns: `[B]` int32 tokens and `[B]` float32 log-probabilities under the distribution sampled
    from. A greedy row (temperature 0) reports the log-probability at temperature 1.
  """
  greedy_B = sampling.temperature_B == 0
  temperature_B = jnp.where(greedy_B, 1.0, sampling.temperature_B)
  logits_BxV = logits_BxV / temperature_B[:, None]
  if truncates:
    kept_BxV = truncate(logits_BxV, sampling)
    logits_BxV = jnp.where(greedy_B[:, None], logits_BxV, kept_BxV)
  drawn_B = jax.vmap(jax.random.categorical)(key_B, logits_BxV)
  token_B = jnp.where(greedy_B, jnp.argmax(logits_BxV, axis=-1), drawn_B).astype(jnp.int32)
  chosen_BxV = token_B[:, None] == jnp.arange(logits_BxV.shape[-1])[None, :]
  log_z_B = jax.nn.logsumexp(logits_BxV, axis=-1)
  return token_B, jnp.where(chosen_BxV, logits_BxV, 0.0).sum(axis=-1) - log_z_B
