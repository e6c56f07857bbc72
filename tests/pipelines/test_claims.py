"""What the README says of the two pipelines, at full size. Slow: `pytest -m slow -n 0`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
  ("name", "base", "final", "longer"),
  [("chain", (0.35, 0.55), 0.9, 1.7), ("countdown", (0.15, 0.35), 0.7, 2.2)],
)
def test_thinking_is_discovered(name, base, final, longer, seed, tmp_path):
  command = [sys.executable, "-m", "experiments.pipeline", f"--workdir={tmp_path}"]
  command += [f"--config=configs/pipeline/r1_zero_{name}.py", f"--config.seed={seed}"]
  subprocess.run(command, cwd=ROOT, check=True)
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert base[0] < summary["base_accuracy"] < base[1]
  assert summary["final_accuracy"] >= final
  assert summary["final_length"] >= longer * summary["base_length"]
  votes = summary["majority_accuracy"]
  assert votes["base"]["16"] > votes["base"]["1"] + 0.1
  assert votes["rl"]["16"] - votes["rl"]["1"] < votes["base"]["16"] - votes["base"]["1"]
