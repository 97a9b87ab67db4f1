"""Draw the figures and the report of results again.

  collapse report results/gaussian
  collapse report results/reproduce
  collapse report runs/mine && xdg-open runs/mine/report.html

Takes the --output_dir of an experiment or of `collapse loop`, or a directory in which you saved a `results.nc`. Numbers stay as
they are.
"""

from pathlib import Path

from collapse_jax.cli import reading
from collapse_jax.cli.parts import compare, directory, output

__all__ = ["define", "main"]


def define() -> None:
  """No flags."""


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
