"""`cj.testing` finds what is planted, and nothing in its healthy twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collapse_jax as cj
from collapse_jax import key_use, store, tasks, testing, transforms, workflows
from collapse_jax.types import MetricInfo, Summary, TaskSetting

N = 6
normal = jax.random.normal


# ------------------------------------------------------------------------------------- planted faults, and their twins
def mean_of_rows(**changed):
  """A task as a user writes it."""

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows) / jnp.sum(weight)

  draw = lambda key, mean, num: store.batch(mean + cj.random.normal(key, (num,)))
  task = TaskSetting(
    init=lambda key: (jnp.zeros(()), draw(key, 0.0, N)),
    fit=fit,
    sample=lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
    evaluate=lambda key, problem, mean: {"error": (mean - problem) ** 2},
    num_samples=N,
    metrics={"error": MetricInfo("squared error of the mean")},
  )
  return task._replace(**changed)


def sampling(change):
  """The task with `change` of (key, mean, context) -> rows, metrics."""

  def sample(key, problem, mean, context):
    rows, metrics = change(key, mean, context)
    return store.batch(rows), metrics

  return mean_of_rows(sample=sample, metrics={})


def clipped(wrong):
  """Rows are replaced, and their statistics kept."""

  def sample(key, problem, params, context):
    data, metrics = base.sample(key, problem, params, context)
    rows = jnp.clip(data.rows, -0.5, 0.5)
    return store.same(data, rows=rows) if wrong else store.batch(rows[0]), metrics

  base = tasks.gaussian(1, N, draws="rows")
  return base._replace(sample=sample)


def clipped_after_summary(wrong):
  """As above, where what is kept is only where the rows come from (`draw`, `latent`)."""

  def sample(key, problem, params, context):
    data, metrics = base.sample(key, problem, params, context)
    rows = jnp.clip(data.rows, -0.5, 0.5)
    return store.same(data, rows=rows, summary=None) if wrong else store.batch(rows[0]), metrics

  base = tasks.gaussian(1, N, draws="rows")
  return base._replace(sample=sample)


def innovating(wrong):
  """New outcomes come in, and the task still says that drift ends."""
  base = tasks.discrete(3, N, draws="rows")

  def sample(key, problem, params, context):
    sample_key, new_key, swap_key = jax.random.split(key, 3)
    data, metrics = base.sample(sample_key, problem, params, context)
    new = jax.random.randint(new_key, (context.num,), 0, 3)
    swap = jax.random.uniform(swap_key, (context.num,)) < 0.1
    return store.batch(jnp.where(swap, new, data.rows[0])), metrics

  return base._replace(sample=sample, absorbed=base.absorbed if wrong else None)


def empty_slots_read(wrong):
  weighted = mean_of_rows().fit
  return mean_of_rows(
    fit=lambda key, problem, context: jnp.mean(context.data.rows) if wrong else weighted(key, problem, context)
  )


def row_weights_ignored(wrong):
  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    if wrong:
      weight = jnp.repeat(context.data.weight, context.data.rows.shape[1])
    return jnp.sum(weight * rows) / jnp.sum(weight)

  return mean_of_rows(fit=fit)


def weights_only_as_mask(wrong):
  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    weight = (weight > 0).astype(float) if wrong else weight
    return jnp.sum(weight * rows) / jnp.sum(weight)

  return mean_of_rows(fit=fit)


def summed(wrong):
  """Statistics whose sum forgets the weight of a batch."""
  add = lambda problem, a, weight_a, b, weight_b: (a + b) if wrong else (weight_a * a + weight_b * b)
  of = lambda problem, rows, weight: jnp.stack(
    [jnp.sum(rows if weight is None else weight * rows), jnp.sum(jnp.ones(N) if weight is None else weight)]
  )
  return mean_of_rows(
    fit=lambda key, problem, context: context.data.summary[0] / context.data.summary[1], summary=Summary(of, add)
  )


def key_drawn_from_twice(wrong):
  def rows(key, mean, context):
    noise_key, scale_key = (key, key) if wrong else jax.random.split(key)
    return mean + normal(noise_key, (context.num,)) * jax.random.uniform(scale_key, ()), {}

  return sampling(rows)


def key_split_beside_fold(wrong):
  def rows(key, mean, context):
    first, second = jax.random.split(key)
    third = jax.random.fold_in(key if wrong else first, 1)
    return mean + normal(third, (context.num,)) + normal(second, (context.num,)), {}

  return sampling(rows)


def key_in_a_loop(wrong):
  def rows(key, mean, context):
    step = lambda i, x: x + normal(key if wrong else jax.random.fold_in(key, i), (context.num,))
    return jax.lax.fori_loop(0, 3, step, jnp.full(context.num, mean)), {}

  return sampling(rows)


def key_kept_in_the_problem(wrong):
  """Every generation adds the same noise."""

  def init(key):
    data_key, noise_key = jax.random.split(key)
    return noise_key, store.batch(normal(data_key, (N,)))

  def fit(key, problem, context):
    noise_key = problem if wrong else jax.random.fold_in(problem, context.t)
    return mean_of_rows().fit(key, problem, context) + normal(noise_key)

  return mean_of_rows(init=init, fit=fit, evaluate=lambda key, problem, mean: {"error": mean**2})


def fixed_key_in_evaluate(wrong):
  def evaluate(key, problem, mean):
    return {"error": jnp.mean((mean + normal(jax.random.key(0) if wrong else key, (20,))) ** 2)}

  return mean_of_rows(evaluate=evaluate)


def drawn_outside(wrong):
  """A generator of NumPy's behind a callback."""
  generator = np.random.default_rng(0)

  def rows(key, mean, context):
    shape = jax.ShapeDtypeStruct((context.num,), np.float32)
    noise = jax.pure_callback(
      lambda _: generator.normal(size=shape.shape).astype(np.float32), shape, mean, vmap_method="sequential"
    )
    return mean + (noise if wrong else normal(key, shape.shape)), {}

  return sampling(rows)


