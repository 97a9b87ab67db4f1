"""What several transforms share: rows where a task has them, and checks of what users' functions return."""

import jax.numpy as jnp

from collapse_jax.types import TaskSetting


def with_rows(task: TaskSetting, what: str) -> TaskSetting:
  """The task drawing rows, which `what` needs.

  Raises:
    ValueError: the task only draws statistics.
  """
  if not task.law:
    return task._replace(with_rows=None)
  if task.with_rows is None:
    raise ValueError(f"{what} needs rows and cannot use statistics: use draws='rows' or 'auto'.")
  return task.with_rows()._replace(with_rows=None)


def require_plain(data, what):
  if data.row_weight is not None:
    raise ValueError(f"{what} must come before verify: it cannot choose among weighted rows.")


def per_row(value, num, name):
  value = jnp.asarray(value)
  if value.shape != (num,):
    raise ValueError(f"{name} must return one number per row, shape ({num},), got {value.shape}.")
  return value
