"""What commands read: the results in a directory, one metric of them, a tolerance. Imports no JAX."""

from pathlib import Path

from collapse_jax.cli.parts import compare, directory, flag_values
from collapse_jax.refused import Refused
from collapse_jax.vocabulary import did_you_mean

__all__ = ["measured", "metric", "only", "results", "tolerance"]


def only(arguments: list[str], what: str) -> str:
  """The only argument of a command, which is to be `what`."""
  if len(arguments) != 1:
    got = f", got {' '.join(map(repr, arguments))}" if arguments else ""
    raise Refused(f"give {what}{got}; --help has examples.")
  return arguments[0]


def results(place: str):
  """The Dataset in a directory, or in a file; refused where there are several."""
  path = Path(place)
  if path.is_file():
    return compare.read(path)
  if (path / directory.RESULTS).is_file():
    return compare.read(path / directory.RESULTS)
  found = compare.files(place)
  if len(found) > 1:
    shown = ", ".join(str(file.parent) for file in found[:3])
    raise Refused(f"{place} holds {len(found)} results; name one of them: {shown}{', ...' if len(found) > 3 else ''}.")
  return compare.read(found[0])


def measured(place: str):
  """The Dataset in a directory or file, or one of what somebody else measured, in a CSV file; every coordinate is a dim."""
  from collapse_jax import decisions, diagnostics

  csv = Path(place).is_file() and Path(place).suffix.lower() == ".csv"
  return diagnostics.complete(decisions.read(place) if csv else results(place))


def metric(found) -> str:
  """--metric: one of the results'; without it the primary one, or else the first that has a worse direction.

  Args:
    found: a Dataset of which every coordinate is a dim.
  """
  from collapse_jax.diagnostics import reading

  known, name = reading.scalars(found), flag_values.FLAGS.metric
  if not known:
    raise Refused("these results have no metric.")
  if name is not None and name not in known:
    near = did_you_mean(name, known) or f" There are {', '.join(known)}."
    raise Refused(f"--metric={name} is no metric of these results.{near}")
  return name or known[0]


def tolerance() -> float:
  """--tolerance: a number from 0, or a percentage."""
  text = flag_values.FLAGS.tolerance
  try:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
  except ValueError:
    value = -1.0
  if not 0 <= value < float("inf"):
    raise Refused(f"--tolerance must be a number of at least 0, such as 0.2 or 20%, got {text!r}.")
  return value
