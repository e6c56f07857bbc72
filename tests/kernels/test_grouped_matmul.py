"""Grouped products: three implementations of one thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonjax.kernels import grouped_matmul as gm

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
D, F, E, ROWS = 5, 3, 4, 24
SIZES = {
  "even": (8, 4, 4, 8),
  "uneven": (4, 16, 0, 4),
  "first_empty": (0, 0, 8, 16),
  "last_empty": (8, 8, 0, 0),
  "one": (0, 24, 0, 0),
  "none": (0, 0, 0, 0),
}


@functools.cache
def inputs():
  rng = np.random.default_rng(0)
  shapes = [(ROWS, D), (E, D, F), (ROWS, F)]
  return tuple(rng.normal(0, 1, shape).astype(np.float32) for shape in shapes)


@functools.cache
def value_and_grad(implementation, alignment):
  def loss(x, weight, probe, size):
    out = gm.grouped_matmul(x, weight, size, alignment=alignment, implementation=implementation)
    return (out * probe).sum(), out

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def by_hand(x, weight, probe, size):
  """Float64 output and gradients."""
  out, d_x, d_weight = np.zeros((ROWS, F)), np.zeros((ROWS, D)), np.zeros((E, D, F))
  row = 0
  for group in range(E):
    for _ in range(size[group]):
      out[row] = x[row].astype(np.float64) @ weight[group]
      d_x[row] = weight[group].astype(np.float64) @ probe[row]
      d_weight[group] += np.outer(x[row].astype(np.float64), probe[row])
      row += 1
  return out, d_x, d_weight


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("implementation", gm.IMPLEMENTATIONS)
def test_values_and_gradients_equal_float64(implementation, name):
  x, weight, probe = inputs()
  size = np.array(SIZES[name], np.int32)
  inside = np.arange(ROWS) < size.sum()
  x = np.where(inside[:, None], x, 0)  # as the function asks of rows beyond the last group
  alignment = 4 if implementation == "blocked" else 1
  (_, out), (d_x, d_weight) = value_and_grad(implementation, alignment)(x, weight, probe, size)
  want, want_x, want_weight = by_hand(x, weight, probe, size)
  np.testing.assert_allclose(out, want, **CLOSE)
  np.testing.assert_allclose(d_x[inside], want_x[inside], **CLOSE)
  np.testing.assert_allclose(d_weight, want_weight, **CLOSE)


def test_the_default_is_right_for_sizes_of_its_alignment():
  x, weight, probe = inputs()
  implementation = gm.default_implementation()
  assert implementation in gm.IMPLEMENTATIONS
  alignment = gm.row_alignment(ROWS, 3, implementation)
  size = np.array([8, 0, 16, 0], np.int32)
  got = gm.grouped_matmul(x, weight, size, alignment=alignment)
  np.testing.assert_allclose(got, by_hand(x, weight, probe, size)[0], **CLOSE)


@pytest.mark.parametrize("implementation", gm.IMPLEMENTATIONS)
def test_bfloat16_in_bfloat16_out(implementation):
  x, weight, _ = (jnp.asarray(a, jnp.bfloat16) for a in inputs())
  size = jnp.array(SIZES["uneven"], jnp.int32)
  got = gm.grouped_matmul(x, weight, size, alignment=4, implementation=implementation)
  assert got.dtype == jnp.bfloat16


@given(rows=st.integers(0, 10**6), groups=st.integers(1, 512))
def test_row_alignment_is_a_power_of_two_near_the_mean(rows, groups):
  got = gm.row_alignment(rows, groups, "blocked")
  assert 8 <= got <= 128
  assert got & (got - 1) == 0
  mean = rows / groups
  if 32 <= mean <= 256:
    assert mean / 4 <= got <= mean + 1
  assert gm.row_alignment(rows, groups, "ragged") == gm.row_alignment(rows, groups, "loop") == 1


def test_unknown_implementations_are_refused():
  x, weight, _ = inputs()
  with pytest.raises(ValueError, match=r"implementation='dense': choose from .*blocked"):
    gm.grouped_matmul(x, weight, jnp.zeros(E, jnp.int32), implementation="dense")


def test_rows_must_be_a_multiple_of_the_alignment():
  x, weight, _ = inputs()
  with pytest.raises(ValueError, match="24 rows are not a multiple of alignment=7"):
    gm.grouped_matmul(x, weight, jnp.zeros(E, jnp.int32), alignment=7)
