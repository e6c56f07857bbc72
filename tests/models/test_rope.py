"""Rotary embedding and YaRN against closed forms and values worked out by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from reasonjax.models import mask, rope
from reasonjax.models.config import Llama3RopeConfig, YarnConfig

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_plain_frequencies():
  np.testing.assert_allclose(rope.inverse_frequencies(4, 10000.0), [1.0, 0.01], rtol=1e-12)
  np.testing.assert_allclose(
    rope.inverse_frequencies(8, 10000.0), [1.0, 0.1, 0.01, 0.001], rtol=1e-12
  )


def test_yarn_leaves_fast_pairs_and_divides_slow_ones():
  """d 64, base 1e4, 4096 tokens: the pairs turn 32 and 1 times at 10.47 and 22.51."""
  ratio = rope.inverse_frequencies(64, 10000.0, YarnConfig()) / rope.inverse_frequencies(64, 1e4)
  np.testing.assert_array_equal(ratio[:11], 1.0)
  np.testing.assert_allclose(ratio[[11, 16, 22]], [0.925, 0.55, 0.1], rtol=1e-12)
  np.testing.assert_allclose(ratio[23:], 0.025, rtol=1e-12)
  assert (np.diff(ratio[10:24]) < 0).all()


def test_yarn_ramp_of_equal_ends_is_a_step():
  """Turns 1.2 and 1.0 of length 6 lie at pairs -0.2 and -0.04: both ends become pair 0."""
  yarn = YarnConfig(factor=4.0, original_length=6, beta_fast=1.2, beta_slow=1.0)
  ratio = rope.inverse_frequencies(4, 10.0, yarn) / rope.inverse_frequencies(4, 10.0)
  np.testing.assert_allclose(ratio, [1.0, 0.25], rtol=1e-12)


def test_llama3_keeps_fast_pairs_and_divides_slow_ones():
  """d 128, base 5e5, 8192 tokens: pairs turn 4 times at 28.9 and once at 34.97."""
  plain = rope.inverse_frequencies(128, 5e5)
  ratio = rope.inverse_frequencies(128, 5e5, Llama3RopeConfig(factor=8.0)) / plain
  np.testing.assert_allclose(ratio[:29], 1.0, rtol=1e-12)
  np.testing.assert_allclose(ratio[[29, 30, 32, 34]], [0.828, 0.644, 0.371, 0.190], atol=5e-4)
  np.testing.assert_allclose(ratio[35:], 0.125, rtol=1e-12)
  assert (np.diff(ratio[28:36]) < 0).all()


def test_llama3_worked_out_by_hand():
  """Two pairs of 8 and 1 radians a position over 3 pi tokens: 12 turns and 1.5 of them."""
  llama3 = Llama3RopeConfig(
    factor=4.0, low_frequency_factor=1.0, high_frequency_factor=2.0, original_length=3
  )
  got = rope.llama3_frequencies(np.array([8.0, 1.0]) * math.pi, llama3)
  np.testing.assert_allclose(got, [8 * math.pi, 0.625 * math.pi], rtol=1e-12)  # (1/4 + 1) / 2


def test_llama3_scales_neither_scores_nor_tables():
  assert rope.table_scale(Llama3RopeConfig()) == 1.0
  assert rope.softmax_scale(128, Llama3RopeConfig()) == pytest.approx(128**-0.5, rel=1e-12)


@pytest.mark.parametrize(
  ("field", "change"), [("factor", 0.5), ("high_frequency_factor", 1.0)], ids=str
)
def test_llama3_errors_name_the_field(field, change):
  with pytest.raises(ValueError, match=rf"^llama3 {field}={change}"):
    Llama3RopeConfig(**{field: change})


def test_softmax_scale():
  lite = YarnConfig(mscale=0.707, mscale_all_dim=0.707)  # 1.2608037768^2 / sqrt(192)
  assert rope.softmax_scale(192, lite) == pytest.approx(0.1147213867, rel=1e-6)
  assert rope.softmax_scale(192, YarnConfig()) == pytest.approx(0.1352337788608801, rel=1e-12)
  assert rope.softmax_scale(192, None) == pytest.approx(0.0721687836487032, rel=1e-12)
  without = YarnConfig(mscale_all_dim=0.0)
  assert rope.softmax_scale(192, without) == pytest.approx(192**-0.5, rel=1e-12)


def test_temperature():
  assert rope.temperature(1.0, 1.0) == 1.0
  assert rope.temperature(0.5, 1.0) == 1.0
  assert rope.temperature(math.e, 1.0) == pytest.approx(1.1)
  assert rope.temperature(40.0, 0.707) == pytest.approx(1.2608037768)


@pytest.mark.parametrize(
  ("mscale", "mscale_all_dim", "want"),
  [(1.0, 1.0, 1.0), (0.707, 0.707, 1.0), (1.0, 0.0, 1.3688879454), (1.0, 0.5, 1.1557219902)],
)
def test_table_scale(mscale, mscale_all_dim, want):
  """1.3688879454 / 1.1844439727 = 1.1557219902 at factor 40."""
  yarn = YarnConfig(mscale=mscale, mscale_all_dim=mscale_all_dim)
  assert rope.table_scale(yarn) == pytest.approx(want, rel=1e-6)
  cos, _ = rope.cos_sin(jnp.zeros((1, 1), jnp.int32), 4, 1e4, yarn)
  np.testing.assert_allclose(cos, np.full((1, 1, 2), want), rtol=1e-6)


def test_table_scale_without_yarn():
  assert rope.table_scale(None) == 1.0


def test_cos_sin_are_float32_of_position_times_frequency():
  cos, sin = rope.cos_sin(jnp.array([[0, 2, 3000]]), 4, 10000.0)
  assert cos.dtype == sin.dtype == jnp.float32
  angle = np.array([[[0.0, 0.0], [2.0, 0.02], [3000.0, 30.0]]])
  # 0.01 in float32 is off by 2e-10, which 3000 positions multiply; 1e-5 covers it.
  np.testing.assert_allclose(cos, np.cos(angle), **CLOSE)
  np.testing.assert_allclose(sin, np.sin(angle), **CLOSE)


def test_rotate_pairs_the_first_half_with_the_second():
  quarter = jnp.array([[[0.0, 1.0]]])  # cos of (90 degrees, 0)
  x = jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]])
  got = rope.rotate(x, quarter, jnp.array([[[1.0, 0.0]]]))
  np.testing.assert_array_equal(got, [[[[-3.0, 2.0, 1.0, 4.0]]]])


def test_rotation_keeps_the_norm_of_every_pair():
  x = draw(2, 3, 2, 8)
  cos_sin = rope.cos_sin(jnp.array([[0, 5, 77], [1, 2, 3]]), 8, 10000.0, YarnConfig())
  got = np.asarray(rope.rotate(x, *cos_sin))
  pairs = np.linalg.norm(x.reshape(2, 3, 2, 2, 4), axis=-2)
  np.testing.assert_allclose(np.linalg.norm(got.reshape(2, 3, 2, 2, 4), axis=-2), pairs, **CLOSE)
  assert np.abs(got - x)[:, 1:].max() > 0.5


@pytest.mark.parametrize(
  "scaling",
  [
    None,
    YarnConfig(factor=4.0, original_length=64),
    Llama3RopeConfig(factor=4.0, original_length=64),
  ],
  ids=["plain", "yarn", "llama3"],
)
def test_products_depend_on_distances_only(scaling):
  q, k = draw(1, 1, 1, 8), draw(1, 1, 1, 8, seed=1)

  def product(t, s):
    at = [
      rope.rotate(x, *rope.cos_sin(jnp.array([[p]]), 8, 1e4, scaling)) for x, p in ((q, t), (k, s))
    ]
    return float((at[0] * at[1]).sum())

  # Angles up to 51 radians are rounded at 2e-6; a product of norm ~8 keeps 5e-5.
  assert product(51, 44) == pytest.approx(product(7, 0), abs=5e-5)
  assert product(9, 9) == pytest.approx(float((q * k).sum()), abs=1e-5)
  assert abs(product(7, 0) - product(8, 0)) > 1e-2


def test_rotate_keeps_the_dtype_and_computes_in_float32():
  x = jnp.asarray(draw(1, 2, 1, 4), jnp.bfloat16)
  cos_sin = rope.cos_sin(jnp.array([[3, 200]]), 4, 10000.0)
  got = rope.rotate(x, *cos_sin)
  assert got.dtype == jnp.bfloat16
  want = rope.rotate(x.astype(jnp.float32), *cos_sin).astype(jnp.bfloat16)
  np.testing.assert_array_equal(got, want)


def test_positions_restart_with_every_document():
  position = mask.positions(jnp.array([[4, 4, 4, 9, 9, 0]]))
  cos, _ = rope.cos_sin(position, 4, 10000.0)
  np.testing.assert_array_equal(cos[0, 3:5], cos[0, :2])
  assert np.abs(cos[0, 2] - cos[0, 3]).max() > 0.1
