"""A generator of the user's own under every workflow: the law, what is on disk, what is done again and what is not."""

import errno
import json
import os
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from own_pipelines import Faulty, Normal, killed_and_resumed, normal_rows, run, steps_of

import collapse_jax as cj
from collapse_jax import diagnostics, plotting
from collapse_jax.pipelines import _identity, _perform, _protocol, kinds

ALL = ["replace", "accumulate", "accumulate_subsample", "mix(0.5)", "sliding_window(2)", "grown_replace"]


def test_every_workflow(tmp_path):
  """Sizes, shares, files; generation 1 is one for all; a second call does nothing, and gives the same."""
  log = tmp_path / "calls"
  found = run(Normal(log), tmp_path / "loop", ALL, measures={"error": "risk"}, num_samples=30)
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
  # Generation 1 is fitted once, and so is generation 2 of the three that fit it to the real and the first batch.
  assert len(fits) == 2 * (1 + 6 * 2 - 2) and len(set(fits)) == 2 * 3  # seeds are of run and generation only
  assert max(int(one.split()[1]) for one in calls if one) < 2**31
  again = run(Normal(log), tmp_path / "loop", ALL, measures={"error": "risk"}, num_samples=30, resume=True)
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


STATUS = {
  "none": "ok",
  "raises": "seed 0, generation 2: fit raised ArithmeticError: no convergence. Log: ",
  "no model": "seed 0, generation 2: fit returned None: it must return the model.",
  "fewer": "seed 0, generation 2: sample must return 40 rows, got 37.",
  "columns": "seed 0, generation 2: sample must return the columns of the real rows: it has also y.",
  "nan": "seed 0, generation 2: sample returned missing or infinite values in x, of which the real rows have none.",
  "kind": "seed 0, generation 2: sample must return a dict of arrays, as the real rows are, got ndarray.",
  "names": "seed 0, generation 2: evaluate returned error, var, var_sem, other, and before error, var, var_sem.",
  "width": "seed 0, generation 2: sample must return an array x of rows (2,), got (1,).",
}


def test_failures_are_facts_about_cells(tmp_path):
  """What was measured before stays, all else goes on, the log says more; mended, only what is missing is done."""
  found = run(Faulty, tmp_path, ["replace"], axes={"fault": list(STATUS)})
  for fault, text in STATUS.items():
    one = found.sel(workflow="replace", fault=fault)
    status = str(one.cell_status.values)
    assert status.startswith(text), (fault, status)
    good = 3 if fault == "none" else 1
    np.testing.assert_array_equal(np.isfinite(one["var"]).sum("generation"), good, err_msg=fault)
    np.testing.assert_array_equal(one.finite.sum("generation"), good)
    if fault not in ("none", "names"):
      log = Path(status.split(" Log: ")[1])
      assert log.is_file() and "Traceback" in log.read_text()
      assert fault in ("fewer", "columns", "nan", "kind", "width") or "a line of the log" in log.read_text()
  assert found.stopped.count("generation 2") == 2 * (len(STATUS) - 1)
  before = steps_of(tmp_path)
  mended = run(lambda fault: Faulty("none"), tmp_path, ["replace"], axes={"fault": list(STATUS)}, resume=True)
  assert (mended.cell_status == "ok").all() and mended.finite.all()
  assert {name: steps_of(tmp_path)[name] for name in before} == before
  expected = found.sel(fault="none")
  assert (mended["var"] == expected["var"]).all()


def test_a_full_disk(tmp_path, monkeypatch):
  """Of a file of a step: said where, and a later call goes on."""
  plain, count = _perform._put, []

  def put(path, into):
    count.append(path.name)
    if count.count("sample.npz") == 3 and path.name == "sample.npz":
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    plain(path, into)

  monkeypatch.setattr(_perform, "_put", put)
  found = run(Normal(), tmp_path, ["replace"])
  assert "sample: No space left on device" in str(found.cell_status.values[0])
  assert np.isfinite(found["var"]).sum() == 5  # of six: that of the third sample is missing... and those behind it
  monkeypatch.setattr(_perform, "_put", plain)
  before = steps_of(tmp_path)
  again = run(Normal(), tmp_path, ["replace"], resume=True)
  assert (again.cell_status == "ok").all() and again.finite.all()
  assert {name: steps_of(tmp_path)[name] for name in before} == before


