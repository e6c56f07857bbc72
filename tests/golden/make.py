"""Makes the golden files with transformers: `python tests/golden/make.py` (extra `parity`).

Each folder holds a tiny random checkpoint and, in expected.npz, what transformers computes from it
in float32. The ordinary tests read them without torch.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
ROWS, LENGTH, GREEDY = 2, 20, 12

# Another epsilon than that of the latent norms, which is always 1e-6; negative biased scores, which
# a mask of 0 would lose against.
GOLDENS = {
  "deepseek_v3": ("V3: MTP depth 2", {"rms_norm_eps": 1e-3}, {"bias_mean": -1.2}),
  "deepseek_v2": ("V2: group-limited", {}, {}),
  "qwen2": ("Qwen2: tied, old config.json", {}, {}),
  "llama3": ("Llama 3: scaled RoPE", {}, {}),
}


def main():
  sys.path.insert(0, str(FOLDER.parent / "parity"))
  import cases
  import torch_models as tm

  for name, (case_name, fields, changes) in GOLDENS.items():
    case = cases.CASES[case_name]
    changes = {"dtype": "bfloat16"} | changes
    case = dataclasses.replace(case, fields=case.fields | fields, **changes)
    directory = FOLDER / name
    directory.mkdir(exist_ok=True)
    reference = tm.write(case, directory)
    (directory / "generation_config.json").unlink()
    ids = np.random.default_rng(1).integers(3, cases.VOCAB, (ROWS, LENGTH))
    mask = (np.arange(LENGTH)[None] >= np.array([[6], [0]])).astype(np.int32)
    far = np.tile(97 * np.arange(LENGTH), (ROWS, 1))
    near = tm.run(reference, ids)
    tokens, leads = tm.greedy(reference, ids[0, :8].tolist(), GREEDY)
    if (near.margin.size and near.margin.min() < 1e-4) or leads.min() < 1e-3:
      raise ValueError(f"{name}: rounding may decide a choice; change the case's seed.")
    np.savez_compressed(
      directory / "expected.npz",
      ids=ids.astype(np.int32),
      mask=mask,
      far=far.astype(np.int32),
      logits=near.logits,
      padded_logits=tm.run(reference, ids, mask).logits,
      far_logits=tm.run(reference, ids, positions=far).logits,
      experts=near.experts.astype(np.int32),
      mtp_logits=tm.mtp_logits(reference, ids, near.hidden),
      greedy=np.array(tokens, np.int32),
    )
    print(f"{name}: {sum(file.stat().st_size for file in directory.iterdir()):,} bytes")


if __name__ == "__main__":
  main()
