"""The published matrix in parts: each is run once, kept whole or not at all, and shown beside what was published."""

import numpy as np
import pytest
import xarray
from helpers import own_flags

from benchmarks import published_matrix as matrix
from experiments import kde, linear_regression


@pytest.fixture
def small(monkeypatch):
  """Two parts that take a second, and which of them were run."""
  ran, plain = [], matrix.run
  size = {"workflows": ["replace"], "num_samples": [100], "num_generations": 100, "num_seeds": 20}
  parts = {
    "linear_regression": (linear_regression.simulate, size | {"dims": [10], "noise_vars": [1.0]}),
    "kde/moons": (kde.simulate, size | {"datasets": ["moons"], "bandwidths": [0.5], "num_generations": 2}),
  }
  monkeypatch.setattr(matrix, "parts", lambda: parts)
  monkeypatch.setattr(matrix, "run", lambda part, work_dir: ran.append(part) or plain(part, work_dir))
  figures = {"kde": "test_nll", "linear_regression": "test_mse"}
  drawn = {name: matrix.Figure("num_samples", ((metric, {}),)) for name, metric in figures.items()}
  monkeypatch.setattr(matrix, "FAMILIES", matrix.FAMILIES | drawn)
  return ran


def test_parts_are_run_once_and_shown(small, tmp_path, monkeypatch):
  """Statistics over seeds as the sweep had them; a part that is in the file is not run again; the page says what is missing."""
  whole = []
  plain = matrix.reduced
  monkeypatch.setattr(matrix, "reduced", lambda results: whole.append(results) or plain(results))
  paths = {"data": tmp_path / "m.nc", "page": tmp_path / "docs" / "page.md", "work_dir": tmp_path / "work"}

  def main(parts):
    with own_flags():
      matrix.main([f"--parts={parts}", *(f"--{name}={path}" for name, path in paths.items())])
    return paths["page"].read_text()

  text = main("linear*")
  assert small == ["linear_regression"] and not list(paths["work_dir"].rglob("*.npz"))
  assert "Finished: 20 of 40 runs (50%)." in text and "| kde/moons | 20 | not run yet |" in text
  (found,) = matrix.kept(paths["data"]).values()
  (results,) = whole
  sample = results.test_mse.sel(generation=100).values.ravel()
  last = found.sel(generation=100)
  assert last.test_mse_mean.item() == pytest.approx(sample.mean(), rel=1e-5)
  assert last.test_mse_standard_error.item() == pytest.approx(sample.std(ddof=1) / np.sqrt(20), rel=1e-5)
  assert last.test_mse_quantile.values.ravel() == pytest.approx(np.quantile(sample, matrix.QUANTILES), rel=1e-5)
  assert found.generation[0] == 1 and found.sizes["generation"] <= matrix.NUM_GENERATIONS
  row = next(line for line in text.splitlines() if line.startswith("| notebook 07"))
  assert "| test_mse | 100 | 100 |" in row and row.endswith("| yes |")
  assert (paths["page"].parent / "figures" / "reproduction_linear_regression.png").stat().st_size > 1000

  text = main("*")
  assert small == ["linear_regression", "kde/moons"] and "Finished: 40 of 40 runs (100%)." in text
  assert set(matrix.kept(paths["data"])) == set(small)
  main("*")
  assert len(small) == 2


def test_a_part_that_fails_leaves_the_file_as_it_was(small, tmp_path, monkeypatch):
  data = tmp_path / "m.nc"
  keep = lambda part: matrix.keep(part, xarray.Dataset({"a": 1.0}), data)
  keep("x")
  before = data.read_bytes()
  monkeypatch.setattr(xarray.Dataset, "to_netcdf", lambda self, path, **_: path.write_bytes(b"half") and 1 / 0)
  with pytest.raises(ZeroDivisionError):
    keep("y")
  assert data.read_bytes() == before and list(matrix.kept(data)) == ["x"]


def test_all_published_runs_are_in_a_part():
  """116,500 of the five experiments, and beside them those of the published defect."""
  parts = matrix.parts()
  assert sum(matrix.num_runs(options) for name, (_, options) in parts.items() if name not in matrix.BESIDE) == 116_500
  assert set(map(matrix._family, parts)) == set(matrix.FAMILIES)