def test_processes(tmp_path):
  """Of two processes: the same numbers as of one; steps that hang or die are ended with what they started, and only they fail."""
  faults = ["none", "hangs", "dies"]
  found = run(Faulty, tmp_path / "apart", ["replace"], axes={"fault": faults}, jobs=2, timeout=3.0)
  texts = {str(fault): str(one.cell_status.values.item()) for fault, one in found.groupby("fault")}
  assert texts["none"] == "ok"
  assert texts["hangs"].startswith("seed 0, generation 2: fit took longer than 3 seconds (timeout).")
  assert texts["dies"].startswith("seed 0, generation 2: fit: its process died (signal SIGKILL).")
  here = run(Faulty, tmp_path / "here", ["replace"], axes={"fault": ["none"]})
  np.testing.assert_array_equal(found.sel(fault=["none"])["var"], here["var"])
  logs = [file.read_text() for file in (tmp_path / "apart" / "steps").glob("fit-*/log.txt")]
  assert len(logs) >= 10 and set(logs) == {"a line of the log\n"}


def test_killed_and_resumed(tmp_path):
  """SIGKILL at random moments, two jobs: what is finished is not done again, and the numbers are those of a loop left alone.

  `python -m benchmarks.loop --kills=20` does it more often.
  """
  assert killed_and_resumed(tmp_path, kills=3) == 3


class Counts(Normal):
  """Notes in an attribute how often it was fitted."""

  identity, fitted = None, 0

  def fit(self, data, **options):
    self.fitted += 1
    return super().fit(data, **options)


def test_a_pipeline_is_known_by_what_it_is_at_first(tmp_path):
  """Attributes that its steps change make no other steps of those of later cells, nor of those of a loop that goes on."""
  run(Counts(), tmp_path)
  before = steps_of(tmp_path)
  run(Counts(), tmp_path, resume=True)
  assert steps_of(tmp_path) == before and len([name for name in before if name.startswith("fit")]) == 2 * (1 + 2 * 2)
  fits, place = [], tmp_path / "changed"
  for forgets in (False, True):  # by other code: another fit of the same rows
    run(Normal(forgets=forgets), place, ["replace"], num_generations=1, num_seeds=1, resume=True)
    fits.append(len(list(place.glob("steps/fit-*"))))
  assert fits == [1, 2]


class Copies:
  """Rows of the training data, drawn with replacement."""

  def fit(self, data, *, seed, workdir, previous=None):
    return data

  def sample(self, model, num, *, seed, workdir):
    return kinds.take(model, np.random.default_rng(seed).integers(kinds.num_rows(model), size=num))

  def evaluate(self, model, sample, real_test, *, seed):
    return {"distinct": len(set(map(str, list(sample) if isinstance(sample, list) else sample["name"])))}


@pytest.mark.parametrize("kind", ["table", "text", "dataset"])
def test_kinds_of_data(tmp_path, kind):
  """Rows of each kind go round, whole; what is drawn are real rows, ever fewer of them."""
  rows = [
    {"name": f"row {i}", "messages": [{"role": "user", "content": f"\u00e9 {i}"}], "number": i} for i in range(30)
  ]
  table = pd.DataFrame(rows)[["name", "number"]]
  real = {"table": table, "text": rows, "dataset": datasets.Dataset.from_pandas(table)}[kind]
  found = cj.loop(Copies(), real, real, ["replace"], num_generations=3, num_seeds=1, directory=tmp_path)
  assert (found.cell_status == "ok").all()
  distinct = found.distinct.values.ravel()
  assert 30 > distinct[0] > distinct[1] > distinct[2] > 2
  folder = tmp_path / "runs" / "workflow=replace,seed=0" / "g003"
  if kind == "text":
    drawn = [json.loads(line) for line in (folder / "sample.jsonl").read_text().splitlines()]
    assert len(drawn) == 30 and all(row["_generation"] == 3 for row in drawn)
    assert all({name: value for name, value in row.items() if name not in kinds.PROVENANCE} in rows for row in drawn)
  else:
    drawn = pd.read_parquet(folder / "sample.parquet")
    assert (drawn["_generation"] == 3).all() and drawn["_model"].nunique() == 1
    assert (drawn["name"] == "row " + drawn["number"].astype(str)).all() and len(drawn) == 30


