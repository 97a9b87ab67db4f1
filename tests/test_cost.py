"""Work is counted as it is: by shapes, lengths of loops and formulas; estimates order sweeps as their times are ordered."""

import contextlib
import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import own_flags, poisson_mean

import collapse_jax as cj
from collapse_jax import store, sweeps, tasks, workflows
from collapse_jax.sweeps import cost, devices, plan
from collapse_jax.tasks import _kde, _surviving
from experiments import common, flag_values, reproduce


def test_known_functions():
  square = jnp.ones((200, 200))
  product = cost.work_of(lambda a, b: a @ b, square, square)
  assert 0.9 < product / (cost._PER_FLOP * 2 * 200**3) < 1.1
  assert 7.9 < cost.work_of(lambda a, b: a @ b, jnp.ones((400, 400)), jnp.ones((400, 400))) / product < 8.1
  once = lambda x: jnp.exp(x) @ square
  loop = lambda x: jax.lax.scan(lambda x, _: (once(x), None), x, None, length=50)[0]
  assert 49 < cost.work_of(loop, square) / cost.work_of(once, square) < 51
  assert cost.work_of(jax.vmap(once), jnp.ones((7, 200, 200))) > 6.5 * cost.work_of(once, square)
  assert cost.work_of(jax.jit(once), square) == pytest.approx(cost.work_of(once, square), rel=0.01)
  assert cost.work_of(lambda x: x.reshape(-1), square) == 0


