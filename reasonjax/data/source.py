"""Where documents come from: random-access sources that grain can index, shuffle and resume."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reasonjax.data.tokenizer import Tokenizer, start_ids

# Endless as far as any run is concerned; grain wants a length.
ENDLESS = 2**40


class GeneratedDocuments:
  """Documents made on the fly: index i always gives the same one."""

  def __init__(self, make: Callable[[int], str], tokenizer: Tokenizer):
    """Args:
    make: text of the i-th document.
    tokenizer: turns it into ids, framed by BOS and EOS.
    """
    self._make, self._tokenizer = make, tokenizer

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    ids = self._tokenizer.encode(self._make(int(index)))
    ids = np.array([*start_ids(self._tokenizer), *ids, self._tokenizer.eos_id], np.int32)
    return {"ids": ids, "loss": np.ones(len(ids), np.float32)}
