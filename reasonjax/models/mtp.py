"""Multi-token prediction: a module that sees one token further and predicts one further."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from reasonjax.models.block import Block
from reasonjax.models.config import ModelConfig
from reasonjax.models.mask import Place
from reasonjax.models.norm import RMSNorm
from reasonjax.models.weights import declare
from reasonjax.sharding.rules import Rules


class MTPModule(nn.Module):
  r"""Module k of the chain; embedding and output head are the main model's.

  .. math::
    h'^k_i &= M_k [\mathrm{RMSNorm}(\mathrm{Emb}(t_{i+k})) ; \mathrm{RMSNorm}(h^{k-1}_i)] \\
    h^k &= \mathrm{TRM}_k(h'^k)

  The paper prints the hidden state first; the released weights have the embedding first.

  Implements: DSV3 Eq. 21; DSV3 Eq. 22
  """

  config: ModelConfig
  rules: Rules | None = None

  @nn.compact
  def __call__(self, embedded_BxTxD, hidden_BxTxD, layer, bias_E, place: Place):
    """Applies the module.

    Args:
      embedded_BxTxD: embedding of the token k places on.
      hidden_BxTxD: output of the model (k = 1) or of the module before.
      layer: int32, its number, counted on from the main model's layers.
      bias_E: router bias of this module's MoE layer.
      place: of the tokens; segment 0 also where a document has no token k places on; such rows
        come last in their document, so no meaningful row attends to them.

    Returns: `[B, T, D]` after the module's own final norm, and its routing statistics.
    """
    cfg = self.config

    def norm(name):
      return RMSNorm(cfg.hidden_size, cfg.norm_eps, param_dtype=cfg.param_dtype, name=name)

    shape = (2 * cfg.hidden_size, cfg.hidden_size)
    # "norm" is replicated: the concatenated input has no axis of its own to split over.
    project = declare(
      self, "project", shape, ("norm", "embed"), std=cfg.init_std, dtype=cfg.param_dtype
    )
    joined = [norm("embedding_norm")(embedded_BxTxD), norm("hidden_norm")(hidden_BxTxD)]
    x_BxTxD = jnp.concatenate(joined, axis=-1) @ project.astype(hidden_BxTxD.dtype)
    block = Block(cfg, moe=cfg.num_routed_experts > 0, rules=self.rules, name="block")
    x_BxTxD, (stats, _) = block(x_BxTxD, layer, bias_E, place)
    return norm("final_norm")(x_BxTxD), stats


def stack_stats(stats: list):
  """Statistics of the modules stacked along a new first axis, as the scanned layers' are."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stats) if stats[0] is not None else None
