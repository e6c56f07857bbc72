"""Small models with fully random parameters, and compiled calls shared by the model tests."""

import functools

import fakes
import jax
import numpy as np

from reasonjax.models.attention_config import GQAConfig
from reasonjax.models.config import Llama3RopeConfig, ModelConfig, YarnConfig
from reasonjax.models.transformer import Transformer
from reasonjax.sharding import place
from reasonjax.train import state as state_lib

# Compiling takes longer than running here, and LLVM's optimisations change no result.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def tiny(**changes) -> ModelConfig:
  """Two layers, eight experts in two groups of four, values narrower than keys."""
  return fakes.model_config(
    **{"v_head_dim": 6, "num_expert_groups": 2, "num_limited_groups": 1} | changes
  )


NO_EXPERTS = {"num_dense_layers": 2, "num_routed_experts": 0}
NO_GROUPS = {"num_expert_groups": 1, "num_limited_groups": 1}
UNEQUAL_YARN = YarnConfig(factor=4.0, original_length=64, mscale=1.0, mscale_all_dim=0.5)
# Of the four pairs at base 100 one is kept, two are blended and one is divided.
LLAMA3_ROPE = Llama3RopeConfig(factor=8.0, original_length=64)


def grouped(num_kv_heads: int = 2, qkv_bias: bool = False, out_bias: bool = False, **changes):
  """Two dense layers of four query heads, as in Qwen2.5 and Llama 3."""
  attention = GQAConfig(num_kv_heads, head_dim=8, qkv_bias=qkv_bias, out_bias=out_bias)
  plain = {"num_heads": 4, "num_mtp_modules": 0, "rope_scaling": None, "rope_theta": 100.0}
  return fakes.model_config(**plain | NO_EXPERTS | {"attention": attention} | changes)


def v2(**changes) -> ModelConfig:
  """Softmax routing by the best scores, without normalisation or bias, two shared experts."""
  plain = {"score_function": "softmax", "normalize_weights": False, "routed_scale": 4.0}
  return tiny(**plain | {"num_shared_experts": 2, "num_mtp_modules": 0} | changes)


ONE_SIDED_YARN = YarnConfig(factor=8.0, original_length=256, mscale_all_dim=0.0)

CONFIGS = {
  "v3": tiny(),
  "direct_query": tiny(q_lora_rank=None, rope_scaling=None),
  "tied_no_groups_no_shared": tiny(tie_embeddings=True, num_shared_experts=0, **NO_GROUPS),
  "two_shared_unequal_yarn": tiny(
    num_shared_experts=2, qk_rope_head_dim=8, rope_scaling=UNEQUAL_YARN, num_mtp_modules=0
  ),
  "all_dense": tiny(**NO_EXPERTS),
  "all_moe": tiny(num_dense_layers=0, num_expert_groups=4, num_limited_groups=2),
  "two_mtp_pre": tiny(num_mtp_modules=2, mtp_hidden="pre"),
  "two_mtp_post": tiny(num_mtp_modules=2, num_dense_layers=1, num_layers=3),
  "raw_weights": tiny(normalize_weights=False, routed_scale=1.0, num_mtp_modules=0),
  "one_sided_yarn": tiny(rope_scaling=ONE_SIDED_YARN, qk_rope_head_dim=8, num_mtp_modules=0),
  "experts_in_mtp_only": tiny(num_dense_layers=2),
  "v2_greedy": v2(**NO_GROUPS, q_lora_rank=None),
  "v2_group_limited": v2(num_expert_groups=4, num_limited_groups=2, experts_per_token=3),
  "v2_normalised": v2(normalize_weights=True, num_mtp_modules=1),
  "noisy_top_k": v2(score_function="noisy_top_k", normalize_weights=True, **NO_GROUPS),
  "qwen2_tied": grouped(qkv_bias=True, tie_embeddings=True),
  "qwen2_untied": grouped(qkv_bias=True, num_kv_heads=1),
  "llama3_scaled": grouped(rope_scaling=LLAMA3_ROPE),
  "llama_all_biases": grouped(num_kv_heads=4, qkv_bias=True, out_bias=True),
  "mla_bias": tiny(bias=True, num_mtp_modules=0),
  "large_eps": tiny(norm_eps=0.05, latent_norm_eps=0.2, rope_theta=100.0, rope_scaling=None),
}


@functools.cache
def variables(config: ModelConfig, seed: int = 0) -> dict:
  """Random weights of unit gain, norm scales about 1, router biases about -0.8."""
  shapes = place.unbox(jax.eval_shape(lambda: state_lib.init_variables(config, jax.random.key(0))))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.startswith("router/"):  # low enough that biased scores are negative, too
      return rng.normal(-0.8, 0.3, leaf.shape).astype(np.float32)
    if name.endswith("scale"):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    return rng.normal(0, 0.25, leaf.shape).astype(leaf.dtype)

  return {"router": {}} | jax.tree_util.tree_map_with_path(draw, dict(shapes))


@functools.cache
def compiled(config: ModelConfig):
  """`(variables, ids, segment) -> (Output, logits)`, everything a forward pass can give."""
  model = Transformer(config)

  def run(variables, ids_BxT, segment_BxT):
    out = model.apply(
      variables, ids_BxT, segment_BxT, method="hidden", with_mtp=True, with_entries=True
    )
    return out, model.apply(variables, out.hidden_BxTxD, method="logits")

  return jit(run)


def forward(config: ModelConfig, ids, segment, seed: int = 0):
  """One compiled forward pass; gives `Output` and logits."""
  return compiled(config)(variables(config, seed), ids, segment)
