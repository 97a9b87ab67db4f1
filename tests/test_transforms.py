"""Transforms on a user's own task; `collapse_jax.systems` holds them against more of their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy.stats import norm

import collapse_jax as cj
from collapse_jax import store, tasks, transforms, workflows
from collapse_jax.refused import Refused
from collapse_jax.transforms import rewards, verifiers
from collapse_jax.types import Context, Data, TaskSetting


def coins(num_samples, share=0.1):
  """A user's own task: binary items; the model is the share of type 1."""
  draw = lambda key, p, num: store.batch(jax.random.bernoulli(key, p, (num,)).astype(float))
  return TaskSetting(
    init=lambda key: (None, draw(key, share, num_samples)),
    fit=lambda key, problem, context: (lambda rows, weight: jnp.sum(weight * rows) / jnp.sum(weight))(
      *store.flat(context.data)
    ),
    sample=lambda key, problem, p, context: (draw(key, p, context.num), {}),
    evaluate=lambda key, problem, p: {"share": p},
    num_samples=num_samples,
  )


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

  task = TaskSetting(
    init=lambda key: (None, draw(key, 1.5, 5000)),
    fit=fit,
    sample=lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
    evaluate=lambda key, problem, mean: {"mean": mean},
    num_samples=5000,
  )
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
  for task, names in (
    (tasks.gaussian(2, 20), ("accumulate", "accumulate_subsample")),
    (tasks.kde("moons", 20, 0.5, num_test=20), ("replace",)),
  ):
    curated = transforms.curate(task, 2, lambda rows: rows[:, 0])
    both = transforms.verify(curated, lambda key, problem, rows: rows[:, 1] > -10)
    for name in names:
      out = simulate(both, name, 3, 3)
      assert out["finite"].all()
      assert {"mean_reward", "kept_share"} <= set(out)


def test_a_chain_applies_all_of_its_links():
  """Of two normals the better, where it is above 0: an exact mean, and neither link's own."""
  draw = lambda key, num: store.batch(jax.random.normal(key, (num,)))
  task = TaskSetting(
    init=lambda key: (None, draw(key, 1000)),
    fit=lambda key, problem, context: (lambda rows, weight: jnp.sum(weight * rows) / jnp.sum(weight))(
      *store.flat(context.data)
    ),
    sample=lambda key, problem, mean, context: (draw(key, context.num), {}),
    evaluate=lambda key, problem, mean: {"mean": mean},
    num_samples=1000,
  )
  task = transforms.curate(task, 2, lambda rows: 1e9 * rows)
  task = transforms.verify(task, lambda key, problem, rows: rows > 0)
  means = simulate(task, "replace", 200, 2)["mean"][:, 1]
  x = np.linspace(-12, 12, 200_001)
  law = lambda density: np.sum(x * density) / np.sum(density)
  better = norm.pdf(x) * norm.cdf(x)
  assert abs(z_score(means, law(better * (x > 0)))) < 5
  for alone in (better, norm.pdf(x) * (x > 0)):
    assert abs(z_score(means, law(alone))) > 5


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


def test_rewards_that_reject():
  """-inf rejects and leaves the run finite; of rows that are all rejected it does not. Large rewards keep their differences."""

  def curated(reward, flip_share=0.0):
    task = transforms.curate(coins(10), 4, reward, flip_share=flip_share)
    data, metrics = task.sample(jax.random.key(0), None, 0.5, Context(1, 300, None, None))
    return np.asarray(data.rows[0]), metrics

  rows, metrics = curated(lambda rows: jnp.where(rows > 0, -jnp.inf, 0.0))
  assert abs(rows.mean() - 1 / 16) < 5 * np.sqrt(15 / 256 / 300)  # only where all four are 1
  assert metrics["candidate_reward"] == 0 and metrics["mean_reward"] == -np.inf
  rows, metrics = curated(lambda rows: jnp.where(jnp.arange(1200) % 4 == 1, 1e30 + rows, -jnp.inf))
  assert np.isfinite([float(x) for x in metrics.values()]).all()
  rows, metrics = curated(lambda rows: jnp.where(rows > 0, jnp.inf, 3.0))
  assert abs(rows.mean() - 15 / 16) < 5 * np.sqrt(15 / 256 / 300)


def test_rewards_and_verifiers_at_extreme_scales():
  rows = jnp.asarray([[0.0], [3e-25], [1.0], [1e25]])
  np.testing.assert_allclose(rewards.quadratic(0.0, 1e-25)(rows)[:2], [0, -4.5], rtol=1e-5)
  np.testing.assert_allclose(rewards.quadratic(1.0, 1e-3)(rows)[:3], [-5e5, -5e5, 0], rtol=1e-5)
  assert np.isfinite(rewards.quadratic(0.0, 1e-25)(rows)).all()
  np.testing.assert_allclose(rewards.near([0.0], 2.0, 8.0)(rows), [0, 0, -0.5, -4], rtol=1e-5, atol=1e-20)
  assert np.isfinite(rewards.near([0.0], 1e-37, 8.0)(rows)).all()
  np.testing.assert_array_equal(verifiers.within(0.0, 2e-25)(None, None, rows), [True, False, False, False])
  np.testing.assert_array_equal(verifiers.within(0.0, 2e25)(None, None, rows), [True] * 4)


