"""The driver "host": any Python in a task, the same grid, Dataset, verdicts, report and resuming; and which driver is taken."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import own_model
import pytest
import xarray
from helpers import KILLED, poisson_mean, resampled, run

import collapse_jax as cj
from collapse_jax import diagnostics, plotting, report, store, sweeps, tasks, transforms, vocabulary, workflows
from collapse_jax.random import seed_of
from collapse_jax.refused import Refused


@pytest.fixture(scope="module")
def results():
  return own_model.swept()


def test_a_model_of_scikit_learn(results, tmp_path):
  """README's task under five workflows: training data, verdicts, figures and the report."""
  assert len(own_model.readme().split("def mixture")[1].splitlines()) < 25
  one = results.squeeze(["num_samples", "num_components"])
  assert one.test_nll.dims == ("workflow", "seed", "generation") and one.finite.all()
  t = np.arange(1, 5)
  sizes = [60 + 0 * t, 60 * t, 60 + 0 * t, np.minimum(60 * t, 120), np.minimum(60 * t, 120)]
  shares = {
    "replace": t == 1,
    "accumulate": 1 / t,
    "mix(0.5)": 1 / np.minimum(t, 2),
    "sliding_window(2)": [1, 0.5, 0, 0],
  }
  for i in range(2):
    np.testing.assert_array_equal(one.train_size[:, i], sizes)
    for name, expected in shares.items():
      np.testing.assert_allclose(one.real_share.sel(workflow=name)[i], expected, rtol=1e-6)
  np.testing.assert_array_equal(np.ptp(one.test_nll.values[:, :, 0], axis=0), 0)  # all share model 1
  assert np.ptp(one.test_nll.values[:, :, 1], axis=0).min() > 0
  rows = diagnostics.verdicts(results)
  assert [row["workflow"] for row in rows if row["metric"] == "test_nll"] == own_model.WORKFLOWS
  assert list(plotting.figures_for(results)) == ["test_nll"]
  report.write_report(results, tmp_path / "report.html")
  assert all(name in (tmp_path / "report.html").read_text() for name in own_model.WORKFLOWS)


def test_killed_and_resumed(results, tmp_path):
  """SIGKILL in the middle of a checkpoint: no generation that was committed is computed twice, and numbers are the same."""
  log, out = tmp_path / "log", tmp_path / "out"
  out.mkdir()
  run(KILLED, log, ".npz:11", "kill", "own_model", out, expect=-signal.SIGKILL)
  assert log.read_text().count(".npz") == 10 and not (out / "results.nc").exists()
  run(KILLED, log, "0", "kill", "own_model", out)
  assert log.read_text().count(".npz") == 5 * 2 * 4
  found = xarray.load_dataset(out / "results.nc", engine="h5netcdf")
  xarray.testing.assert_identical(found.drop_attrs(deep=False), results.drop_attrs(deep=False))


HORIZON = 3


@pytest.mark.parametrize(
  ("task", "workflow"),
  [
    *(("poisson", name) for name in ("accumulate", "accumulate_subsample", "mix(0.5)", "grown_replace", "mix(1.0)")),
    ("gaussian", "mix(0.5, fresh=True)"),
    ("kde", "sliding_window(2)"),
    ("discrete", "replace"),
    ("rejecting", "replace"),
  ],
)
def test_as_the_scan(task, workflow):
  """A task that JAX can trace gives the same by all three drivers."""
  keep = lambda key, problem, rows: jax.random.uniform(key, (store.num_rows(rows),)) < 0.3
  make = {
    "poisson": lambda: poisson_mean(3.0, 6),
    "gaussian": lambda: tasks.gaussian(2, 8),
    "kde": lambda: tasks.kde("moons", 12, 0.3, num_test=10),
    "discrete": lambda: tasks.discrete(3, 4),
    "rejecting": lambda: transforms.verify(tasks.exponential_family("gaussian", 2), keep),
  }[task]
  options = {"num_generations": HORIZON, "num_seeds": 3, "record_every": 2}
  scan, host = (cj.sweep(make, [workflow], {}, driver=driver, **options) for driver in ("scan", "host"))
  assert set(scan.data_vars) == set(host.data_vars) and scan.sizes == host.sizes
  for name in scan.data_vars:
    if scan[name].dtype.kind == "f":
      np.testing.assert_allclose(host[name], scan[name], rtol=2e-4, atol=2e-5, err_msg=name)
    else:
      np.testing.assert_array_equal(host[name], scan[name], err_msg=name)
  if task == "rejecting":
    assert not scan.finite.all()


