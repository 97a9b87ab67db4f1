"""Ensembles of generators (van Breugel et al. 2305.09235), and training on synthetic rows to test on real ones."""

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.random import choose, table
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer
from collapse_jax.transforms import classifiers
from collapse_jax.transforms.parts import in_rows, observe, require_parts, resample
from collapse_jax.types import Context, Data, MetricInfo, Metrics, TaskSetting
from collapse_jax.vocabulary import RESAMPLING

__all__ = ["bootstrap_counts", "ensemble", "scores", "train_on_synthetic"]


@citing("2305.09235")
def ensemble(task: TaskSetting, num_members: int, resample_real: str = "none") -> TaskSetting:
  """Several models of the same data; each emits an equal part of the batch, in the order of members (van Breugel et al.).

  With `workflows.replace(num_emitted=K * n)` each of K members emits as many rows as there are real ones.

  Args:
    task: any task that draws rows.
    num_members: K, at least 2.
    resample_real: "none": members differ by their keys only, as in the paper, and cannot see the sampling error of their
      data; "bootstrap": each is fitted to as many rows drawn with replacement (its `fit` must honour row weights).
  Returns:
    the task; metrics are means over members, and `member_spread` is the standard deviation of the first one of the model.
  Raises:
    ValueError: an argument out of range, a task without rows, or, while tracing, rows to emit that K does not divide, or as many
      as the generation has it (`grown_replace`).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.ensemble(cj.tasks.gaussian(dim=1, num_samples=10), 3)
  >>> print(*task.metrics)
  covariance_trace_ratio squared_error_of_mean covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance member_spread
  """
  check_integer("num_members", num_members, 2)
  if resample_real not in RESAMPLING:
    raise Refused.must_be("resample_real", f"one of {', '.join(RESAMPLING)}", resample_real)
  task = in_rows(task)
  if resample_real == "bootstrap" and task.summary is not None:
    task = task._replace(summary=task.summary._replace(keep_rows=True, extend=None))

  def data_of(problem, context: Context, counts) -> Context:
    """The context of one member: its training data with rows counted so many times."""
    if counts is None:
      return context
    data = context.data._replace(row_weight=counts, weight=jnp.ones(len(counts)))
    if task.summary is not None:
      data = data._replace(summary=task.summary.of(problem, *storage.flat(data)))
    return context._replace(data=data)

  def fit(key, problem, context: Context):
    previous = None if context.previous is None else context.previous[0]

    def one(key, previous):
      own = context._replace(previous=previous)
      if resample_real == "none":
        return task.fit(key, problem, own), None
      draw_key, fit_key = jax.random.split(key)
      counts = bootstrap_counts(draw_key, context.data)
      return task.fit(fit_key, problem, data_of(problem, own, counts)), counts

    return jax.vmap(one)(jax.random.split(key, num_members), previous)

  def sample(key, problem, params, context: Context):
    if context.used is not None:
      raise Refused("ensemble needs a workflow that asks for the same number of rows in every generation.")
    if context.num % num_members:
      raise Refused(
        f"num_members must divide the {context.num} rows to emit, got {num_members}.",
        argument="num_members",
        value=num_members,
      )
    part = context._replace(num=context.num // num_members, previous=None)
    members, counts = params

    def one(key, member, counts):
      return task.sample(key, problem, member, data_of(problem, part, counts))

    data, metrics = jax.vmap(one)(jax.random.split(key, num_members), members, counts)
    whole = lambda x: None if x is None else jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), x)
    return storage.batch(whole(data.rows), whole(data.row_weight)), jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

  def evaluate(key, problem, params):
    keys = jax.random.split(key, num_members)
    metrics = jax.vmap(lambda key, member: task.evaluate(key, problem, member))(keys, params[0])
    name = next((name for name in task.metrics if name in metrics), next(iter(metrics)))
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics) | {"member_spread": jnp.std(metrics[name], ddof=1)}

  info = {"member_spread": MetricInfo("standard deviation over members of the first metric")}
  return resample(task._replace(fit=fit, evaluate=evaluate), sample, info)


def bootstrap_counts(key, data: Data):
  """[slots, n] how often each stored row is drawn, in as many draws with replacement as there are rows in use.

  Rows in use count alike within a batch's weight.
  """
  n = storage.num_rows(data.rows, 1)
  slots = data.origin.shape[0]
  weight = storage.flat(data)[1]
  row = choose(key, table(weight), slots * n)
  in_use = jnp.arange(slots * n) < jnp.sum(weight > 0)
  return jnp.zeros(slots * n).at[row].add(in_use.astype(float)).reshape(slots, n)


