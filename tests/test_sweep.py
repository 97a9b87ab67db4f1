"""Sweeps, verdicts, plots, report and the command line, also for a user's own task and workflow."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REAL, by_steps, outcome, poisson_mean, resampled, small
from looking import Page, assert_curve, caption
from looking import theory as theory_lines

import collapse_jax as cj
from collapse_jax import diagnostics, plotting, report, store, tasks, theory, workflows
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, expected, grid, plan, programs
from collapse_jax.sweeps.dataset import Results
from collapse_jax.types import MetricInfo
from collapse_jax.vocabulary import BESIDE


def gaussian(**options):
  return cj.sweep(
    tasks.gaussian,
    ["replace", "accumulate"],
    {"dim": [2], "num_samples": [10, 100], "noise_var": [1.0, 4.0]},
    **{"num_generations": 8, "num_seeds": 12} | options,
  )


@pytest.fixture(scope="module")
def results():
  out = gaussian()
  return out


def test_dims_coordinates_and_compilations(results):
  assert results.covariance_trace_ratio.dims == ("workflow", "dim", "num_samples", "noise_var", "seed", "generation")
  assert results.attrs["num_compilations"] == 2  # one program per workflow serves num_samples and noise_var
  assert results.attrs["num_runs"] == 2 * 4 * 12
  assert results.finite.all() and (results.cell_status == "ok").all()
  np.testing.assert_array_equal(results.generation, np.arange(1, 9))
  np.testing.assert_allclose(
    results.squared_error_of_mean.sel(noise_var=4.0), 4 * results.squared_error_of_mean.sel(noise_var=1.0), rtol=1e-4
  )


@pytest.mark.slow  # bit for bit as programs are compiled for users
def test_results_do_not_depend_on_chunks_or_neighbours(results):
  for size in (5, 12):
    again = gaussian(chunk_size=size)
    for metric in ("squared_error_of_mean", "covariance_trace_ratio"):
      np.testing.assert_allclose(again[metric], results[metric], rtol=1e-5, atol=1e-7)
  alone = cj.sweep(
    tasks.gaussian,
    ["accumulate"],
    {"dim": [2], "num_samples": [100], "noise_var": [4.0]},
    num_generations=8,
    num_seeds=12,
  )
  same = results.sel(workflow=["accumulate"], num_samples=[100], noise_var=[4.0])
  np.testing.assert_array_equal(alone.covariance_trace_ratio, same.covariance_trace_ratio)  # bitwise at equal chunks


def test_cells_that_cannot_run_are_marked():
  out = cj.sweep(
    lambda bandwidth, num_samples: tasks.kde("wine", num_samples, bandwidth),
    ["replace"],
    {"bandwidth": [0.5, "scott"], "num_samples": [20, 1000]},
    num_generations=2,
    num_seeds=2,
  )
  assert list(out.bandwidth.values) == ["0.5", "scott"]
  np.testing.assert_array_equal(out.bandwidth_value, [0.5, np.nan])
  assert (out.cell_status.sel(num_samples=20) == "ok").all()
  assert all("at most 125" in str(status) for status in out.cell_status.sel(num_samples=1000).values.ravel())
  assert np.isnan(out.test_nll.sel(num_samples=1000)).all()
  with pytest.raises(ValueError, match="at most 125"):
    cj.sweep(
      lambda num_samples: tasks.kde("wine", num_samples, 0.5),
      ["replace"],
      {"num_samples": [1000]},
      num_generations=2,
      num_seeds=2,
    )


def test_a_users_own_task_and_workflow(tmp_path):
  """Through the sweep, the plots and the report, with no registration."""
  latest = workflows.replace()
  mine = latest._replace(select=lambda task, problem, key, store, t: latest.select(task, problem, key, store, t))
  out = cj.sweep(
    lambda rate, num_samples: poisson_mean(rate, num_samples),
    {"mine": mine, "accumulate": workflows.accumulate()},
    {"rate": [2.0, 4.0], "num_samples": [10]},
    num_generations=6,
    num_seeds=8,
  )
  assert out.attrs["num_compilations"] == 2
  out.squared_error.attrs["worse"] = "higher"
  out.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
  again = cj.load(tmp_path)
  assert list(plotting.figures_for(again)) == ["squared_error"]
  report.write_report(again, tmp_path / "report.html")
  page = (tmp_path / "report.html").read_text()
  needs = re.findall(r"(?:src|href)=.https?:", page)
  assert not needs and page.count("data:image/png") == 1 and page.count(">mine<") > 0


def test_report_and_figures(results, tmp_path):
  results = results.copy(deep=True)
  results.attrs["command"] = "python -m experiments.gaussian --x='<script>'"
  results.squared_error_of_mean[0, 0, 0, 0, 3, 2:] = np.nan
  figures = plotting.figures_for(results)
  assert set(figures) == {*diagnostics.metrics(results), "real_share"}
  one = figures["covariance_trace_ratio"]
  assert "band: 95% interval of the mean over 12 seeds" in caption(one)
  cells = itertools.product(results.noise_var.values, results.workflow.values)
  for axis, (noise_var, workflow) in zip(one.axes, cells, strict=True):
    assert axis.get_title() == f"noise_var = {noise_var:g}\n{workflow}"
    for i, num in enumerate(results.num_samples.values):
      at = {"dim": 2, "noise_var": noise_var, "workflow": workflow, "num_samples": num}
      assert_curve(axis, i, results.generation.values, results.covariance_trace_ratio.sel(at).values)
      law = theory.schedule_moments(workflows.parse(workflow)().schedule(num, 8)).trace_ratio
      np.testing.assert_allclose(theory_lines(axis)[i], (results.generation.values, law), rtol=1e-9)
  report.write_report(results, tmp_path / "r.html")
  page = (tmp_path / "r.html").read_text()
  shown = [
    page.count(text) for text in ("--x='<script>", "&lt;script&gt;")
  ]  # a page is too long to be shown where this fails
  assert shown[0] == 0 and shown[1] > 0
  page = Page(page)
  rows = diagnostics.compare_with_theory(results)
  shown = page.table("generation", "predicted").records()
  assert [row["z"] for row in shown] == [f"{row['z']:.2f}" for row in rows]
  assert [row["predicted"] for row in shown] == [f"{row['predicted']:.5g}" for row in rows]
  verdicts = diagnostics.verdicts(results)
  for row in page.table("cells diverging").records():
    labels = [
      one["verdict"].label for one in verdicts if (one["workflow"], one["metric"]) == (row["workflow"], row["metric"])
    ]
    counted = [labels.count(label) for label in ("diverging", "growing", "bounded", "undecided")]
    assert [int(text) for text in list(row.values())[2:]] == counted and sum(counted) == 4
  found = [row for row in cj.diagnose(results) if row["metric"] == "covariance_trace_ratio" and row["applies"]]
  [shown] = [row for row in page.table("definition", "replace").records() if row["metric"] == "covariance_trace_ratio"]
  for workflow in results.workflow.values:
    fires = [row["fires"] for row in found if row["workflow"] == workflow]
    assert shown[workflow] == f"{sum(fires)} of {len(fires)}"


def test_theory_rows(results):
  rows = diagnostics.compare_with_theory(results)
  assert len(rows) > 30
  assert max(abs(row["z"]) for row in rows) < 5
  shifted = results.copy(deep=True)
  shifted["covariance_log_det_ratio"] = shifted.covariance_log_det_ratio + 1
  assert max(abs(row["z"]) for row in diagnostics.compare_with_theory(shifted)) > 5


@pytest.mark.parametrize(
  ("shape", "label"),
  [
    ("flat", "bounded"),
    ("limit", "bounded"),
    ("fall", "bounded"),
    ("log", "growing"),
    ("root", "growing"),
    ("linear", "diverging"),
  ],
)
def test_verdicts(shape, label):
  """Of 200 noisy repetitions (tests at 99.9%) at most one may be labelled wrong, and a tenth undecided."""
  t = np.arange(1, 101.0)
  curve = {"flat": 0 * t, "limit": 1 - 1 / t, "fall": 1 / t, "log": np.log(t), "linear": t / 10, "root": np.sqrt(t)}[
    shape
  ]
  rng = np.random.default_rng(0)
  for noise, seeds in ((0.1, 100), (0.3, 30)):
    found = [diagnostics.verdict(curve + noise * rng.normal(size=(seeds, 100)), t).label for _ in range(200)]
    assert found.count(label) >= 180 and found.count(label) + found.count("undecided") >= 199
  mirrored = diagnostics.verdict(-curve + 0.1 * rng.normal(size=(100, 100)), t, worse="lower")
  assert mirrored.label == label
  broken = curve + 0.1 * rng.normal(size=(100, 100))
  broken[:7, 50] = np.nan
  found = diagnostics.verdict(broken, t)
  assert (found.num_finite, found.num_runs) == (93, 100)


def test_plan_and_bad_sweeps():
  axes = {"dim": [1], "num_samples": [10, 20]}
  assert "runs: 20" in str(plan(tasks.gaussian, ["replace"], axes, num_generations=3, num_seeds=10))
  options = {"num_generations": 2, "num_seeds": 2}
  for axes, change, part in (
    ({"dim": []}, {}, "empty"),
    ({"dim": [1, 1]}, {}, "twice"),
    ({"dim": [1]}, {"num_seeds": 0}, "num_seeds"),
    ({"dim": [1], "num_samples": [9], "colour": ["red"]}, {}, "axis colour"),
  ):
    with pytest.raises(ValueError, match=part):
      cj.sweep(tasks.gaussian, ["replace"], axes, **options | change)
  with pytest.raises(ValueError, match="one run needs about"):
    cj.sweep(tasks.gaussian, ["replace"], {"dim": [10**6], "num_samples": [9]}, **options)
  with pytest.raises(ValueError, match="table of results needs about"):
    cj.sweep(tasks.gaussian, ["replace"], {"dim": [1], "num_samples": [9]}, num_generations=10**6, num_seeds=10**6)


@pytest.mark.parametrize(
  ("arguments", "argument", "part"),
  [
    ({"workflows": "replace"}, "workflows", "write ['replace']"),
    ({"workflows": workflows.replace()}, "workflows", "got a Workflow"),
    ({"workflows": [workflows.replace()]}, "workflows", 'pass a mapping such as {"mine": workflow}'),
    ({"workflows": ["replace", "replace"]}, "workflows", "names 'replace' twice"),
    ({"workflows": {"mine": 3}}, "workflows", "got 'mine': 3"),
    ({"workflows": ["mix"]}, "axes", "workflow mix needs real_fraction"),
    ({"axes": {"dims": [1], "num_samples": [5]}}, "axes", "did you mean dim?"),
    ({"axes": {"dim": [1]}}, "axes", "the task needs num_samples"),
    ({"axes": {"dim": [1], "num_samples": 5}}, "num_samples", "must be a list of values, got 5"),
    ({"axes": {"dim": [1], "num_samples": "55"}}, "num_samples", "must be a list of values, got '55'"),
    ({"task": lambda generation: resampled(), "axes": {"generation": [1, 2]}}, "axes", "that the results use"),
    ({"task": lambda seed: resampled(), "axes": {"seed": [1]}}, "axes", "that the results use"),
    ({"task": lambda workflow: resampled(), "axes": {"workflow": [1]}}, "axes", "that the results use"),
    ({"task": lambda x, x_value: resampled(), "axes": {"x": [1], "x_value": [1]}}, "axes", "that the results use"),
    ({"task": lambda error: resampled(), "axes": {"error": [1]}}, "metrics", "must not be called error"),
    ({"task": None}, "task", "a factory of one, got None"),
    ({"task": lambda: 3, "axes": {}}, "", "must return a TaskSetting, got 3"),
  ],
)
def test_arguments_are_checked(arguments, argument, part, monkeypatch):
  """Before anything is compiled: one line that names the argument, the value and what may be."""
  monkeypatch.setattr(jax.stages.Lowered, "compile", None)
  given = {"task": tasks.gaussian, "workflows": ["replace"], "axes": {"dim": [1], "num_samples": [5]}} | arguments
  with pytest.raises(Refused) as caught:
    cj.sweep(given["task"], given["workflows"], given["axes"], num_generations=2, num_seeds=2)
  assert part in str(caught.value) and str(caught.value).count("\n") == 0
  assert caught.value.argument == argument


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"sample": lambda key, problem, mean, context: (store.batch(jnp.zeros(7)), {})}, "6 rows, got leaves of 1 x 7"),
    ({"sample": lambda key, problem, mean, context: jnp.zeros(6)}, "must return a batch and its metrics"),
    ({"evaluate": lambda *_: {"finite": jnp.zeros(())}}, "must not be called finite"),
    ({"evaluate": lambda *_: {"train_size": jnp.zeros(())}}, "must not be called train_size"),
    ({"evaluate": lambda *_: {"real_share": jnp.zeros(())}}, "must not be called real_share"),
    ({"evaluate": lambda *_: {"collapse_generation": jnp.zeros(())}}, "must not be called collapse_generation"),
  ],
)
def test_what_a_task_returns_is_checked(change, part):
  task = resampled()._replace(**change)
  with pytest.raises(Refused, match=part):
    cj.run(jax.random.key(0), task, workflows.accumulate(), 2)
  with pytest.raises(Refused, match=part):
    cj.sweep(task, ["accumulate"], {}, num_generations=2, num_seeds=2)


@pytest.mark.parametrize("order", [(2, 5), (5, 2)])
def test_cells_whose_metrics_differ_in_size(order):
  """What a cell has less of than another is NaN, whichever comes first."""
  results = Results((1, 2, 3, 4))
  for i, num in enumerate(order):
    shares = np.full((3, 4, num), 1 / num, np.float32)
    results.write((0, i), 0, {"finite": np.ones((3, 4), bool), "shares": shares})
  for i, num in enumerate(order):
    found = results.values["shares"][0, i]
    assert (found[..., :num] == np.float32(1 / num)).all() and np.isnan(found[..., num:]).all()
  assert results.done.all() and results.values["shares"].shape == (1, 2, 3, 4, 5)


def test_arrays_without_dims_are_numbers():
  """The values of an axis that is an array of JAX are those of a list: traced floats, static ints; a key is not one."""
  axes = lambda make: (
    grid.Grid(
      lambda rate, num_samples: resampled(), ["replace"], {"rate": make([0.5, 2.0]), "num_samples": make([5, 6])}
    ).axes
  )
  found = axes(jnp.asarray)
  assert found == axes(list) and {type(value) for value in found["rate"]} == {float}
  assert {type(value) for value in found["num_samples"]} == {int} != {type(value) for value in jnp.asarray([5, 6])}
  keys = jax.random.split(jax.random.key(0))
  assert grid.Grid(lambda key: resampled(), ["replace"], {"key": keys}).axes["key"][1].dtype == keys.dtype


@pytest.mark.parametrize("name", ["censored", "error_expected_up_to", "error_limit", "finite_expected"])
def test_names_of_results_are_refused(name, monkeypatch):
  """Names of what stands beside metrics, by each driver that traces; a name alike, or without such a metric, is free."""
  monkeypatch.setattr(jax.stages.Lowered, "compile", None)
  assert tuple(ending for ending, *_ in expected.FIELDS) == BESIDE
  assert not grid.of_results(["error", "error_limited", "loss_limit", "collapsed", "uncensored"])
  task = resampled()._replace(evaluate=lambda *_: {"error": jnp.zeros(()), name: jnp.zeros(())}, metrics={})
  declared = task._replace(metrics={"error": MetricInfo("error"), name: MetricInfo("mine")})
  for given, driver in ((task, "scan"), (declared, "scan"), (declared, "steps")):
    with pytest.raises(Refused, match=f"must not be called {name}"):
      cj.sweep(given, ["accumulate"], {}, num_generations=2, num_seeds=2, driver=driver)


def test_errors_of_a_users_code_keep_their_traceback(tmp_path):
  """They end a sweep, whatever their kind, and say in which cell; what is finished is kept. Only what is refused is a status."""

  def my_sampler(*arguments):
    raise kind("my own bug")

  def task(num_samples):
    return resampled()._replace(sample=my_sampler) if num_samples == 7 else resampled()

  for kind in (ValueError, KeyError, TypeError):
    with pytest.raises(kind, match="my own bug") as caught:
      cj.sweep(
        task,
        ["replace"],
        {"num_samples": [8, 7]},
        num_generations=2,
        num_seeds=2,
        num_workers=1,
        directory=tmp_path / kind.__name__,
      )
    assert caught.traceback[-1].name == "my_sampler" and not isinstance(caught.value, Refused)
    assert "in a sweep, workflow replace, num_samples 7" in caught.value.__notes__
    assert len(list((tmp_path / kind.__name__).rglob("*.chunk"))) == 1
  kind = Refused
  found = cj.sweep(task, ["replace"], {"num_samples": [8, 7]}, num_generations=2, num_seeds=2)
  assert found.cell_status.values.tolist() == [["ok", "my own bug"]]


def test_only_what_the_same_program_computed_is_resumed(tmp_path, calls):
  """Another number in a closure or among its data, or another workflow under the same name, is refused; chunks may differ."""
  whole = small(directory=tmp_path)
  changed = REAL.copy()
  changed[3] += 1e-6
  twice = {"replace": workflows.accumulate()}
  for task in (lambda shift: resampled(changed + shift), lambda shift: resampled(REAL + shift, noise=2.0)):
    with pytest.raises(ValueError, match="made by another task or workflow, or from other data"):
      small(task, directory=tmp_path, resume=True)
  with pytest.raises(ValueError, match="another task or workflow"):
    cj.sweep(
      lambda shift: resampled(REAL + shift),
      twice,
      {"shift": [1.0, 2.0]},
      num_generations=3,
      num_seeds=12,
      directory=tmp_path,
      resume=True,
    )
  calls.clear()
  again = small(lambda shift: resampled(np.array(REAL) + shift), directory=tmp_path, resume=True, chunk_size=5)
  np.testing.assert_array_equal(again.error, whole.error)
  assert not calls and again.num_compilations == 0


def test_runs_of_all_processes_are_read_and_only_the_others_computed(tmp_path, calls):
  """Whoever committed them, and however the chunks are cut now; a cell that is complete at once is reported too."""
  whole = small(directory=tmp_path)
  first, second = tmp_path / "process_0", tmp_path / "process_1"
  second.mkdir()
  shutil.copy(first / "sweep.json", second)
  for name in ("cell_0-0,seeds_0-3.chunk", "cell_0-1,seeds_8-11.chunk"):
    shutil.move(first / name, second)
  (first / "cell_0-0,seeds_4-7.chunk").unlink()
  seen = {}
  calls.clear()
  again = small(
    directory=tmp_path, resume=True, chunk_size=3, on_cell=lambda cell, metrics: seen.update({cell["shift"]: metrics})
  )
  assert calls == [(4, 2), (6, 2)]
  np.testing.assert_allclose(again.error, whole.error, rtol=1e-5)
  assert sorted(seen) == [1.0, 2.0]
  np.testing.assert_array_equal(seen[2.0]["error"], whole.error[0, 1])
  small(directory=tmp_path)
  assert not list(second.glob("*.chunk")), "left for a later resume"


def test_an_interrupted_sweep_commits_nothing_more(tmp_path, monkeypatch):
  """Also what was being computed; until then no other sweep may write there."""
  computing, go, ended, plain = threading.Event(), threading.Event(), [], programs.Program.run

  def run(program, first, num, traced):
    for at, metrics in plain(program, first, num, traced):
      if float(traced["shift"]) == 2.0:
        ended.append(threading.current_thread())
        computing.set()
        go.wait(60)
      yield at, metrics

  monkeypatch.setattr(programs.Program, "run", run)
  refusals = []

  def interrupt(cell, metrics):
    assert computing.wait(60)
    with pytest.raises(ValueError, match="is being written by another sweep"):
      small(shifts=(3.0,), directory=tmp_path)
    refusals.append(cell["shift"])
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    small(directory=tmp_path, on_cell=interrupt, num_workers=2, chunk_size=12)
  small(shifts=(4.0,), directory=tmp_path, chunk_size=12)
  go.set()
  [one.join(60) for one in ended]
  assert refusals == [1.0] and len(ended) == 1
  assert [file.name for file in tmp_path.rglob("*.chunk")] == ["cell_0-0,seeds_0-11.chunk"]
  resumed = small(shifts=(4.0,), directory=tmp_path, resume=True)
  np.testing.assert_array_equal(resumed.error, small(shifts=(4.0,), chunk_size=12).error)


@pytest.mark.parametrize("when", ["compiling", "running"])
def test_memory_runs_out_for_an_odd_size(when, tmp_path, monkeypatch):
  """Halves of a chunk of 5 are of 3 and 2: no seed of the next chunk is computed in its place."""
  plain = devices.over_runs

  class Limited:
    def __init__(self, program):
      self.program = program

    def lower(self, index, traced):
      self.width = index.shape[0]
      return self

    def compile(self):
      if when == "compiling":
        self()
      done = self.program.lower(jax.ShapeDtypeStruct((self.width,), np.int32), {"shift": jnp.zeros(())}).compile()
      self.memory_analysis = done.memory_analysis
      self.run = done
      return self

    def __call__(self, *arguments):
      if self.width > 3:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
      return self.run(*arguments) if arguments else None

  monkeypatch.setattr(devices, "over_runs", lambda *arguments, **options: Limited(plain(*arguments, **options)))
  out = small(shifts=(1.0,), chunk_size=5, num_seeds=13, directory=tmp_path)
  names = {file.stem.split("_")[-1] for file in tmp_path.rglob("*.chunk")}
  assert names == (
    {"0-2", "3-5", "6-8", "9-11", "12-12"} if when == "compiling" else {"0-2", "3-4", "5-7", "8-9", "10-12"}
  )
  monkeypatch.undo()
  np.testing.assert_allclose(out.error, small(shifts=(1.0,), chunk_size=3, num_seeds=13).error, rtol=1e-5)


def command(*arguments, cwd=None):
  return subprocess.run(
    [sys.executable, "-m", *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
    env={**os.environ, "PYTHONPATH": os.getcwd()},
    stdin=subprocess.DEVNULL,
    timeout=300,
    check=False,
  )


SMALL = ("--num_samples=10", "--num_seeds=3", "--num_generations=3")


def test_command_line(tmp_path):
  """Writes everything; then refuses to overwrite, and leaves the results as they were."""
  done = command("experiments.gaussian", "--dims=1", "--workflows=replace", *SMALL, f"--output_dir={tmp_path}/out")
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith("report.html")
  assert {"results.nc", "config.json", "figures", "report.html"} == {p.name for p in (tmp_path / "out").iterdir()} - {
    ".lock"
  }
  assert cj.load(tmp_path / "out").attrs["command"].startswith("python -m experiments.gaussian --dims=1")
  before = (tmp_path / "out" / "results.nc").read_bytes()
  again = command("experiments.gaussian", "--dims=1", *SMALL, f"--output_dir={tmp_path}/out")
  assert again.returncode == 2 and "--overwrite" in again.stderr
  assert (tmp_path / "out" / "results.nc").read_bytes() == before


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (("gaussian", "--workflows=foo"), "unknown workflow 'foo'"),
    (("gaussian", "--nonsense"), "nonsense"),
    (("kde", "--datasets=wine", "--num_samples=1000"), "at most 125"),
    (("logistic_regression", "--dataset=mars"), "unknown data set"),
    (("logistic_regression", "--num_features=all"), "separate the labels"),
    (("logistic_regression", "--num_features=99"), "from 1 to 30"),
    (("real_data_value", "--num_real=0"), "at least 2"),
    (("exponential_family", "--temperatures=2", "--families=poisson"), "must be 1 for poisson"),
  ],
)
def test_bad_command_lines(arguments, part, tmp_path):
  """Exit status 2, one line, no traceback, nothing written."""
  out = command(f"experiments.{arguments[0]}", *arguments[1:], cwd=tmp_path)
  assert out.returncode == 2
  assert part in out.stderr and out.stderr.startswith("error: ") and out.stderr.count("\n") == 1
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (("gaussian", "--num_samples=0"), "at least 2, got '0'"),
    (("gaussian", "--draws=law"), "--draws=law"),
    (("kde", "--bandwidths=0"), "above 0"),
    (("kde", "--datasets=mars"), "unknown data set"),
    (("gaussian", f"--output_dir={__file__}"), "is a file"),
    (("real_share", "--real_fractions=2"), "from 0 to 1"),
    (("reproduce", "--only=nothing"), "--only=nothing"),
    (("linear_regression", "--covariates=old"), "one of same, fresh"),
    (("linear_regression", "--covariates=fresh", "--draws=law"), "--covariates=same"),
    (("discrete", "--num_outcomes=1"), "at least 2, got '1'"),
    (("gaussian", "--workflows=sliding_window(0)"), "size must be"),
    (("logistic_regression", "--labels=old"), "one of model, data"),
    (("exponential_family", "--families=cauchy"), "among bernoulli"),
    (("discrete", "--record_every=0"), "at least 1"),
    (("language_model", "--dataset=none.jsonl"), "no such file"),
    (("language_model", "--model=gpt2_9m"), "--mode=pretrain"),
  ],
)
def test_bad_values(arguments, part):
  """Refused by what reads flags, before JAX is imported."""
  assert part in outcome(arguments[0], list(arguments[1:]))


def test_the_papers_matrix_is_enumerated():
  """116,500 runs, as counted in the sweep files of the publication."""
  from experiments import reproduce

  count = {}
  for name, (_, options) in reproduce.experiments("paper").items():
    grid = [len(value) for value in options.values() if isinstance(value, list)]
    count[name.split("/")[0]] = count.get(name.split("/")[0], 0) + int(np.prod(grid)) * options["num_seeds"]
  assert count == {
    "gaussian": 7500,
    "kde": 18_000,
    "kde_bandwidth_swept": 54_000,
    "kde_bandwidth_estimated": 12_000,
    "linear_regression": 22_500,
    "discrete": 2500,
  }


def test_parsing_imports_no_jax():
  code = "import sys; import experiments.common; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numbers_of_numpy_and_arrays_as_values():
  """Whatever counts as an integer is one; data sets of the user's own are values of an axis; no two labels are alike."""
  rng = np.random.default_rng(0)
  sets = [rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), (rng.normal(size=(40, 2)), rng.normal(size=(9, 2)))]
  out = cj.sweep(
    lambda dataset, bandwidth: tasks.kde(dataset, 10, bandwidth),
    ["replace"],
    {"dataset": [*sets, "moons"], "bandwidth": [0.1234567, 0.1234568]},
    num_generations=np.int64(2),
    num_seeds=np.int32(3),
    record_every=np.uint8(1),
    chunk_size=np.int64(2),
    seed=np.int64(0),
    text_axes=["bandwidth"],
  )
  assert (out.cell_status == "ok").all() and out.finite.all()
  assert list(out.dataset.values) == ["array of 60 x 2", "array of 60 x 2 (2)", "array of 40 x 2 and 9 x 2", "moons"]
  assert list(out.bandwidth.values) == ["0.1234567", "0.1234568"]
  np.testing.assert_array_equal(out.bandwidth_value, [0.1234567, 0.1234568])
  first, second = (out.test_nll.sel(dataset=name) for name in out.dataset.values[:2])
  assert (np.abs(first.values - second.values) > 1e-3).all()
  with pytest.raises(ValueError, match="names a value twice"):
    cj.sweep(
      lambda dataset: tasks.kde(dataset, 10, 0.3),
      ["replace"],
      {"dataset": [sets[0], sets[0].copy()]},
      num_generations=2,
      num_seeds=2,
    )
  for wrong in (2.0, "3", None):
    with pytest.raises(ValueError, match="num_seeds must be an integer"):
      cj.sweep(tasks.sample_median(4), ["replace"], {}, num_generations=2, num_seeds=wrong)