def counting(num_samples=5, fails=None):
  """Counts in params how often it was fitted from warm; an own object unless they are asked for as arrays."""

  def fit(key, problem, context):
    if fails is not None and context.t == 2 and len(fails) == 1:
      raise KeyError("my own bug")
    if fails is not None:
      fails.append(1)
    done = 0 if context.previous is None else context.previous["done"]
    return {"done": np.asarray(done + 1), "mean": np.asarray(store.flat(context.data)[0].mean())}

  draw = lambda key, mean, num: store.batch(mean + np.random.default_rng(seed_of(key)).normal(size=num))
  return cj.TaskSetting(
    lambda key: (None, draw(key, 0.0, num_samples)),
    fit,
    lambda key, problem, params, context: (draw(key, params["mean"], context.num), {}),
    lambda key, problem, params: {"done": float(params["done"]), "mean": float(params["mean"])},
    num_samples,
  )


def by_host(task, **options):
  return cj.sweep(task, ["accumulate"], {}, driver="host", **{"num_generations": 4, "num_seeds": 2} | options)


def test_warm_starts(tmp_path):
  """Params are saved where they are trees of arrays, and refused in one line where they are not."""
  whole = by_host(counting(), warm_start=True, directory=tmp_path / "whole")
  np.testing.assert_array_equal(whole.done[0], [[1, 2, 3, 4]] * 2)
  np.testing.assert_array_equal(by_host(counting()).done[0], np.ones((2, 4)))
  for folder in (tmp_path / "whole").iterdir():
    (folder / "4.npz").unlink()
  again = by_host(counting(), warm_start=True, directory=tmp_path / "whole", resume=True)
  xarray.testing.assert_identical(again.drop_attrs(deep=False), whole.drop_attrs(deep=False))
  task = counting()
  odd = task._replace(fit=lambda *arguments: {**task.fit(*arguments), "model": object()})
  by_host(odd, warm_start=True)
  with pytest.raises(Refused, match="keep params of warm-started runs that are no arrays"):
    by_host(odd, warm_start=True, directory=tmp_path / "odd")


def test_params_that_grow_are_resumed(tmp_path):
  """Warm-started models may be of another shape in each generation."""
  task = counting()

  def fit(key, problem, context):
    before = () if context.previous is None else context.previous["seen"]
    one = task.fit(key, problem, context._replace(previous=None))
    return {**one, "seen": np.append(before, one["mean"])}

  grown = task._replace(fit=fit, evaluate=lambda key, problem, params: {"num": float(len(params["seen"]))})
  whole = by_host(grown, warm_start=True, directory=tmp_path)
  np.testing.assert_array_equal(whole.num[0], [[1, 2, 3, 4]] * 2)
  for folder in tmp_path.iterdir():
    (folder / "4.npz").unlink()
  batches = []
  again = by_host(
    grown, warm_start=True, directory=tmp_path, resume=True, on_batch=lambda cell, t, *_: batches.append(t)
  )
  assert batches == [4, 4]
  xarray.testing.assert_identical(again.drop_attrs(deep=False), whole.drop_attrs(deep=False))


def test_other_data_and_versions_are_refused(tmp_path):
  by_host(counting(), directory=tmp_path, about={"version": 1})
  with pytest.raises(Refused, match="version=1, not 2"):
    by_host(counting(), directory=tmp_path, resume=True, about={"version": 2})
  task = counting()
  other = task._replace(init=lambda key: (None, store.batch(np.ones(5))))
  with pytest.raises(Refused, match="from other data"):
    by_host(other, directory=tmp_path, resume=True, about={"version": 1})


