"""Rows of two classes from class-conditional generators, to train classifiers on (van Breugel et al. 2305.09235)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.data import generators, real_data
from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks._gaussian_mixture import draw, fit_mixture, log_density
from collapse_jax.tasks._kde import log_kernel_sum, log_kernel_volume
from collapse_jax.tasks.parts import check_integer, check_positive
from collapse_jax.types import Context, MetricInfo, TaskSetting
from collapse_jax.vocabulary import LABELLED_GENERATORS

NUM_FEATURES = 5  # leading principal components of breast_cancer

METRICS = {
  "test_nll": MetricInfo(
    "negative log-likelihood of test rows and their labels", "nats per item", worse="higher", measures="risk"
  ),
  "label_share": MetricInfo("share of label 1"),
}


class LabelledProblem(NamedTuple):
  """test: {"x": [m, dim], "label": [m]}."""

  test: Any


@citing("2305.09235")
def labelled(
  dataset,
  num_samples: int,
  generator: str = "gaussian_mixture",
  *,
  num_components: int = 3,
  bandwidth=0.3,
  num_test: int = 500,
) -> TaskSetting:
  """One generator a class, and the share of the classes; rows are {"x": [n, dim], "label": [n]}, labels 0.0 or 1.0.

  Args:
    dataset: "moons" (noise 0.2), "circles" (noise 0.3, factor 0.5), "breast_cancer" (its five leading principal components;
      each run draws its own training rows), or another that `real_data.load_labelled` takes.
    num_samples: rows per batch, at least 2.
    generator: "gaussian_mixture" (`num_components` a class) or "kde" (`bandwidth` in data units, may be traced).
    num_test: test rows of the synthetic sets; real ones test on all that is left.
  Raises:
    ValueError: an argument out of range, or data that cannot be used.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.labelled("moons", num_samples=20)
  >>> print(*task.metrics)
  test_nll label_share
  """
  for name, value, least in (
    ("num_samples", num_samples, 2),
    ("num_components", num_components, 1),
    ("num_test", num_test, 1),
  ):
    check_integer(name, value, least)
  check_positive("bandwidth", bandwidth)
  if generator not in LABELLED_GENERATORS:
    raise Refused.must_be("generator", f"one of {', '.join(LABELLED_GENERATORS)}", generator)
  made: Any = {
    "moons": lambda key, num: generators.moons(key, num, 0.2),
    "circles": lambda key, num: generators.circles(key, num, 0.3, 0.5),
  }.get(dataset if isinstance(dataset, str) else "")
  if made is None:
    data = real_data.load_labelled(dataset, NUM_FEATURES)
    x, label = data.covariates[:, 1:].astype(np.float32), data.labels.astype(np.float32)
    if num_samples >= len(label):
      raise Refused.must_be("num_samples", f"below the {len(label)} rows of {data.name}", num_samples)

  def rows(key, num):
    return {"x": made(key, num), "label": (jnp.arange(num) >= num // 2).astype(float)}

  def init(key):
    train_key, test_key = jax.random.split(key)
    if made is not None:
      return LabelledProblem(rows(test_key, num_test)), batch(rows(train_key, num_samples))
    order = jax.random.permutation(train_key, len(label))
    train, test = order[:num_samples], order[num_samples:]
    part = lambda index: {"x": jnp.asarray(x)[index], "label": jnp.asarray(label)[index]}
    return LabelledProblem(part(test)), batch(part(train))

  def fit(key, problem, context: Context):
    flat, weight = storage.flat(context.data)
    of_class = jnp.stack([weight * (1 - flat["label"]), weight * flat["label"]])
    share = jnp.sum(of_class, axis=1) / jnp.sum(weight)
    test = problem.test["x"]
    if generator == "kde":
      kernels = jnp.stack(
        [
          log_kernel_sum(test, flat["x"], one, bandwidth) - jnp.log(jnp.maximum(jnp.sum(one), 1e-30))
          for one in of_class
        ]
      )
      dim = test.shape[1]
      return share, kernels - log_kernel_volume("gaussian", dim) - dim * jnp.log(jnp.asarray(bandwidth, float)), None
    fitted = jax.vmap(lambda key, one: fit_mixture(key, flat["x"], one, num_components, 30))(
      jax.random.split(key), jnp.maximum(of_class, 1e-30)
    )  # a class that died out is a blur over all rows
    return share, jax.vmap(lambda one: log_density(one, test))(fitted), fitted

  def sample(key, problem, params, context: Context):
    row_key, noise_key, label_key = jax.random.split(key, 3)
    share, _, fitted = params
    if generator == "kde":
      chosen = storage.draw_rows(row_key, context.data, context.num)
      return batch({"x": chosen["x"] + bandwidth * normal(noise_key, chosen["x"].shape), "label": chosen["label"]}), {}
    one = jax.random.uniform(label_key, (context.num,)) < share[1]
    x = jax.vmap(lambda key, member: draw(key, member, context.num))(jax.random.split(row_key), fitted)
    return batch({"x": jnp.where(one[:, None], x[1], x[0]), "label": one.astype(float)}), {}

  def evaluate(key, problem, params):
    share, log_likelihood, _ = params
    label = problem.test["label"].astype(int)
    log_joint = log_likelihood[label, jnp.arange(len(label))] + jnp.log(jnp.maximum(share[label], 1e-30))
    return {"test_nll": -jnp.mean(log_joint), "label_share": share[1]}

  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    metrics=METRICS,
    fresh=None if made is None else lambda key, problem: batch(rows(key, num_samples)),
  )
