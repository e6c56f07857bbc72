"""Group-relative policy optimisation: the objective on packed rollouts and the RL loop."""

from __future__ import annotations

import jax

from reasonjax.core.types import RLBatch
from reasonjax.inference import score
from reasonjax.losses import policy
from reasonjax.losses.policy import PolicyConfig
from reasonjax.models.transformer import Transformer
from reasonjax.train.step import LossFn, LossOutput


def make_loss(
  model: Transformer,
  config: PolicyConfig,
  *,
  temperature: float,
  on_policy: bool,
  chunk: int | None = None,
) -> LossFn:
  """The policy objective of one microbatch of packed rollouts.

  Args:
    model: the network.
    config: the algorithm.
    temperature: of sampling; log-probabilities are those of the distribution sampled from.
    on_policy: one update a rollout, so that the old policy is the current one and its
      log-probabilities need no pass of their own.
    chunk: tokens whose logits are held at once, or None for all.
  """

  def loss(params: dict, router: dict, batch: RLBatch):
    variables = {"params": params, "router": router}
    scores = score.token_scores(
      model, variables, batch.ids_BxT, batch.segment_BxT, temperature=temperature, chunk=chunk
    )
    if on_policy:
      batch = batch.replace(old_logp_BxT=jax.lax.stop_gradient(scores.logp_BxT))
    total, weight, metrics = policy.policy_loss(scores.logp_BxT, scores.entropy_BxT, batch, config)
    return total, LossOutput(weight, metrics, load={})

  return loss