def counter_outside(wrong):
  calls = []

  def rows(key, mean, context):
    calls.append(1)
    return mean + normal(key, (context.num,)) + (0.1 * len(calls) if wrong else 0.0), {}

  return sampling(rows)


def arguments_changed(wrong):
  def evaluate(key, problem, mean):
    if wrong:
      problem["last"] = mean
    return {"error": (mean - problem["truth"]) ** 2}

  init = mean_of_rows().init
  return mean_of_rows(init=lambda key: ({"truth": jnp.zeros(())}, init(key)[1]), evaluate=evaluate)


def rows_too_few(wrong):
  return sampling(lambda key, mean, context: (mean + normal(key, (N - 1 if wrong else context.num,)), {}))


def rows_of_another_kind(wrong):
  return sampling(
    lambda key, mean, context: (jax.random.poisson(key, 3.0, (context.num,)).astype(int if wrong else float), {})
  )


def rows_without_data(wrong):
  sample = lambda key, problem, mean, context: (mean + normal(key, (context.num,)), {})
  return mean_of_rows(sample=sample) if wrong else mean_of_rows()


def name_of_results(wrong):
  return mean_of_rows(evaluate=lambda key, problem, mean: {"finite" if wrong else "error": mean**2})


def name_beside_a_metric(wrong):
  name = "error_limit" if wrong else "limit"
  return mean_of_rows(evaluate=lambda key, problem, mean: {"error": mean**2, name: mean}, metrics={})


def name_not_declared(wrong):
  return mean_of_rows(evaluate=lambda key, problem, mean: {"error": mean**2, **({"eror": mean} if wrong else {})})


def axis_without_name(wrong):
  info = {"error": MetricInfo("error", dims=() if wrong else ("part",))}
  return mean_of_rows(evaluate=lambda key, problem, mean: {"error": jnp.stack([mean, mean**2])}, metrics=info)


def metric_of_rows_that_do_not_count(wrong):
  def rows(key, mean, context):
    found = mean + cj.random.normal(key, (context.num,))
    return found, {"mean": jnp.mean(found) if wrong else jnp.mean(found, where=store.in_use(context) > 0)}

  return sampling(rows)


def draws_of_the_horizon(wrong):
  """Fewer draws are not the first of more: a permutation of all that are drawn."""

  def rows(key, mean, context):
    found = mean + cj.random.normal(key, (context.num,))
    return found[::-1] if wrong else found, {}

  return sampling(rows)


