"""The gated feed-forward network."""

import jax
import jax.numpy as jnp
import numpy as np
import reference

from reasonjax.models.mlp import SwiGLU, swiglu


def test_hand_worked():
  """silu(2) * 3 * 5 = 1.7615942 * 15."""
  one = jnp.ones((1, 1))
  got = swiglu(one, 2 * one, 3 * one, 5 * one)
  np.testing.assert_allclose(got, [[26.4239123]], rtol=1e-6)


def test_equals_float64():
  rng = np.random.default_rng(0)
  x = rng.normal(0, 1, (2, 3, 6))
  weights = {"gate": rng.normal(0, 1, (6, 5)), "up": rng.normal(0, 1, (6, 5))}
  weights["down"] = rng.normal(0, 1, (5, 6))
  got = swiglu(jnp.float32(x), *(jnp.float32(weights[n]) for n in ("gate", "up", "down")))
  np.testing.assert_allclose(got, reference.swiglu(x, weights), rtol=1e-5, atol=1e-5)


def test_module_casts_parameters_to_the_activation_dtype():
  module = SwiGLU(4, 6, 0.5, "bfloat16", "float32")
  out, variables = module.init_with_output(jax.random.key(0), jnp.ones((1, 2, 4)))
  assert out.dtype == jnp.bfloat16
  params = variables["params"]
  assert {name: box.value.dtype for name, box in params.items()} == dict.fromkeys(
    ("gate", "up", "down"), jnp.float32
  )
  assert params["gate"].names == params["up"].names == ("embed", "mlp")
  assert params["down"].names == ("mlp", "embed")
