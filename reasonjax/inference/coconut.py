"""Generation after continuous thoughts: the prompt's prefill thinks, then sampling is as ever."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax

from reasonjax.core.types import Rollout
from reasonjax.data.coconut import Markers
from reasonjax.inference.engine import Engine
from reasonjax.inference.logits import Sampling
from reasonjax.models.config import ModelConfig
from reasonjax.models.latent import LatentTransformer


class LatentEngine(Engine):
  """An Engine that thinks `latents` times after every prompt, once for all samples of a group."""

  def __init__(
    self,
    config: ModelConfig,
    variables: dict,
    *,
    latents: int,
    markers: Markers,
    prompt_buckets: Sequence[int] = (32, 128, 512),
    **options,
  ):
    """Args:
    config: the model's.
    variables: its parameters and router biases.
    latents: continuous thoughts between `<bot>` and `<eot>`.
    markers: ids of these.
    prompt_buckets: lengths that prompts are padded to, before the thoughts are added.
    **options: as of Engine.
    """
    self._frame = markers.frame(latents)
    buckets = [length + len(self._frame) for length in prompt_buckets]
    ids = {"latent_id": markers.latent_id, "eot_id": markers.eot_id}
    network = functools.partial(LatentTransformer, latents=latents, **ids)
    super().__init__(config, variables, prompt_buckets=buckets, network=network, **options)

  def generate(
    self, prompts: Sequence[Sequence[int]], sampling: Sampling, key: jax.Array
  ) -> Rollout:
    """Samples what follows the thoughts; arguments as of `Engine.generate`.

    Returns: completions; their prompts end with the thoughts' places.
    """
    return super().generate([[*prompt, *self._frame] for prompt in prompts], sampling, key)
