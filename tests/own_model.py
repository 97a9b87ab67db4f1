"""scikit-learn's mixture as README.md has it, in a sweep that can be killed: python tests/own_model.py DIRECTORY"""

import re
import sys
from pathlib import Path

import collapse_jax as cj

WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.5)", "sliding_window(2)"]
README = Path(__file__).parent.parent / "README.md"


def readme():
  """The lines that define the task."""
  text = README.read_text().split("**Your own model, any Python.**")[1]
  return re.search(r"```python\n(.*?)```", text, re.S)[1]


def mixture():
  """The factory of README.md."""
  names = {}
  exec(compile(readme(), str(README), "exec"), names)
  return names["mixture"]


def swept(**options):
  axes = {"num_samples": [60], "num_components": [3]}
  return cj.sweep(mixture(), WORKFLOWS, axes, num_generations=4, num_seeds=2, driver="host", **options)


if __name__ == "__main__":
  out = Path(sys.argv[1])
  swept(directory=out / "checkpoints", resume=True).to_netcdf(out / "results.nc", engine="h5netcdf")
