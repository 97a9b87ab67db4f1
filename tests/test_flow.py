"""Flow matching and diffusion with scores that are trained or of rows: what is exact about them, and that networks learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import outcome, run, z_score
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma

import collapse_jax as cj
from collapse_jax import tasks, testing, theory
from collapse_jax.data import images, shapes
from collapse_jax.refused import Refused
from collapse_jax.tasks import _fields as fields
from collapse_jax.tasks._flow import Rows, _empirical
from collapse_jax.tasks._paths import Combined, couple, integrate, path_of
from collapse_jax.vocabulary import COUPLINGS, STARTS
from experiments import flow

VARIANCES = [0.1, 0.5, 2.0]


def simulated(task, workflow, num_generations, num_seeds, **options):
  """Metrics [seed, generation], in NumPy."""
  one = lambda key: cj.run(key, task, workflow, num_generations, **options)
  found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_seeds))
  return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize(("solver", "num_steps"), [("flow_heun", 4), ("edm_heun", 12)])
def test_loops_of_trained_linear_scores(solver, num_steps):
  """Ten generations, each trained by gradient steps on what the last one emitted: g(s) of its variance, and a fair sampler is off.

  The pairs of the system "flow" have more solvers.
  """
  num, seeds, T = 400, 12, 10
  options = {"amount": 250, "batch_size": 256, "learning_rate": 0.1, "decay": "cosine"}
  task = tasks.flow(VARIANCES, num, score="linear_trained", solver=solver, num_steps=num_steps, **options)
  found = simulated(task, cj.workflows.replace(), T, seeds)["variance_ratios"].astype(np.float64) * VARIANCES
  before = np.concatenate([np.broadcast_to(VARIANCES, (seeds, 1, 3)), found[:, :-1]], axis=1)
  factor = theory.variance_factor(solver, num_steps=num_steps, variance=before)
  factor[:, 0] = 1  # the first model is fitted to real rows
  fitted = np.log(found / before) - (np.log(2 / num) + digamma((num - 1) / 2))
  assert np.abs(z_score(fitted - np.log(factor), 0.0)).max() < 5
  assert np.abs(z_score(fitted[:, 1:].mean(axis=1), 0.0)).max() > 5


@pytest.mark.parametrize(("solver", "num_steps"), [("edm_heun", 40), ("flow_rk4", 60), ("ddim", 200)])
def test_an_empirical_score_is_a_kernel_density(solver, num_steps):
  """Stopped at noise h it emits a training row with N(0, h^2) added; with another h it does not."""
  rows, weight = jnp.array([[-1.0], [0.3], [0.5], [2.0], [9.0]]), jnp.array([1.0, 2.0, 1.0, 1.0, 0.0])
  field = _empirical(path_of(solver, num_steps), Rows(rows, weight))
  made = np.asarray(jax.jit(lambda key: integrate(key, field, 8000, 1, solver, num_steps, 0.2))(jax.random.key(0)))
  law = lambda x, h: stats.norm.cdf((x[:, None] - np.asarray(rows)[:, 0]) / h) @ np.asarray(weight / jnp.sum(weight))
  assert stats.kstest(made[:, 0], lambda x: law(x, 0.2)).pvalue > 1e-5
  assert stats.kstest(made[:, 0], lambda x: law(x, 0.3)).pvalue < 1e-5


def test_a_memorising_model_resamples_rows():
  """Integrated to the end, rows of the real batch are all there is, and as many are left as a resampling leaves."""
  n, seeds, T = 40, 24, 4
  task = tasks.flow([1.0] * 4, n, score="empirical", solver="edm_euler", num_steps=40, num_test=8)
  seen = cj.transforms.observe(
    task,
    lambda problem, context, data: {
      "num_distinct": cj.metrics.num_distinct(jnp.round(data.rows[0], 2)),
      "copied": jnp.mean(cj.metrics.nearest_distance(data.rows[0], context.real.rows[0]) < 1e-3),
    },
  )
  found = simulated(seen, cj.workflows.replace(), T, seeds)
  assert np.mean(found["copied"]) > 0.999
  random = np.random.default_rng(0)
  drawn, left = np.tile(np.arange(n), (4000, 1)), []
  for _ in range(T):
    drawn = np.take_along_axis(drawn, random.integers(0, n, drawn.shape), axis=1)
    left.append([len(set(one)) for one in drawn])
  exact = np.mean(left, axis=1)
  np.testing.assert_allclose(theory.distinct_rows(n, T), exact, rtol=0.03)
  z = z_score(found["num_distinct"], exact)
  assert np.abs(z).max() < 5
  assert np.abs(z_score(found["num_distinct"][:, 1:], exact[:-1])).min() > 5


def test_early_stopped_loop():
  """A linear score that is stopped early adds h^2 a generation; without the stop it does not."""
  n, h, T = 2000, 0.3, 3
  found = {}
  for stop in (h, 0.0):
    task = tasks.flow([0.5], n, solver="flow_rk4", num_steps=20, stop_noise=stop)
    found[stop] = simulated(task, cj.workflows.replace(), T + 1, 50)["variance_ratios"][:, :, 0] * 0.5
  law = theory.early_stopping(0.5, noise_var=h**2, num_generations=T).variance * (1 - 1 / n) ** np.arange(2, T + 2)
  assert np.abs(z_score(found[h][:, 1:], law)).max() < 5
  assert np.abs(z_score(found[0.0][:, 1:], law)).min() > 5


def test_couplings():
  rows = shapes.get("eight_gaussians").draw(jax.random.key(0), 256)
  noise = jax.random.normal(jax.random.key(1), (256, 2))
  cost = lambda noise: float(jnp.mean(jnp.sum((rows - noise) ** 2, axis=1)))
  best = linear_sum_assignment(np.sum((np.asarray(rows)[:, None] - np.asarray(noise)[None]) ** 2, axis=-1))[1]
  made = {name: jax.jit(functools.partial(couple, name))(rows, noise) for name in ("independent", "swaps")}
  for moved in made.values():
    np.testing.assert_array_equal(np.sort(np.asarray(moved), axis=0), np.sort(np.asarray(noise), axis=0))
  assert cost(made["independent"]) == cost(noise)
  gained = (cost(noise) - cost(made["swaps"])) / (cost(noise) - cost(noise[best]))
  assert 0.95 < gained <= 1
  few = jax.jit(jax.vmap(functools.partial(couple, "exact")))(rows.reshape(16, 16, 2), noise.reshape(16, 16, 2))
  for x, z, found in zip(np.asarray(rows).reshape(16, 16, 2), np.asarray(noise).reshape(16, 16, 2), few):
    best = linear_sum_assignment(np.sum((x[:, None] - z[None]) ** 2, axis=-1))[1]
    assert np.sum((x - found) ** 2) == pytest.approx(np.sum((x - z[best]) ** 2), rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "patches", "unet"])
def test_networks(name):
  """All parameters matter, the level does, and so does the condition; rows do not see each other."""
  make = {
    "mlp": lambda: fields.mlp(16, 3, width=8),
    "patches": lambda: fields.patches((4, 4, 1), 3, width=8),
    "unet": lambda: fields.unet((4, 4, 1), 3, width=8, levels=2),
  }
  network = make[name]()
  key, noise_key = jax.random.split(jax.random.key(0))
  params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise_key, x.shape), network.init(key))
  x, level, condition = jax.random.normal(key, (3, 16)), jnp.full((3, 1), 0.3), jnp.eye(3)
  apply = jax.jit(network.apply)
  out = apply(params, x, level, condition)
  assert out.shape == x.shape
  shuffled = apply(params, x[::-1], level, condition[::-1])[::-1]
  np.testing.assert_allclose(out, shuffled, atol=1e-4)
  for other in (apply(params, x, level + 0.4, condition), apply(params, x, level, condition[::-1])):
    assert np.abs(out - other)[0].max() > 1e-3
  gradient = jax.jit(jax.grad(lambda params: jnp.sum(network.apply(params, x, level, condition) ** 2)))(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_images():
  """A loop of images with their pixels as they are, also where one never changes; what is held out is not trained on."""
  rows = np.random.default_rng(0).uniform(size=(40, 4, 4)).round(3)
  rows[:, 0, 0] = 0.25
  options = {"solver": "flow_euler", "num_steps": 2, "amount": 2, "batch_size": 4, "num_test": 8, "width": 8}
  task = tasks.flow(images.get(rows), 32, score="patches", **options)
  problem, real = task.init(jax.random.key(0))
  both = np.concatenate([real.rows[0], problem.test])
  np.testing.assert_allclose(
    both[np.lexsort(both.T)], rows.reshape(40, 16)[np.lexsort(rows.reshape(40, 16).T)], rtol=1e-6
  )
  found = simulated(task, cj.workflows.replace(), 2, 1)
  assert found["finite"].all() and (found["covariance_trace_ratio"] > 0).all() and found["train_loss"].shape == (1, 2)
  with pytest.raises(Refused, match=r"at most 32 for array \(40 rows, 8 held out"):
    tasks.flow(images.get(rows), 33, score="patches", **options)
  with pytest.raises(ValueError, match=f"num_test must be below {len(rows)}"):
    tasks.flow(images.get(rows), 32, score="patches", **options | {"num_test": 500})


def test_training_goes_on():
  """On the same real rows a generation begins where the last one ended, and every other number has its place."""
  options = {"solver": "ddim", "num_steps": 6, "amount": 60, "batch_size": 64, "learning_rate": 5e-3, "ema": 0.9}
  task = tasks.flow(
    "eight_gaussians", 128, score="mlp", start="weights+optimiser", guidance=1.0, num_test=64, **options
  )
  found = simulated(task, cj.workflows.mix(1.0), 3, 6, warm_start=True)
  assert z_score(found["train_loss"][:, 0] - found["train_loss"][:, 2], 0.0) > 5
  assert (found["num_steps"] == 60).all() and found["finite"].all()
  assert found["mode_balance"][:, 2].mean() > 0.8 and found["mode_shares"].shape == (6, 3, 8)


def test_combined_scores():
  """(1 + w) and -w of the same model are that model."""
  task = tasks.flow([0.5, 2.0], 50, solver="flow_heun", num_steps=5)
  problem, real = task.init(jax.random.key(0))
  model = cj.store.summarise(task, problem, real).summary
  model = jax.tree.map(lambda x: x[0], model)
  context = cj.types.Context(1, 50, real, real)
  plain, both = (
    task.sample(jax.random.key(1), problem, one, context)[0].rows
    for one in (model, Combined((model, model), (1.7, -0.7)))
  )
  np.testing.assert_allclose(plain, both, rtol=1e-4, atol=1e-5)


def test_checked():
  """The smallest network under all workflows, drivers and storage that holds NaN."""
  make = functools.partial(tasks.flow, "moons", score="mlp", amount=2, batch_size=4, num_steps=2, num_test=6, width=8)
  testing.check_task(make(num_samples=8), workflows=["grown_replace"], drivers=("mix(0.5)",))


def test_binary():
  """What would run; flags name what the library has, without importing it."""
  assert (tuple(shapes.SHAPES), STARTS, COUPLINGS) == (flow.DATA, flow.STARTS, flow.COUPLINGS)
  options = ("--samplers=ddim(5)", "--data=moons", "--num_samples=20", "--num_test=20", "--amounts=5")
  assert "cells: 8\n" in run("-m", "experiments.flow", "--dry_run", *options).stdout  # two starts, four workflows
  for given, message in (
    ("--data=moon", "data"),
    ("--samplers=ddim", "names with a number of steps"),
    ("--samplers=ddim(0)", "at least 1"),
    ("--starts=hot", "starts"),
  ):
    assert message in outcome("flow", ["--dry_run", given])


def test_refused():
  for call, message in (
    (lambda: tasks.flow("moons", 50), "data must be variances for a linear score"),
    (lambda: tasks.flow("moon", 50, score="mlp"), "moon"),
    (lambda: tasks.flow("moons", 50, score="mpl"), "score must be one of linear"),
    (lambda: tasks.flow("moons", 50, score="mlp", num_steps=0), "num_steps must be an integer of at least 1"),
    (lambda: tasks.flow("moons", 50, score="mlp", coupling="ot"), "coupling must be one of independent"),
    (lambda: tasks.flow("moons", 50, score="mlp", coupling="swaps", solver="ddim"), "coupling must be independent"),
    (lambda: tasks.flow("moons", 50, score="mlp", budget="days"), "budget must be one of epochs"),
    (lambda: tasks.flow("moons", 50, score="mlp", amount=0), "amount must be above 0"),
    (lambda: tasks.flow("moons", 50, score="mlp", ema=1.0), r"ema must be in \[0, 1\)"),
    (lambda: tasks.flow("moons", 50, score="mlp", start="warm"), "start must be one of weights"),
    (lambda: tasks.flow("moons", 50, score="mlp", decay="linear"), "decay must be one of constant"),
    (lambda: tasks.flow("moons", 50, score="mlp", stop_noise=-1), "stop_noise must be at least 0"),
    (lambda: tasks.flow("pinwheel", 50, score="mlp", guidance=1.0), "guidance needs a network, and data with modes"),
    (lambda: tasks.flow("moons", 50, score="patches"), "image_shape must be height, width and channels"),
    (lambda: fields.patches((5, 4, 1)), "patch_size must be a divisor of the height and width"),
    (lambda: fields.unet((6, 4, 1)), "image_shape must be of sides that are multiples of 4"),
  ):
    with pytest.raises(Refused, match=message):
      call()