def test_other_workflows_and_problems_are_refused(tmp_path):
  """Also where only the beginning, the update, the rows that are emitted or the problem differ; the same ones go on."""
  plain = workflows.accumulate()
  halved = lambda task, problem, key, data, batch, t: plain.update(
    task, problem, key, data, batch._replace(rows=batch.rows / 2), t
  )
  doubled = lambda task, problem, real, T: plain.init(task, problem, real._replace(rows=real.rows * 2), T)
  make = lambda scale: counting()._replace(
    init=lambda key: ({"name": print, "scale": np.float32(scale)}, store.batch(np.ones(5)))
  )

  def swept(flow, scale=1.0, folder=tmp_path, resume=True):
    options = {"num_generations": 2, "num_seeds": 1, "driver": "host", "directory": folder, "resume": resume}
    return cj.sweep(make(scale), {"mine": flow}, {}, **options)

  whole = swept(plain, resume=False)
  xarray.testing.assert_identical(swept(plain).drop_attrs(deep=False), whole.drop_attrs(deep=False))
  for other in (plain._replace(update=halved), plain._replace(init=doubled)):
    with pytest.raises(Refused, match="another task or workflow"):
      swept(other)
  with pytest.raises(Refused, match="another task or workflow"):
    swept(plain, scale=2.0)
  grown = workflows.grown_replace()
  swept(grown, folder=tmp_path / "grown")
  with pytest.raises(Refused, match="another task or workflow"):
    swept(grown._replace(emit=lambda n, t: 2 * n), folder=tmp_path / "grown")


def test_objects_on_an_axis_are_resumed(tmp_path):
  """A folder has no address in its name: another process has other ones."""

  def swept(**options):
    scales = [lambda x: x, lambda x: 2 * x]  # other objects in each call, as in another process
    make = lambda scale, num_samples: counting(num_samples)
    axes = {"scale": scales, "num_samples": [5]}
    return cj.sweep(
      make, ["replace"], axes, num_generations=1, num_seeds=1, driver="host", directory=tmp_path, **options
    )

  swept()
  assert {folder.name for folder in tmp_path.iterdir()} == {
    vocabulary.file_name(f"workflow=replace,scale=#{i},num_samples=5,seeds=0-0") for i in range(2)
  }
  batches = []
  swept(resume=True, on_batch=lambda *one: batches.append(one))
  assert not batches


def test_errors_end_it_and_what_is_done_is_kept(tmp_path):
  with pytest.raises(KeyError, match="my own bug") as caught:
    by_host(counting(fails=[]), directory=tmp_path)
  assert caught.traceback[-1].name == "fit" and "in a sweep, workflow accumulate" in caught.value.__notes__
  assert [file.stem for file in tmp_path.rglob("*.npz")] == ["1"]


def test_a_users_own_error_of_tracing_is_theirs():
  task = counting()
  traced = jax.jit(lambda x: 1.0 if x > 0 else 0.0)
  with pytest.raises(jax.errors.TracerBoolConversionError):
    by_host(task._replace(fit=lambda key, problem, context: traced(1.0)))


@pytest.mark.parametrize("name", ["train_size", "real_share", "finite"])
def test_names_of_every_run_are_refused(name):
  with pytest.raises(Refused, match=f"must not be called {name}"):
    by_host(counting()._replace(evaluate=lambda key, problem, params: {name: 1.0}))


def test_sizes_in_one_room():
  """Programs of a workflow are not shared by tasks of which other numbers of rows count."""

  def make(num_samples):
    task = poisson_mean(4.0, 8)
    mask = (jnp.arange(8) < num_samples).astype(float)
    return task._replace(init=lambda key: (4.0, store.weighed(task.init(key)[1], mask)), used=num_samples)

  run = lambda driver: cj.sweep(
    make, ["accumulate_subsample"], {"num_samples": [3, 6]}, num_generations=3, num_seeds=2, driver=driver
  )
  scan, host = run("scan"), run("host")
  np.testing.assert_allclose(host.squared_error, scan.squared_error, rtol=1e-5, atol=1e-6)
  assert (host.train_size == host.num_samples).all()


def test_a_generation_that_emits_nothing():
  """The sampler is asked for a row that does not count, and what is trained on is as in the scan."""
  flow = workflows.grown_replace()._replace(emit=lambda n, t: 0 if t == 2 else n * (t + 1), schedule=None, weights=None)
  asked, task = [], poisson_mean(3.0, 4)

  def sample(key, problem, params, context):
    asked.append(context.num)
    return task.sample(key, problem, params, context)

  options = {"num_generations": 3, "num_seeds": 1}
  host = cj.sweep(task._replace(sample=sample), {"mine": flow}, {}, driver="host", **options)
  scan = cj.sweep(task, {"mine": flow}, {}, **options)
  assert asked == [8, 1]
  np.testing.assert_array_equal(host.train_size, scan.train_size)
  np.testing.assert_array_equal(host.train_size[0, 0], [4, 8, 0])


