"""The loop: sizes and shares, chained and sparse calls, schedules, subsets, warm starts, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import poisson_mean

import collapse_jax as cj
from collapse_jax import store, tasks, transforms, workflows
from collapse_jax.sweeps import programs

T, N = 4, 8
OVERLAPPING = (
  np.linspace(-2, 2, 60)[:, None],
  np.arange(60) % 2,
)  # no labels of these are separable but by a rare chance


TASKS = {
  "gaussian": lambda: tasks.gaussian(2, N),
  "kde": lambda: tasks.kde("moons", N, 0.5, num_test=20),
  "poisson": lambda: poisson_mean(num_samples=N),
  "discrete": lambda: tasks.discrete(50, N),
}
SIZES = {
  "replace": N,
  "accumulate": N * np.arange(1, T + 1),
  "accumulate_subsample": N,
  "mix(0.5)": np.where(np.arange(T) == 0, N, 2 * N),
  "mix(0.5, fresh=True)": np.where(np.arange(T) == 0, N, 2 * N),
  "grown_replace": N * np.arange(1, T + 1),
  "sliding_window(2)": N * np.minimum(np.arange(1, T + 1), 2),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_shares(name, keys):
  """Those that are recorded are those that are declared; `cj.testing` holds them against the rows themselves."""
  workflow = workflows.parse(name)()
  out = jax.jit(jax.vmap(lambda key: cj.run(key, TASKS["poisson"](), workflow, T)))(keys(3))
  assert out["finite"].shape == (3, T) and np.asarray(out["finite"]).all()
  np.testing.assert_allclose(out["train_size"][0], np.broadcast_to(SIZES[name], T))
  np.testing.assert_allclose(workflow.schedule(N, T).rows, np.broadcast_to(SIZES[name], T))
  if not workflow.redrawn:
    np.testing.assert_allclose(out["real_share"][0], np.asarray(workflow.weights(T))[:, 0], atol=1e-6)


@pytest.mark.parametrize(
  ("task_name", "workflow_name"),
  [
    ("poisson", "mix(0.5, fresh=True)"),
    ("gaussian", "accumulate"),
    ("kde", "accumulate_subsample"),
    ("discrete", "sliding_window(2)"),
  ],
)
def test_calls_chain(task_name, workflow_name):
  """Two chained calls equal one, a shorter horizon has the same draws, and sparse recording the same numbers."""
  task, workflow = TASKS[task_name](), workflows.parse(workflow_name)()
  key = jax.random.key(7)
  whole = jax.jit(lambda key: cj.run(key, task, workflow, T))(key)
  close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), a, b)

  def chained(key):
    run = cj.start(key, task, workflow, T)
    run, first = cj.advance(task, workflow, run, [1, 2], num_generations=T)
    _, second = cj.advance(task, workflow, run, [3, 4], num_generations=T)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)

  close(jax.jit(chained)(key), whole)
  short = jax.jit(lambda key: cj.run(key, task, workflow, 2))(key)
  close(short, jax.tree.map(lambda x: x[:2], whole))
  sparse = jax.jit(lambda key: cj.run(key, task, workflow, T, record_every=2))(key)
  close(sparse, jax.tree.map(lambda x: x[np.array([0, 1, 3])], whole))


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("mix(-0.1)", "at least 0"),
    ("mix(0, real_weight=0.5)", "there must be real rows"),
    ("mix(2)", "at most 1"),
    ("nothing", "unknown workflow"),
    ("mix(", "must be a name or a call"),
    ("replace(3, 4)", "too many positional"),
    ("mix(x)", "must be a name or a call"),
  ],
)
def test_bad_workflows(text, part):
  with pytest.raises(ValueError, match=part):
    workflows.parse(text)


def test_bad_calls():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="num_generations must be at least 1"):
    cj.run(key, TASKS["gaussian"](), workflows.replace(), 0)
  with pytest.raises(ValueError, match="fresh"):
    cj.run(key, tasks.kde("iris", 10, 0.5), workflows.mix(0.5, fresh=True), 2)
  run = cj.start(key, TASKS["gaussian"](), workflows.replace(), 2)
  with pytest.raises(ValueError, match="must lie in"):
    cj.advance(TASKS["gaussian"](), workflows.replace(), run, [3], num_generations=2)


def test_schedules_say_what_they_cannot_do():
  for text, part in (
    ("sliding_window(0)", "size"),
    ("sliding_window(1.5)", "size"),
    ("weights([[1,0],[.5,.4]])", "summing to 1"),
    ("weights([[.5,.5],[0,1]])", "square table"),
    ("weights('a')", "square table"),
  ):
    with pytest.raises(ValueError, match=part):
      workflows.parse(text)()
  with pytest.raises(ValueError, match="too few for num_generations 3"):
    cj.run(jax.random.key(0), poisson_mean(), workflows.weights([[1, 0], [0.5, 0.5]]), 3)


def test_warm_generations_continue_training():
  """T warm generations of k steps on data that do not change equal one fit of k T steps; cold ones do not."""

  def learner(steps):
    def fit(key, problem, context):
      start = jnp.zeros(()) if context.previous is None else context.previous
      return jax.lax.fori_loop(0, steps, lambda i, w: w - 0.1 * jnp.mean(w - context.data.rows), start)

    same = lambda key, problem, params, context: (store.batch(context.real.rows[0]), {})
    return poisson_mean()._replace(fit=fit, sample=same, evaluate=lambda key, problem, w: {"w": w})

  last = lambda steps, T, warm: cj.run(jax.random.key(0), learner(steps), workflows.replace(), T, warm_start=warm)["w"][
    -1
  ]
  np.testing.assert_allclose(last(3, 4, True), last(12, 1, False), rtol=1e-6)
  assert abs(last(3, 4, False) - last(12, 1, False)) > 0.1


def test_a_subset_is_exact():
  """Inclusion and pair probabilities of a uniform n-subset."""
  draw = lambda key: store.subset(key, jnp.zeros(30, jnp.int32), 10, 2)[1]
  chosen = np.sort(np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 200_000))), axis=1)
  assert (np.diff(chosen, axis=1) > 0).all()
  share = np.bincount(chosen.ravel(), minlength=30) / len(chosen)
  assert np.abs(share - 1 / 3).max() < 5 * np.sqrt(2 / 9 / len(chosen))
  both, expected = ((chosen == 0).any(1) & (chosen == 1).any(1)).mean(), 10 * 9 / (30 * 29)
  assert abs(both - expected) < 5 * np.sqrt(expected / len(chosen))
  assert abs(both - 1 / 9) > 5 * np.sqrt(expected / len(chosen))  # with replacement, or independent: caught


def test_a_subset_of_what_is_used_is_that_of_fewer_rows():
  stamps, roomy = jnp.zeros(4 * 5, jnp.int32), jnp.zeros(10 * 5, jnp.int32)
  for t in range(1, 5):
    key = jax.random.key(t)
    stamps, chosen = store.subset(key, stamps, 4, t)
    roomy, of_room = store.subset(key, roomy, 10, t, jnp.int32(4))
    np.testing.assert_array_equal(of_room, [*chosen, *[0] * 6])


def test_warm_start_hands_over_the_previous_model():
  task = poisson_mean(num_samples=N)
  step = lambda key, problem, context: (0.0 if context.previous is None else context.previous) + 1.0
  counting = task._replace(
    fit=step,
    evaluate=lambda key, problem, count: {"count": jnp.asarray(count)},
    sample=lambda key, problem, count, context: (
      store.batch(jnp.zeros(N)),
      {"sampled_after": step(key, None, context)},
    ),
  )
  out = cj.run(jax.random.key(0), counting, workflows.replace(), T, warm_start=True)
  np.testing.assert_allclose([out["count"], out["sampled_after"]], [[1, 2, 3, 4]] * 2)
  for driver in ("scan", "steps", "host"):
    options = {"num_generations": T, "num_seeds": 1, "warm_start": True, "driver": driver}
    swept = cj.sweep(lambda num_samples: counting, ["replace"], {"num_samples": [N]}, **options)
    np.testing.assert_allclose([swept["count"].squeeze(), swept["sampled_after"].squeeze()], [[1, 2, 3, 4]] * 2)
  np.testing.assert_allclose(cj.run(jax.random.key(0), counting, workflows.replace(), T)["count"], 1)


def test_mix_emits_one_number_wherever_it_is_decided():
  """n (1 - f) / f, in float64: what a run emits, what a sweep hands to its program, and what theory assumes."""
  shares = [*np.round(np.arange(0.01, 1.0, 0.01), 2), 1 / 3, 2 / 3]
  differing = 0
  for n in range(2, 201):
    for f in shares:
      right = round(n * (1 - f) / f)
      workflow = workflows.mix(f)
      handed = programs.emitted(workflow, n, 3)
      assert workflow.emit(n, 1) == right == handed, (n, f)
      assert workflows.mix(np.float64(f)).emit(np.int64(n), 1) == right
      differing += right != np.round(np.float32(n) * (1 - np.float32(f)) / np.float32(f))
  assert differing > 100  # the twin: in float32


def test_mix_trains_on_as_many_rows_in_a_sweep_as_in_a_run():
  pairs = [(3, 2 / 3), (2, 0.16), (5, 2 / 3), (7, 0.4), (4, 0.5)]
  for traced in ("both", "share"):
    axes = {"num_samples": sorted({n for n, _ in pairs}), "real_fraction": sorted({f for _, f in pairs})}
    task = lambda num_samples: tasks.exponential_family("gaussian", num_samples)
    options = {"static_axes": ["num_samples"]} if traced == "share" else {}
    out = cj.sweep(task, {"mix": workflows.mix}, axes, num_generations=2, num_seeds=1, **options)
    for n, f in pairs:
      one = cj.run(jax.random.key(0), task(n), workflows.mix(f), 2)
      found = out.train_size.sel(num_samples=n, real_fraction=f).values.squeeze()
      np.testing.assert_array_equal(found, one["train_size"])
      assert found[1] == n + round(n * (1 - f) / f)


def test_mix_of_no_real_rows_is_replace():
  """As a workflow, and as one value of an axis whose values share a program."""
  assert workflows.parse("mix(0.0, fresh=True)")().weights(3).tolist() == np.eye(3).tolist()
  task = lambda num_samples: tasks.exponential_family("gaussian", num_samples)
  axes = {"num_samples": [10], "real_fraction": [0.0, 0.5]}
  out = cj.sweep(
    task,
    {"mix": workflows.mix, "replace": lambda real_fraction: workflows.replace()},
    axes,
    num_generations=4,
    num_seeds=2,
  )
  mixed, replaced = (out.sel(workflow=name).squeeze() for name in ("mix", "replace"))
  assert out.attrs["num_compilations"] == 2
  for name in ("squared_error_of_mean", "train_size", "real_share"):
    np.testing.assert_allclose(mixed[name][0], replaced[name][0], rtol=1e-5, atol=1e-7)
  assert (mixed.real_share[1, :, 1:] == 0.5).all() and abs(
    mixed.squared_error_of_mean - replaced.squared_error_of_mean
  )[1, :, 1:].min() > 0


def test_where_no_rows_are_emitted_samples_are_looked_at():
  """mix(1.0) trains on the real rows alone, and its samples are judged all the same."""
  task = transforms.observe(
    poisson_mean(num_samples=N), lambda problem, context, data: {"num": jnp.sum(data.rows > -1)}
  )
  out = cj.run(jax.random.key(0), task, workflows.mix(1.0), 3)
  np.testing.assert_array_equal(out["num"], N)
  np.testing.assert_array_equal(out["train_size"], N)
  assert len(set(out["squared_error"].tolist())) == 1 and (out["real_share"] == 1).all()


def test_rows_are_emitted_as_one_table_says():
  """Drawn, used and stored alike; a workflow of one's own needs to say it only once."""
  task, growing = poisson_mean(num_samples=N), workflows.grown_replace()
  table = cj.generation.emission(task, growing, 3)
  assert table.counts == (2 * N, 3 * N, 4 * N) and table.num(1) == 4 * N
  assert [int(table.used(t)) for t in (1, 2, 3)] == list(table.counts)
  even = cj.generation.emission(task, workflows.mix(1.0), 3)
  assert even == (even.num, None, (0, 0, 0)) and even.num(1) == N
  law = cj.generation.emission(tasks.gaussian(1, 1e9), growing, 3)
  assert (law.num(2), law.used, law.counts) == (3e9, None, None)
  seen = transforms.observe(
    task, lambda problem, context, data: {"drawn": context.num, "used": jnp.asarray(context.used)}
  )
  out = cj.run(jax.random.key(0), seen, growing, 3)
  np.testing.assert_array_equal(out["used"][:2], out["train_size"][1:])
  assert (out["drawn"] == 4 * N).all()


