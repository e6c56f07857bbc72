"""One transformer block, the composition every model is made of."""

from __future__ import annotations

import flax.linen as nn
import jax

from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.cache import EMPTY, Cache, Memory
from reasonjax.models.config import ModelConfig
from reasonjax.models.gqa import GQA
from reasonjax.models.mask import Place
from reasonjax.models.mla import MLA
from reasonjax.models.mlp import SwiGLU
from reasonjax.models.moe import MoE
from reasonjax.models.norm import RMSNorm
from reasonjax.sharding.logical import constrain
from reasonjax.sharding.rules import Rules

RESIDUAL = ("batch", "length", "act_embed")
ATTENTION = {MLAConfig: MLA, GQAConfig: GQA}


class Block(nn.Module):
  """`x += attention(norm(x)); x += ffn(norm(x))`, the FFN dense or a mixture of experts."""

  config: ModelConfig
  moe: bool
  rules: Rules | None = None

  def setup(self):
    cfg = self.config
    self.attention_norm = RMSNorm(cfg.hidden_size, cfg.norm_eps, param_dtype=cfg.param_dtype)
    self.attention = ATTENTION[type(cfg.attention)](cfg, self.rules)
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

  def __call__(self, x_BxTxD, layer, bias_E, place: Place):
    """Full forward over packed documents.

    Args:
      x_BxTxD: residual stream.
      layer: int32, number of this layer.
      bias_E: this layer's router bias; unused in a dense block.
      place: of the tokens.

    Returns: `[B, T, D]`, and a pair: routing statistics (None if dense), entries for a cache.
    """
    place = place.replace(layer=layer)
    out, entry_BxTxC = self.attention(self.attention_norm(x_BxTxD), place)
    x_BxTxD = constrain(x_BxTxD + out, RESIDUAL, self.rules)
    x_BxTxD, stats = self._feed_forward(x_BxTxD, bias_E, place.segment_BxT != 0)
    return x_BxTxD, (stats, entry_BxTxC)

  def decode(self, carry, layer, bias_E, place: Place, slot, position_BxS, prefix: Cache | None):
    """One layer of a decoding step over cached entries.

    Args:
      carry: residual stream `[B, T, D]` and cached entries of all layers `[L, B, S, C]`.
      layer: int32, number of this layer.
      bias_E: this layer's router bias.
      place: of the new tokens.
      slot: int32, first of the T slots to write, the same in every row.
      position_BxS: positions in the cache, those of the new tokens included.
      prefix: a shared, read-only cache of P rows, or None.

    Returns: the carry, and None (the form of a scan's body).
    """
    place = place.replace(layer=layer)
    x_BxTxD, entry_LxBxSxC = carry

    def write(new_BxTxC):
      at = (layer, 0, slot, 0)
      updated = jax.lax.dynamic_update_slice(entry_LxBxSxC, new_BxTxC[None], at)
      own = jax.lax.dynamic_index_in_dim(updated, layer, keepdims=False)
      memories = [Memory(own, position_BxS)]
      if prefix is not None:
        shared = jax.lax.dynamic_index_in_dim(prefix.entry_LxBxSxC, layer, keepdims=False)
        memories.append(Memory(shared, prefix.position_BxS))
      return updated, memories

    out, entry_LxBxSxC = self.attention.decode(self.attention_norm(x_BxTxD), place, write)
    x_BxTxD, _ = self._feed_forward(x_BxTxD + out, bias_E, place.position_BxT != EMPTY)
    return (x_BxTxD, entry_LxBxSxC), None
