"""Going away from what a model makes of itself, on Gaussians where it is exact; corrections and choices of rows, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import random, store, tasks, testing, theory, transforms
from collapse_jax.refused import Refused
from collapse_jax.transforms import selection
from collapse_jax.types import Context

L, W = 0.8, 0.5


def shrunk(task):
  """A sampler whose variance is L times that of the task's."""

  def sample(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    return store.with_rows(data, np.sqrt(L) * data.rows[0]), metrics

  return sample


def fitted(task, num_seeds=1):
  """Models of the real batch, and the rows that they emit, of each seed."""

  def one(key):
    problem, real = task.init(key)
    summary = (
      None if task.summary is None else jax.tree.map(lambda x: x[0], store.summarise(task, problem, real).summary)
    )
    context = Context(1, task.num_samples, real._replace(summary=summary), real)
    params = task.fit(jax.random.fold_in(key, 1), problem, context)
    rows = task.sample(jax.random.fold_in(key, 2), problem, params, context)[0].rows[0]
    return params, real.rows[0], rows

  return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_seeds))


def test_neon_of_variances():
  """In variances: 1 + w (1 - l) of the base; in their logs, of trained scores, l^-w."""
  n, seeds = 2000, 200
  task = tasks.flow([0.5], n, solver="flow_rk4", num_steps=10)
  params, real, _ = fitted(transforms.extrapolate(task, W, shrunk(task)), seeds)
  ratio = np.asarray(params.variance)[:, 0] / np.var(np.asarray(real), axis=1)[:, 0]
  law = 1 + W - W * L * (1 - 1 / n)
  assert abs(z_score(ratio, law)) < 5
  assert law == pytest.approx(theory.negative_extrapolation(L, W, "variance"), rel=1e-3)
  assert abs(z_score(ratio, float(theory.negative_extrapolation(L, W)))) > 5


def test_neon_of_trained_scores():
  n, seeds = 1000, 32
  options = {"score": "linear_trained", "amount": 300, "batch_size": 128, "learning_rate": 0.1, "decay": "cosine"}
  task = tasks.flow([0.5], n, solver="flow_rk4", num_steps=4, **options)
  params, real, _ = fitted(transforms.extrapolate(task, 2.0, shrunk(task)), seeds)
  logs = np.asarray(params.params["log_variance"])[:, 0] - np.log(np.var(np.asarray(real), axis=1)[:, 0])
  assert abs(z_score(logs, np.log(theory.negative_extrapolation(L, 2.0)))) < 5
  assert abs(z_score(logs, np.log(theory.negative_extrapolation(L, 2.0, "variance")))) > 5
  assert abs(z_score(logs, 0.0)) > 5


def test_sims():
  """Rows that follow (1 + w) s - w s' of exact scores have variance s l^-w; the precisions' extrapolation is off, and so is none."""
  n, seeds = 2000, 100
  task = tasks.flow([0.5], n, solver="flow_rk4", num_steps=20)
  guided = transforms.negative_guidance(task, W, shrunk(task))
  _, real, rows = fitted(guided, seeds)
  ratio = np.var(np.asarray(rows, np.float64), axis=1)[:, 0] / np.var(np.asarray(real, np.float64), axis=1)[:, 0]
  assert abs(z_score(ratio, float(theory.negative_extrapolation(L, W)))) < 5
  assert abs(z_score(ratio, 1 / (1 + W - W / L))) > 5 and abs(z_score(ratio, 1.0)) > 5


def test_a_loop_without_the_bias_of_its_sampler():
  """Euler's flow of few steps loses variance generation by generation; w = 1 in log variance gives it back, to first order."""
  n, steps, T = 2000, 10, 4
  options = {"score": "linear_trained", "amount": 200, "batch_size": 128, "learning_rate": 0.1, "decay": "cosine"}
  task = tasks.flow([0.5], n, solver="flow_euler", num_steps=steps, **options)
  run = lambda task: np.asarray(
    jax.jit(jax.vmap(lambda key: cj.run(key, task, cj.workflows.replace(), T, warm_start=True)))(
      jax.random.split(jax.random.key(0), 24)
    )["mean_log_variance_ratio"]
  )
  plain, neon = run(task), run(transforms.extrapolate(task, 1.0))
  lost = np.log(theory.sampler_loop("flow_euler", num_steps=steps, variance=0.5, num_generations=T - 1)[-1] / 0.5)
  assert plain[:, -1].mean() == pytest.approx(lost, abs=0.05)
  assert abs((neon[:, -1] - neon[:, 0]).mean()) < 0.25 * abs(lost)


