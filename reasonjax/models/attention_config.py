"""The kinds of attention a model may have, each with its own sizes; ModelConfig holds one of them.

Every kind tells `rope_dim`, the dimensions that RoPE rotates, `cache_width`, the values that a
cache holds for each token and layer, and `alignment`: packed documents start at multiples of it.
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

  @property
  def alignment(self) -> int:
    """Rows that the start of a packed document must be a multiple of: 1, it may start anywhere."""
    return 1


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

  @property
  def alignment(self) -> int:
    """Rows that the start of a packed document must be a multiple of: 1, it may start anywhere."""
    return 1


@dataclasses.dataclass(frozen=True)
class IRoPEConfig(GQAConfig):
  """Layers with RoPE inside chunks, and every few layers one without that sees all (Llama 4).

  Attributes, besides those of GQAConfig:
    nope_every: every that many layers, the last of them has no RoPE and sees its whole document.
    chunk: tokens; in the other layers a token sees only the tokens of its own chunk.
    qk_norm: whether those layers normalise queries and keys after RoPE.
    attn_scale: how fast queries of the layers without RoPE grow with their position; 0 for never.
    floor_scale: positions (tokens) over which they keep their size.
  """

  nope_every: int = 4
  chunk: int = 8192
  qk_norm: bool = True
  attn_scale: float = 0.1
  floor_scale: int = 8192

  def __post_init__(self):
    super().__post_init__()
    for name in ("nope_every", "chunk", "floor_scale"):
      require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    require(self.attn_scale >= 0, "attn_scale", self.attn_scale, "must not be negative")


@dataclasses.dataclass(frozen=True)
class MoBAConfig(GQAConfig):
  """Mixture of block attention (arXiv 2502.13189): each query head reads the blocks it fits best.

  Attributes, besides those of GQAConfig:
    block: tokens in a block.
    top_k: blocks that a query head reads, the query's own included.
    full_layers: how many of the last layers see everything instead.
  """

  block: int = 512
  top_k: int = 3
  full_layers: int = 0

  def __post_init__(self):
    super().__post_init__()
    for name in ("block", "top_k"):
      require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    require(self.full_layers >= 0, "full_layers", self.full_layers, "must not be negative")

  @property
  def alignment(self) -> int:
    """Rows that the start of a packed document must be a multiple of: those of a block."""
    return self.block


@dataclasses.dataclass(frozen=True)
class NSAConfig:
  """Native sparse attention (arXiv 2502.11089): compressed, selected and newest tokens together.

  The defaults are the paper's, apart from `compress_size`, which it does not give.

  Attributes:
    num_kv_heads: N, key and value heads; a divisor of the query heads.
    head_dim: K, width of queries and keys; even.
    v_head_dim: V, width of values.
    block: l, tokens that are compressed into one key and value.
    stride: d, tokens between the beginnings of two such blocks; a divisor of both blocks.
    selection_block: l', tokens of a block that is selected as a whole.
    num_selected: n, blocks that a token selects: the first, the newest two, and the best others.
    window: w, newest tokens that a token sees besides, itself included.
    compress_size: width of the hidden layer of the networks that compress keys and values.
  """

  num_kv_heads: int = 4
  head_dim: int = 192
  v_head_dim: int = 128
  block: int = 32
  stride: int = 16
  selection_block: int = 64
  num_selected: int = 16
  window: int = 512
  compress_size: int = 256

  def __post_init__(self):
    for name in ("num_kv_heads", "v_head_dim", "stride", "window", "compress_size"):
      require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    require(
      self.head_dim > 0 and self.head_dim % 2 == 0,
      "head_dim",
      self.head_dim,
      "give a positive even width",
    )
    require(
      self.block > 0 and self.block % self.stride == 0,
      "block",
      self.block,
      f"give a multiple of stride={self.stride}",
    )
    require(
      self.selection_block >= self.block and self.selection_block % self.stride == 0,
      "selection_block",
      self.selection_block,
      f"give a multiple of stride={self.stride}, at least block={self.block}",
    )
    require(
      self.num_selected >= 3, "num_selected", self.num_selected, "the first and newest two are 3"
    )

  @property
  def rope_dim(self) -> int:
    """Dimensions that RoPE rotates."""
    return self.head_dim

  @property
  def cache_width(self) -> int:
    """Values that a cache holds for each token and layer: keys and values of three branches."""
    return 3 * self.num_kv_heads * (self.head_dim + self.v_head_dim)

  @property
  def alignment(self) -> int:
    """Rows that the start of a packed document must be a multiple of."""
    return self.selection_block


AttentionConfig = MLAConfig | GQAConfig | IRoPEConfig | MoBAConfig | NSAConfig