def test_a_task_that_relabels_its_rows_runs_in_a_sweep_where_it_runs_alone():
  """mix(0.5) emits as many rows as there are, also where the number is traced."""
  axes = {"dim": [3], "num_samples": [20, 30]}
  task = lambda dim, num_samples: tasks.linear_regression(dim, num_samples)
  out = cj.sweep(task, ["mix(0.5)", "mix(0.2)"], axes, num_generations=3, num_seeds=2)
  assert (out.cell_status.sel(workflow="mix(0.5)") == "ok").all()
  assert out.cell_status.sel(workflow="mix(0.2)").str.contains("relabels").all()
  one = cj.run(jax.random.fold_in(jax.random.key(0), 1), task(3, 30), workflows.mix(0.5), 3)
  found = out.test_mse.sel(workflow="mix(0.5)", num_samples=30, seed=1).values.squeeze()
  np.testing.assert_allclose(found, one["test_mse"], rtol=1e-5)
  by_share = cj.sweep(task, {"mix": workflows.mix}, axes | {"real_fraction": [0.5]}, num_generations=3, num_seeds=2)
  np.testing.assert_allclose(
    by_share.test_mse.values.ravel(), out.test_mse.sel(workflow="mix(0.5)").values.ravel(), rtol=1e-5
  )


