"""Results beside the published values, in a table that says where they agree.

  python -m experiments.compare results/gaussian
  python -m experiments.compare results/kde results/linear_regression
  python -m experiments.compare results/reproduce --strict
  python -m experiments.compare results/vae results/linear_regression --figure=both.png --metrics=test_negative_elbo,test_mse

Takes the output directories of any experiments, also of `reproduce`. --strict ends with status 1 if a value does not agree.
--figure draws a panel an experiment, a curve a workflow: what different generators have in common in the same loops.
"""

from pathlib import Path

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values, output
from .directory import RESULTS


def define():
  """Flags of this binary."""
  flags.DEFINE_boolean("strict", False, "Exit status 1 if any value disagrees.")
  flags.DEFINE_string("figure", None, "PNG file to draw, with the experiments side by side.")
  flags.DEFINE_string("metrics", "", "Comma list: of that figure, one for each experiment; default the first of each.")


def load(directory: str) -> dict:
  """name -> Dataset of every results.nc below a directory."""
  return {str(file.parent): read(file) for file in files(directory)}


def files(directory: str) -> list[Path]:
  """Every results.nc below a directory."""
  path = Path(directory)
  if not path.is_dir():
    raise Refused(f"{directory} is no directory; name the --output_dir of an experiment.")
  hidden = lambda file: any(part.startswith(".") for part in file.relative_to(path).parts)  # half written
  found = sorted(file for file in path.rglob(RESULTS) if not hidden(file))
  if not found:
    raise Refused(f"{directory} holds no {RESULTS}; run an experiment with --output_dir={directory} first.")
  return found


def read(file: Path):
  """The Dataset in a file."""
  import collapse_jax
  from collapse_jax import diagnostics

  try:
    results = collapse_jax.load(file)
    diagnostics.complete(results)
  except Refused as error:
    reason = str(error) if str(file) in str(error) else f"{file} cannot be read as results: {error}"
    raise Refused(f"{reason} Run its experiment again.") from None
  return results


def table(rows) -> str:
  """Aligned columns of text."""
  head = ("source", "what", "cell", "t", "published", "measured", "agrees")
  lines = [head]
  for row in rows:
    cell = " ".join(f"{name}={value}" for name, value in row["select"].items())
    lines.append(
      (
        row["source"],
        f"{row['place']}, {row['metric']}",
        cell,
        str(row["generation"] or "-"),
        f"{row['value']:.4g} +- {row['tolerance']:.1%}",
        f"{row['measured']:.4g} +- {row['standard_error']:.2g}",
        "yes" if row["agrees"] else "NO",
      )
    )
  return aligned(lines)


def check_figure(file: Path) -> None:
  """Raises Refused where no figure can be written there."""
  if file.suffix != ".png":
    raise Refused.must_be("figure", "a file whose name ends in .png", str(file))
  output.check_writable("figure", file.parent)


def draw(experiments, file: Path, metrics: str) -> None:
  """The figure of all experiments, of metrics in a comma list."""
  from collapse_jax import plotting
  from collapse_jax.plotting import figures

  short = {name: Path(name).name for name in experiments}
  if len(set(short.values())) < len(short):
    short = {name: name for name in experiments}
  named = {short[name]: results for name, results in experiments.items()}
  with figures.own_style():
    drawn = plotting.png(plotting.side_by_side(named, metrics.split(",") if metrics else ()))
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(drawn)
  print(file)


def aligned(lines) -> str:
  """Rows of text, as columns."""
  widths = [max(map(len, column)) for column in zip(*lines)]
  return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def main(directories):
  if not directories:
    raise Refused(f"name a directory with results: {flag_values.program()} DIR")
  figure = Path(flag_values.FLAGS.figure) if flag_values.FLAGS.figure else None
  if figure is not None:
    check_figure(figure)
  elif flag_values.FLAGS.metrics:
    raise Refused(
      "--metrics is of the figure that --figure draws.", argument="metrics", value=flag_values.FLAGS.metrics
    )
  experiments = {name: results for directory in directories for name, results in load(directory).items()}
  if figure is not None:
    draw(experiments, figure, flag_values.FLAGS.metrics)
  from collapse_jax.diagnostics import published

  try:
    rows, unmatched = published.compare(experiments)
  except Refused as error:
    raise Refused(f"{directories[0]}: {error}") from None
  print(table(rows) if rows else "no cell of these results has a published value")
  agreeing = sum(row["agrees"] for row in rows)
  print(
    f"{agreeing} of {len(rows)} agree (within the tolerance, or 4 standard errors); {unmatched} published values have "
    "no cell in these results"
  )
  if flag_values.FLAGS.strict and agreeing < len(rows):
    raise SystemExit(1)


if __name__ == "__main__":
  common.main(define, main, arguments=True)
