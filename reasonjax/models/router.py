"""DeepSeek-V3 routing: sigmoid scores, group-limited top-k, a bias that steers selection only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from reasonjax.models.config import ModelConfig


@struct.dataclass
class RouterStats:
  """What one MoE layer reports about its routing, as sums that add over microbatches.

  Attributes:
    load_E: float32, how often each expert was chosen by a token that is no padding.
    fraction_BxE: float32, `f` of the balance loss, per sequence.
    probability_BxE: float32, `P` of the balance loss, per sequence; carries the gradient.
  """

  load_E: jax.Array
  fraction_BxE: jax.Array
  probability_BxE: jax.Array


def affinity(x_NxD: jax.Array, gate_DxE: jax.Array) -> jax.Array:
  r"""Token-to-expert affinity :math:`s = \mathrm{sigmoid}(x W_g)`, in float32.

  Args:
    x_NxD: tokens, already normalised for the FFN.
    gate_DxE: one centroid an expert.

  Returns: `[N, E]` float32 in (0, 1).

  Implements: DSV3 Eq. 15
  """
  logits = jnp.einsum(
    "nd,de->ne",
    x_NxD.astype(jnp.float32),
    gate_DxE.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  return jax.nn.sigmoid(logits)


def select(
  score_NxE: jax.Array, bias_E: jax.Array, *, top_k: int, groups: int = 1, kept_groups: int = 1
) -> jax.Array:
  r"""Chooses experts by score plus bias, inside the best groups of experts.

  A group (E / groups consecutive experts) is worth the sum of its two best biased scores; experts
  outside the `kept_groups` best are masked with -inf, so a constant added to the bias changes
  nothing even where biased scores are negative.

  Args:
    score_NxE: affinities.
    bias_E: load-balancing bias.
    top_k: K experts a token.
    groups: number of groups.
    kept_groups: groups a token may use.

  Returns: `[N, K]` int32 expert numbers, best first. No gradient.

  Implements: DSV3 Eq. 16

  >>> scores = jnp.array([[0.9, 0.1, 0.6, 0.5]])
  >>> print(select(scores, jnp.zeros(4), top_k=2, groups=2, kept_groups=1))
  [[2 3]]
  """
  N, E = score_NxE.shape
  biased_NxE = jax.lax.stop_gradient(score_NxE + bias_E[None, :].astype(jnp.float32))
  if groups > 1 and kept_groups < groups:
    grouped = biased_NxE.reshape(N, groups, E // groups)
    worth_NxJ = jax.lax.top_k(grouped, 2)[0].sum(axis=-1)
    kept_NxJ = jax.nn.one_hot(jax.lax.top_k(worth_NxJ, kept_groups)[1], groups).sum(axis=1) > 0
    biased_NxE = jnp.where(kept_NxJ[:, :, None], grouped, -jnp.inf).reshape(N, E)
  return jax.lax.top_k(biased_NxE, top_k)[1]


def gate_values(
  score_NxE: jax.Array, index_NxK: jax.Array, *, normalize: bool, scale: float
) -> jax.Array:
  r"""Weights of the chosen experts: their unbiased scores, normalised, then scaled.

  .. math:: g_{n,k} = \mathrm{scale} \; s_{n,e_k} / \sum_j s_{n,e_j}

  Args:
    score_NxE: affinities.
    index_NxK: chosen experts.
    normalize: divide by the sum over the chosen.
    scale: `routed_scale`.

  Returns: `[N, K]` float32.

  Implements: DSV3 Eq. 13

  >>> scores, chosen = jnp.array([[0.6, 0.2, 0.9]]), jnp.array([[0, 1]])
  >>> print(gate_values(scores, chosen, normalize=True, scale=2.0))
  [[1.5 0.5]]
  """
  # One-hot products instead of a gather: its transpose is a product too, not a scatter.
  chosen_NxKxE = jax.nn.one_hot(index_NxK, score_NxE.shape[-1], dtype=score_NxE.dtype)
  weight_NxK = jnp.einsum("nke,ne->nk", chosen_NxKxE, score_NxE)
  if normalize:
    weight_NxK = weight_NxK / (weight_NxK.sum(axis=-1, keepdims=True) + 1e-20)
  return weight_NxK * scale


def statistics(score_BxTxE: jax.Array, index_BxTxK: jax.Array, real_BxT: jax.Array) -> RouterStats:
  r"""Load of each expert, and the two factors of the sequence-wise balance loss.

  .. math:: f_i = \frac{E}{K T} \sum_t 1[i \in \mathrm{TopK}(s_t)], \qquad
    P_i = \frac{1}{T} \sum_t s_{i,t} / \sum_j s_{j,t}

  TopK here is over the scores alone, without bias and groups, as the paper writes it; padding
  counts neither in T nor in the sums.

  Args:
    score_BxTxE: affinities.
    index_BxTxK: the experts actually chosen (these make the load).
    real_BxT: bool, False on padding.

  Implements: DSV3 Eq. 18; DSV3 Eq. 19; DSV3 Eq. 20
  """
  E, K = score_BxTxE.shape[-1], index_BxTxK.shape[-1]
  real = real_BxT.astype(jnp.float32)
  tokens_B = jnp.maximum(real.sum(axis=1), 1.0)
  chosen = jax.nn.one_hot(index_BxTxK, E, dtype=jnp.float32).sum(axis=2)
  best = jax.lax.top_k(jax.lax.stop_gradient(score_BxTxE), K)[1]
  best = jax.nn.one_hot(best, E, dtype=jnp.float32).sum(axis=2)
  share = score_BxTxE / score_BxTxE.sum(axis=-1, keepdims=True)
  return RouterStats(
    load_E=jnp.einsum("bte,bt->e", chosen, real),
    fraction_BxE=jnp.einsum("bte,bt->be", best, real) * (E / K) / tokens_B[:, None],
    probability_BxE=jnp.einsum("bte,bt->be", share, real) / tokens_B[:, None],
  )


def update_bias(bias: jax.Array, load: jax.Array, rate: float) -> jax.Array:
  r"""Moves every expert's bias one step towards balance, once an optimizer step.

  .. math:: b_i \leftarrow b_i + \gamma \, \mathrm{sign}(\bar c - c_i)

  Args:
    bias: `[..., E]` float32.
    load: `[..., E]`, tokens each expert received over the whole global batch.
    rate: gamma; 0 freezes the bias.

  Returns: `[..., E]` float32.

  Source: DSV3 section 2.1.2 and arXiv 2408.15664, Algorithm 1.

  >>> print(update_bias(jnp.zeros(3), jnp.array([4.0, 2.0, 3.0]), 0.5))
  [-0.5  0.5  0. ]
  """
  load = load.astype(jnp.float32)
  return bias + rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)


def route(config: ModelConfig, x_BxTxD, gate_DxE, bias_E, real_BxT):
  """Chosen experts `[B, T, K]`, their weights `[B, T, K]` float32, and the statistics."""
  B, T, D = x_BxTxD.shape
  score_NxE = affinity(x_BxTxD.reshape(B * T, D), gate_DxE)
  index_NxK = select(
    score_NxE,
    bias_E,
    top_k=config.experts_per_token,
    groups=config.num_expert_groups,
    kept_groups=config.num_limited_groups,
  )
  weight_NxK = gate_values(
    score_NxE, index_NxK, normalize=config.normalize_weights, scale=config.routed_scale
  )
  index_BxTxK = index_NxK.reshape(B, T, -1)
  stats = statistics(score_NxE.reshape(B, T, -1), index_BxTxK, real_BxT)
  return index_BxTxK, weight_NxK.reshape(B, T, -1), stats
