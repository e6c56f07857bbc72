"""Parameters, FLOPs and cache bytes of a model in closed form, without building it."""

from __future__ import annotations

from reasonjax.models.attention_config import GQAConfig, MLAConfig
from reasonjax.models.config import ModelConfig


def attention(config: ModelConfig) -> int:
  """Parameters of one attention layer, the norms inside it included.

  >>> from reasonjax.models import presets
  >>> attention(presets.get("deepseek_v3_671b"))
  187107328
  """
  count = {MLAConfig: _mla, GQAConfig: _gqa}[type(config.attention)]
  return count(config.attention, config.hidden_size, config.num_heads)


def _mla(sizes: MLAConfig, D: int, H: int) -> int:
  R, Q, C = sizes.kv_lora_rank, sizes.q_lora_rank, sizes.cache_width
  query = D * H * sizes.qk_head_dim if Q is None else D * Q + Q + Q * H * sizes.qk_head_dim
  expand = R * H * (sizes.qk_nope_head_dim + sizes.v_head_dim)
  biases = (Q or 0) + C + D if sizes.bias else 0
  return query + D * C + R + expand + H * sizes.v_head_dim * D + biases


def _gqa(sizes: GQAConfig, D: int, H: int) -> int:
  K, N = sizes.head_dim, sizes.num_kv_heads
  biases = (H + 2 * N) * K * sizes.qkv_bias + D * sizes.out_bias
  return D * (H + 2 * N) * K + H * K * D + biases


def dense_layer(config: ModelConfig) -> int:
  """Parameters of a block with a dense feed-forward network."""
  return attention(config) + 2 * config.hidden_size + 3 * config.hidden_size * config.dense_ffn_size


def moe_layer(config: ModelConfig, experts: int | None = None) -> int:
  """Parameters of a MoE block, router biases included.

  Args:
    config: the model.
    experts: routed experts that are counted; all by default.
  """
  D, E = config.hidden_size, config.num_routed_experts
  counted = (E if experts is None else experts) + config.num_shared_experts
  bias = E if config.router_bias else 0
  return attention(config) + 2 * D + D * E + bias + counted * 3 * D * config.moe_ffn_size


def _body(config: ModelConfig, experts: int | None) -> int:
  """All blocks and the final norm."""
  dense = config.num_dense_layers * dense_layer(config)
  return dense + config.num_moe_layers * moe_layer(config, experts) + config.hidden_size


def total(config: ModelConfig) -> int:
  """Parameters of the main model with router biases, without MTP modules.

  >>> from reasonjax.models import presets
  >>> total(presets.get("deepseek_v3_671b"))
  671026419200
  """
  tables = 1 if config.tie_embeddings else 2
  return _body(config, None) + tables * config.vocab_size * config.hidden_size


def active(config: ModelConfig) -> int:
  """Parameters a token is multiplied with: chosen experts and head, not the embedding.

  >>> from reasonjax.models import presets
  >>> active(presets.get("deepseek_v3_671b"))
  36625618432
  """
  body = _body(config, config.experts_per_token)
  return body + config.vocab_size * config.hidden_size


def mtp(config: ModelConfig) -> int:
  """Parameters of the MTP modules, without the embedding and head they share.

  >>> from reasonjax.models import presets
  >>> mtp(presets.get("deepseek_v3_671b"))
  11610068224
  """
  D = config.hidden_size
  block = moe_layer(config) if config.num_routed_experts else dense_layer(config)
  return config.num_mtp_modules * (block + 2 * D * D + 3 * D)


def forward_flops_per_token(config: ModelConfig, length: int) -> float:
  """Floating-point operations of the main model's forward pass, per token.

  Two per active parameter, and those of causal attention in the expanded form, whose average query
  sees half of the sequence.

  Args:
    config: the model.
    length: tokens in a sequence.
  """
  return 2 * active(config) + config.num_layers * _attention_flops(config, length)


def _attention_flops(config: ModelConfig, length: int) -> float:
  """Products with keys and values in one layer, per token."""
  sizes = config.attention
  if isinstance(sizes, MLAConfig):
    width = sizes.qk_head_dim + sizes.v_head_dim
  else:
    width = 2 * sizes.head_dim
  return 2 * config.num_heads * width * length / 2


def train_flops_per_token(config: ModelConfig, length: int) -> float:
  """Forward and backward pass, three times the forward pass; recomputation is not counted.

  >>> from reasonjax.models import presets
  >>> round(train_flops_per_token(presets.get("deepseek_v3_671b"), 4096) / 1e9, 2)
  250.46
  """
  return 3 * forward_flops_per_token(config, length)


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
  """Bytes that the cache grows by for every token, over all layers.

  >>> from reasonjax.models import presets
  >>> cache_bytes_per_token(presets.get("deepseek_v3_671b"))
  70272
  """
  return config.num_layers * config.attention.cache_width * bytes_per_value
