"""Parameters, FLOPs and cache bytes of a model in closed form, without building it.

A kind of attention is a row of ATTENTION: its parameters and the FLOPs of its products. Its cache
follows from the `cache_width` of its sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reasonjax.models.attention_config import (
  GQAConfig,
  IRoPEConfig,
  MLAConfig,
  MoBAConfig,
  NSAConfig,
)
from reasonjax.models.config import ModelConfig


def attention(config: ModelConfig) -> int:
  """Parameters of one attention layer, the norms inside it included.

  >>> from reasonjax.models import presets
  >>> attention(presets.get("deepseek_v3_671b"))
  187107328
  """
  count = ATTENTION[type(config.attention)].parameters
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


def _nsa(sizes: NSAConfig, D: int, H: int) -> int:
  K, V, N = sizes.head_dim, sizes.v_head_dim, sizes.num_kv_heads
  return D * (H * K + 3 * N * (K + V) + 3 * H) + H * V * D + _nsa_compression(sizes)


def _nsa_compression(sizes: NSAConfig) -> int:
  """Parameters of the networks that compress keys and values."""
  width, F = sizes.head_dim + sizes.v_head_dim, sizes.compress_size
  return sizes.block * width * (1 + F) + F * width


def _mla_flops(config: ModelConfig, length: int) -> float:
  sizes = config.attention
  return 2 * config.num_heads * (sizes.qk_head_dim + sizes.v_head_dim) * length / 2


def _gqa_flops(config: ModelConfig, length: int) -> float:
  return _grouped(config, length / 2)


def _irope_flops(config: ModelConfig, length: int) -> float:
  chunk, L = config.attention.chunk, config.num_layers
  chunks, rest = divmod(length, chunk)
  in_chunk = (chunks * chunk**2 + rest**2) / 2 / length
  full = L // config.attention.nope_every
  return _grouped(config, (full * length / 2 + (L - full) * in_chunk) / L)


def nsa_tokens_read(sizes: NSAConfig, position: int | np.ndarray) -> int | np.ndarray:
  """Keys that a query of native sparse attention reads: compressed, selected, in the window.

  Args:
    sizes: the attention's.
    position: of the query, from 0; the selected blocks are counted as if all were full.

  >>> int(nsa_tokens_read(NSAConfig(), 65536))
  5631
  """
  seen = position + 1
  compressed = np.maximum((seen - sizes.block) // sizes.stride + 1, 0)
  selected = np.minimum(seen, sizes.num_selected * sizes.selection_block)
  return compressed + selected + np.minimum(seen, sizes.window)


def _nsa_flops(config: ModelConfig, length: int) -> float:
  """Products of queries; and what compressing costs beyond once a token, as `active` counts it."""
  sizes = config.attention
  read = float(nsa_tokens_read(sizes, np.arange(length)).mean())
  products = 2 * config.num_heads * (sizes.head_dim + sizes.v_head_dim) * read
  compressions = sizes.num_kv_heads / sizes.stride
  return products + 2 * _nsa_compression(sizes) * (compressions - 1)


def _moba_flops(config: ModelConfig, length: int) -> float:
  block, L, full = config.attention.block, config.num_layers, config.attention.full_layers
  keys = 0.0
  for start in range(0, length, block):  # queries of one block, all blocks behind them complete
    behind, queries = start // block, min(block, length - start)
    read = min(behind, config.attention.top_k - 1) * block + queries / 2
    keys += queries / length * (read + behind / 2)  # a mean key is multiplied once, not twice
  return _grouped(config, (full * length / 2 + (L - full) * keys) / L)


def _grouped(config: ModelConfig, keys: float) -> float:
  """Products of a token's queries with this many keys, and with their values."""
  return 2 * config.num_heads * 2 * config.attention.head_dim * keys


