"""The pictures and the page that an R1-Zero run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reasonjax.metrics import plots, writer
from reasonjax.metrics.report import Report

# Problems whose responses before and after are shown.
_SAMPLES = 8


def write(directory: Path, summary: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
  """Draws `figures/*.png` and writes `report.html`.

  Args:
    directory: of the pipeline.
    summary: as in `summary.json`.
    results: by stage.
  """
  figures = draw(directory, summary, results)
  folder = directory / "figures"
  folder.mkdir(exist_ok=True)
  for name, (_, figure) in figures.items():
    figure.savefig(folder / f"{name}.png")
  report = Report(
    "R1-Zero, from nothing",
    f"A base model answered {summary['base_accuracy']:.0%} of held-out problems; after "
    f"reinforcement learning on verified answers alone, {summary['final_accuracy']:.0%}, with "
    "responses "
    f"{summary['final_length'] / summary['base_length']:.1f} times as long.",
  )
  report.table(("", "base", "after RL"), _comparison(summary, results))
  report.figures({caption: figure for caption, figure in figures.values()})
  report.heading("Responses to held-out problems, before and after")
  report.samples(_samples(directory))
  report.heading("Speed and environment")
  report.table(("", ""), _speed(summary))
  report.folded("Configuration", (directory / "config.json").read_text())
  report.write(directory / "report.html")


def draw(
  directory: Path, summary: dict[str, Any], results: dict[str, dict[str, Any]]
) -> dict[str, tuple[str, Figure]]:
  """All figures by file name, with their captions."""
  pretrained = writer.read(directory / "1_pretrain" / "metrics.jsonl")
  rows = writer.read(directory / "3_rl" / "metrics.jsonl")
  trained = [row for row in rows if "accuracy" in row]

  def rl(name):
    return writer.series(trained, name)

  curve = "Accuracy of the training rollouts and of held-out problems, and mean response length"
  figures = {
    "accuracy_and_length": (
      f"{curve}; the band is the scatter from step to step.",
      plots.accuracy_and_length(
        [rl("accuracy")], [rl("length")], [writer.series(rows, "eval/accuracy")]
      ),
    ),
    "think_share": (
      "Share of training responses that think before they answer.",
      plots.curves(
        {"think": rl("think_share")}, "Who thinks", "RL step", "share of responses", (0, 1.02)
      ),
    ),
    "entropy": (
      "Mean entropy of the policy at the sampled tokens.",
      plots.curves({"entropy": rl("entropy")}, "Entropy", "RL step", "nats a token"),
    ),
    "length": (
      "Response length of right and wrong answers; a step without any wrong answer counts as 0.",
      plots.curves(
        {"right": rl("length_correct"), "wrong": rl("length_wrong")},
        "Length by outcome",
        "RL step",
        "tokens",
      ),
    ),
    "majority": (
      "Majority vote over N samples of each held-out problem.",
      plots.majority(
        {
          "base": summary["majority_accuracy"]["base"],
          "after RL": summary["majority_accuracy"]["rl"],
        }
      ),
    ),
    "difficulty": (
      "Held-out accuracy by difficulty (operations, or options per solution).",
      plots.by_difficulty(*_levels(results), "difficulty"),
    ),
    "pretrain_loss": (
      "Cross entropy of the next token and, from the MTP module, of the one after it.",
      plots.curves(
        {
          name: writer.series(pretrained, name)
          for name in ("ce", "mtp_ce")
          if _has(pretrained, name)
        },
        "Pretraining",
        "step",
        "nats a token",
      ),
    ),
    "time": ("Wall time of all stages.", plots.time_split(summary["time_split_s"])),
  }
  if _has(pretrained, "expert_share"):
    steps, share = writer.series(pretrained, "expert_share")
    figures["expert_load"] = (
      "Routed tokens by expert during pretraining, kept level by the routers' biases.",
      plots.expert_load(steps, np.array(share), "Expert load"),
    )
  return figures


def _has(rows: list[dict], name: str) -> bool:
  return any(row.get(name) is not None for row in rows)


def _levels(results) -> tuple[dict, dict]:
  """Accuracy by difficulty before and after, difficulties binned into at most eight."""
  before, after = (results[name]["accuracy_by_difficulty"] for name in ("base", "final"))
  levels = sorted(int(level) for level in before)
  if len(levels) <= 8:
    return before, after
  edges = np.array_split(np.array(levels), 8)
  bins = {str(int(edge[0])): [str(level) for level in edge] for edge in edges}
  return tuple(
    {name: float(np.mean([found[level] for level in members])) for name, members in bins.items()}
    for found in (before, after)
  )


def _comparison(summary, results) -> list[tuple]:
  base, final = results["base"], results["final"]

  def interval(result):
    low, high = result["accuracy_interval"]
    return f"{result['accuracy']:.3f} ({low:.3f} to {high:.3f})"

  votes = max(base["majority_accuracy"], key=int)
  return [
    ("accuracy, one sample (95 % interval over problems)", interval(base), interval(final)),
    (
      f"accuracy, majority of {votes}",
      base["majority_accuracy"][votes],
      final["majority_accuracy"][votes],
    ),
    (f"pass@{votes}", base["pass_at_k"][votes], final["pass_at_k"][votes]),
    ("response length (tokens)", base["length"], final["length"]),
    ("share that thinks", base["think_share"], final["think_share"]),
    ("share cut off", base["truncated"], final["truncated"]),
  ]


def _speed(summary) -> list[tuple]:
  return [
    ("generation (tokens/s)", summary["generate_tokens_per_s"]),
    ("pretraining (tokens/s)", summary["train_tokens_per_s"]),
    ("policy training (tokens/s)", summary["rl_train_tokens_per_s"]),
    ("host share of an RL step", summary["rl_host_share"]),
    ("wall time of all stages (s)", sum(summary["wall_s"].values())),
    ("peak memory (GB)", summary["peak_memory_gb"]),
    ("seed", summary["seed"]),
    ("devices", summary["devices"]),
    ("versions", ", ".join(f"{name} {value}" for name, value in summary["versions"].items())),
    ("command", summary["command"]),
  ]


def _samples(directory: Path) -> list[tuple[str, str, str, bool]]:
  """First response of both models to the first problems."""
  files = {"base": "2_evaluate_base", "after RL": "4_evaluate_rl"}
  found = {
    who: [json.loads(line) for line in (directory / folder / "samples.jsonl").open()][:_SAMPLES]
    for who, folder in files.items()
  }
  rows = []
  for before, after in zip(*found.values(), strict=True):
    for who, row in (("base", before), ("after RL", after)):
      rows.append((row["prompt"], who, row["responses"][0], row["correct"][0]))
  return rows