def test_selection_keeps_its_share_where_batches_grow():
  """Twin: the nearest of the largest batch of the horizon."""
  task = transforms.select_nearest(tasks.sample_median(50), 0.5)
  grown = cj.run(jax.random.key(0), task, workflows.grown_replace(), 6)
  alone = jax.vmap(lambda key: cj.run(key, task, workflows.replace(), 1)["kept_radius"][0])(
    jax.random.split(jax.random.key(1), 200)
  )
  assert abs(grown["kept_radius"][0] - alone.mean()) < 5 * alone.std()


def test_runs_are_paired_across_workflows():
  """Every workflow fits model 1 to the same rows, also one that mixes fresh real rows in later."""
  names = ("replace", "mix(0.3, fresh=True)", "accumulate_subsample")
  first = [cj.run(jax.random.key(0), poisson_mean(), workflows.parse(name)(), 1)["squared_error"][0] for name in names]
  np.testing.assert_allclose(first, first[0], rtol=1e-6)


def test_a_share_that_is_an_array_is_a_number():
  """Only a tracer is a share of which nothing is known: 0 of any kind is `replace`, and what cannot be is refused."""
  for zero in (0, np.float32(0), jnp.float32(0)):
    assert workflows.mix(zero).absorbing and workflows.mix(zero).emit(10, 1) == 10
  assert workflows.mix(jnp.float32(0.2)).emit(100, 1) == 400 and not workflows.mix(jnp.float32(0.2)).absorbing
  for wrong in ({"real_fraction": jnp.float32(2)}, {"real_fraction": 0.5, "real_weight": jnp.float32(2)}):
    with pytest.raises(ValueError, match="must be"):
      workflows.mix(**wrong)
  seen = []
  jax.eval_shape(lambda share: seen.append(workflows.mix(share).absorbing), 0.0)
  assert seen == [False]
