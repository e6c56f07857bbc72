"""The shape of a model: frozen, validated at construction, usable as a static argument."""

from __future__ import annotations

import dataclasses
import math

from reasonjax.core.config import require
from reasonjax.models.attention_config import AttentionConfig

REMAT_POLICIES = ("none", "full", "dots")
DTYPES = ("float32", "bfloat16", "float16")
MOE_IMPLEMENTATIONS = ("grouped", "loop")
BLOCK_NORMS = ("pre", "sandwich")
EXITS = ("none", "kl", "latent")
SCORE_FUNCTIONS = ("sigmoid", "softmax", "noisy_top_k")


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
class Llama3RopeConfig:
  """Context extension of Llama 3.1 and later.

  Attributes:
    factor: frequencies whose wavelength exceeds the original context are divided by it.
    low_frequency_factor: turns over the original context below which a pair is fully slowed.
    high_frequency_factor: turns above which it is left alone.
    original_length: context length (tokens) that the model was pretrained with.
  """

  factor: float = 8.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: int = 8192

  def __post_init__(self):
    if self.factor < 1.0:
      raise ValueError(f"llama3 factor={self.factor} must be >= 1; use rope_scaling=None for none.")
    if self.high_frequency_factor <= self.low_frequency_factor:
      raise ValueError(
        f"llama3 high_frequency_factor={self.high_frequency_factor} must exceed "
        f"low_frequency_factor={self.low_frequency_factor}."
      )