@citing("2305.09235")
def train_on_synthetic(task: TaskSetting, num_members: int = 1) -> TaskSetting:
  """Classifiers trained on emitted rows are tested on real ones (van Breugel et al. 2305.09235).

  Args:
    task: `tasks.labelled`, `tasks.table` with a label, or another with rows {"x": [n, dim], "label": [n]} of 0.0 and 1.0 whose
      problem has `test` rows of that form; also an ensemble of it.
    num_members: parts of the emitted rows, one classifier each, whose probabilities are averaged; those of `ensemble`.
  Returns:
    the task, with metrics of the averaged classifier `downstream_auc`, `downstream_accuracy`, `downstream_nll`,
    `downstream_brier` and `downstream_calibration_error`; of one that is trained on the real batch, the same after `oracle_`; and,
    for several members, of one that is trained on all their rows, after `pooled_`, and `downstream_coverage`, the share of test
    rows where the real one's probability lies within 1.96 deviations of members.
  Raises:
    ValueError: num_members below 1, or, while tracing, rows that it does not divide or whose number grows.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.train_on_synthetic(cj.tasks.labelled("moons", num_samples=20))
  >>> print(*task.metrics)
  test_nll label_share downstream_auc downstream_accuracy downstream_nll downstream_brier downstream_calibration_error
  oracle_auc oracle_accuracy oracle_nll oracle_brier oracle_calibration_error pooled_auc pooled_accuracy pooled_nll
  pooled_brier pooled_calibration_error downstream_coverage
  """
  check_integer("num_members", num_members, 1)

  def judge(problem, context: Context, data: Data):
    rows = jax.tree.map(lambda x: x[0], data.rows)
    require_parts(rows, ("x", "label"), "train_on_synthetic")
    if not hasattr(problem, "test"):
      raise Refused("train_on_synthetic needs a problem with test rows, as that of tasks.labelled.")
    num = storage.num_rows(rows)
    if num % num_members:
      raise Refused(
        f"num_members must divide the {num} rows to train on, got {num_members}.",
        argument="num_members",
        value=num_members,
      )
    if context.used is not None and num_members > 1:
      raise Refused("parts of rows need a workflow that asks for the same number of rows in every generation.")
    weight = storage.in_use(context) * (1.0 if data.row_weight is None else data.row_weight[0])
    rows = storage.blank(rows, weight)
    parts = (v.reshape(num_members, -1, *v.shape[1:]) for v in (rows["x"], rows["label"], weight))
    test, test_label = problem.test["x"], problem.test["label"]
    centre = classifiers.scaling(context.real.rows["x"][0])
    predict = lambda x, label, weight: classifiers.predict(
      classifiers.fit_classifier(classifiers.features(x, centre), label, weight), classifiers.features(test, centre)
    )
    each = jax.vmap(predict)(*parts)
    real_weight = jnp.ones(context.real.rows["label"].shape[1])
    oracle = predict(context.real.rows["x"][0], context.real.rows["label"][0], real_weight)
    judged = {"downstream": jnp.mean(each, axis=0), "oracle": oracle}
    if num_members > 1:
      judged["pooled"] = predict(rows["x"], rows["label"], weight)
    metrics: Metrics = {}
    for what, probability in judged.items():
      metrics |= {f"{what}_{name}": value for name, value in scores(probability, test_label).items()}
    if num_members > 1:
      half = 1.96 * jnp.std(each, axis=0, ddof=1)
      middle = jnp.mean(each, axis=0)
      metrics["downstream_coverage"] = classifiers.coverage(middle - half, middle + half, oracle)
    return metrics

  names = {
    "auc": ("area under the curve", "lower"),
    "accuracy": ("accuracy", "lower"),
    "nll": ("cross entropy (nats)", "higher"),
    "brier": ("Brier score", "higher"),
    "calibration_error": ("expected calibration error", "higher"),
  }
  info = {
    f"downstream_{name}": MetricInfo(f"{text} on real rows, trained on samples", worse=worse)
    for name, (text, worse) in names.items()
  }
  for what, rows in (("oracle", "real rows"), ("pooled", "all samples at once")):
    info |= {
      f"{what}_{name}": MetricInfo(f"{text} on real rows, trained on {rows}") for name, (text, _) in names.items()
    }
  info["downstream_coverage"] = MetricInfo(
    "share of test rows whose probability by real rows lies in the members' interval"
  )
  return observe(task, judge, info)


def scores(probability, label):
  """How good probabilities [m] are for labels [m] of 0.0 and 1.0, by name."""
  return {
    "auc": classifiers.auc(probability, label),
    "accuracy": jnp.mean((probability > 0.5) == (label > 0.5)),
    "nll": classifiers.nll(probability, label),
    "brier": classifiers.brier(probability, label),
    "calibration_error": classifiers.calibration_error(probability, label),
  }