def clipped(task, how, at=0.5):
  """What a user writes: the task with rows no further than `at` from 0, told in one of four ways."""
  task = transforms.in_rows(task)

  def sample(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    rows = jnp.clip(data.rows, -at, at)
    data = {
      "door": lambda: store.with_rows(data, rows),
      "replaced": lambda: data._replace(rows=rows),
      "rebuilt": lambda: store.batch(rows[0]),
      "stale": lambda: Data(**data._asdict() | {"rows": rows}),
    }[how]()
    return data, metrics

  return transforms.resample(task, sample) if how == "door" else task._replace(sample=sample)


def test_changed_rows_have_their_effect():
  """Statistics of what was drawn do not outlive its rows. Twin: kept on purpose, and then nothing is clipped."""
  task = tasks.gaussian(1, 20)
  key = jax.random.key(0)
  batches = {}
  for how in ("door", "replaced", "rebuilt", "stale"):
    one = clipped(task, how)
    problem, real = one.init(key)
    data = store.total(one, problem, store.seal(one, problem, real))
    context = Context(1, 20, data, real)
    batch, _ = one.sample(key, problem, one.fit(key, problem, context), context)
    batches[how] = one.summary.of(problem, batch.rows[0], None), store.seal(one, problem, batch)
  for how in ("door", "replaced", "rebuilt"):
    of_rows, sealed = batches[how]
    for a, b in zip(jax.tree.leaves(of_rows), jax.tree.leaves(sealed.summary)):
      np.testing.assert_allclose(a, b[0], rtol=1e-5, atol=1e-6)
  of_rows, sealed = batches["stale"]
  assert abs(of_rows.model.log_det - sealed.summary.model.log_det[0]) > 0.1


def test_what_is_known_of_a_sampler_goes_with_it():
  """Twin: given again, it stays."""
  known = {
    "absorbed": lambda problem, p: p == 1,
    "next_token": lambda problem, p, tokens: tokens,
    "predict": lambda schedule: {},
  }
  task = coins(10)._replace(**known)
  left = lambda task: {name for name in known if getattr(task, name) is not None}
  assert left(task) == left(task._replace(metrics={})) == set(known)
  assert left(transforms.observe(task, lambda problem, context, data: {})) == set(known)
  assert left(task._replace(evaluate=task.evaluate)) == {"absorbed", "next_token"}
  assert left(task._replace(init=task.init)) == {"absorbed", "next_token"}
  assert left(task._replace(fit=task.fit)) == {"next_token"}
  assert left(task._replace(sample=task.sample)) == left(transforms.curate(task, 2, lambda rows: rows)) == set()
  assert left(transforms.verify(task, lambda key, problem, rows: rows > 0)) == set()
  assert left(task._replace(sample=task.sample, **known)) == set(known)


def test_a_law_with_parts_of_its_own():
  """What is replaced in a task that draws statistics holds where rows are needed too, or is refused there."""
  law = tasks.gaussian(1, 10)
  evaluate = lambda key, problem, params: {"mean": params.mean[0]}
  own = law._replace(evaluate=evaluate, metrics={})
  assert own.rows().evaluate is evaluate and own.rows().rows is None
  out = cj.run(jax.random.key(0), own, workflows.accumulate_subsample(), 2)
  assert set(out) == {"mean", "finite", "train_size", "real_share"}
  other = law._replace(sample=law.sample)
  with pytest.raises(Refused, match="another sample, and this workflow or transform needs rows"):
    cj.run(jax.random.key(0), other, workflows.accumulate_subsample(), 2)
  forgotten = transforms.resample(law, law.sample)
  with pytest.raises(Refused, match=r"wrap that of transforms.in_rows\(task\)"):
    cj.run(jax.random.key(0), forgotten, workflows.replace(), 2)
  with pytest.raises(Refused, match=r"wrap the sampler of transforms.in_rows\(task\)"):
    store.with_rows(law.init(jax.random.key(0))[1], jnp.zeros((10, 1)))


def test_rows_that_are_read_by_accident_are_seen():
  """A mean of all that is stored, in use or not, is no number; by rows and weights that belong together it is the mean."""
  careless = coins(10)._replace(fit=lambda key, problem, context: jnp.mean(context.data.rows))
  for task, finite in ((careless, [0, 0, 1]), (coins(10), [1, 1, 1])):  # all slots are filled at last
    out = cj.run(jax.random.key(0), task, workflows.accumulate(), 3)
    np.testing.assert_array_equal(out["finite"], finite)
