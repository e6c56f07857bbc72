"""iRoPE against the Llama-4 text model of `transformers`: equal logits from equal weights."""

import fakes
import jax
import numpy as np
import pytest

from reasonjax.models.attention_config import IRoPEConfig
from reasonjax.models.transformer import Transformer

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYERS, HEADS, KV_HEADS, WIDTH, CHUNK = 4, 4, 2, 8, 5


def half_split(x):
  """Head dimensions whose neighbours are pairs, with the first of all pairs in front."""
  return np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)


def their_model(qk_norm: bool):
  config = transformers.Llama4TextConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size_mlp=24,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=WIDTH,
    moe_layers=[],
    use_qk_norm=qk_norm,
    attention_chunk_size=CHUNK,
    floor_scale=3,
    attn_scale=0.5,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    attn_implementation="eager",
  )
  model = transformers.Llama4ForCausalLM(config).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, weight in model.named_parameters():
      weight.normal_(1.0 if "norm" in name else 0.0, 0.25, generator=generator)
  return model


def our_params(model) -> dict:
  """The same weights in our tree, projections transposed and their heads taken apart."""
  state = {name: weight.numpy() for name, weight in model.state_dict().items()}

  def stacked(name, change=lambda x: x):
    return np.stack([change(state[f"model.layers.{i}.{name}.weight"]) for i in range(LAYERS)])

  def heads(x):  # [H K, D] -> [D, H, K]
    return x.T.reshape(x.shape[1], -1, WIDTH)

  attention = {
    "q": stacked("self_attn.q_proj", lambda x: half_split(heads(x))),
    "k": stacked("self_attn.k_proj", lambda x: half_split(heads(x))),
    "v": stacked("self_attn.v_proj", heads),
    "o": stacked("self_attn.o_proj", lambda x: x.T.reshape(HEADS, WIDTH, -1)),
  }
  ffn = {
    name: stacked(f"feed_forward.{name}_proj", np.transpose) for name in ("gate", "up", "down")
  }
  layers = {
    "attention_norm": {"scale": stacked("input_layernorm")},
    "attention": attention,
    "ffn_norm": {"scale": stacked("post_attention_layernorm")},
    "ffn": ffn,
  }
  return {
    "embedding": state["model.embed_tokens.weight"],
    "dense_layers": layers,
    "final_norm": {"scale": state["model.norm.weight"]},
    "head": state["lm_head.weight"],
  }


@pytest.mark.parametrize("length", [13, 17], ids=["one_softmax", "linear_form"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_logits_equal_those_of_transformers(qk_norm, length):
  model = their_model(qk_norm)
  ids = np.random.default_rng(0).integers(3, 32, (2, length)).astype(np.int32)
  with torch.no_grad():
    want = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
  sizes = IRoPEConfig(KV_HEADS, WIDTH, chunk=CHUNK, qk_norm=qk_norm, attn_scale=0.5, floor_scale=3)
  config = fakes.model_config(
    attention=sizes,
    num_layers=LAYERS,
    num_dense_layers=LAYERS,
    num_heads=HEADS,
    num_routed_experts=0,
    num_mtp_modules=0,
    rope_theta=100.0,
    rope_scaling=None,
    norm_eps=1e-5,
  )
  got = jax.jit(Transformer(config).apply)({"params": our_params(model)}, ids)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
