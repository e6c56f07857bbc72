"""The shape of a model: frozen, validated at construction, usable as a static argument."""

from __future__ import annotations

import dataclasses

REMAT_POLICIES = ("none", "full", "dots")
DTYPES = ("float32", "bfloat16", "float16")
MOE_IMPLEMENTATIONS = ("grouped", "loop")


@dataclasses.dataclass(frozen=True)
class YarnConfig:
  """YaRN context extension (arXiv 2309.00071) as DeepSeek-V2/V3 use it.

  Attributes:
    factor: ratio of the extended to the original context, > 1.
    original_length: context length (tokens) that the model was pretrained with.
    beta_fast: rotations over `original_length` above which a frequency is left alone.
    beta_slow: rotations below which a frequency is divided by `factor`.
    mscale: coefficient of the attention temperature applied to cos and sin.
    mscale_all_dim: the same, applied to all dimensions through the softmax scale.
  """

  factor: float = 40.0
  original_length: int = 4096
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  mscale: float = 1.0
  mscale_all_dim: float = 1.0

  def __post_init__(self):
    if self.factor < 1.0:
      raise ValueError(f"yarn.factor={self.factor} must be >= 1; use yarn=None for no extension.")
    if self.beta_fast <= self.beta_slow:
      raise ValueError(
        f"yarn.beta_fast={self.beta_fast} must exceed yarn.beta_slow={self.beta_slow}."
      )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One DeepSeek-V3-style decoder. Sizes are counts of units; names follow the papers.

  Attributes:
    vocab_size: V, rows of the embedding table.
    hidden_size: D, width of the residual stream.
    num_layers: L, blocks in the main model (MTP modules come on top).
    num_dense_layers: how many of the first blocks have a dense FFN; the rest have a MoE FFN.
    num_heads: H, attention heads.
    q_lora_rank: rank of the compressed query; None projects queries directly.
    kv_lora_rank: R, rank of the compressed key/value latent, which is what the cache stores.
    qk_nope_head_dim: per-head key width without position.
    qk_rope_head_dim: per-head query width, and shared key width, that RoPE rotates; even.
    v_head_dim: per-head value width.
    dense_ffn_size: width of the dense SwiGLU.
    moe_ffn_size: F, width of each routed expert.
    num_routed_experts: E; 0 when every layer is dense.
    num_shared_experts: experts that every token uses, one SwiGLU of this multiple of F.
    experts_per_token: K, routed experts a token uses.
    num_expert_groups: contiguous groups that experts are split into.
    num_limited_groups: groups a token may choose experts from.
    normalize_weights: divide the K chosen scores by their sum.
    routed_scale: factor on the routed output, after normalisation.
    num_mtp_modules: multi-token-prediction depth; module k predicts the token k+1 ahead.
    mtp_hidden: what module 1 reads: "post" or "pre" the model's final norm.
    rope_theta: base of the rotary frequencies.
    yarn: context extension, or None.
    norm_eps: epsilon of the block, final and MTP norms.
    latent_norm_eps: epsilon of the norms on the query and key/value latents.
    tie_embeddings: the head is the transposed embedding.
    init_std: standard deviation of every weight at initialisation.
    dtype: activations and matmul inputs.
    param_dtype: parameters; float32 for training, as small updates vanish in 16 bits.
    remat: what the backward pass recomputes: one of REMAT_POLICIES.
    scan_unroll: layers unrolled per step of the scan over layers; 1 keeps compile time flat.
    moe_implementation: one of MOE_IMPLEMENTATIONS; "loop" is the slow reference.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_dense_layers: int
  num_heads: int
  q_lora_rank: int | None
  kv_lora_rank: int
  qk_nope_head_dim: int
  qk_rope_head_dim: int
  v_head_dim: int
  dense_ffn_size: int
  moe_ffn_size: int
  num_routed_experts: int
  num_shared_experts: int
  experts_per_token: int
  num_expert_groups: int = 1
  num_limited_groups: int = 1
  normalize_weights: bool = True
  routed_scale: float = 1.0
  num_mtp_modules: int = 0
  mtp_hidden: str = "post"
  rope_theta: float = 10000.0
  yarn: YarnConfig | None = None
  norm_eps: float = 1e-6
  latent_norm_eps: float = 1e-6
  tie_embeddings: bool = False
  init_std: float = 0.006
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "none"
  scan_unroll: int = 1
  moe_implementation: str = "grouped"

  def __post_init__(self):
    positive = (
      "vocab_size",
      "hidden_size",
      "num_layers",
      "num_heads",
      "kv_lora_rank",
      "qk_nope_head_dim",
      "qk_rope_head_dim",
      "v_head_dim",
      "scan_unroll",
    )
    for name in positive:
      _require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    _require(
      0 <= self.num_dense_layers <= self.num_layers,
      "num_dense_layers",
      self.num_dense_layers,
      f"choose 0..num_layers={self.num_layers}",
    )
    _require(
      self.num_dense_layers == 0 or self.dense_ffn_size > 0,
      "dense_ffn_size",
      self.dense_ffn_size,
      "dense layers need a positive width",
    )
    _require(
      self.q_lora_rank is None or self.q_lora_rank > 0,
      "q_lora_rank",
      self.q_lora_rank,
      "give a positive rank, or None for a direct query projection",
    )
    _require(
      self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "must be even"
    )
    _require(self.mtp_hidden in ("post", "pre"), "mtp_hidden", self.mtp_hidden, "post or pre")
    _require(self.num_mtp_modules >= 0, "num_mtp_modules", self.num_mtp_modules, "must be >= 0")
    _require(self.remat in REMAT_POLICIES, "remat", self.remat, f"choose from {REMAT_POLICIES}")
    _require(
      self.moe_implementation in MOE_IMPLEMENTATIONS,
      "moe_implementation",
      self.moe_implementation,
      f"choose from {MOE_IMPLEMENTATIONS}",
    )
    _require(self.rope_theta > 1, "rope_theta", self.rope_theta, "must exceed 1")
    _require(self.init_std >= 0, "init_std", self.init_std, "must not be negative")
    for name in ("dtype", "param_dtype"):
      _require(getattr(self, name) in DTYPES, name, getattr(self, name), f"choose from {DTYPES}")
    # MTP modules have a MoE block wherever there are experts.
    if self.num_moe_layers or (self.num_mtp_modules and self.num_routed_experts):
      self._check_experts()

  def _check_experts(self):
    experts, groups = self.num_routed_experts, self.num_expert_groups
    _require(experts > 0, "num_routed_experts", experts, "MoE layers need at least one expert")
    _require(self.moe_ffn_size > 0, "moe_ffn_size", self.moe_ffn_size, "must be positive")
    _require(self.num_shared_experts >= 0, "num_shared_experts", self.num_shared_experts, ">= 0")
    _require(
      groups > 0 and experts % groups == 0,
      "num_expert_groups",
      groups,
      f"must divide num_routed_experts={experts}",
    )
    _require(
      groups == 1 or experts // groups >= 2,
      "num_expert_groups",
      groups,
      "a group is scored by its two best experts, so it needs at least two",
    )
    _require(
      1 <= self.num_limited_groups <= groups,
      "num_limited_groups",
      self.num_limited_groups,
      f"choose 1..num_expert_groups={groups}",
    )
    reachable = self.num_limited_groups * (experts // groups)
    _require(
      1 <= self.experts_per_token <= reachable,
      "experts_per_token",
      self.experts_per_token,
      f"choose 1..{reachable}, the experts inside the kept groups",
    )

  @property
  def num_moe_layers(self) -> int:
    return self.num_layers - self.num_dense_layers

  @property
  def qk_head_dim(self) -> int:
    return self.qk_nope_head_dim + self.qk_rope_head_dim

  def replace(self, **changes) -> ModelConfig:
    return dataclasses.replace(self, **changes)


def _require(condition: bool, name: str, value, remedy: str) -> None:
  if not condition:
    raise ValueError(f"{name}={value!r}: {remedy}.")