def test_looking_on():
  """Batches, metrics, cells; a run that is stopped holds NaN from there on."""
  batches, cells = [], []

  def stop(cell, t, seeds, metrics):
    if (t, seeds.start) == (2, 1):
      raise sweeps.Stop("enough")

  found = by_host(
    counting(),
    on_batch=lambda cell, t, seeds, batch: batches.append((t, list(seeds), batch.rows.shape)),
    on_metrics=stop,
    on_cell=lambda cell, metrics: cells.append((cell, metrics["mean"].shape)),
  )
  assert batches == [*((t, [0], (1, 1, 5)) for t in (1, 2, 3, 4)), *((t, [1], (1, 1, 5)) for t in (1, 2))]
  assert cells == [({"workflow": "accumulate"}, (2, 4))]
  np.testing.assert_array_equal(np.isfinite(found["mean"][0]), [[1, 1, 1, 1], [1, 1, 0, 0]])
  assert found.attrs["stopped"] == "workflow accumulate, seed 1: enough"


def test_which_driver():
  """What cannot be traced is refused in a line that names the driver for it; options choose, or contradict."""
  with pytest.raises(Refused, match='cannot be traced by JAX; driver="host" runs any Python') as caught:
    cj.sweep(counting(), ["replace"], {}, num_generations=2, num_seeds=2)
  assert isinstance(caught.value.__cause__, jax.errors.TracerArrayConversionError) and "\n" not in str(caught.value)
  options = {"num_generations": 1, "num_seeds": 1}
  taken = lambda **more: cj.sweep(resampled(), ["replace"], {}, **options, **more).attrs["driver"]
  assert taken() == "scan" and taken(on_batch=lambda *_: None) == "steps" and taken(driver="host") == "host"
  mesh = jax.make_mesh((1,), ("runs",))
  for more, part in (
    ({"driver": "loop"}, "must be one of auto, scan, steps, host, got 'loop'"),
    ({"driver": "scan", "keep_all": True}, 'keep_all is for driver="steps" or driver="host", not for driver="scan"'),
    ({"driver": "host", "chunk_size": 2}, 'chunk_size is for driver="scan" or driver="steps", not for driver="host"'),
    ({"mesh": mesh, "on_batch": print}, "do not go together"),
  ):
    with pytest.raises(Refused, match=part):
      taken(**more)


def test_seeds():
  keys = jax.random.split(jax.random.key(0), 200)
  seeds = [seed_of(key) for key in keys]
  assert len(set(seeds)) == 200 and all(isinstance(one, int) and 0 <= one < 2**31 for one in seeds)
  assert seeds == [seed_of(key) for key in keys] and 2**29 < np.median(seeds) < 3 * 2**29


def test_overhead():
  """Of a generation, without fit and sample: under 20 ms at 1,000 rows."""
  rows = np.zeros((1000, 2), np.float32)
  task = cj.TaskSetting(
    lambda key: (None, store.batch(rows)),
    lambda key, problem, context: store.flat(context.data),
    lambda key, problem, params, context: (store.batch(rows), {}),
    lambda key, problem, params: {"zero": 0.0},
    1000,
  )
  seconds = []
  for num_generations in (1, 61):
    begun = time.process_time()
    cj.sweep(task, ["replace"], {}, num_generations=num_generations, num_seeds=2, driver="host")
    seconds.append(time.process_time() - begun)
  assert (seconds[1] - seconds[0]) / 120 < 0.02


def test_workflows_of_ones_own():
  """Also one that looks at a problem which is no array: what of it is none is not there."""
  plain = workflows.replace()
  seen = []

  def select(task, problem, key, data, t):
    seen.append(problem)
    return plain.select(task, problem, key, data, t)

  task = counting()._replace(init=lambda key: ({"name": "mine", "scale": jnp.ones(())}, store.batch(np.ones(5))))
  cj.sweep(task, {"mine": plain._replace(select=select)}, {}, num_generations=2, num_seeds=2, driver="host")
  assert len(seen) == 1 and seen[0]["name"] is None and seen[0]["scale"].shape == ()  # traced once