class Warm(Normal):
  """Half way from the model before; models are arrays, or keep themselves, or cannot be pickled."""

  def __init__(self, how):
    super().__init__()
    self.how = how
    if how == "saved":
      self.save = lambda model, folder: np.savez(folder / "own.npz", *model)
      self.load = lambda folder: tuple(np.load(folder / "own.npz").values())

  def fit(self, data, *, seed, workdir, previous=None):
    model = super().fit(data, seed=seed, workdir=workdir)
    if previous is not None:
      model = tuple((new + old) / 2 for new, old in zip(model, previous))
    return (*model, threading.Lock()) if self.how == "unpicklable" else model

  def sample(self, model, num, **options):
    return super().sample(model[:2], num, **options)


def test_models_are_there_when_they_are_needed(tmp_path):
  """Whether they are pickled, keep themselves, or are fitted again with those before them: the same numbers."""
  plain = run(Normal(), tmp_path / "plain", ["replace"], num_seeds=1)
  for how in ("pickled", "saved", "unpicklable"):
    found = run(Warm(how), tmp_path / how, ["replace"], num_seeds=1, warm_start=True)
    assert (found.cell_status == "ok").all()
    last = json.loads((tmp_path / how / "runs" / "workflow=replace,seed=0" / "g003" / "steps.json").read_text())
    for role in ("sample", "evaluate"):
      (tmp_path / how / "steps" / last[role] / "step.json").unlink()
    again = run(Warm(how), tmp_path / how, ["replace"], num_seeds=1, warm_start=True, resume=True)
    np.testing.assert_array_equal(found["var"], again["var"])
    if how == "pickled":
      first = found
    np.testing.assert_array_equal(found["var"], first["var"])
  assert (first["var"] != plain["var"]).values[..., 1:].all()


def test_one_loop_a_directory(tmp_path):
  """Another one is refused while it runs."""

  class Nested(Normal):
    def fit(self, data, **options):
      with pytest.raises(cj.Refused, match="is being written by another loop, process"):
        run(Normal(), tmp_path)
      return super().fit(data, **options)

  assert (run(Nested(), tmp_path, ["replace"], num_generations=1).cell_status == "ok").all()


def test_lineage(tmp_path):
  """What descends from a row is what the files of training rows say, followed by hand."""
  run(Normal(), tmp_path, ["replace", "accumulate_subsample"], num_samples=15, num_generations=4)
  runs = {}
  for file in sorted(tmp_path.glob("runs/*/g*/steps.json")):
    with np.load(file.with_name("data.npz")) as data:
      rows = data["_row"], data["_generation"], data["_model"]
    runs.setdefault(file.parent.parent.name, []).append((json.loads(file.read_text()), *rows))
  counts = set()
  for row in range(40):
    models, samples, again = set(), set(), set()
    for name, generations in runs.items():
      for about, index, origin, parents in generations:
        if (index[origin == 0] == row).any() or set(parents[origin > 0]) & models:
          models.add(about["fit"])
          samples.add(about["sample"])
          again.add((name, about["generation"]))
    found = cj.pipelines.lineage(tmp_path, row)
    assert (set(found.models), set(found.samples)) == (models, samples)
    assert {(one["run"], one["generation"]) for one in found.generations} == again
    counts.add(len(models))
  assert (len(counts) > 2 and 0 not in counts) or min(counts) == 0  # rows differ in what descends from them
  about = runs["workflow=replace,seed=0"][2][0]
  made = cj.pipelines.lineage(tmp_path, f"{about['sample']}:3")
  first = runs["workflow=replace,seed=0"][0]
  assert made.ancestors[:2] == (about["sample"], about["fit"]) and made.ancestors[-1] == first[0]["fit"]
  np.testing.assert_array_equal(made.real_rows, first[1])
  assert len(made.models) == 1 and {one["generation"] for one in made.generations} == {4}
  both = cj.pipelines.lineage(tmp_path, [0, 1])
  assert set(both.models) == {m for row in (0, 1) for m in cj.pipelines.lineage(tmp_path, row).models}
  for wrong in (40, -1, "sample-0:1", f"{about['sample']}:15"):
    with pytest.raises(cj.Refused, match="there is no row"):
      cj.pipelines.lineage(tmp_path, wrong)
  with pytest.raises(cj.Refused, match="holds no loop"):
    cj.pipelines.lineage(tmp_path / "runs", 0)
  card = json.loads((tmp_path / "runs" / "workflow=replace,seed=0" / "g003" / "croissant.json").read_text())
  assert card["rai:hasSyntheticData"] is True
  assert [one["@id"] for one in card["prov:wasDerivedFrom"]] == [runs["workflow=replace,seed=0"][1][0]["sample"]]
  assert [one["@id"] for one in card["prov:wasGeneratedBy"]] == [about["fit"], about["sample"]]


