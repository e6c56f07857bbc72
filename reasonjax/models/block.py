"""One transformer block, the composition every model is made of."""

from __future__ import annotations

import flax.linen as nn
import jax

from reasonjax.models.cache import Cache
from reasonjax.models.config import ModelConfig
from reasonjax.models.mla import MLA
from reasonjax.models.mlp import SwiGLU
from reasonjax.models.moe import MoE
from reasonjax.models.norm import RMSNorm
from reasonjax.sharding.logical import constrain
from reasonjax.sharding.rules import Rules

RESIDUAL = ("batch", "length", "act_embed")


class Block(nn.Module):
  """`x += attention(norm(x)); x += ffn(norm(x))`, the FFN dense or a mixture of experts."""

  config: ModelConfig
  moe: bool
  rules: Rules | None = None

  def setup(self):
    cfg = self.config
    self.attention_norm = RMSNorm(cfg.hidden_size, cfg.norm_eps, param_dtype=cfg.param_dtype)
    self.attention = MLA(cfg, self.rules)
    self.ffn_norm = RMSNorm(cfg.hidden_size, cfg.norm_eps, param_dtype=cfg.param_dtype)
    if self.moe:
      self.ffn = MoE(cfg, self.rules)
    else:
      size, dtypes = cfg.dense_ffn_size, (cfg.dtype, cfg.param_dtype)
      self.ffn = SwiGLU(cfg.hidden_size, size, cfg.init_std, *dtypes)

  def _feed_forward(self, x_BxTxD, bias_E, real_BxT):
    normed = self.ffn_norm(x_BxTxD)
    out, stats = self.ffn(normed, bias_E, real_BxT) if self.moe else (self.ffn(normed), None)
    return constrain(x_BxTxD + out, RESIDUAL, self.rules), stats

  def __call__(self, x_BxTxD, bias_E, cos_sin, segment_BxT):
    """Full forward over packed documents.

    Args:
      x_BxTxD: residual stream.
      bias_E: this layer's router bias; unused in a dense block.
      cos_sin: from `rope.cos_sin`.
      segment_BxT: int32 document numbers, 0 for padding.

    Returns: `[B, T, D]`, and a pair: routing statistics (None if dense), latents for a cache.
    """
    out, latent_BxTxC = self.attention(self.attention_norm(x_BxTxD), cos_sin, segment_BxT)
    x_BxTxD = constrain(x_BxTxD + out, RESIDUAL, self.rules)
    x_BxTxD, stats = self._feed_forward(x_BxTxD, bias_E, segment_BxT != 0)
    return x_BxTxD, (stats, latent_BxTxC)

  def decode(self, carry, layer, bias_E, cos_sin, slot, masks, prefix: Cache | None):
    """One layer of a decoding step over cached latents.

    Args:
      carry: residual stream `[B, T, D]` and cached latents of all layers `[L, B, S, C]`.
      layer: int32, number of this layer.
      bias_E: this layer's router bias.
      cos_sin: from `rope.cos_sin`.
      slot: int32, first of the T slots to write, the same in every row.
      masks: visibility `[B, T, S]` of the cache, and of the prefix if there is one.
      prefix: a shared, read-only cache of P rows, or None.

    Returns: the carry, and None (the form of a scan's body).
    """
    x_BxTxD, latent_LxBxSxC = carry

    def write(new_BxTxC):
      at = (layer, 0, slot, 0)
      updated = jax.lax.dynamic_update_slice(latent_LxBxSxC, new_BxTxC[None], at)
      return updated, jax.lax.dynamic_index_in_dim(updated, layer, keepdims=False)

    memories = [masks[0]]
    if prefix is not None:
      shared = jax.lax.dynamic_index_in_dim(prefix.latent_LxBxSxC, layer, keepdims=False)
      memories.append((shared, masks[1]))
    normed = self.attention_norm(x_BxTxD)
    out, latent_LxBxSxC = self.attention.decode(normed, cos_sin, write, memories)
    x_BxTxD, _ = self._feed_forward(x_BxTxD + out, bias_E, masks[0].any(axis=-1))
    return (x_BxTxD, latent_LxBxSxC), None
