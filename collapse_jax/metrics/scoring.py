"""`score`: the metrics of a sample by the kind of its data, on the host. Imports no JAX unless data are arrays."""

import functools
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.metrics.copies import keys_of_rows, share_of_copies
from collapse_jax.refused import Refused

__all__ = ["Score", "score"]

_TEXT = ("text", "messages", "tokens", "input_ids")  # columns that hold documents
_MOST_ROWS = 2000  # of arrays that are compared, of either kind
_MOST_NEIGHBORS = 5
_DEALT = 4  # permutations of a null that has no closed form at any size and dimension


class Score(NamedTuple):
  """A metric and what it would be, in the mean, if the sample were of the real law.

  Attributes:
    value: of the sample.
    null: of a sample of the real law of the same size; NaN where that is not known.
  """

  value: float
  null: float = float("nan")


def score(real, sample, *, train=None, seed: int = 0, embed=None, target: str | None = None) -> dict[str, Score]:
  """How far a sample is from real data, by what both are.

  Tables: see `tables.compare`; arrays: the metrics of `arrays`, on at most 2,000 rows of each; text: see `text.compare`.

  Args:
    real: real rows that the model was not fitted to: a DataFrame, a `datasets.Dataset`, {name: array}, an array [n, ...], or
      documents, as a list of strings, of lists of tokens, or of dicts with "text", "messages" or "tokens"; of a table with a
      column of these names that column is documents, and the others are not looked at.
    sample: of the same kind.
    train: rows that the model was fitted to, of the same kind: adds what tells of memorised rows.
    seed: of what is chosen at random.
    embed: of arrays, (rows) -> [n, features]; None: the rows themselves.
    target: of tables, the column that is predicted by a model trained on the sample; None: the last.
  Returns:
    name of a metric -> its value and null.
  Raises:
    Refused: nothing to compare, data of two kinds, or numbers that are not finite in arrays.

  >>> import numpy as np
  >>> from collapse_jax import metrics
  >>> found = metrics.score(["a b c d"] * 3 + ["d c b a"], ["a b c d"] * 4)
  >>> print(*found["duplicate_documents"])
  1.0 0.75
  """
  given = {"real": real, "sample": sample} | ({} if train is None else {"train": train})
  kinds = {name: _kind(name, data) for name, data in given.items()}
  if len({kind for kind, _ in kinds.values()}) > 1:
    told = ", ".join(f"{name} is {kind}" for name, (kind, _) in kinds.items())
    raise Refused(f"real, sample and train must be of one kind: {told}.", argument="sample", value=kinds["sample"][0])
  kind, plain = kinds["real"][0], {name: data for name, (_, data) in kinds.items()}
  if kind == "array":
    return _of_arrays(plain["real"], plain["sample"], plain.get("train"), seed, embed)
  if kind == "table":
    from collapse_jax.metrics import tables

    found = tables.compare(plain["real"], plain["sample"], train=plain.get("train"), seed=seed, target=target)
  else:
    from collapse_jax.metrics import text

    found = text.compare(plain["real"], plain["sample"], train=plain.get("train"), seed=seed)
  return {name: Score(*map(float, pair)) for name, pair in found.items()}


# ---------------------------------------------------------------------------------------------------- kinds of data
def _kind(name: str, data) -> tuple[str, Any]:
  """("table", DataFrame), ("array", [n, dim]) or ("text", documents)."""
  import pandas as pd

  found: tuple[str, Any]
  if hasattr(data, "to_pandas") and hasattr(data, "column_names"):  # a datasets.Dataset
    data = data.to_pandas()
  if isinstance(data, list | tuple) and data and all(isinstance(row, dict) for row in data):
    data = pd.DataFrame(list(data))
  if isinstance(data, dict):
    return "array", _joined(name, data)
  if isinstance(data, pd.DataFrame):
    column = next((one for one in _TEXT if one in data.columns), None)
    found = ("table", data) if column is None else ("text", data[column].tolist())
  elif isinstance(data, list | tuple) and data and not isinstance(data[0], int | float | np.number):
    found = ("text", list(data))
  else:
    found = ("array", _numbers(name, data))
  if len(found[1]) < 1:
    raise Refused(f"{name} has no rows.", argument=name, value=0)
  return found


def _numbers(name, data) -> np.ndarray:
  rows = np.asarray(data)
  if rows.dtype.kind not in "biuf" or rows.ndim < 1:
    raise Refused.must_be(
      name, "a table, numbers [n, ...] or documents", f"{type(data).__name__} of {rows.dtype}, shape {rows.shape}"
    )
  return rows.reshape(len(rows), int(np.prod(rows.shape[1:]))).astype(float)