def test_withdrawn_rows(tmp_path):
  """What descends from them is gone, and made again without them; what does not is not done again."""
  options = {"num_samples": 15, "num_generations": 3}
  first = run(Normal(), tmp_path, **options)
  real = lambda seed: set(np.load(tmp_path / f"runs/workflow=replace,seed={seed}/g001/data.npz")["_row"])
  row = int(min(real(0) - real(1)))
  before, asked = steps_of(tmp_path), cj.pipelines.lineage(tmp_path, row)
  found = cj.pipelines.withdraw(tmp_path, [row])
  assert found == asked and len(found.models) == len(found.samples) == 1 + 2 * 2
  left = steps_of(tmp_path)
  assert len(left) == len(before) - 3 * len(found.models) and not left.keys() & {*found.models, *found.samples}
  assert not (tmp_path / "results.nc").exists()
  again = run(Normal(), tmp_path, resume=True, **options)
  assert (again.cell_status == "ok").all() and left.items() <= steps_of(tmp_path).items()
  np.testing.assert_array_equal(again["var"].sel(seed=1), first["var"].sel(seed=1))
  assert (again["var"] != first["var"]).sel(seed=0).all()
  np.testing.assert_array_equal(again.train_size.sel(seed=0, workflow="accumulate"), [14, 29, 44])
  for file in tmp_path.glob("steps/fit-*/data.npz"):
    with np.load(file) as data:
      assert row not in data["_row"][data["_generation"] == 0]
  # Of a sample: the model that is fitted to what is left of it, and what comes of that.
  about = json.loads((tmp_path / "runs/workflow=replace,seed=1/g001/steps.json").read_text())
  cj.pipelines.withdraw(tmp_path, [f"{about['sample']}:3"])
  last = run(Normal(), tmp_path, resume=True, **options)
  np.testing.assert_array_equal(last["var"].sel(seed=0), again["var"].sel(seed=0))
  np.testing.assert_array_equal(last.train_size.sel(seed=1, workflow="accumulate"), [15, 29, 44])
  assert about["sample"] in steps_of(tmp_path)
  np.testing.assert_array_equal(run(Normal(), tmp_path, **options)["var"], first["var"])  # a loop that begins anew


def test_withdrawn_twice_before_going_on(tmp_path):
  """What descends from neither row is still known, and kept."""
  run(Normal(), tmp_path, ["replace"], num_samples=15, num_generations=2)
  real = lambda seed: set(np.load(tmp_path / f"runs/workflow=replace,seed={seed}/g001/data.npz")["_row"])
  row = int(min(real(0) - real(1)))
  assert cj.pipelines.withdraw(tmp_path, [row]).models
  kept = steps_of(tmp_path)
  assert kept and cj.pipelines.withdraw(tmp_path, [row]).models == () and steps_of(tmp_path) == kept
  with pytest.raises(cj.Refused, match="holds no loop"):
    cj.pipelines.withdraw(tmp_path / "none", [row])
  assert not (tmp_path / "none").exists()


def test_training_rows_need_not_be_kept(tmp_path):
  """The same numbers and lineage; where they are kept, they take most of the disk."""
  whole, less = (run(Normal(), tmp_path / str(keep), ["accumulate"], keep_data=keep) for keep in (True, False))
  np.testing.assert_array_equal(whole["var"], less["var"])
  assert list(tmp_path.glob("True/steps/*/data.npz")) and not list(tmp_path.glob("False/steps/*/data.npz"))
  told = [cj.pipelines.lineage(tmp_path / name, 3) for name in ("True", "False")]
  assert told[0].models == told[1].models
  for name, num in (("True", 2), ("False", 1)):
    card = json.loads((tmp_path / name / "runs/workflow=accumulate,seed=0/g002/croissant.json").read_text())
    assert len(card["distribution"]) == num and len(card["prov:wasDerivedFrom"]) == 2


