"""The pictures and the page that an R1-Zero run leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reasonjax.metrics import plots, writer
from reasonjax.metrics.report import Report

# File name -> caption and figure.
Figures = dict[str, tuple[str, Figure]]
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
    f"responses {summary['final_length'] / summary['base_length']:.1f} times as long.",
  )
  report.table(("", "base", "after RL"), _comparison(summary, results))
  report.figures({caption: figure for caption, figure in figures.values()})
  report.heading("Responses to held-out problems, before and after")
  report.samples(_samples(directory))
  report.heading("Speed and environment")
  report.table(("", ""), _speed(summary))
  report.folded("Configuration", (directory / "config.json").read_text())
  report.write(directory / "report.html")


def draw(directory: Path, summary: dict[str, Any], results: dict[str, dict[str, Any]]) -> Figures:
  """All figures by file name, with their captions."""
  trained = writer.read(directory / "3_rl" / "metrics.jsonl")
  pretrained = writer.read(directory / "1_pretrain" / "metrics.jsonl")
  time = ("Wall time of all stages.", plots.time_split(summary["time_split_s"]))
  return (
    _reinforcement(trained)
    | _measurements(summary, results)
    | _pretraining(pretrained)
    | {"time": time}
  )


def _reinforcement(rows: list[dict]) -> Figures:
  def of(name):
    return writer.series(rows, name)

  both = plots.accuracy_and_length([of("accuracy")], [of("length")], [of("eval/accuracy")])
  think = plots.curves(
    {"think": of("think_share")}, "Who thinks", "RL step", "share of responses", (0, 1.02)
  )
  entropy = plots.curves({"entropy": of("entropy")}, "Entropy", "RL step", "nats a token")
  length = plots.curves(
    {"right": of("length_correct"), "wrong": of("length_wrong")},
    "Length by outcome",
    "RL step",
    "tokens",
  )
  return {
    "accuracy_and_length": (
      "Accuracy of the training rollouts and of held-out problems, and mean response length; the "
      "band is the scatter from step to step.",
      both,
    ),
    "think_share": ("Share of training responses that think before they answer.", think),
    "entropy": ("Mean entropy of the policy at the sampled tokens.", entropy),
    "length": (
      "Response length of right and wrong answers; a step without any wrong answer has no point.",
      length,
    ),
  }


def _measurements(summary: dict[str, Any], results: dict[str, dict[str, Any]]) -> Figures:
  votes = summary["majority_accuracy"]
  majority = plots.majority({"base": votes["base"], "after RL": votes["rl"]})
  difficulty = plots.by_difficulty(*_levels(results), "difficulty")
  return {
    "majority": ("Majority vote over N samples of each held-out problem.", majority),
    "difficulty": (
      "Held-out accuracy by difficulty (operations, or options per solution).",
      difficulty,
    ),
  }


def _pretraining(rows: list[dict]) -> Figures:
  names = [name for name in ("ce", "mtp_ce") if _has(rows, name)]
  series = {name: writer.series(rows, name) for name in names}
  figures = {
    "pretrain_loss": (
      "Cross entropy of the next token and, from the MTP module, of the one after it.",
      plots.curves(series, "Pretraining", "step", "nats a token"),
    )
  }
  if _has(rows, "expert_share"):
    steps, share = writer.series(rows, "expert_share")
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
  rows = []
  first = {
    who: _first_responses(directory / stage / "samples.jsonl")
    for who, stage in (("base", "2_evaluate_base"), ("after RL", "4_evaluate_rl"))
  }
  for prompt in list(first["base"])[:_SAMPLES]:
    for who, responses in first.items():
      rows.append((prompt, who, *responses[prompt]))
  return rows


def _first_responses(path: Path) -> dict[str, tuple[str, bool]]:
  """Prompt -> first response to it and whether it is right, in the order of the file."""
  found: dict[str, tuple[str, bool]] = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    found.setdefault(row["prompt"], (row["response"], row["correct"]))
  return found


def compare(directories: Sequence[Path], output: Path) -> list[tuple]:
  """Draws `accuracy_and_length.png` and `majority.png` over several runs, as a rule seeds of one.

  Args:
    directories: finished runs.
    output: folder for the figures; created if missing.

  Returns: table of mean, lowest and highest value over the runs, by quantity.

  Raises:
    FileNotFoundError: naming a run that has no summary.
  """
  summaries = [json.loads((directory / "summary.json").read_text()) for directory in directories]
  runs = [writer.read(directory / "3_rl" / "metrics.jsonl") for directory in directories]

  def of(name):
    return [writer.series(rows, name) for rows in runs]

  title = f"R1-Zero: accuracy and response length rise together ({len(runs)} seeds)"
  figures = {
    "accuracy_and_length": plots.accuracy_and_length(
      of("accuracy"), of("length"), of("eval/accuracy"), title
    ),
    "majority": plots.majority(
      {
        name: _mean_votes([summary["majority_accuracy"][key] for summary in summaries])
        for name, key in (("base", "base"), ("after RL", "rl"))
      }
    ),
  }
  output.mkdir(parents=True, exist_ok=True)
  for name, figure in figures.items():
    figure.savefig(output / f"{name}.png")
  votes = max(summaries[0]["majority_accuracy"]["base"], key=int)
  quantities = {
    "accuracy of the base model": lambda s: s["base_accuracy"],
    "accuracy after RL": lambda s: s["final_accuracy"],
    "length of the base model's responses (tokens)": lambda s: s["base_length"],
    "length after RL (tokens)": lambda s: s["final_length"],
    "length, ratio": lambda s: s["final_length"] / s["base_length"],
    "think share of the base model": lambda s: s["base_think_share"],
    "think share after RL": lambda s: s["think_share"],
    f"majority of {votes}, base model": lambda s: s["majority_accuracy"]["base"][votes],
    f"majority of {votes}, after RL": lambda s: s["majority_accuracy"]["rl"][votes],
    "wall time of all stages (s)": lambda s: sum(s["wall_s"].values()),
    "wall time of RL (s)": lambda s: s["wall_s"]["rl"],
    "generation (tokens/s)": lambda s: s["generate_tokens_per_s"],
    "pretraining (tokens/s)": lambda s: s["train_tokens_per_s"],
    "policy training (tokens/s)": lambda s: s["rl_train_tokens_per_s"],
    "host share of an RL step": lambda s: s["rl_host_share"],
    "peak memory (GB)": lambda s: s["peak_memory_gb"],
  }
  rows = []
  for name, quantity in quantities.items():
    values = [quantity(summary) for summary in summaries]
    rows.append((name, float(np.mean(values)), min(values), max(values)))
  return rows


def _mean_votes(by_run: Sequence[dict[str, float]]) -> dict[str, float]:
  return {size: float(np.mean([votes[size] for votes in by_run])) for size in by_run[0]}
