"""What `--log_dir` and `--profile` write can be read: curves per cell, figures, a trace."""

import importlib.machinery
import sys

import numpy as np
import pytest
import xarray
from helpers import run, values

from collapse_jax.refused import Refused
from experiments import watching


@pytest.mark.slow
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
    curves = watching.curves(str(tmp_path))
    curves.add({"workflow": "other"}, [1], {})
    for t in generations:
      curves.add({"workflow": "mix(0.2)", "dataset": "a/b"}, [t], metrics)
      ((name, found),) = ((name, one) for name, one in values(tmp_path).items() if one)
      assert name.startswith("workflow=mix(0.2),dataset=a_b~") and max(step for _, step, _ in found) == t
  assert [(tag, step) for tag, step, _ in found] == [(tag, t) for t in (1, 2, 3) for tag in ("loss", "finite")]
  np.testing.assert_allclose([value.simple_value for _, _, value in found[:2]], [2.0, 2 / 3], rtol=1e-6)


class Recorder:
  """Of the functions of W&B, trackio and MLflow those that are called, as these modules have them."""

  def __init__(self, fails=""):
    self.calls, self.fails = [], fails

  def __getattr__(self, name):
    def call(*arguments, **options):
      if name == self.fails:
        raise RuntimeError("the server is gone")
      self.calls.append((name, *arguments, *options.items()))

    return call


@pytest.fixture
def modules(monkeypatch):
  found = {name: Recorder() for name in ("wandb", "trackio", "mlflow")}
  for name, module in found.items():
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
  return found


def test_trackers(modules, tmp_path):
  """A run for each cell, ended before the next; means over finite seeds; vectors are left out."""
  metrics = {"loss": np.asarray([[1.0], [np.nan], [3.0]]), "curve": np.ones((3, 1, 5)), "lost": np.full((3, 1), np.inf)}
  with watching.curves(None, ["wandb:mine", "trackio:yours", "mlflow:ours"]) as curves:
    for workflow in ("replace", "accumulate"):
      for t in (1, 2):
        curves.add({"workflow": workflow}, [t], metrics)
  points = [("log", {"loss": 2.0}, ("step", t)) for t in (1, 2)]
  for name, project in (("wandb", "mine"), ("trackio", "yours")):
    runs = [
      ("init", ("project", project), ("name", f"workflow={one}"), ("config", {"workflow": one}))
      for one in ("replace", "accumulate")
    ]
    assert modules[name].calls == [runs[0], *points, ("finish",), runs[1], *points, ("finish",)]
  assert [call[0] for call in modules["mlflow"].calls] == [
    *["set_experiment", "start_run", "log_params", "log_metrics", "log_metrics", "end_run"] * 2
  ]
  assert modules["mlflow"].calls[3] == ("log_metrics", {"loss": 2.0}, ("step", 1))


def test_a_tracker_that_fails(modules, caplog):
  """It is left with a warning; the others go on."""
  modules["wandb"].fails = "log"
  with watching.curves(None, ["wandb:a", "trackio:a"]) as curves:
    for t in (1, 2):
      curves.add({"workflow": "replace"}, [t], {"loss": np.ones((2, 1))})
  assert [call[0] for call in modules["wandb"].calls] == ["init"]
  assert [call[0] for call in modules["trackio"].calls] == ["init", "log", "log", "finish"]
  assert caplog.text.count("No more curves go to Wandb (the server is gone)") == 1


@pytest.mark.parametrize(
  "text, match", [("wandb", "must be of"), ("neptune:a", "must be of"), ("mlflow:a", r"\[mlflow\]")]
)
def test_refused(text, match, monkeypatch):
  found = watching.importlib.util.find_spec
  missing = lambda name, package=None: None if name == "mlflow" else found(name, package)
  monkeypatch.setattr(watching.importlib.util, "find_spec", missing)
  with pytest.raises(Refused, match=match):
    watching.check(text)