def test_labels_are_unique():
  assert grid.labels([0.5, "scott", 2, np.float64(1e-9)]) == ["0.5", "scott", "2", "1e-09"]
  assert grid.labels([1 / 3, 0.333333]) == [str(1 / 3), "0.333333"]
  assert grid.labels(["0.5", 0.5, "0.5 (2)"]) == ["0.5", "0.5 (3)", "0.5 (2)"]


def test_what_workflows_share_is_fitted_once():
  """By the driver "steps": generation 1 is the same under all workflows, but where one hands over other data."""
  base, fits = poisson_mean(4.0, 20), []

  def fit(key, problem, context):
    jax.debug.callback(lambda t: fits.append(int(t)), context.t)
    return base.fit(key, problem, context)

  def shifted(task, problem, key, store, t):
    data = plain.select(task, problem, key, store, t)
    return data._replace(rows=data.rows + jnp.where(t == 1, 1.0, 0.0))

  plain = workflows.replace()
  flows = {
    "replace": workflows.replace,
    "accumulate": workflows.accumulate,
    "other": lambda: plain._replace(select=shifted),
  }
  sweep = lambda flows: by_steps(base._replace(fit=fit), flows, {}, num_generations=3, num_seeds=1).squared_error
  together = sweep(flows)
  jax.effects_barrier()
  assert sorted(fits) == [1, 1, 2, 2, 2, 3, 3, 3]
  for name, flow in flows.items():
    np.testing.assert_array_equal(together.sel(workflow=name), sweep({name: flow}).sel(workflow=name))


ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
import collapse_jax as cj

def fit(key, problem, context):
  return jax.lax.fori_loop(0, 10, lambda i, x: x @ x / len(x), context.data.rows[0, :900])

def sample(key, problem, x, context):
  total = lambda *parts: np.float32(sum(np.asarray(part).sum() for part in parts))
  shape = jax.ShapeDtypeStruct((), jnp.float32)
  return cj.store.batch(x), {"total": jax.pure_callback(total, shape, x, x + 1, vmap_method="sequential")}

task = cj.TaskSetting(
  lambda key: (jnp.zeros(()), cj.store.batch(jnp.ones((900, 900)))), fit, sample, lambda key, problem, x: {}, 900
)
out = cj.sweep(task, ["replace"], {}, num_generations=4, num_seeds=1, driver="steps")
print(int(out.total.values.sum()))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that pins processes to cores")
def test_calls_of_the_host_on_one_core():
  """They wait for their arguments on the one thread that there is, where these are still computed."""
  done = subprocess.run([sys.executable, "-c", ONE_CORE], capture_output=True, text=True, timeout=120)
  assert done.stdout.strip() == str(4 * 3 * 900**2), done.stderr