class Moment:
  """Copies of real rows, whose metrics are those by the kind of the data."""

  fit, sample = Copies.fit, Copies.sample


def test_metrics_by_kind_know_the_training_rows_and_go_with_their_nulls(tmp_path):
  """Who copies its rows is found out at once; the null is that of test rows, and is no metric of its own."""
  table = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["a", "b"])
  found = cj.loop(
    Moment(), table[:40], table[40:], ["replace"], num_generations=2, num_seeds=1, directory=tmp_path, jobs=1
  )
  assert (found.cell_status == "ok").all() and found.finite.all()
  assert (found.duplicate_share == 1).all() and (found.duplicate_share_null == 0).all()
  assert (found.nearest_distance == 0).all() and (found.nearest_distance_null > 0.1).all()
  assert (found.classifier_auc_null == 0.5).all()
  told = diagnostics.reading.scalars(found)
  assert "duplicate_share" in told and not [name for name in told if name.endswith("_null")]
  panel = plotting.trajectories(found, "duplicate_share").axes[0]
  [null] = [line for line in panel.lines if line.get_label() == "of real rows"]
  np.testing.assert_array_equal(null.get_ydata(), [0, 0])
  score = found.isel(seed=0)  # one run, chosen
  assert (diagnostics.complete(score).duplicate_share_null == 0).all()
  assert found.attrs["pipeline"] == "Moment"
  assert _protocol.name_of(cj.pipelines.resampled(Moment())) == "Moment"


def test_law(tmp_path):
  """Of 800 normal distributions at once: variances fall as theory says, also where rows are weighted. Twin: who forgets weights."""
  num, dim, T = 12, 800, 10
  names = ["replace", "accumulate", "accumulate_subsample", "mix(0.5, real_weight=0.1)"]
  pipeline = lambda forgets: Normal(forgets=forgets)
  found = cj.loop(
    pipeline,
    normal_rows(num, dim),
    normal_rows(5, dim, 1),
    names,
    num_generations=T,
    num_seeds=1,
    directory=tmp_path,
    axes={"forgets": [False, True]},
  )
  task = cj.tasks.gaussian(dim=1, num_samples=num)
  worst = {}
  for name in names:
    schedule = cj.workflows.parse(name)().schedule(num, T)
    expected = task.predict(schedule)["covariance_trace_ratio"].mean
    one = found.sel(workflow=name).squeeze("seed")
    z = (one["var"] - expected) / one["var_sem"]
    worst[name] = abs(z.sel(generation=[1, 3, 10])).max("generation")
    assert worst[name].sel(forgets=False) < 5, (name, z.values)
  assert worst[names[-1]].sel(forgets=True) > 5


def test_weights_are_taken_or_refused(tmp_path):
  """A fit without the keyword is refused where rows count differently, and fitted to drawn rows where it is resampled."""

  class Plain:
    sample, evaluate, note, log, pause = Normal.sample, Normal.evaluate, Normal.note, None, 0.0

    def fit(self, data, *, seed, workdir, previous=None):
      mean = data["x"].mean(axis=0)
      return mean, ((data["x"] - mean) ** 2).mean(axis=0)

  names = ["mix(0.5)", "mix(0.5, real_weight=0.75)"]
  found = run(Plain(), tmp_path / "plain", names, num_seeds=1, num_generations=2)
  assert (
    found.cell_status.values[0] == "ok" and "fit of this pipeline has no keyword weight" in found.cell_status.values[1]
  )
  found = run(cj.pipelines.resampled(Plain()), tmp_path / "drawn", names, num_seeds=1, num_generations=2)
  assert (found.cell_status == "ok").all()
  folder = tmp_path / "drawn" / "runs" / "workflow=mix(0.5, real_weight=0.75),seed=0" / "g002"
  with np.load(folder / "data.npz") as data:
    share = data["_weight"][data["_generation"] == 0].sum() / data["_weight"].sum()
    np.testing.assert_allclose(share, 0.75, rtol=1e-6)


