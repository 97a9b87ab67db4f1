"""Transforms on a user's own task; `collapse_jax.pairs` holds them against more of their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import z_score
from scipy.stats import norm

import collapse_jax as cj
from collapse_jax import store, tasks, transforms, workflows
from collapse_jax.types import TaskSetting


def coins(num_samples, share=0.1):
  """A user's own task: binary items; the model is the share of type 1."""
  draw = lambda key, p, num: store.batch(jax.random.bernoulli(key, p, (num,)).astype(float))
  return TaskSetting(
      init=lambda key: (None, draw(key, share, num_samples)),
      fit=lambda key, problem, context: (lambda rows, weight: jnp.sum(weight * rows) / jnp.sum(weight))(
          *store.flat(context.data)),
      sample=lambda key, problem, p, context: (draw(key, p, context.num), {}),
      evaluate=lambda problem, p: {"share": p}, num_samples=num_samples)


def simulate(task, name, num_runs, T):
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflows.parse(name)(), T)))
  return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), num_runs)))


def test_verification_truncates():
  """A Gaussian mean under a verifier that keeps |x| <= b moves by the mean of the truncated normal."""
  b, mean, expected = 1.0, 1.5, []
  for _ in range(4):
    expected.append(mean)
    mean += (norm.pdf(-b - mean) - norm.pdf(b - mean)) / (norm.cdf(b - mean) - norm.cdf(-b - mean))
  draw = lambda key, mean, num: store.batch(mean + jax.random.normal(key, (num,)))
  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows) / jnp.sum(weight)
  task = TaskSetting(init=lambda key: (None, draw(key, 1.5, 5000)), fit=fit,
                     sample=lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
                     evaluate=lambda problem, mean: {"mean": mean}, num_samples=5000)
  task = transforms.verify(task, lambda key, problem, rows: jnp.abs(rows) <= b)
  out = simulate(task, "replace", 64, 4)
  assert np.abs(z_score(out["mean"], expected)).max() < 5
  assert np.abs(z_score(out["mean"][:, :-1], expected[1:])).max() > 5  # one generation off
  kept = norm.cdf(b - 1.5) - norm.cdf(-b - 1.5)
  assert abs(z_score(out["kept_share"][:, 0], kept)) < 5
  stored = simulate(task, "accumulate_subsample", 4, 4)  # masks survive storage and subsampling
  assert stored["finite"].all()
  assert (stored["train_size"][:, 1:] < 5000).all()


def test_transforms_chain_and_serve_library_tasks():
  for task, names in ((tasks.gaussian(2, 20), ("accumulate", "accumulate_subsample")),
                      (tasks.kde("moons", 20, 0.5, num_test=20), ("replace",))):
    curated = transforms.curate(task, 2, lambda rows: rows[:, 0])
    both = transforms.verify(curated, lambda key, problem, rows: rows[:, 1] > -10)
    for name in names:
      out = simulate(both, name, 3, 3)
      assert out["finite"].all()
      assert {"mean_reward", "kept_share"} <= set(out)


def test_bad_transforms():
  task = coins(10)
  run = lambda task: cj.run(jax.random.key(0), task, workflows.replace(), 2)
  with pytest.raises(ValueError, match="num_candidates must be an integer of at least 2, got 1"):
    transforms.curate(task, 1, lambda rows: rows)
  with pytest.raises(ValueError, match="reward must return one number per row"):
    run(transforms.curate(task, 2, lambda rows: rows[:3]))
  with pytest.raises(ValueError, match="keep must return one number per row"):
    run(transforms.verify(task, lambda key, problem, rows: rows[:3]))
  with pytest.raises(ValueError, match="draws='rows' or 'auto'"):
    transforms.curate(tasks.gaussian(2, 10, draws="law"), 2, lambda rows: rows[:, 0])
  assert not run(transforms.curate(task, 2, lambda rows: rows * jnp.nan))["finite"].any()