def _joined(name, data) -> np.ndarray:
  """Arrays of one length side by side, in the order of their names."""
  parts = {one: _numbers(f"{name}[{one!r}]", data[one]) for one in sorted(data)}
  if len({len(part) for part in parts.values()}) != 1:
    told = ", ".join(f"{one} {len(part)}" for one, part in parts.items())
    raise Refused(f"{name} must be arrays with as many rows, got {told or 'none'}.", argument=name)
  return np.concatenate(list(parts.values()), axis=1)


# ---------------------------------------------------------------------------------------------------- arrays
def _of_arrays(real, sample, train, seed, embed) -> dict[str, Score]:
  random = np.random.default_rng(seed)
  parts = {"real": real, "sample": sample} | ({} if train is None else {"train": train})
  for name, rows in parts.items():
    bad = int(np.sum(~np.isfinite(rows).all(axis=1)))
    if bad:
      raise Refused(f"{name} has {bad} rows with numbers that are not finite.", argument=name, value=bad)
    if len(rows) < 4:
      raise Refused(f"{name} must have at least 4 rows, got {len(rows)}.", argument=name, value=len(rows))
    if rows.shape[1] != real.shape[1]:
      told = f"{name} must have {real.shape[1]} numbers a row as real has, got {rows.shape[1]}."
      raise Refused(told, argument=name, value=rows.shape[1])
  keys = {name: keys_of_rows(rows) for name, rows in parts.items()}  # of all rows, as they are, in float64
  copies = [share_of_copies(keys[name], keys.get("train")) for name in ("sample", "real")]
  if embed is not None:
    parts = {name: np.asarray(embed(rows), float).reshape(len(rows), -1) for name, rows in parts.items()}
  x, y = (_some(random, parts[name]) for name in ("real", "sample"))
  found = _compared(seed, x, y) | {"duplicate_share": Score(*copies)}
  if train is not None:
    found |= _memorised(x, y, parts["train"])
  return found


def _some(random, rows):
  return rows if len(rows) <= _MOST_ROWS else rows[random.permutation(len(rows))[:_MOST_ROWS]]


def _compared(seed, x, y) -> dict[str, Score]:
  """Values and nulls, in units in which the real rows are centered and of variance 1: float32 has the digits of what is left."""
  import jax

  from collapse_jax.random import new_key

  scale = float(np.sqrt(np.mean(np.var(x, axis=0)))) or 1.0
  units = {"frechet_distance": scale**2, "sliced_wasserstein": scale}
  white = [((rows - x.mean(axis=0)) / scale).astype(np.float32) for rows in (x, y)]
  values, nulls = jax.device_get(_values_and_nulls()(new_key(seed), *white))
  found = {
    name: Score(*(float(each) * units.get(name, 1.0) for each in (values[name], nulls[name]))) for name in values
  }
  shift = x.shape[1] * float(np.log(scale))
  return found | {"entropy": Score(*(each + shift for each in found["entropy"]))}


@functools.cache
def _values_and_nulls():
  """(key, real, sample) -> values and nulls by name, compiled once for each shape."""
  import jax
  import jax.numpy as jnp

  from collapse_jax.metrics import arrays

  @jax.jit
  def both(key, x, y):
    slice_key, classifier_key, deal_key, gauss_key = jax.random.split(key, 4)
    n, m = len(x), len(y)
    neighbors = functools.partial(arrays.precision_recall, num_neighbors=min(_MOST_NEIGHBORS, n - 1, m - 1))
    centered_x, centered_y = (rows - jnp.mean(rows, axis=0, keepdims=True) for rows in (x, y))
    values = {
      "frechet_distance": arrays.frechet(x, y),
      "sliced_wasserstein": arrays.sliced_wasserstein(slice_key, x, y),
      "mmd_squared": arrays.mmd(x, y),
      "classifier_accuracy": arrays.classifier_accuracy(classifier_key, x, y),
      "entropy": arrays.entropy(y),
    }
    nulls = {
      "frechet_distance": arrays.permutation_null(gauss_key, arrays.frechet, centered_x, centered_y, _DEALT)[0],
      "sliced_wasserstein": arrays.sliced_wasserstein_null(slice_key, x, n, m),
      "mmd_squared": 0.0,
      "classifier_accuracy": 0.5,
      "entropy": arrays.entropy(x),
    }
    dealt, _ = arrays.permutation_null(deal_key, neighbors, x, y, _DEALT)
    return values | neighbors(x, y)._asdict(), nulls | dealt._asdict()

  return both


def _memorised(x, y, train) -> dict[str, Score]:
  """The generalisation score, whose null is that of real rows which the model has not seen."""
  center = train.mean(axis=0)
  y, x, known = ((rows - center).astype(np.float32) for rows in (y, x, train))
  return {"generalisation_score": Score(*(float(_generalisation_score()(rows, known)) for rows in (y, x)))}


@functools.cache
def _generalisation_score():
  """`arrays.generalisation_score`, compiled once for each shape."""
  import jax

  from collapse_jax.metrics import arrays

  return jax.jit(arrays.generalisation_score)
