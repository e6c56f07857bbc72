"""The kinds of attention a model may have, each with its own sizes; ModelConfig holds one of them.

Every kind tells `rope_dim`, the dimensions that RoPE rotates, and `cache_width`, the values that a
cache holds for each token and layer.
"""

from __future__ import annotations

import dataclasses

from reasonjax.core.config import require


@dataclasses.dataclass(frozen=True)
class MLAConfig:
  """Multi-head latent attention (DeepSeek-V2, V3).

  Attributes:
    q_lora_rank: rank of the compressed query; None projects queries directly.
    kv_lora_rank: R, rank of the compressed key/value latent, which is what the cache stores.
    qk_nope_head_dim: per-head key width without position.
    qk_rope_head_dim: per-head query width, and shared key width, that RoPE rotates; even.
    v_head_dim: per-head value width.
    latent_norm_eps: epsilon of the norms on the query and key/value latents.
    bias: whether the two down projections and the output projection have biases.
  """

  q_lora_rank: int | None
  kv_lora_rank: int
  qk_nope_head_dim: int
  qk_rope_head_dim: int
  v_head_dim: int
  latent_norm_eps: float = 1e-6
  bias: bool = False

  def __post_init__(self):
    for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
      require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    require(
      self.q_lora_rank is None or self.q_lora_rank > 0,
      "q_lora_rank",
      self.q_lora_rank,
      "give a positive rank, or None for a direct query projection",
    )
    require(
      self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "must be even"
    )

  @property
  def qk_head_dim(self) -> int:
    return self.qk_nope_head_dim + self.qk_rope_head_dim

  @property
  def rope_dim(self) -> int:
    """Dimensions that RoPE rotates."""
    return self.qk_rope_head_dim

  @property
  def cache_width(self) -> int:
    """Values that a cache holds for each token and layer: the latent and the shared key."""
    return self.kv_lora_rank + self.qk_rope_head_dim


@dataclasses.dataclass(frozen=True)
class GQAConfig:
  """Grouped-query attention (Qwen2.5, Llama 3).

  Attributes:
    num_kv_heads: N, key and value heads; a divisor of the query heads.
    head_dim: K, width of queries, keys and values; even.
    qkv_bias: whether the three input projections have biases.
    out_bias: whether the output projection has one.
  """

  num_kv_heads: int
  head_dim: int
  qkv_bias: bool = False
  out_bias: bool = False

  def __post_init__(self):
    require(self.num_kv_heads > 0, "num_kv_heads", self.num_kv_heads, "give a positive integer")
    require(
      self.head_dim > 0 and self.head_dim % 2 == 0,
      "head_dim",
      self.head_dim,
      "give a positive even width",
    )

  @property
  def rope_dim(self) -> int:
    """Dimensions that RoPE rotates."""
    return self.head_dim

  @property
  def cache_width(self) -> int:
    """Values that a cache holds for each token and layer: keys and values."""
    return 2 * self.num_kv_heads * self.head_dim


AttentionConfig = MLAConfig | GQAConfig
