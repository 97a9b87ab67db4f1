"""What a model's own samples are good for: directions to go away from (Neon, SIMS), and rows to correct (Gillman et al.)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax import training
from collapse_jax._citation import citing
from collapse_jax.metrics import arrays
from collapse_jax.refused import Refused
from collapse_jax.tasks._paths import Combined
from collapse_jax.tasks.parts import check_integer, known
from collapse_jax.transforms.parts import in_rows, require_plain, resample
from collapse_jax.transforms.selection import farthest
from collapse_jax.types import Sample, TaskSetting

__all__ = ["correct", "extrapolate", "k_means", "negative_guidance"]


@citing("2510.03597")
def extrapolate(task: TaskSetting, w, own: Sample | None = None) -> TaskSetting:
  """Each model is taken away from what it becomes when it goes on training on its own samples: (1 + w) r - w s (Neon, 2510.03597).

  Model r is fitted as the task does, and s, from r on where the task starts warm, to num_samples rows of r. Parameters are
  extrapolated leaf by leaf, so that what they are matters: in the log of a variance w = 1 undoes a sampler that shrinks, see
  `theory.extrapolated_variance`. A warm start of the next generation goes on from r.

  Args:
    task: any whose parameters are numbers of one meaning; of a `training.Fitted` among them only `params` are extrapolated.
    w: how far, in units of the step of self-training; may be traced.
    own: draws what s is fitted to, as `TaskSetting.sample`; None: the task's own sampler.
  Returns:
    the task.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.extrapolate(cj.tasks.flow([1.0], 50), 1.0)
  """
  task = in_rows(task)
  both = _self_trained(task, own)

  def fit(key, problem, context):
    return _extrapolated(w, *both(key, problem, context))

  return task._replace(fit=fit)


def _extrapolated(w, base, later):
  is_fitted = lambda model: isinstance(model, training.Fitted)

  def away(r, s):
    if is_fitted(r):
      return r._replace(params=_extrapolated(w, r.params, s.params))
    return (1 + w) * r - w * s if jnp.issubdtype(r.dtype, jnp.inexact) else r

  return jax.tree.map(away, base, later, is_leaf=is_fitted)


@citing("2408.16333")
def negative_guidance(task: TaskSetting, w, own: Sample | None = None) -> TaskSetting:
  """Sampling follows (1 + w) times the model's score less w times that of one trained on its own samples (SIMS, 2408.16333).

  Metrics that a task takes of parameters are those of the model itself, and those that it takes of rows are of guided ones.

  Args:
    task: `tasks.flow`, before transforms of its sampler.
    w: of the guidance; may be traced.
    own: draws what the other model is fitted to, as `TaskSetting.sample`; None: the task's own sampler.
  Returns:
    the task.
  Raises:
    Refused: a sampler that follows no score.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.negative_guidance(cj.tasks.flow([1.0], 50), 0.5)
  """
  if not getattr(task.sample, "follows_scores", False):
    raise Refused("negative_guidance needs a task whose sampler follows a score: tasks.flow.", argument="task")
  both = _self_trained(task, own)

  def fit(key, problem, context):
    return Combined(both(key, problem, context), (1.0 + w, -1.0 * w))

  return task._replace(fit=fit)


def _self_trained(task: TaskSetting, own: Sample | None):
  """(key, problem, context) -> the model, and one that goes on from it on its own samples."""
  draw = task.sample if own is None else own

  def both(key, problem, context):
    fit_key, draw_key, later_key = jax.random.split(key, 3)
    previous = context.previous
    if isinstance(previous, Combined):
      previous = previous.models[0]
    base = task.fit(fit_key, problem, context._replace(previous=previous))
    alike = context._replace(num=task.num_samples, used=task.used, previous=None)
    made, _ = draw(draw_key, problem, base, alike)
    made = made._replace(summary=None)
    if task.used is not None:
      made = storage.weighed(made, storage.in_use(alike))
    if task.summary is not None:
      made = storage.total(task, problem, storage.summarise(task, problem, made))
    later = task.fit(later_key, problem, context._replace(data=made, latest=made, previous=base))
    return base, later

  return both


@citing("2402.07087")
def correct(
  task: TaskSetting, gamma, project: Callable[[Any, Any], Any] | None = None, *, num_centers: int = 16
) -> TaskSetting:
  """Samples are moved towards a correction of theirs: (x + gamma pi(x)) / (1 + gamma) (Gillman et al. 2402.07087).

  Args:
    task: any that draws rows [n, ...] of numbers.
    gamma: strength, at least 0; infinite: pi(x) itself; may be traced.
    project: pi, (real rows [m, ...], rows [n, ...]) -> rows [n, ...]; None: the nearest of `num_centers` centres of the run's real
      batch, by k-means, as the paper has it for images.
    num_centers: of k-means.
  Returns:
    the task.
  Raises:
    Refused: an argument out of range, or a task without rows.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.correct(cj.tasks.flow([1.0], 50), gamma=0.5)
  """
  if known(gamma) and not gamma >= 0:
    raise Refused.must_be("gamma", "at least 0", gamma)
  check_integer("num_centers", num_centers, 1)
  task = in_rows(task)
  share = 1 - 1 / (1 + jnp.asarray(gamma, float))

  def nearest_center(real, rows, weight):
    centers = k_means(real.reshape(len(real), -1), num_centers, weight=weight)
    return centers[arrays.nearest_index(rows, centers)].reshape(rows.shape)

  def sample(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    require_plain(data, "correct")
    rows, real, weight = data.rows[0], context.real.rows[0], context.real.row_weight
    if weight is not None:
      real, weight = storage.blank(real, weight[0]), weight[0]
    corrected = nearest_center(real, rows, weight) if project is None else project(real, rows)
    moved = (1 - share) * rows + share * corrected
    return storage.with_rows(data, moved), metrics

  return resample(task, sample)


def k_means(rows, num_centers: int, num_rounds: int = 20, weight=None):
  """Centres [num_centers, dim], by Lloyd's rounds from rows that are far apart.

  Args:
    rows: [n, dim], at least num_centers.
    num_centers: how many.
    num_rounds: of moving them.
    weight: [n], above 0 for as many rows as that at least; None: every row counts once.
  """
  centers = rows[farthest(rows, num_centers, None if weight is None else weight > 0)]

  def step(_, centers):
    member = jax.nn.one_hot(arrays.nearest_index(rows, centers), num_centers)
    member = member if weight is None else member * weight[:, None]
    count = jnp.sum(member, axis=0)[:, None]
    return jnp.where(
      count > 0, jnp.matmul(member.T, rows, precision="highest") / jnp.where(count > 0, count, 1), centers
    )

  return jax.lax.fori_loop(0, num_rounds, step, centers)
