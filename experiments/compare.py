"""Mean and spread of several runs of one pipeline, as a table and figures.

python -m experiments.compare --output=runs/chain_seeds runs/chain_0 runs/chain_1 runs/chain_2
"""

from pathlib import Path

from absl import app, flags

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the figures.", required=True)


def main(arguments: list[str]) -> None:
  from reasonjax.pipelines import r1_zero_report

  directories = [Path(argument) for argument in arguments[1:]]
  if not directories:
    raise app.UsageError("name the directories of at least one finished run.")
  print("| | mean | lowest | highest |\n|---|---|---|---|")
  for name, *values in r1_zero_report.compare(directories, Path(_OUTPUT.value)):
    shown = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values)
    print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
  app.run(main)