class AttentionCount(NamedTuple):
  """What one attention layer of a kind costs.

  Attributes:
    parameters: of its sizes, D and H.
    flops: of the model and a sequence's length: products of queries with keys and of weights with
      values, per token; causal, so that the average query sees half of what it could. The average
      layer's, where layers differ.
  """

  parameters: Callable[..., int]
  flops: Callable[..., float]


ATTENTION = {
  MLAConfig: AttentionCount(_mla, _mla_flops),
  GQAConfig: AttentionCount(_gqa, _gqa_flops),
  IRoPEConfig: AttentionCount(_gqa, _irope_flops),
  MoBAConfig: AttentionCount(_gqa, _moba_flops),
  NSAConfig: AttentionCount(_nsa, _nsa_flops),
}


def dense_layer(config: ModelConfig) -> int:
  """Parameters of a block with a dense feed-forward network."""
  return attention(config) + _norms(config) + 3 * config.hidden_size * config.dense_ffn_size


def _norms(config: ModelConfig) -> int:
  """Scales of the norms around attention and feed-forward network."""
  return (4 if config.block_norms == "sandwich" else 2) * config.hidden_size


def moe_layer(config: ModelConfig, experts: int | None = None) -> int:
  """Parameters of a MoE block, router biases included.

  Args:
    config: the model.
    experts: routed experts that are counted; all by default.
  """
  D, E = config.hidden_size, config.num_routed_experts
  counted = (E if experts is None else experts) + config.num_shared_experts
  bias = E if config.router_bias else 0
  gates = 2 if config.score_function == "noisy_top_k" else 1
  small = _norms(config) + gates * D * E + bias
  return attention(config) + small + counted * 3 * D * config.moe_ffn_size


def _body(config: ModelConfig, experts: int | None) -> int:
  """All blocks, recurrent depth's adapter and the final norm."""
  dense = config.num_dense_layers * dense_layer(config) + _adapter(config)
  return dense + config.num_moe_layers * moe_layer(config, experts) + config.hidden_size


def _adapter(config: ModelConfig) -> int:
  return 0 if config.recurrent is None else 2 * config.hidden_size**2


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


def forward_flops_per_token(config: ModelConfig, length: int, steps: int | None = None) -> float:
  """Floating-point operations of the main model's forward pass, per token.

  Two per active parameter, and those of causal attention in the expanded form, whose average query
  sees half of the sequence.

  Args:
    config: the model.
    length: tokens in a sequence.
    steps: of recurrent depth; `eval_steps` by default.
  """
  per_layer = ATTENTION[type(config.attention)].flops
  layers, repeated, recurrent = config.num_layers, 0, config.recurrent
  if recurrent is not None:
    steps = recurrent.eval_steps if steps is None else steps
    layers = recurrent.applied_layers(steps)
    repeated = (steps - 1) * (recurrent.core_layers * dense_layer(config) + _adapter(config))
  return 2 * (active(config) + repeated) + layers * per_layer(config, length)


def train_flops_per_token(config: ModelConfig, length: int) -> float:
  """Forward and backward pass, three times the forward pass; recomputation is not counted.

  Recurrent depth: the forward pass of the expected number of steps, and the backward pass, twice a
  forward pass, through its last ones.

  >>> from reasonjax.models import presets
  >>> round(train_flops_per_token(presets.get("deepseek_v3_671b"), 4096) / 1e9, 2)
  250.46
  """
  recurrent = config.recurrent
  if recurrent is None:
    return 3 * forward_flops_per_token(config, length)
  forward, backward = 1 + recurrent.mean_steps, min(recurrent.backprop_steps, recurrent.mean_steps)
  forward_flops = forward_flops_per_token(config, length, forward)
  return forward_flops + 2 * forward_flops_per_token(config, length, backward)


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
  """Bytes that the cache grows by for every token, over all layers.

  >>> from reasonjax.models import presets
  >>> cache_bytes_per_token(presets.get("deepseek_v3_671b"))
  70272
  """
  return config.cache_layers * config.attention.cache_width * bytes_per_value
