"""What arguments of closed forms must be; imports nothing of theory."""

import numpy as np

from collapse_jax.refused import Refused

__all__ = ["check", "check_count", "check_run"]


def check(name: str, value, least=-np.inf, most=np.inf, *, open_least: bool = False, open_most: bool = False) -> None:
  """Raises ValueError where a number, or any of an array, is no number or outside the interval.

  Args:
    name: what a message calls it.
    value: a number or an array.
    least, most: ends of the interval.
    open_least, open_most: that end is outside.
  """
  values = np.asarray(value, float)
  above = values > least if open_least else values >= least
  below = values < most if open_most else values <= most
  if not np.all(above & below):
    ends = f"{'above' if open_least else 'at least'} {least:g}" if least > -np.inf else ""
    ends += (" and " if ends else "") + f"{'below' if open_most else 'at most'} {most:g}" if most < np.inf else ""
    raise Refused(f"{name} must be {ends or 'a number'}, got {value}.")


def check_count(name: str, value, least: int = 1) -> None:
  """Raises ValueError where a number is no whole one of at least that.

  Args:
    name: what a message calls it.
    value: a number or an array.
    least: the smallest that is allowed.
  """
  check(name, value, least)
  if value != np.floor(value):
    raise Refused(f"{name} must be a whole number, got {value}.")


def check_run(num_samples: float, num_generations: int = 1) -> None:
  """Raises Refused where these are no numbers of samples, at least 2, and of generations."""
  check("num_samples", num_samples, 2, open_most=True)
  check_count("num_generations", num_generations)
