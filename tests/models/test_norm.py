"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp
import numpy as np

from reasonjax.models.norm import RMSNorm, rms_norm


def test_equals_float64():
  rng = np.random.default_rng(0)
  x, scale = rng.normal(0, 3, (2, 3, 8)), rng.normal(0, 1, 8)
  want = scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1)
  got = rms_norm(jnp.float32(x), jnp.float32(scale), 0.1)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_hand_worked():
  got = rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)  # rms is sqrt(12.5)
  np.testing.assert_allclose(got, [[0.8485281, 2.2627417]], rtol=1e-6)


def test_zeros_stay_zero_and_have_finite_gradients():
  zeros, ones = jnp.zeros((1, 4)), jnp.ones(4)
  np.testing.assert_array_equal(rms_norm(zeros, ones, 1e-6), zeros)
  grad = jax.grad(lambda x: rms_norm(x, ones, 1e-6).sum())(zeros)
  np.testing.assert_allclose(grad, np.full((1, 4), 1e3), rtol=1e-5)  # 1 / sqrt(eps)


def test_statistics_are_float32_in_bfloat16():
  """300 ** 2 and a mean over 512 values need more than eight bits of mantissa."""
  x = jnp.concatenate([jnp.full((1, 1), 300.0), jnp.full((1, 511), 1.0)], axis=1)
  got = rms_norm(x.astype(jnp.bfloat16), jnp.ones(512, jnp.bfloat16), 0.0)
  assert got.dtype == jnp.bfloat16
  rms = np.sqrt((300.0**2 + 511) / 512)
  np.testing.assert_array_equal(got[0, 0], jnp.bfloat16(300.0 / rms))
  np.testing.assert_array_equal(got[0, 1], jnp.bfloat16(1.0 / rms))


def test_cast_comes_before_the_scale():
  """1.4 is 1.3984375 in bfloat16; 1.0078125 times it rounds to 1.40625, 1.4 times to 1.4140625."""
  x, scale = jnp.array([[7.0, 1.0]], jnp.bfloat16), jnp.array([1.0078125, 1.0], jnp.bfloat16)
  assert float(rms_norm(x, scale, 0.0)[0, 0]) == 1.40625


def test_module_starts_as_pure_normalisation():
  x = jnp.array([[1.0, 7.0]])
  out, variables = RMSNorm(2, 0.0, param_dtype="bfloat16").init_with_output(jax.random.key(0), x)
  scale = variables["params"]["scale"]
  assert scale.names == ("norm",)
  assert scale.value.dtype == jnp.bfloat16
  np.testing.assert_allclose(out, [[0.2, 1.4]], rtol=1e-6)