def test_transforms(tmp_path):
  """A verifier that looks at data: what it rejects is in no training data."""
  keep = cj.pipelines.on_data(lambda key, problem, rows: rows["x"][:, 0] > 0)
  found = run(
    Normal(), tmp_path, ["replace"], transform=lambda task: cj.transforms.verify(task, keep), num_generations=2, jobs=2
  )
  kept = found.kept_share.sel(generation=1)
  assert (found.cell_status == "ok").all() and 0.2 < kept.min() < kept.max() < 0.8
  for file in tmp_path.glob("runs/*/g002/data.npz"):
    with np.load(file) as data:
      assert (data["x"][:, 0] > 0).all() and len(data["x"]) < 40


HELPER = "def shift(x):\n  return x + 1\n"
CODE = """
import os
SCALE = 2
def helper(x):
  return x * SCALE
class One:
  def fit(self, data, *, seed, workdir, previous=None):
    return self.inner(data)
  def inner(self, data):
    return helper(data)
  def sample(self, model, num, *, seed, workdir):
    return model
"""


@pytest.mark.parametrize(
  ("old", "new", "changed"),
  [
    ("SCALE = 2", "SCALE = 3", {"fit"}),
    ("x * SCALE", "x + SCALE", {"fit"}),
    ("return self.inner(data)", "return self.inner(data) + 0", {"fit"}),
    ("return helper(data)", "return -helper(data)", {"fit"}),
    ("return model", "return [model]", {"sample"}),
    ("import os", "import os  # a comment", set()),
    ("    return model", "    # why\n\n    return model", set()),
  ],
)
def test_identity_of_code(tmp_path, old, new, changed):
  """Another one where what a role does has changed, with all that it calls; the same for comments."""

  def digests(code):
    file = tmp_path / "own_code_of_a_user.py"
    file.write_text(code)
    sys.modules.pop("own_code_of_a_user", None)
    import importlib
    import linecache

    linecache.clearcache()
    importlib.invalidate_caches()
    one = importlib.import_module("own_code_of_a_user").One()
    return {role: _identity.of_role(one, role) for role in ("fit", "sample")}

  sys.path.insert(0, str(tmp_path))
  sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
  try:
    first, second = digests(CODE), digests(CODE.replace(old, new))
  finally:
    sys.path.remove(str(tmp_path))
    sys.modules.pop("own_code_of_a_user", None)
    sys.dont_write_bytecode = before
  assert {role for role in first if first[role] != second[role]} == changed


def test_identity_of_a_deep_package(tmp_path):
  """Functions that call each other three thousand deep, as a large package that is not installed may; the last one counts."""

  def digest(last):
    code = "".join(f"def f{i}(x):\n  return f{i + 1}(x)\n" for i in range(3000)) + f"def f3000(x):\n  return {last}\n"
    module = {"__name__": "__main__"}
    exec(code, module)
    return _identity.of(module["f0"])

  assert digest("x") == digest("x") != digest("-x")


def test_refused(tmp_path):
  """In one line, before anything is done."""
  rows = normal_rows()
  for options, text in [
    ({"num_samples": 41}, "num_samples must be an integer from 1 to 40"),
    ({"jobs": 0}, "jobs must be an integer from 1 on"),
    ({"timeout": -1}, "timeout must be seconds above 0"),
    ({"measures": {"var": "spread"}}, "measures must be among risk, "),
    ({"measures": {"loss": "risk"}}, "measures names loss, and evaluate returned error, var, var_sem"),
    ({"axes": {"depth": [1]}}, "neither the task nor the workflow replace takes the axis depth"),
  ]:
    with pytest.raises(cj.Refused, match=text):
      run(Normal(), tmp_path, ["replace"], num_generations=1, num_seeds=1, **options)
  for real, test, text in [
    ({"x": rows["x"], "_row": rows["x"]}, rows, "no column of the data may be called _row"),
    (rows, {"y": rows["x"]}, "test must have the kind and columns of real"),
    (rows["x"], rows, "data must be a pandas DataFrame"),
    ([], rows, "data must have rows"),
  ]:
    with pytest.raises(cj.Refused, match=text):
      cj.loop(Normal(), real, test, ["replace"], num_generations=1, num_seeds=1, directory=tmp_path)
  with pytest.raises(cj.Refused, match="pipeline must have a method fit"):
    run(object(), tmp_path)