RopeScaling = YarnConfig | Llama3RopeConfig | None


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
  """Recurrent depth (Huginn, arXiv 2502.05171): the core layers run any number of times.

  Attributes:
    prelude_layers: layers before the recurrence.
    core_layers: layers of one step of it.
    coda_layers: layers after it.
    mean_steps: in training a microbatch takes 1 + Poisson steps, 1 + `mean_steps` on average.
    backprop_steps: last steps that the gradient goes through.
    eval_steps: steps without noise (evaluation, scoring, prefill); decoding takes at most these.
    state_std: of the random initial state, before it is cut off at three times this.
    exit: when decoding a token stops before `eval_steps`: one of EXITS; "kl" judges by the
      divergence of a step's prediction from the step's before, "latent" by the state's relative
      change. Reinforcement learning wants "none": it scores what it sampled after `eval_steps`.
    exit_threshold: value of either below which the token has converged; published are 5e-4 nats
      for "kl" and 0.03 for "latent".
  """

  prelude_layers: int = 2
  core_layers: int = 4
  coda_layers: int = 2
  mean_steps: int = 32
  backprop_steps: int = 8
  eval_steps: int = 32
  state_std: float = math.sqrt(2 / 5)
  exit: str = "none"
  exit_threshold: float = 5e-4

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if isinstance(value, int):
        require(value > 0, f"recurrent.{name}", value, "give a positive integer")
    require(self.state_std >= 0, "recurrent.state_std", self.state_std, "must not be negative")
    require(self.exit in EXITS, "recurrent.exit", self.exit, f"choose from {EXITS}")
    require(self.exit_threshold > 0, "recurrent.exit_threshold", self.exit_threshold, "positive")

  @property
  def num_layers(self) -> int:
    """Layers that have parameters of their own."""
    return self.prelude_layers + self.core_layers + self.coda_layers

  def applied_layers(self, steps: int) -> int:
    """Layers that a token goes through in so many steps."""
    return self.prelude_layers + steps * self.core_layers + self.coda_layers


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One decoder. Sizes are counts of units; names follow the papers.

  Attributes:
    vocab_size: V, rows of the embedding table.
    hidden_size: D, width of the residual stream.
    num_layers: L, blocks in the main model (MTP modules come on top).
    num_dense_layers: how many of the first blocks have a dense FFN; the rest have a MoE FFN.
    num_heads: H, attention heads.
    attention: the kind of attention, with its own sizes.
    dense_ffn_size: width of the dense SwiGLU.
    moe_ffn_size: F, width of each routed expert.
    num_routed_experts: E; 0 when every layer is dense.
    num_shared_experts: experts that every token uses, one SwiGLU of this multiple of F.
    experts_per_token: K, routed experts a token uses.
    num_expert_groups: contiguous groups that experts are split into.
    num_limited_groups: groups a token may choose experts from.
    score_function: one of SCORE_FUNCTIONS: "sigmoid" with a balancing bias and groups scored by
      their two best experts (V3), "softmax" without bias and groups scored by their best (V2),
      "noisy_top_k" with learned noise on the logits in training (Shazeer et al., 2017).
    normalize_weights: divide the K chosen scores by their sum.
    routed_scale: factor on the routed output, after normalisation.
    num_mtp_modules: multi-token-prediction depth; module k predicts the token k+1 ahead.
    mtp_hidden: what module 1 reads: "post" or "pre" the model's final norm.
    rope_theta: base of the rotary frequencies.
    rope_scaling: context extension, or None.
    max_length: longest context (tokens) that the model is meant for; exported, not enforced.
    norm_eps: epsilon of the block, final and MTP norms.
    block_norms: one of BLOCK_NORMS: "pre" normalises what attention and FFN read, "sandwich" also
      the residual stream after each.
    embedding_scale: factor on the tokens' embeddings.
    recurrent: recurrent depth, or None; its layers are dense and replace all others.
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
  attention: AttentionConfig
  dense_ffn_size: int
  moe_ffn_size: int = 0
  num_routed_experts: int = 0
  num_shared_experts: int = 0
  experts_per_token: int = 0
  num_expert_groups: int = 1
  num_limited_groups: int = 1
  score_function: str = "sigmoid"
  normalize_weights: bool = True
  routed_scale: float = 1.0
  num_mtp_modules: int = 0
  mtp_hidden: str = "post"
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling = None
  max_length: int = 4096
  norm_eps: float = 1e-6
  block_norms: str = "pre"
  embedding_scale: float = 1.0
  recurrent: RecurrentConfig | None = None
  tie_embeddings: bool = False
  init_std: float = 0.006
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "none"
  scan_unroll: int = 1
  moe_implementation: str = "grouped"

  def __post_init__(self):
    for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_length"):
      require(getattr(self, name) > 0, name, getattr(self, name), "give a positive integer")
    require(self.scan_unroll > 0, "scan_unroll", self.scan_unroll, "give a positive integer")
    require(
      0 <= self.num_dense_layers <= self.num_layers,
      "num_dense_layers",
      self.num_dense_layers,
      f"choose 0..num_layers={self.num_layers}",
    )
    require(
      self.num_dense_layers == 0 or self.dense_ffn_size > 0,
      "dense_ffn_size",
      self.dense_ffn_size,
      "dense layers need a positive width",
    )
    kv_heads = getattr(self.attention, "num_kv_heads", 1)
    require(
      self.num_heads % kv_heads == 0,
      "num_kv_heads",
      kv_heads,
      f"must divide num_heads={self.num_heads}",
    )
    choices = {
      "mtp_hidden": ("post", "pre"),
      "block_norms": BLOCK_NORMS,
      "remat": REMAT_POLICIES,
      "moe_implementation": MOE_IMPLEMENTATIONS,
      "score_function": SCORE_FUNCTIONS,
      "dtype": DTYPES,
      "param_dtype": DTYPES,
    }
    for name, known in choices.items():
      require(getattr(self, name) in known, name, getattr(self, name), f"choose from {known}")
    require(self.num_mtp_modules >= 0, "num_mtp_modules", self.num_mtp_modules, "must be >= 0")
    require(self.rope_theta > 1, "rope_theta", self.rope_theta, "must exceed 1")
    require(self.init_std >= 0, "init_std", self.init_std, "must not be negative")
    require(self.embedding_scale > 0, "embedding_scale", self.embedding_scale, "must be positive")
    if self.recurrent is not None:
      self._check_recurrent(self.recurrent)
    # MTP modules have a MoE block wherever there are experts.
    if self.num_moe_layers or (self.num_mtp_modules and self.num_routed_experts):
      self._check_experts()

  def _check_recurrent(self, recurrent: RecurrentConfig):
    require(
      self.num_layers == self.num_dense_layers == recurrent.num_layers,
      "num_layers",
      self.num_layers,
      f"recurrent depth needs num_layers = num_dense_layers = {recurrent.num_layers}, the sum of "
      "prelude, core and coda; experts are not supported in it",
    )
    require(
      self.num_mtp_modules == 0,
      "num_mtp_modules",
      self.num_mtp_modules,
      "MTP modules are not supported with recurrent depth, use 0",
    )

  def _check_experts(self):
    experts, groups = self.num_routed_experts, self.num_expert_groups
    require(experts > 0, "num_routed_experts", experts, "MoE layers need at least one expert")
    require(self.moe_ffn_size > 0, "moe_ffn_size", self.moe_ffn_size, "must be positive")
    require(self.num_shared_experts >= 0, "num_shared_experts", self.num_shared_experts, ">= 0")
    require(
      groups > 0 and experts % groups == 0,
      "num_expert_groups",
      groups,
      f"must divide num_routed_experts={experts}",
    )
    require(
      groups == 1 or experts // groups >= 2 or self.score_function != "sigmoid",
      "num_expert_groups",
      groups,
      "a group is scored by its two best experts, so it needs at least two",
    )
    require(
      1 <= self.num_limited_groups <= groups,
      "num_limited_groups",
      self.num_limited_groups,
      f"choose 1..num_expert_groups={groups}",
    )
    if self.score_function == "noisy_top_k":
      require(groups == 1, "num_expert_groups", groups, "the noisy top-k gate has no groups; use 1")
      require(
        self.normalize_weights,
        "normalize_weights",
        self.normalize_weights,
        "the noisy top-k gate is a softmax over the chosen experts; use True",
      )
      require(
        self.experts_per_token < experts,
        "experts_per_token",
        self.experts_per_token,
        f"the noisy top-k gate leaves out at least one of {experts} experts",
      )
    reachable = self.num_limited_groups * (experts // groups)
    require(
      1 <= self.experts_per_token <= reachable,
      "experts_per_token",
      self.experts_per_token,
      f"choose 1..{reachable}, the experts inside the kept groups",
    )

  @property
  def num_moe_layers(self) -> int:
    return self.num_layers - self.num_dense_layers

  @property
  def cache_layers(self) -> int:
    """Layers' worth of entries that a cache holds: core layers have some for every step."""
    if self.recurrent is None:
      return self.num_layers
    return self.recurrent.applied_layers(self.recurrent.eval_steps)

  @property
  def router_bias(self) -> bool:
    """Whether routers have a balancing bias."""
    return self.num_routed_experts > 0 and self.score_function == "sigmoid"

  def replace(self, **changes) -> ModelConfig:
    return dataclasses.replace(self, **changes)