def test_neon_of_a_network_that_starts_warm():
  """The next generation goes on from the model itself, with its optimiser's moments: extrapolated ones are squares below 0."""
  options = {"amount": 20, "batch_size": 8, "learning_rate": 1e-4, "emit": "noise", "decoder_variance": 1.0}
  task = tasks.vae([1.0, 0.5], 20, 1, network="mlp", hidden=(4,), start="weights+optimiser", **options)
  neon = transforms.extrapolate(task, 2.0)
  run = lambda key: cj.run(key, neon, cj.workflows.replace(), 2, warm_start=True)
  assert jax.jit(run)(jax.random.key(0))["finite"].all()


def test_rows_that_only_have_room_teach_nothing():
  """Of own samples as of real rows: among those that count alone are centres, or a later model."""

  def mean(num_samples, room=None):
    draw = lambda key, mean, num, weight=None: store.batch(mean + random.normal(key, (num,)), weight)
    weight = None if room is None else (jnp.arange(room) < num_samples).astype(float)

    def fit(key, problem, context):
      rows, weight = store.flat(context.data)
      return jnp.sum(weight * rows) / jnp.sum(weight)

    return cj.TaskSetting(
      lambda key: (jnp.zeros(()), draw(key, 0.0, room or num_samples, weight)),
      fit,
      lambda key, problem, params, context: (draw(key, params, context.num), {}),
      lambda key, problem, params: {"mean": params},
      room or num_samples,
      used=None if room is None else num_samples,
    )

  gaussian = lambda num_samples, room=None: tasks.gaussian(1, num_samples, draws="rows", max_samples=room)
  run = lambda task: cj.run(jax.random.key(0), task, cj.workflows.accumulate(), 3)
  for wrap, make, metric in (
    (lambda task: transforms.extrapolate(task, 2.0), mean, "mean"),
    (lambda task: transforms.correct(task, 1.0, num_centers=2), gaussian, "standard_log_variance"),
  ):
    roomy, plain, other = (np.asarray(run(wrap(make(*sizes)))[metric]) for sizes in ((5, 9), (5,), (9,)))
    np.testing.assert_allclose(roomy, plain, rtol=1e-4, atol=1e-5)
    assert np.abs(roomy - other).min() > 1e-3


def test_correction():
  """Towards a point the variance falls by (1 + gamma)^2; without bound rows are centres of the real rows."""
  task = tasks.flow([0.5, 2.0], 400, solver="flow_rk4", num_steps=10)
  towards = transforms.correct(task, 0.5, lambda real, rows: jnp.zeros_like(rows))
  _, real, rows = fitted(towards, 60)
  ratio = np.var(np.asarray(rows), axis=1) / np.var(np.asarray(real), axis=1)
  assert np.abs(z_score(ratio, (1 - 1 / 400) / 1.5**2)).max() < 5 and np.abs(z_score(ratio, 1 / 1.5)).min() > 5
  _, real, rows = fitted(transforms.correct(task, np.inf, num_centers=5), 2)
  for found, true in zip(np.asarray(rows), np.asarray(real)):
    centers = np.unique(found, axis=0)
    assert 1 < len(centers) <= 5
    member = np.argmin(((true[:, None] - centers[None]) ** 2).sum(axis=-1), axis=1)
    if len(centers) == 5:  # a fixed point of Lloyd's rounds, nearly
      means = np.array([true[member == k].mean(axis=0) for k in range(5)])
      assert np.abs(means - centers).max() < 0.1


def greedy(rows, num, threshold=None, decay=None):
  """What papers say, row by row."""
  kept = [0]
  while len(kept) < num:
    distance = lambda i: min(np.linalg.norm(rows[i] - rows[j]) for j in kept)
    if threshold is None:
      kept.append(max((i for i in range(len(rows)) if i not in kept), key=distance))
      continue
    for i in range(len(rows)):
      if i not in kept and len(kept) < num and distance(i) >= threshold:
        kept.append(i)
    threshold *= decay
  return kept


