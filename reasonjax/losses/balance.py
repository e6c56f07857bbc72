"""Load balancing of the routers: auxiliary losses, and the bias that needs none.

All take leading axes as they come, such as one over layers. Equation numbers with DSV3 are of arXiv
2412.19437, with DSV2 of 2405.04434, with MoE2017 of 1701.06538.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sequence_balance(
  fraction_BxE: jax.Array, probability_BxE: jax.Array, coefficient: float
) -> jax.Array:
  r"""Sequence-wise balance loss of DeepSeek-V3, expert-level loss of V2; one value a sequence.

  .. math:: L_{Bal} = \alpha \sum_{i=1}^{E} f_i P_i

  Gradient flows through P only; f counts choices. Balanced routing gives alpha. The two differ in
  what f counts: V3 the K best scores, whatever the bias made of them, V2 the experts chosen.

  Args:
    fraction_BxE: f, `E / (K T)` times the tokens of the sequence that count for the expert.
    probability_BxE: P, mean normalised affinity of the sequence's tokens for the expert.
    coefficient: alpha; 1e-4 in V3's paper, 0.003 in V2's.

  Returns: `[B]` float32.

  Implements: DSV3 Eq. 17; DSV2 Eq. 23

  >>> print(sequence_balance(jnp.ones((1, 4)), jnp.full((1, 4), 0.25), 0.5))
  [0.5]
  """
  return coefficient * (jax.lax.stop_gradient(fraction_BxE) * probability_BxE).sum(axis=-1)


def _by_group(x_BxE: jax.Array, groups: int) -> jax.Array:
  return x_BxE.reshape(*x_BxE.shape[:-1], groups, -1)


def device_balance(
  fraction_BxE: jax.Array, probability_BxE: jax.Array, groups: int, coefficient: float
) -> jax.Array:
  r"""DeepSeek-V2's device-level balance loss, one value a sequence.

  .. math:: L_{Dev} = \alpha_2 \sum_{d=1}^{D} f'_d P'_d, \qquad
    f'_d = \frac{1}{|E_d|} \sum_{j \in E_d} f_j, \qquad P'_d = \sum_{j \in E_d} P_j

  Devices are the groups of experts. Balanced devices give alpha, whatever happens inside them.

  Args:
    fraction_BxE: f of the experts chosen.
    probability_BxE: P.
    groups: D.
    coefficient: alpha_2; 0.05 in the paper.

  Returns: `[B]` float32.

  Implements: DSV2 Eq. 26; DSV2 Eq. 27; DSV2 Eq. 28

  >>> print(device_balance(jnp.array([[2.0, 0.0, 1.0, 1.0]]), jnp.full((1, 4), 0.25), 2, 0.5))
  [0.5]
  """
  fraction_BxJ = _by_group(fraction_BxE, groups).mean(axis=-1)
  return sequence_balance(
    fraction_BxJ, _by_group(probability_BxE, groups).sum(axis=-1), coefficient
  )


def communication_balance(
  sent_BxJ: jax.Array, probability_BxE: jax.Array, coefficient: float
) -> jax.Array:
  r"""DeepSeek-V2's communication balance loss, one value a sequence.

  .. math:: L_{Comm} = \alpha_3 \sum_{d=1}^{D} f''_d P''_d, \qquad
    P''_d = \sum_{j \in E_d} P_j

  Device-limited routing bounds what a device sends; this balances what it receives.

  Args:
    sent_BxJ: f'', `D / (M T)` times the tokens of the sequence sent to the device.
    probability_BxE: P.
    coefficient: alpha_3; 0.02 in the paper.

  Returns: `[B]` float32; alpha if each token uses M devices and all devices equally.

  Implements: DSV2 Eq. 29; DSV2 Eq. 31

  >>> print(communication_balance(jnp.array([[1.0, 1.0]]), jnp.full((1, 4), 0.25), 0.5))
  [0.5]
  """
  grouped_BxJxE = _by_group(probability_BxE, sent_BxJ.shape[-1])
  return sequence_balance(sent_BxJ, grouped_BxJxE.sum(axis=-1), coefficient)


def squared_variation(value_E: jax.Array, coefficient: float) -> jax.Array:
  r"""Squared coefficient of variation over experts: the importance loss and the load loss.

  .. math:: L = w \, \mathrm{CV}(X)^2 = w \, \mathrm{Var}(X) / \mathrm{Mean}(X)^2

  Args:
    value_E: importance (the batch's sum of gate values) or load of each expert, not negative.
    coefficient: w; 0.1 in the paper, for both.

  Returns: a scalar for each layer, 0 if all experts are equal.

  Implements: MoE2017 Eq. 7; MoE2017 Eq. 11

  >>> print(squared_variation(jnp.array([1.0, 3.0]), 0.5))
  0.125
  """
  mean = jnp.maximum(value_E.mean(axis=-1), 1e-9)
  return coefficient * value_E.var(axis=-1) / jnp.square(mean)


def update_bias(bias: jax.Array, load: jax.Array, rate: float) -> jax.Array:
  r"""Moves every expert's bias one step towards balance, once an optimizer step.

  .. math:: b_i \leftarrow b_i + \gamma \, \mathrm{sign}(\bar c - c_i)

  Args:
    bias: `[..., E]` float32.
    load: `[..., E]`, tokens each expert received over the whole global batch.
    rate: gamma; 0 freezes the bias.

  Returns: `[..., E]` float32.

  Source: DSV3 section 2.1.2 and arXiv 2408.15664, Algorithm 1.

  >>> print(update_bias(jnp.zeros(3), jnp.array([4.0, 2.0, 3.0]), 0.5))
  [-0.5  0.5  0. ]
  """
  load = load.astype(jnp.float32)
  return bias + rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)
