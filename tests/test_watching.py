"""What `--log_dir` and `--profile` write can be read: curves per cell, figures, a trace."""

import numpy as np
import pytest
import xarray
from helpers import run, values

from experiments import watching

pytestmark = pytest.mark.slow


def test_events_and_trace(tmp_path):
  """Twice into one place: points are there once."""
  for seed, profile in ((0, ()), (1, ("--profile",))):
    run(
      "-m",
      "experiments.gaussian",
      "--dims=1",
      "--num_samples=10",
      "--workflows=replace",
      "--num_seeds=3",
      "--num_generations=4",
      f"--seed={seed}",
      f"--log_dir={tmp_path / 'logs'}",
      *profile,
      f"--output_dir={tmp_path / 'out'}",
      "--overwrite",
    )
  results = xarray.load_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf")
  (cell,), figures = (
    [one for name, one in values(tmp_path / "logs").items() if (name == "figures") == is_figure]
    for is_figure in (False, True)
  )
  curve = [(step, value.simple_value) for tag, step, value in cell if tag == "squared_error_of_mean"]
  assert [step for step, _ in curve] == [1, 2, 3, 4] and len({tag for tag, _, _ in cell}) > 3
  expected = results.squared_error_of_mean.mean("seed").values.ravel()
  np.testing.assert_allclose([value for _, value in curve], expected, rtol=1e-5)
  assert any(value.HasField("image") for _, _, value in figures[0]) and any(
    tag.startswith("flags") for tag, _, _ in figures[0]
  )
  assert list((tmp_path / "out" / "profile").rglob("*.xplane.pb"))


def test_a_cell_that_comes_again(tmp_path):
  """Points go into one file as they come; a process that goes on writes those before it again, and not twice."""
  metrics = {
    "loss": np.asarray([[1.0], [np.nan], [3.0]]),
    "finite": np.asarray([[True], [False], [True]]),
    "curve": np.ones((3, 1, 5)),
  }
  for generations in ((1, 2), (1, 2, 3)):
    curves = watching.Curves(str(tmp_path))
    curves.add({"workflow": "other"}, [1], {})
    for t in generations:
      curves.add({"workflow": "mix(0.2)", "dataset": "a/b"}, [t], metrics)
      ((name, found),) = ((name, one) for name, one in values(tmp_path).items() if one)
      assert name.startswith("workflow=mix(0.2),dataset=a_b~") and max(step for _, step, _ in found) == t
  assert [(tag, step) for tag, step, _ in found] == [(tag, t) for t in (1, 2, 3) for tag in ("loss", "finite")]
  np.testing.assert_allclose([value.simple_value for _, _, value in found[:2]], [2.0, 2 / 3], rtol=1e-6)