def test_choices_of_rows():
  rows = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
  far = np.asarray(selection.farthest(jnp.asarray(rows), 20))
  assert far.tolist() == greedy(rows, 20)
  apart = np.asarray(jax.jit(lambda x: selection.farthest(x, 20, None, 1.0, 0.9))(rows))
  assert sorted(apart.tolist()) == sorted(greedy(rows, 20, 1.0, 0.9))
  assert sorted(apart.tolist()) != sorted(greedy(rows, 20, 1.0, 0.5)) and apart.tolist() != far.tolist()
  used = np.arange(60) < 30
  assert selection.farthest(jnp.asarray(rows), 10, jnp.asarray(used)).tolist() == greedy(rows[:30], 10)
  same = np.repeat(rows[:5], 4, axis=0)  # copies are chosen when nothing else is left
  for found in (selection.farthest(same, 12), selection.farthest(same, 12, None, 0.5, 0.9)):
    assert len(set(found.tolist())) == 12 and len(np.unique(same[np.asarray(found)[:5]], axis=0)) == 5


@pytest.mark.parametrize(
  "make", [transforms.farthest_point, functools.partial(transforms.threshold_filter, threshold=0.5)]
)
def test_what_is_far_apart_is_kept(make):
  task = tasks.gaussian(dim=2, num_samples=30)
  found = jax.jit(jax.vmap(lambda key: cj.run(key, make(task), cj.workflows.replace(), 2)))(
    jax.random.split(jax.random.key(0), 20)
  )
  plain = jax.random.normal(jax.random.key(1), (20, 30, 2))
  distance = jnp.linalg.norm(plain[:, :, None] - plain[:, None], axis=-1) + 10 * jnp.eye(30)[None]
  assert np.asarray(found["closest_pair"]).min() > 3 * float(jnp.min(distance, axis=(1, 2)).mean())


def test_a_probe_keeps_what_it_is_sure_of():
  """Of rows labelled by their sign those far from 0 are kept, of both labels."""
  task = tasks.gaussian(dim=1, num_samples=200)
  sign = lambda rows: (rows[:, 0] > 0).astype(jnp.int32)
  made = transforms.probe_filter(task, 0.5, sign, 2)
  _, _, rows = jax.device_get(fitted(transforms.in_rows(made), 8))
  size = np.abs(rows).mean()
  exact = np.sqrt(2 / np.pi) * np.exp(-0.5 * 0.6745**2) / 0.5  # E |x| of the outer half
  assert size == pytest.approx(exact, rel=0.08) and size > 1.2 * np.sqrt(2 / np.pi)
  assert 0.25 < np.mean(rows > 0) < 0.75  # its waves are not symmetric


@pytest.mark.parametrize(
  "transform",
  [
    lambda task: transforms.farthest_point(task, 1.5),
    lambda task: transforms.correct(task, 0.5, num_centers=2),
  ],
)
def test_checked(transform):
  small = {"gaussian": tasks.gaussian(2, 6)}
  testing.check_transform(transform, tasks=small, workflows=["grown_replace"], drivers=())


def test_refused():
  task, few = tasks.gaussian(2, 10), transforms.farthest_point(tasks.gaussian(2, 4))
  for call, message in (
    (lambda: transforms.negative_guidance(task, 0.5), "needs a task whose sampler follows a score"),
    (lambda: transforms.correct(task, -1.0), "gamma must be at least 0"),
    (lambda: transforms.farthest_point(task, 0.5), "oversample must be a number of at least 1"),
    (lambda: transforms.threshold_filter(task, 0.0), "threshold must be above 0"),
    (lambda: transforms.threshold_filter(task, 1.0, 1.0), "decay must be between 0 and 1"),
    (lambda: transforms.probe_filter(task, 0.0, len, 2), "keep_fraction must be a number above 0"),
    (lambda: transforms.probe_filter(task, 0.5, len, 1), "num_labels must be an integer of at least 2"),
    (lambda: cj.run(jax.random.key(0), few, cj.workflows.mix(0.8), 2), "farthest_point needs models that emit 2 rows"),
  ):
    with pytest.raises(Refused, match=message):
      call()