N = 200
OPERATIONS = {  # name -> function of x [N, N], floating-point operations of textbooks (Golub and Van Loan)
  "product": (lambda x: x @ x, 2 * N**3),
  "product with a vector": (lambda x: x @ x[0], 2 * N**2),
  "batched product": (lambda x: jnp.einsum("bij,bjk->bik", x.reshape(8, N // 8, N), x.reshape(8, N, N // 8)), N**3 / 4),
  "qr, both factors": (jnp.linalg.qr, 8 / 3 * N**3),
  "qr of half the columns": (lambda x: jnp.linalg.qr(x[:, : N // 2]), 4 * N * (N / 2) ** 2 - 4 / 3 * (N / 2) ** 3),
  "cholesky": (jnp.linalg.cholesky, N**3 / 3),
  "triangular solve": (lambda x: jax.scipy.linalg.solve_triangular(x, x), N**3),
  "eigenvalues and vectors": (jnp.linalg.eigh, 9 * N**3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_known_operations(name):
  """Counted is what textbooks count, to a factor of two; seven matrices are seven times the work."""
  function, flops = OPERATIONS[name]
  each = cost._PER_FLOP if "product" in name else cost._LAPACK_FLOP
  counted = cost.work_of(function, jnp.ones((N, N)))
  assert 0.55 < counted / (each * flops) < 1.35
  several = cost.work_of(jax.vmap(function), jnp.ones((7, N, N)))
  assert several / counted == pytest.approx(7, rel=0.05)


def test_operations_beside_one_another():
  """As measured on one core: a flop of LAPACK takes as long as three of a product, an exponential as eight additions."""
  x = jnp.ones((N, N))
  product = cost.work_of(lambda x: x @ x, x)
  assert 2 < cost.work_of(lambda x: jnp.linalg.qr(x)[0], x) / product < 6
  assert 8 < cost.work_of(lambda x: jnp.linalg.eigh(x)[1], x) / product < 20
  each = {name: cost.work_of(function, x) / x.size for name, function in ELEMENTWISE.items()}
  assert each["add"] == pytest.approx(0.06, rel=0.01)
  assert 5 < each["exp"] / each["add"] < 12 and 2 < each["log"] / each["exp"] < 4
  assert each["exp"] < each["erf_inv"] < each["gather"] < each["lgamma"] < each["sort"] < 4 * each["lgamma"]
  assert each["nothing"] == 0 and each["sum"] == pytest.approx(each["add"], rel=0.01)


ELEMENTWISE = {
  "add": lambda x: x + 1.0,
  "exp": jnp.exp,
  "log": jnp.log,
  "erf_inv": jax.lax.erf_inv,
  "lgamma": jax.lax.lgamma,
  "gather": lambda x: x.at[jnp.zeros((N,), int)].get(mode="promise_in_bounds"),
  "sort": lambda x: jax.lax.sort(x.reshape(-1)),
  "sum": jnp.sum,
  "nothing": lambda x: x.T.reshape(-1)[: N // 2],
}


def test_effort_by_the_work_of_a_call(monkeypatch):
  """More work, more effort; all ways of compiling give the same numbers up to rounding, and one that XLA does not know is none."""
  found = [cost.effort(one) for one in (0.0, cost.EFFORTS[0].up_to, 1.01 * cost.EFFORTS[0].up_to, math.inf)]
  assert found == [cost.EFFORTS[0], cost.EFFORTS[0], cost.EFFORTS[1], cost.EFFORTS[-1]]
  assert [one.compile_seconds for one in cost.EFFORTS] == sorted(one.compile_seconds for one in cost.EFFORTS)
  level = {"xla_backend_optimization_level": 0}
  assert devices.known_options(level | {"xla_no_such_option": 1}) == level and not cost.EFFORTS[-1].options
  asked = []
  plain = devices.over_runs
  monkeypatch.setattr(
    devices, "over_runs", lambda *given, options: asked.append(options) or plain(*given, options=options)
  )

  def errors(one):
    monkeypatch.setattr(cost, "EFFORTS", (one._replace(up_to=math.inf),))
    task = lambda dim, num_samples: tasks.gaussian(dim, num_samples)
    options = {"num_generations": 5, "num_seeds": 3, "num_workers": 1}
    return cj.sweep(task, ["accumulate"], {"dim": [2], "num_samples": [10]}, **options).covariance_trace_ratio

  efforts = cost.EFFORTS
  curves = [errors(one) for one in efforts]
  assert asked == [devices.known_options(one.options) for one in efforts]
  for one in curves[:-1]:
    np.testing.assert_allclose(one, curves[-1], rtol=1e-5)


def test_rare_branches_and_fallbacks_do_not_count():
  def fallback(x):
    return jax.lax.while_loop(
      lambda state: state[0], lambda state: (False, jnp.linalg.qr(state[1])[0]), (x[0, 0] > 5, x)
    )[1]

  x = jnp.ones((100, 100))
  decomposition = cost.work_of(lambda x: jnp.linalg.qr(x)[0], x)
  assert cost.work_of(fallback, x) < 0.01 * decomposition
  assert cost.work_of(fallback, x, counted=cost.Counted(fallbacks=True)) == pytest.approx(decomposition, rel=0.01)
  branch = lambda x: jax.lax.cond(x[0, 0] > 5, lambda x: x @ x, lambda x: x, x)
  assert cost.work_of(branch, x) < 0.01 * cost.work_of(lambda x: x @ x, x)


@pytest.fixture(autouse=True)
def one_speed(monkeypatch):
  """A machine whose measured speed does not vary between two estimates."""
  monkeypatch.setattr(cost, "slowness", lambda: 1.0)


def running(task, axes, T=100, workflow="accumulate", **options):
  return plan(task, [workflow], axes, num_generations=T, num_seeds=100, **options).run_seconds


def test_estimates_grow_as_times_do():
  """Measured ratios, of docs/benchmarks.md: product per run, T = 100."""
  moons = lambda num_samples: tasks.kde("moons", num_samples, 0.5)
  base = running(moons, {"num_samples": [316]})
  assert 1.8 < running(moons, {"num_samples": [316]}, T=200) / base < 2.2
  assert 2 < running(moons, {"num_samples": [1000]}) / base < 5
  gaussian = lambda dim, num_samples: tasks.gaussian(dim, num_samples)
  law, rows = (
    running(gaussian, {"dim": [100], "num_samples": [1000]}, workflow=name)
    for name in ("replace", "accumulate_subsample")
  )
  assert 25 < rows / law < 100  # measured: 50; a factor of two is what is promised


def estimated(names=("replace",), num_seeds=10, num_generations=6, record_every=1, **axes):
  """Of the exact law: a program per workflow and dim, which sizes share."""
  axes = {"dim": [2], "num_samples": [10, 20, 40], **axes}
  options = {"num_generations": num_generations, "num_seeds": num_seeds, "record_every": record_every}
  return plan(tasks.gaussian, list(names), axes, **options)


@pytest.fixture
def workers(monkeypatch):
  """Sets how many there are, of a machine with 8 GiB."""
  monkeypatch.setattr(devices, "memory_bytes", lambda: 2.0**33)
  use = lambda num: monkeypatch.setattr(devices, "num_workers", lambda *_: num)
  use(1)
  return use


def test_plan_counts(workers):
  one = estimated(("replace", "accumulate"), dim=[1, 3], temperature=[1.0, 2.0])  # temperatures are traced
  assert (one.cells, one.cells_refused, one.runs, one.fits, one.programs) == (24, 0, 240, 1440, 4)
  assert one.compile_seconds == pytest.approx(4 * cost.EFFORTS[0].compile_seconds)


def test_sizes_share_a_program_where_its_room_costs_less_than_compiling(workers):
  def programs(num_seeds):
    task = lambda num_samples, temperature, max_samples=None: tasks.gaussian(
      2, num_samples, temperature=temperature, max_samples=max_samples
    )
    axes = {"num_samples": [10, 60, 1000, 1200], "temperature": [1.0]}
    return plan(task, ["accumulate_subsample"], axes, num_generations=6, num_seeds=num_seeds).programs

  assert [programs(10), programs(10**4), programs(10**6)] == [1, 2, 4]
  plain = lambda dim, num_samples: tasks.gaussian(dim, num_samples)
  axes = {"dim": [2], "num_samples": [10, 30]}
  assert plan(plain, ["accumulate_subsample"], axes, num_generations=6, num_seeds=10).programs == 2


def test_no_room_for_what_does_not_fit():
  """A size that is too large for memory leaves the others as they are, also where a plan with more memory had them together."""
  task = lambda num_samples, max_samples=None: tasks.gaussian(2, num_samples, draws="rows", max_samples=max_samples)
  options = {"num_generations": 20, "num_seeds": 1}
  axes = {"num_samples": [10, 20000]}
  planned = plan(task, ["accumulate_subsample"], axes, **options)
  assert planned.programs == 1
  out = cj.sweep(task, ["accumulate_subsample"], axes, memory_bytes=2e6, traced=planned.traced, **options)
  assert (
    out.finite[0, 0].all() and out.cell_status[0, 0] == "ok" and "one run needs" in str(out.cell_status.values[0, 1])
  )


def test_another_parameter_is_called_as_room_is(workers):
  """No `used` follows from it, so that sizes stay apart."""
  task = lambda num_samples, max_samples=100: poisson_mean(4.0, num_samples)
  axes = {"num_samples": [10, 30]}
  assert plan(task, ["accumulate_subsample"], axes, num_generations=6, num_seeds=10).programs == 2


def test_plan_of_time(workers, monkeypatch):
  """Compiling is a time a program, running is proportional to seeds, cells and nearly to generations; both are shared by workers
  and longer on a slower machine."""
  one = estimated()
  assert one.compile_seconds == pytest.approx(cost.EFFORTS[0].compile_seconds)
  start = 30e-9 * cost.RUN_NS
  assert start < one.run_seconds < 100 * start
  assert estimated(num_seeds=30).run_seconds == pytest.approx(3 * one.run_seconds)
  assert estimated(temperature=[1.0, 2.0]).run_seconds == pytest.approx(2 * one.run_seconds, rel=0.02)
  short, whole, rare = (
    estimated(num_generations=T, record_every=every).run_seconds - start for T, every in ((100, 1), (200, 1), (200, 50))
  )
  assert 1.8 < whole / short < 2.2 and 0.2 * whole < rare < whole
  workers(4)
  monkeypatch.setattr(cost, "slowness", lambda: 3.0)
  slow = estimated()
  assert slow.compile_seconds == pytest.approx(one.compile_seconds * 3 / 4)
  assert slow.run_seconds == pytest.approx(one.run_seconds * 3 / 4)


def test_plan_of_memory(workers):
  """Of the largest run: near what its compiled program itself says."""

  def make(num_samples):
    """The mean of many coordinates, from rows that are all kept."""
    draw = lambda key, mean: store.batch(mean[None] + jax.random.normal(key, (num_samples, 50)))
    return cj.TaskSetting(
      init=lambda key: (None, draw(key, jnp.zeros(50))),
      fit=lambda key, problem, context: jnp.mean(store.flat(context.data)[0], axis=0),
      sample=lambda key, problem, mean, context: (draw(key, mean), {}),
      evaluate=lambda key, problem, mean: {"error": jnp.sum(mean**2)},
      num_samples=num_samples,
    )

  T = 20
  run = jax.jit(lambda key: cj.run(key, make(200), workflows.accumulate(), T))
  said = run.lower(jax.random.key(0)).compile().memory_analysis()
  compiled = said.temp_size_in_bytes + said.output_size_in_bytes
  assert compiled > T * 200 * 50 * 4
  options = {"num_generations": T, "num_seeds": 3}
  found = plan(make, ["accumulate"], {"num_samples": [20, 200, 9]}, **options).memory_of_run
  assert 0.4 < found / compiled < 2.5
  assert plan(make, ["accumulate"], {"num_samples": [20]}, **options).memory_of_run < 0.3 * found


def test_plan_refuses_what_does_not_fit(workers):
  found = estimated(("replace", "accumulate"), dim=[1, 10**6])
  assert (found.cells, found.cells_refused, found.programs) == (6, 6, 2)
  reason = found.refusals[0]
  needed = re.match(r"one run needs about ([\d.e+]+) GiB and 4 GiB may be used", reason)
  assert float(needed[1]) > 1e12 * 4 / 2**30  # a covariance
  assert f"cannot run: {reason}" in str(found).splitlines()
  with pytest.raises(ValueError, match="one run needs about"):
    estimated(dim=[10**6])


def test_plan_of_other_drivers(workers):
  """Cells, runs, fits and refusals of any Python; what it costs is not claimed."""

  def make(num_samples):
    task = tasks.sample_median(num_samples)
    return task._replace(fit=lambda key, problem, context: float(task.fit(key, problem, context)))  # not for JAX

  axes, options = {"num_samples": [5, 0, 7]}, {"num_generations": 3, "num_seeds": 4}
  for driver in ("steps", "host"):
    found = plan(make, ["replace", "accumulate"], axes, driver=driver, **options)
    assert (found.cells, found.cells_refused, found.runs, found.fits) == (4, 2, 16, 48)
    said = parsed(str(found))
    assert set(said) == {"cells", "cells that cannot run", "runs", "fits", "cannot run", "time on this machine"}
    assert said["time on this machine"].startswith("not known")
  with pytest.raises(ValueError, match="shared is for"):
    plan(make, ["replace"], axes, driver="host", shared=jnp.ones(2), **options)


def parsed(text: str) -> dict[str, str]:
  return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_plan_as_text(workers):
  found = estimated()._replace(
    memory_of_run=3.25 * 2**20, compile_seconds=260.0, run_seconds=400.0, refusals=("too large",)
  )
  assert parsed(str(found)) == {
    "cells": "3",
    "cells that cannot run": "0",
    "runs": "30",
    "fits": "180",
    "programs to compile": "1",
    "memory of the largest run": "3.2 MiB",
    "time on this machine": "about 11 min (compiling 4 min, running 7 min), good to a factor of two",
    "cannot run": "too large",
  }


@pytest.fixture
def dry_run(capsys):
  """What a binary prints with --dry_run; it may write nothing."""

  def run(name, *arguments):
    module = importlib.import_module(f"experiments.{name}")
    module.define()
    flag_values.FLAGS.unparse_flags()
    common.parse(["x", "--dry_run", *arguments])
    module.main()
    return capsys.readouterr().out

  with own_flags():
    yield run
  common.PLANS.clear()


def test_dry_run(dry_run, workers, tmp_path, monkeypatch):
  """A binary prints the plan of its sweep, and computes and writes nothing."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sweeps, "sweep", None)
  said = dry_run(
    "gaussian", "--workflows=replace", "--dims=2", "--num_samples=10,20,40", "--num_seeds=10", "--num_generations=6"
  )
  assert said.strip() == str(estimated(temperature=[1.0], noise_var=[1.0]))
  assert parsed(said)["runs"] == "30" and parsed(said)["programs to compile"] == "1"
  assert not list(tmp_path.iterdir())


def test_dry_run_of_many(dry_run, workers, tmp_path, monkeypatch):
  """`reproduce` names each experiment and adds them up."""
  monkeypatch.chdir(tmp_path)
  said = dry_run("reproduce", "--scale=smoke", "--only=[dl]i*")
  parts = re.split(r"^(\S+):\n", said, flags=re.M)
  names, plans = parts[1::2], [parsed(text) for text in parts[2::2]]
  assert names == ["linear_regression", "discrete"] and len(plans) == len(common.PLANS) == 2
  assert [int(one["runs"]) for one in plans] == [one.runs for one in common.PLANS]
  runs, time = re.match(
    r"in all: (\d+) runs, \S+ hours on this machine \(about (.*)\)$", said.splitlines()[-1]
  ).groups()
  assert int(runs) == sum(int(one["runs"]) for one in plans)
  assert time == cost.text(sum(one.compile_seconds + one.run_seconds for one in common.PLANS))
  assert sum(one.compile_seconds for one in common.PLANS) >= cost.EFFORTS[0].compile_seconds * len(plans)


def test_durations_as_people_say_them():
  assert [cost.text(x) for x in (5.2, 100, 3600, 7200, 86400 * 5)] == ["5 s", "2 min", "60 min", "2 h", "5 days"]


def test_one_trace_serves_the_name_and_the_compilation(tmp_path):
  """A sweep that writes chunks traces a cell once; a plan of it does too, and a sweep that is handed its traces does not."""
  traces = []

  def make(num_samples):
    task = tasks.sample_median(num_samples)

    def evaluate(key, problem, params):
      traces.append(num_samples)
      return task.evaluate(key, problem, params)

    return task._replace(evaluate=evaluate)

  options = {"num_generations": 3, "num_seeds": 2}
  traced = plan(make, ["replace"], {"num_samples": [5, 7]}, **options).traced
  assert traces == [7, 5]
  one = cj.sweep(make, ["replace"], {"num_samples": [5, 7]}, directory=tmp_path, **options)
  assert sorted(traces) == [5, 5, 7, 7]
  other = cj.sweep(make, ["replace"], {"num_samples": [5, 7]}, traced=traced, **options)
  assert len(traces) == 4 and one.fitted_mean.equals(other.fitted_mean)


def test_equal_shapes_are_traced_once_over_data_sets(workers, monkeypatch):
  sums, plain = [], _kde._direct
  monkeypatch.setattr(_kde, "_direct", lambda *arguments: sums.append(1) or plain(*arguments))
  options = {"num_generations": 3, "num_seeds": 2}
  planned, traced = [], []
  for name in ("moons", "circles"):
    planned.append(plan(tasks.kde(name, 23, 0.5), ["replace"], {}, **options))
    traced.append(len(sums))
  assert 0 < traced[0] == traced[1] and planned[0].run_seconds == pytest.approx(planned[1].run_seconds, rel=0.1)


def test_drift_costs_what_survives(workers):
  """Neither outcomes that have died out nor generations after the end: 1.2e6 generations of 1e5 items, as measured."""
  T, n, runs = 1_200_000, 100_000, 100
  drift = lambda K, **options: plan(
    lambda: tasks.discrete(K, n), ["replace"], {}, num_generations=T, num_seeds=runs, record_every=5000, **options
  )
  each = drift(100_000).run_seconds / runs
  assert 0.29 / 2 < each < 0.29 * 2
  assert drift(10).run_seconds / runs < each  # but few outcomes are few for longer
  assert _surviving.work(10**5, n, T) == pytest.approx(_surviving.work(10**5, n, 4 * n))
  twice = _surviving.work(2 * n, 2 * n, 8 * n) / _surviving.work(n, n, 4 * n)
  assert 2 < twice < 2.2


def test_metrics_count_where_they_are_recorded():
  cheap, dear = lambda x: x, lambda x: x @ x
  x = jnp.ones((100, 100))
  step = lambda x: jax.lax.cond(x[0, 0] > 5, dear, cheap, x)
  always = cost.work_of(step, x, counted=cost.Counted(dear=1.0))
  assert always > 0.9 * cost.work_of(dear, x)
  assert cost.work_of(step, x, counted=cost.Counted(dear=0.25)) == pytest.approx(0.25 * always, rel=0.02)


def test_one_bar_over_experiments(workers, monkeypatch):
  """It is measured in estimated seconds; what is resumed moves it, and says nothing of the pace."""

  def experiment(runs, seconds):
    def run(seed, **_):
      common.PLANS.append(estimated()._replace(runs=runs, compile_seconds=0.0, run_seconds=seconds))

    return run, {}

  monkeypatch.setattr(common, "planned", contextlib.nullcontext)
  progress = reproduce.Progress({"a": experiment(10, 5.0), "b": experiment(4, 20.0)}, 0)
  bar = progress._bar
  assert bar.total == 25
  progress.experiment("a")
  progress.update(4)
  progress.update(6)
  assert (bar.n, bar.initial) == (5, 2)
  progress.experiment("b")
  progress.update(0)
  progress.update(1)
  assert (bar.n, bar.initial) == (10, 2) and "about" in str(bar)
  progress.close()
  common.PLANS.clear()
