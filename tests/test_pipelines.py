"""A generator of the user's own under every workflow: the law, what is on disk, what is done again and what is not."""

import json

import numpy as np
import pandas as pd
import pytest

import collapse_jax as cj
from collapse_jax.pipelines import kinds

WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.5)", "sliding_window(2)", "grown_replace"]


class Normal:
  """A normal distribution by maximum likelihood, which notes its calls."""

  def __init__(self, log=None):
    self.log = log

  def note(self, what):
    if self.log is not None:
      with open(self.log, "a") as file:
        file.write(f"{what}\n")

  def identity(self, role):
    return "Normal", role

  def fit(self, data, *, seed, workdir, previous=None, weight=None):
    rows = data["x"]
    self.note(f"fit {seed}")
    mean = np.average(rows, weights=weight, axis=0)
    return mean, np.average((rows - mean) ** 2, weights=weight, axis=0)

  def sample(self, model, num, *, seed, workdir):
    self.note(f"sample {seed}")
    mean, var = model
    return {"x": mean + np.sqrt(var) * np.random.default_rng(seed).normal(size=(num, len(mean)))}

  def evaluate(self, model, sample, real_test, *, seed):
    self.note(f"evaluate {seed}")
    return {"error": float(np.mean((model[0] - real_test["x"].mean(axis=0)) ** 2)), "var": float(model[1].mean())}


def normal_rows(num=40, dim=2, seed=0):
  return {"x": np.random.default_rng(seed).normal(size=(num, dim))}


def run(pipeline, directory, workflows=("replace", "accumulate"), **options):
  options = {"num_generations": 3, "num_seeds": 2, "directory": directory} | options
  return cj.loop(pipeline, normal_rows(), normal_rows(30, seed=1), list(workflows), **options)


def test_every_workflow(tmp_path):
  """Sizes, shares, files; generation 1 is one for all; a second call does nothing, and gives the same."""
  log = tmp_path / "calls"
  found = run(Normal(log), tmp_path / "loop", WORKFLOWS, measures={"error": "risk"}, num_samples=30)
  assert (found.cell_status == "ok").all() and found.finite.all()
  assert found.sizes == {"workflow": 6, "seed": 2, "generation": 3, "batch": 3} and found.primary_metric == "error"
  growing, doubled = [30, 60, 90], [30, 60, 60]
  sizes = {"accumulate": growing, "grown_replace": growing, "mix(0.5)": doubled, "sliding_window(2)": doubled}
  for name, one in found.groupby("workflow"):
    np.testing.assert_array_equal(one.train_size.squeeze("workflow"), [sizes.get(name, [30, 30, 30])] * 2)
  np.testing.assert_allclose(found.real_share.sel(workflow="mix(0.5)").mean("seed"), [1, 0.5, 0.5])
  assert (found["var"].sel(generation=1).std("workflow") == 0).all()  # one first model for all workflows
  assert found["var"].sel(generation=1).std("seed").min() > 0  # each seed has real rows of its own
  calls = log.read_text().split("\n")
  fits = [one for one in calls if one.startswith("fit")]
  assert (
    len(fits) == 2 + 2 * 6 * 2 and len(set(fits)) == 2 * 3
  )  # seeds are of run and generation, whatever the workflow
  assert max(int(one.split()[1]) for one in calls if one) < 2**31
  again = run(Normal(log), tmp_path / "loop", WORKFLOWS, measures={"error": "risk"}, num_samples=30, resume=True)
  assert log.read_text().split("\n") == calls
  kept = cj.load(tmp_path / "loop")
  for name in ("error", "var", "train_size", "finite", "cell_status"):
    np.testing.assert_array_equal(found[name], again[name])
    np.testing.assert_array_equal(found[name], kept[name])
  folder = tmp_path / "loop" / "runs" / "workflow=accumulate,seed=1" / "g003"
  assert {"data.npz", "sample.npz", "model", "metrics.json", "log.txt", "steps.json"} <= {
    file.name for file in folder.iterdir()
  }
  with np.load(folder / "data.npz") as data:
    np.testing.assert_array_equal(np.unique(data["_generation"], return_counts=True), [[0, 1, 2], [30, 30, 30]])
    real = data["_generation"] == 0
    np.testing.assert_array_equal(data["x"][real], normal_rows()["x"][data["_row"][real]])
    assert (data["_model"][~real] != "").all() and (data["_weight"] == 1).all()
  metrics = json.loads((folder / "metrics.json").read_text())
  assert metrics["var"] == found["var"].sel(workflow="accumulate", seed=1, generation=3)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_tables_come_back(tmp_path, monkeypatch, ending):
  """Values, types and what is missing."""
  monkeypatch.setattr(kinds, "_has_pyarrow", lambda: ending == ".parquet")
  table = pd.DataFrame(
    {
      "number": [0.1, 1e-300, np.nan],
      "count": [1, 2, 3],
      "flag": [True, False, True],
      "text": ["NA", 'quoted, "and" so', ""],
      "group": pd.Categorical(["a", "b", "a"], categories=["a", "b", "c"]),
      "day": pd.to_datetime(["2020-01-01", "2021-02-03", "2022-03-04"]),
      "single": np.asarray([0.1, 0.2, 0.3], np.float32),
    }
  )
  schema = kinds.schema_of(table)
  assert schema.missing == {"number"} and kinds.suffix("table") == ending
  kinds.write(table, tmp_path / f"rows{ending}", {"_row": np.arange(3), "_model": "mine"})
  pd.testing.assert_frame_equal(kinds.read(tmp_path / f"rows{ending}", schema), table)
