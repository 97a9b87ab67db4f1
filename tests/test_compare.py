"""Published values beside results made by hand: agreement, disagreement, and what has no match."""

import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import xarray
from helpers import outcome

from collapse_jax.diagnostics import published
from collapse_jax.refused import Refused
from experiments import compare


def regression(scale=1.0, seeds=100):
  """Errors as published (base times t under `replace`), or wrong by a factor."""
  rng = np.random.default_rng(0)
  base = 10 / (100 - 10 - 1)
  mean = base * np.array([1.0, 100.0])
  values = scale * mean * np.exp(0.1 * rng.standard_normal((1, 1, 1, 1, 1, seeds, 1)) - 0.005) * np.ones(2)
  grid = ("workflow", "dim", "num_samples", "noise_var", "temperature")
  coordinates = {
    "workflow": ["replace"],
    "dim": [10],
    "num_samples": [100],
    "noise_var": [1.0],
    "temperature": [1.0],
    "generation": [1, 100],
  }
  about = {"worse": "higher", "log_scale": 1, "units": "1", "long_name": "error"}
  return xarray.Dataset(
    {"test_mse": ((*grid, "seed", "generation"), values, about)}, coordinates, {"task": "linear_regression"}
  )


def test_right_values_agree_and_wrong_ones_do_not():
  total = len(published.values())
  rows, unmatched = published.compare({"a": regression()})
  assert [row["agrees"] for row in rows] == [True] and unmatched == total - 1
  assert abs(rows[0]["measured"] - 100) < 5 and rows[0]["experiment"] == "a"
  rows, _ = published.compare({"a": regression(), "b": regression(1.2)})
  assert [(row["experiment"], row["agrees"]) for row in rows] == [("a", True), ("b", False)]


def test_cells_that_do_not_match():
  """Another temperature, an unrecorded generation, a cell that could not run, another metric."""
  total = len(published.values())
  good = regression()
  late = good.sel(generation=[1])
  refused = good.assign(
    cell_status=(("workflow", "dim", "num_samples", "noise_var", "temperature"), np.full((1, 1, 1, 1, 1), "too large"))
  )
  for other in (good.assign_coords(temperature=[0.5]), late, refused, good.rename(test_mse="train_mse")):
    assert published.compare({"a": other}) == ([], total)


def test_runs_that_did_not_end_have_no_mean():
  grid = ("workflow", "num_outcomes", "num_samples")
  times = np.random.default_rng(0).exponential(190.0, (1, 1, 1, 100))
  entropy = np.ones((1, 1, 1, 100, 1))
  results = xarray.Dataset(
    {
      "entropy": ((*grid, "seed", "generation"), entropy, {}),
      "collapse_generation": ((*grid, "seed"), times, {}),
      "censored": ((*grid, "seed"), np.zeros(times.shape, bool), {}),
    },
    {"workflow": ["replace"], "num_outcomes": [10], "num_samples": [100], "generation": [1]},
    {"task": "discrete"},
  )
  rows, _ = published.compare({"a": results})
  assert [row["agrees"] for row in rows] == [True]
  results.censored[..., 3] = True
  assert published.compare({"a": results})[0] == []


def test_the_table_is_sound():
  rows = published.values()
  assert all(row["value"] > 0 and 0 < row["tolerance"] < 0.1 and row["select"] for row in rows)
  keys = [
    (row["source"], row["task"], row["place"], tuple(row["select"].items()), row["metric"], row["generation"])
    for row in rows
  ]
  assert len(set(keys)) == len(keys) > 100


def test_the_table_says_what_was_compared():
  """A line a published value, with its own place, cell, value, tolerance, mean, error and whether they agree."""
  rows, _ = published.compare({"a": regression(), "b": regression(1.2)})
  head, *lines = [re.split(r"  +", line) for line in compare.table(rows).splitlines()]
  assert head == ["source", "what", "cell", "t", "published", "measured", "agrees"] and len(lines) == len(rows) == 2
  for line, row in zip(lines, rows):
    shown = dict(zip(head, line))
    assert shown["source"] == row["source"] and shown["what"] == f"{row['place']}, {row['metric']}"
    assert dict(item.split("=") for item in shown["cell"].split()) == row["select"]
    assert int(shown["t"]) == row["generation"] == 100
    value, tolerance = shown["published"].split(" +- ")
    assert float(value) == pytest.approx(row["value"], rel=6e-4)
    assert float(tolerance.rstrip("%")) / 100 == pytest.approx(row["tolerance"], abs=6e-4)
    mean, error = map(float, shown["measured"].split(" +- "))
    assert mean == pytest.approx(row["measured"], rel=6e-4) and error == pytest.approx(row["standard_error"], rel=0.06)
    assert shown["agrees"] == ("yes" if row["agrees"] else "NO")
  assert [line[-1] for line in lines] == ["yes", "NO"]


def call(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.compare", *map(str, arguments)], capture_output=True, text=True
  )


def written(path):
  folder = path / "some"
  folder.mkdir()
  regression(1.2).to_netcdf(folder / "results.nc", engine="h5netcdf")
  return path


def test_command(tmp_path):
  folder = written(tmp_path) / "some"
  (folder / ".writing-abc").mkdir()  # what a killed process left half done
  (folder / ".writing-abc" / "results.nc").write_bytes((folder / "results.nc").read_bytes()[:1000])
  done = call(tmp_path)
  assert done.returncode == 0 and "0 of 1 agree" in done.stdout and " NO" in done.stdout
  figure = tmp_path / "drawn" / "one.png"
  done = call(tmp_path, "--strict", f"--figure={figure}", "--metrics=test_mse")
  assert done.returncode == 1 and str(figure) in done.stdout and figure.read_bytes().startswith(b"\x89PNG")
  experiments = compare.load(str(tmp_path))
  with matplotlib.rc_context({"figure.facecolor": "red", "text.usetex": True}):  # as a user's matplotlibrc may
    compare.draw(experiments, tmp_path / "again.png", "test_mse")
  assert (tmp_path / "again.png").read_bytes() == figure.read_bytes()
  with pytest.raises(Refused, match="of some one of test_mse, got 'loss'"):
    compare.draw(experiments, tmp_path / "x.png", "loss")
  with pytest.raises(Refused, match=r"ends in \.png"):
    compare.check_figure(tmp_path / "x.jpg")
  done = call(tmp_path / "none", "--figure=x.jpg")  # before anything is read
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--figure must be a file" in done.stderr
  done = call(tmp_path, "--metrics=test_mse")
  assert done.returncode == 2 and done.stderr == "error: --metrics is of the figure that --figure draws.\n"
  done = call()
  assert done.returncode == 2 and "name a directory" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
  ("make", "part"),
  [
    (lambda path: [path / "none"], "no directory"),
    (lambda path: [path], "holds no results.nc"),
    (lambda path: [(path / "results.nc").write_text("x") and path], "cannot be read"),
    (
      lambda path: [xarray.Dataset({"x": ("a", [1.0])}).to_netcdf(path / "results.nc", engine="h5netcdf") or path],
      "must hold",
    ),
    (lambda path: [(path / "results.nc").symlink_to("/dev/zero") or path], "no regular file"),
    (lambda path: [path, "--none"], "none"),
  ],
)
def test_bad_command_lines(make, part, tmp_path):
  said = outcome("compare", [str(one) for one in make(tmp_path)])
  assert part in said and len(said.strip().splitlines()) == 1