def law_of_another_length(wrong):
  Expected = cj.Expected
  predict = lambda schedule: {"error": Expected(np.ones(len(schedule.sizes) + wrong))}
  return mean_of_rows(predict=predict)


FAULTS = {  # the check that finds it, and a workflow where it takes one
  clipped: ("statistics", None),
  clipped_after_summary: ("statistics", None),
  innovating: ("absorbed", "replace"),
  empty_slots_read: ("unused", "accumulate"),
  row_weights_ignored: ("weights", None),
  weights_only_as_mask: ("weights", None),
  summed: ("weights", None),
  key_drawn_from_twice: ("keys", "replace"),
  key_split_beside_fold: ("keys", "replace"),
  key_in_a_loop: ("keys", "replace"),
  key_kept_in_the_problem: ("keys", "replace"),
  fixed_key_in_evaluate: ("keys", "replace"),
  drawn_outside: ("same", "replace"),
  counter_outside: ("state", "replace"),
  arguments_changed: ("mutation", None),
  rows_too_few: ("shapes", None),
  rows_of_another_kind: ("shapes", None),
  rows_without_data: ("shapes", None),
  name_of_results: ("names", None),
  name_beside_a_metric: ("names", None),
  name_not_declared: ("names", None),
  axis_without_name: ("names", None),
  metric_of_rows_that_do_not_count: ("horizon", None),
  draws_of_the_horizon: ("horizon", None),
  law_of_another_length: ("predict", "replace"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault):
  check, workflow = FAULTS[fault]
  options = {"workflows": [workflow] if workflow else [], "drivers": ()}
  with pytest.raises(testing.Failed) as caught:
    testing.check_task(fault(True), **options)
  assert check in {one.check for one in caught.value.findings}, caught.value
  assert f"[{check}]" in str(caught.value)
  testing.check_task(fault(False), **options)


def test_a_task_of_ones_own_passes_all_of_it():
  """Under every workflow and driver; and what is skipped is not told."""
  assert testing.check_task(mean_of_rows(fresh=lambda key, problem: store.batch(normal(key, (N,))))) == ()
  (note,) = testing.check_task(mean_of_rows(), workflows=["mix(0.5, fresh=True)"], drivers=())
  assert "refuses mix(0.5, fresh=True)" in note
  testing.check_task(name_of_results(True), workflows=[], skip=["names"])


def test_one_batch_alone_is_told_by_the_schedule():
  """Whatever a workflow is called; there the driver "steps" draws the rows that others do."""
  alone = lambda flow: testing._alone(testing._Ran(flow, 3, {}), mean_of_rows())
  for text in ("replace", "replace(3)", "grown_replace", "sliding_window(1)"):
    assert alone(workflows.parse(text)()), text
  for text in ("accumulate", "accumulate_subsample", "mix(0.4)", "sliding_window(2)"):
    assert not alone(workflows.parse(text)()), text
  assert not alone(workflows.replace()._replace(emit=lambda n, t: n))  # of which nothing is known


def test_errors_of_a_users_code_come_as_they_are():
  def fit(key, problem, context):
    raise ZeroDivisionError("mine")

  with pytest.raises(ZeroDivisionError, match="mine"):
    testing.check_task(mean_of_rows(fit=fit))


def _tables(broken):
  """A schedule that trains on the last batch and declares another table."""
  good = workflows.accumulate()
  return good._replace(weights=(lambda T: np.eye(T)) if broken else good.weights, schedule=None)


def _one_late(broken):
  """Batches that are stored over the one before."""
  base = workflows.accumulate()

  def update(task, problem, key, store_, batch, t):
    return base.update(task, problem, key, store_, batch, jnp.maximum(t - 1, 1) if broken else t)

  return base._replace(update=update, weights=base.weights)


def _total_left(broken):
  """Statistics of the pool that lack the last batch."""
  base = workflows.accumulate()

  def update(task, problem, key, store_, batch, t):
    new = base.update(task, problem, key, store_, batch, t)
    return new._replace(summary=store_.summary) if broken and task.summary is not None else new

  return base._replace(update=update, weights=base.weights, schedule=base.schedule)


def _all_slots(broken):
  """Empty slots are handed over with weight 1."""
  base = workflows.weights(np.tril(np.ones((3, 3))) / np.arange(1, 4)[:, None])

  def select(task, problem, key, store_, t):
    data = base.select(task, problem, key, store_, t)
    return data._replace(weight=jnp.ones_like(data.weight)) if broken else data

  return base._replace(select=select, weights=base.weights, schedule=base.schedule)


def _origins_lost(broken):
  base = workflows.accumulate()

  def select(task, problem, key, store_, t):
    data = base.select(task, problem, key, store_, t)
    return data._replace(origin=jnp.where(data.origin > 0, 0, data.origin)) if broken else data

  return base._replace(select=select, weights=base.weights, schedule=base.schedule)


def _always_absorbing(broken):
  return workflows.accumulate()._replace(absorbing=broken)


def _fresh_with_one_key(broken):
  """Real data that are drawn anew with one and the same key."""
  base = workflows.mix(0.5, fresh=True)

  def select(task, problem, key, store_, t):
    return base.select(task, problem, jax.random.key(0) if broken else key, store_, t)

  return base._replace(select=select, weights=base.weights, schedule=base.schedule)


def _fractions_emitted(broken):
  return workflows.replace()._replace(emit=(lambda n, t: n / 2) if broken else (lambda n, t: n))


@pytest.mark.parametrize(
  ("fault", "check"),
  [
    (_tables, "shares"),
    (_one_late, "shares"),
    (_total_left, "statistics"),
    (_all_slots, "unused"),
    (_origins_lost, "shares"),
    (_always_absorbing, "absorbing"),
    (_fresh_with_one_key, "keys"),
    (_fractions_emitted, "shapes"),
  ],
  ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_of_a_workflow_is_found(fault, check):
  with pytest.raises(testing.Failed) as caught:
    testing.check_workflow(fault(True), drivers=False)
  assert check in {one.check for one in caught.value.findings}, caught.value


def test_twins_of_planted_workflows_pass():
  for fault in (_tables, _total_left, _all_slots, _fresh_with_one_key):
    testing.check_workflow(fault(False), drivers=False)


def _clip(broken):
  def transform(task):
    task = task if task.rows is None else task.rows()

    def sample(key, problem, params, context):
      data, metrics = task.sample(key, problem, params, context)
      rows = jnp.clip(data.rows, -0.5, 0.5)
      return store.same(data, rows=rows) if broken else store.batch(rows[0]), metrics

    return task._replace(sample=sample, absorbed=None)

  return transform


def _declares_in_place(broken):
  def transform(task):
    info = {"extra": MetricInfo("extra")}
    metrics = task.metrics if broken else dict(task.metrics)
    metrics.update(info)
    evaluate = lambda key, problem, params: task.evaluate(key, problem, params) | {"extra": jnp.zeros(())}
    return task._replace(evaluate=evaluate, metrics=metrics)

  return transform


def _law_kept(broken):
  """What is emitted is shifted, and its law left as it was."""

  def transform(task):
    def sample(key, problem, params, context):
      data, metrics = task.sample(key, problem, params, context)
      return store.batch(data.rows[0] + 1), metrics

    return task._replace(sample=sample, predict=task.predict if broken else None)

  return transform


def _best_of_all(broken):
  """The largest of twice as many, of which some will not count."""

  def transform(task):
    def sample(key, problem, params, context):
      wide = context._replace(num=2 * context.num, used=None if context.used is None else 2 * context.used)
      data, metrics = task.sample(key, problem, params, wide)
      rows = data.rows[0].reshape(context.num, 2)
      rows = jnp.max(rows, axis=1)
      largest = jnp.max(rows) if broken else jnp.max(rows, where=store.in_use(context) > 0, initial=-jnp.inf)
      return store.batch(rows), metrics | {"largest": largest}

    return task._replace(sample=sample, metrics={**task.metrics, "largest": MetricInfo("largest row")})

  return transform


def _predicting():
  law = lambda schedule: {"error": cj.Expected(np.ones(len(schedule.sizes)))}
  return {"mine": mean_of_rows(predict=law, metrics=dict(mean_of_rows().metrics))}


@pytest.mark.parametrize(
  ("fault", "check", "tasks_", "workflow"),
  [
    (_clip, "statistics", lambda: {"gaussian": tasks.gaussian(1, N)}, None),
    (_declares_in_place, "mutation", _predicting, None),
    (_law_kept, "predict", _predicting, "replace"),
    (_best_of_all, "unused", lambda: {"median": tasks.sample_median(N)}, "grown_replace"),
  ],
  ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_of_a_transform_is_found(fault, check, tasks_, workflow):
  options = {"workflows": [workflow] if workflow else [], "drivers": ()}
  with pytest.raises(testing.Failed) as caught:
    testing.check_transform(fault(True), tasks=tasks_(), **options)
  assert check in {one.check for one in caught.value.findings}, caught.value
  testing.check_transform(fault(False), tasks=tasks_(), **options)


def test_a_transform_that_takes_no_task_is_told():
  with pytest.raises(testing.Failed, match="refuses every task"):
    testing.check_transform(lambda task: transforms.edit_tokens(task, 0.5, 2))


# ------------------------------------------------------------------------------------------- how keys are used
def _twice(key):
  return normal(key) + normal(key)


def _parts(key):
  keys = jax.random.split(key)
  return jnp.sum(jax.vmap(normal)(keys)) + normal(keys[0])


def _by_branch(key):
  return jax.lax.cond(normal(jax.random.fold_in(key, 0)) > 0, lambda: normal(key), lambda: jax.random.uniform(key))


def _chained(key):
  def step(key, _):
    key, here = jax.random.split(key)
    return key, normal(here)

  return jax.lax.scan(step, key, None, 3)[1]


@pytest.mark.parametrize(
  ("function", "kinds"),
  [
    (_twice, ["reused"]),
    (_parts, ["reused"]),
    (_by_branch, []),
    (_chained, []),
    (lambda key: normal(jax.random.fold_in(key, 1)) + normal(jax.random.fold_in(key, 2)), []),
    (lambda key: normal(jax.random.fold_in(key, 1)) + normal(jax.random.fold_in(key, 1)), ["reused"]),
    (lambda key: normal(jax.random.fold_in(key, 1)) + normal(jax.random.split(key)[0]), ["reused"]),
    (lambda key: jax.lax.scan(lambda key, _: (key, normal(key)), key, None, 3)[1], ["reused"]),
    (lambda key: jax.lax.scan(lambda x, key: (x + normal(key), None), 0.0, jax.random.split(key, 3))[0], []),
    (lambda key: jax.lax.fori_loop(0, 3, lambda i, x: x + normal(jax.random.fold_in(key, i)), 0.0), []),
    (lambda key: jax.grad(lambda w: jax.checkpoint(lambda w: jnp.sin(w * normal(key)))(w))(1.0), []),
    (lambda key: jax.jit(_chained)(key) + jax.jit(_chained)(key), ["reused"]),
    (lambda key: normal(jax.random.key(0)), ["fixed"]),
    (lambda key: jax.random.poisson(key, 3.0), []),  # JAX has two methods, which start from one key
    (lambda key: jax.random.poisson(key, 3.0) + normal(key), ["reused"]),
    (lambda key: cj.random.choose(key, cj.random.table(jnp.ones(5)), 4), []),
    (lambda key: normal(cj.random.fold_in(key, 1)) + normal(cj.random.fold_in(key, 2)), []),
    (lambda key: normal(cj.random.fold_in(key, 1)) + normal(cj.random.fold_in(key, 1)), ["reused"]),
    (lambda key: normal(cj.random.split(key)[0]) + normal(cj.random.split(key)[0]), ["reused"]),
    (lambda key: normal(cj.random.fold_in(key, 1)) + normal(cj.random.split(key)[0]), ["reused"]),
    (lambda key: jax.lax.fori_loop(0, 3, lambda i, x: x + normal(cj.random.fold_in(key, i)), 0.0), []),
    (lambda key: jax.lax.fori_loop(0, 3, lambda i, x: x + normal(cj.random.split(key)[1]), 0.0), ["reused"]),
    (lambda key: cj.random.chi_square(key, jnp.full(4, 5.0)), []),
  ],
)
def test_use_of_keys(function, kinds):
  found = key_use.misuses(jax.make_jaxpr(function)(jax.random.key(0)))
  assert [one.kind for one in found] == kinds
  assert all("test_testing.py" in place for one in found for place in one.places)
