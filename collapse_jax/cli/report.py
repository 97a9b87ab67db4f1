"""Draw the figures and the report of results again.

  collapse report results/gaussian
  collapse report results/reproduce
  collapse report runs/mine --open

Takes the --output_dir of an experiment or of `collapse loop`, or a directory in which you saved a `results.nc`. Numbers stay as
they are.
"""

import webbrowser
from pathlib import Path

from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import compare, directory, flag_values, output

__all__ = ["define", "main"]


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_boolean("open", False, "Show the page in a browser.")


def main(arguments: list[str]) -> None:
  """Writes figures/ and report.html."""
  place = reading.only(arguments, "one directory with results")
  path = Path(place)
  files = [path / name for name in directory.made(path) if Path(name).name == directory.RESULTS] or compare.files(place)
  for file in files:
    compare.read(file)
  output.check_writable("output_dir", path)
  output.redraw(path, [str(file.parent.relative_to(path)) for file in files])
  print(path / directory.REPORT)
  if flag_values.FLAGS.open:
    webbrowser.open((path / directory.REPORT).resolve().as_uri())
