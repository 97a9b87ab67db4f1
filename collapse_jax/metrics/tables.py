"""Between tables of mixed columns: numbers, categories, times, missing values. NumPy, pandas and scikit-learn; no JAX.

A column is of numbers where pandas says so (times count as numbers) and it is no boolean; else of categories, of which "missing"
is one. A missing number is a bin of its own where columns are counted, and the median of the real column where values are compared.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from collapse_jax.metrics.copies import keys_of_rows, share_of_copies
from collapse_jax.refused import Refused

__all__ = ["compare"]

_MOST_BINS, _ROWS_IN_BIN = 20, 10  # of a column of numbers, by quantiles of the real one
_MOST_ROWS = 5000  # of each table to which classifiers are fitted
_MOST_ASKED, _MOST_REFERENCE = 2000, 10_000  # rows whose nearest is sought, among those
_NUM_TREES = 50
_MOST_CLASSES = 20  # values of a column of numbers that is predicted as one of categories
_NUM_RESAMPLES = 5  # of real rows, for the nulls that have no closed form
_MISSING = "\0missing"


def compare(
  real: pd.DataFrame,
  sample: pd.DataFrame,
  *,
  train: pd.DataFrame | None = None,
  seed: int = 0,
  target: str | None = None,
) -> dict[str, tuple[float, float]]:
  """Metrics of a sampled table beside a real one, each with its null.

  - marginal_total_variation: mean over columns, of categories, or of up to 20 bins by real quantiles.
  - marginal_wasserstein: mean over columns of numbers of W1 / standard deviation of the real column.
  - correlation_error: mean |difference| of the correlations of pairs of columns of numbers.
  - association_error: mean |difference| of Cramer's V of pairs of columns, of which one at least is of categories.
  - category_support: share of the real categories that occur; invented_categories: share of cells of a category that does not.
  - nearest_distance: mean over sampled rows to the nearest training row (real row, without `train`), each number in standard
    deviations and each category that differs counting 1; duplicate_share: sampled rows that are one of these.
  - classifier_auc: of gradient boosted trees that tell both tables apart, on held-out halves.
  - synthetic_accuracy or synthetic_r2: on half of the real rows, of trees fitted to sampled rows, for the target column.

  Nulls: of resampled real rows for differences of columns and pairs; of real rows left out, or of real rows beside `train`, for
  support, distances and copies; 0.5 of the classifier; of trees fitted to the other half of the real rows for the target.

  Args:
    real: rows that the model was not fitted to.
    sample: the same columns, in any order.
    train: rows that the model was fitted to, the same columns.
    seed: of rows that are chosen, resamples and trees.
    target: the column that is predicted; None: the last.
  Returns:
    name -> (value, null), what columns there are for: no correlation of one column of numbers.
  Raises:
    Refused: other columns, no columns, fewer than four rows, numbers that are infinite, or no column of the target's name.
  """
  tables = {"real": real, "sample": sample} | ({} if train is None else {"train": train})
  _check(tables, target)
  random = np.random.default_rng(seed)
  columns = [_column(name, [table[name] for table in tables.values()]) for name in real.columns]
  x, y = (_Table([column.values[i] for column in columns]) for i in (0, 1))
  known = x if train is None else _Table([column.values[2] for column in columns])
  kinds = [column.is_number for column in columns]
  scales = _scales(x, kinds)

  found: dict[str, tuple[float, float]] = {}
  pairs = _Pairs(x, kinds, scales)
  values = pairs.between(x, y)
  resampled = [
    pairs.between(*(x.take(random.integers(len(x), size=n)) for n in (len(x), len(y)))) for _ in range(_NUM_RESAMPLES)
  ]
  for name, value in values.items():
    found[name] = value, float(np.mean([one[name] for one in resampled]))
  found |= _support(x, y, kinds)

  alone = train is None
  near = [_nearest(random, rows, known, kinds, scales, same) for rows, same in ((y, False), (x, alone))]
  found["nearest_distance"] = near[0], near[1]
  keys = [keys_of_rows(np.column_stack(table.columns)) for table in (y, x, known)]
  found["duplicate_share"] = share_of_copies(keys[0], keys[2]), share_of_copies(keys[1], None if alone else keys[2])
  at = len(columns) - 1 if target is None else list(real.columns).index(target)
  with threadpool_limits(1):  # threads that wait for each other are slow where several loops share a machine
    found["classifier_auc"] = _classifier_auc(random, seed, x, y, kinds, scales), 0.5
    if len(columns) > 1:
      found |= _trained_on_synthetic(random, seed, x, y, kinds, scales, at)
  return found


# ---------------------------------------------------------------------------------------------------- columns
class _Column(NamedTuple):
  is_number: bool
  values: list  # of each table: float64 with NaN, or codes of categories in all tables together


class _Table:
  """Columns as arrays: float64 with NaN where they are numbers, else codes."""

  def __init__(self, columns):
    self.columns = columns

  def __len__(self):
    return len(self.columns[0])

  def take(self, index):
    return _Table([column[index] for column in self.columns])


def _check(tables, target) -> None:
  names = list(tables["real"].columns)
  if not names:
    raise Refused("real has no columns.", argument="real")
  if len(set(names)) != len(names):
    raise Refused("real has two columns of one name.", argument="real")
  for name, table in tables.items():
    if set(table.columns) != set(names) or len(table.columns) != len(names):
      told = ", ".join(map(str, names))
      raise Refused(
        f"{name} must have the columns {told}, got {', '.join(map(str, table.columns))}.", argument=name, allowed=told
      )
    if len(table) < 4:
      raise Refused(f"{name} must have at least 4 rows, got {len(table)}.", argument=name, value=len(table))
  if target is not None and target not in names:
    raise Refused.must_be("target", f"one of {', '.join(map(str, names))}", target)


def _is_number(column: pd.Series) -> bool:
  if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
    return True
  return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _column(name, columns: list[pd.Series]) -> _Column:
  """A column of all tables: of numbers where it is in each of them, or has no value there."""
  if all(_is_number(column) or column.isna().all() for column in columns) and any(map(_is_number, columns)):
    values = [_as_floats(column) for column in columns]
    if any(np.isinf(one).any() for one in values):
      raise Refused(f"column {name!r} has numbers that are infinite.", argument=str(name))
    return _Column(True, values)
  texts = [np.where(column.isna(), _MISSING, column.astype(object).map(str)) for column in columns]
  codes = np.unique(np.concatenate(texts).astype(str), return_inverse=True)[1]
  return _Column(False, np.split(codes, np.cumsum([len(one) for one in texts])[:-1]))


def _as_floats(column: pd.Series) -> np.ndarray:
  missing = column.isna().to_numpy()
  if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
    values = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
  else:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
  return np.where(missing, np.nan, values)


def _scales(x: _Table, kinds) -> list[tuple[float, float]]:
  """Median and standard deviation of real numbers; 1 where they do not vary."""
  found = []
  for column, is_number in zip(x.columns, kinds):
    there = column[~np.isnan(column)] if is_number else column[:0]
    median = float(np.median(there)) if len(there) else 0.0
    found.append((median, float(np.std(there)) or 1.0 if len(there) else 1.0))
  return found


# ---------------------------------------------------------------------------------------------------- columns and pairs
class _Pairs:
  """Differences of columns and of pairs of columns; what is binned is binned by the real table."""

  def __init__(self, x, kinds, scales):
    self.kinds, self.scales = kinds, scales
    inner = np.linspace(0, 1, max(min(_MOST_BINS, len(x) // _ROWS_IN_BIN), 2) + 1)[1:-1]
    self.edges = [
      np.unique(np.quantile(column[~np.isnan(column)], inner))
      if is_number and not np.isnan(column).all()
      else np.zeros(0)
      for column, is_number in zip(x.columns, kinds)
    ]

  def between(self, x, y) -> dict[str, float]:
    numbers = [i for i, is_number in enumerate(self.kinds) if is_number]
    codes = [[self._codes(i, table.columns[i]) for i in range(len(self.kinds))] for table in (x, y)]
    filled = [[self._filled(i, table.columns[i]) for i in numbers] for table in (x, y)]
    found = {"marginal_total_variation": float(np.mean([_total_variation(a, b) for a, b in zip(*codes)]))}
    if numbers:
      found["marginal_wasserstein"] = float(np.mean([_wasserstein(a, b) for a, b in zip(*filled)]))
    if len(numbers) > 1:
      above = np.triu_indices(len(numbers), 1)
      correlation = [_correlations(one)[above] for one in filled]
      found["correlation_error"] = float(np.mean(np.abs(correlation[0] - correlation[1])))
    mixed = [(i, j) for j in range(len(self.kinds)) for i in range(j) if not (self.kinds[i] and self.kinds[j])]
    if mixed:
      gaps = [abs(_cramers_v(a[i], a[j]) - _cramers_v(b[i], b[j])) for a, b in (codes,) for i, j in mixed]
      found["association_error"] = float(np.mean(gaps))
    return found

  def _codes(self, i, column):
    if not self.kinds[i]:
      return column
    return np.where(np.isnan(column), len(self.edges[i]) + 1, np.searchsorted(self.edges[i], column, side="left"))

  def _filled(self, i, column):
    median, scale = self.scales[i]
    return (np.where(np.isnan(column), median, column) - median) / scale


def _total_variation(a, b) -> float:
  size = int(max(a.max(), b.max())) + 1
  return 0.5 * float(np.sum(np.abs(np.bincount(a, minlength=size) / len(a) - np.bincount(b, minlength=size) / len(b))))


def _wasserstein(a, b) -> float:
  from scipy import stats

  return float(stats.wasserstein_distance(a, b))


def _correlations(columns) -> np.ndarray:
  """Of columns that do not vary 0."""
  rows = np.array(columns)
  rows = rows - rows.mean(axis=1, keepdims=True)
  spread = np.sqrt(np.sum(rows**2, axis=1))
  rows = rows / np.where(spread > 1e-12 * np.sqrt(rows.shape[1]), spread, np.inf)[:, None]
  return rows @ rows.T


def _cramers_v(a, b) -> float:
  """In [0, 1]; 0 where either has one category only."""
  a, b = (np.unique(one, return_inverse=True)[1] for one in (a, b))
  shape = a.max() + 1, b.max() + 1
  if min(shape) < 2:
    return 0.0
  table = np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape) / len(a)
  expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True)
  return float(np.sqrt(max(np.sum(table**2 / expected) - 1, 0.0) / (min(shape) - 1)))


def _support(x, y, kinds) -> dict[str, tuple[float, float]]:
  """Categories that are there, and those that never were."""
  support, invented = [], []
  for a, b, is_number in zip(x.columns, y.columns, kinds):
    if is_number:
      continue
    categories, counts = np.unique(a, return_counts=True)
    share = counts / len(a)
    support.append(
      (np.isin(categories, b).mean(), np.mean(-np.expm1(len(b) * np.log1p(-np.minimum(share, 1 - 1e-16)))))
    )
    invented.append((np.mean(~np.isin(b, categories)), np.sum(counts == 1) / len(a)))  # Good and Turing
  if not support:
    return {}
  means = [[float(one) for one in np.mean(pairs, axis=0)] for pairs in (support, invented)]
  return {name: (mean[0], mean[1]) for name, mean in zip(("category_support", "invented_categories"), means)}


# ---------------------------------------------------------------------------------------------------- rows
def _nearest(random, rows, known, kinds, scales, same: bool) -> float:
  """Mean distance to the nearest of `known`; of the same table, to the nearest other row."""
  from scipy.spatial.distance import cdist

  chosen = random.permutation(len(known))[:_MOST_REFERENCE]
  asked = chosen[:_MOST_ASKED] if same else random.permutation(len(rows))[:_MOST_ASKED]
  (numbers, codes), (other_numbers, other_codes) = (
    _points(table.take(index), kinds, scales) for table, index in ((rows, asked), (known, chosen))
  )
  nearest = []
  for start in range(0, len(asked), 256):
    some = slice(start, start + 256)
    squared = np.zeros((len(numbers[some]), len(chosen)))
    if numbers.shape[1]:
      squared += cdist(numbers[some], other_numbers, "sqeuclidean")
    if codes.shape[1]:
      squared += codes.shape[1] * cdist(codes[some], other_codes, "hamming")
    nearest.append(np.partition(squared, int(same), axis=1)[:, int(same)])
  return float(np.sqrt(np.concatenate(nearest)).mean())


def _points(table, kinds, scales) -> tuple[np.ndarray, np.ndarray]:
  """Numbers in standard deviations [n, ..]; categories, and whether numbers are missing, as codes [n, ..]."""
  numbers, codes = [np.zeros((len(table), 0))], [np.zeros((len(table), 0))]
  for column, is_number, (median, scale) in zip(table.columns, kinds, scales):
    if is_number:
      numbers.append(((np.where(np.isnan(column), median, column) - median) / scale)[:, None])
    codes.append((np.isnan(column) if is_number else column)[:, None].astype(float))
  return np.concatenate(numbers, axis=1), np.concatenate(codes, axis=1)


# ---------------------------------------------------------------------------------------------------- classifiers
def _features(table, kinds, scales, without=None) -> np.ndarray:
  """[n, features] as trees take them: `_points`, of all columns but one."""
  kept = [i for i in range(len(kinds)) if i != without]
  columns, kinds, scales = ([each[i] for i in kept] for each in (table.columns, kinds, scales))
  return np.concatenate(_points(_Table(columns), kinds, scales), axis=1)


def _some(random, table):
  return table if len(table) <= _MOST_ROWS else table.take(random.permutation(len(table))[:_MOST_ROWS])


def _halves(random, table):
  order = random.permutation(len(table))
  return table.take(order[: len(order) // 2]), table.take(order[len(order) // 2 :])


def _classifier_auc(random, seed, x, y, kinds, scales) -> float:
  from sklearn.ensemble import HistGradientBoostingClassifier
  from sklearn.metrics import roc_auc_score

  (x_fit, x_test), (y_fit, y_test) = (_halves(random, _some(random, table)) for table in (x, y))
  rows = lambda pair: np.concatenate([_features(one, kinds, scales) for one in pair])
  sides = lambda pair: np.repeat([0, 1], [len(one) for one in pair])
  trees = HistGradientBoostingClassifier(max_iter=_NUM_TREES, random_state=seed, early_stopping=False)
  trees.fit(rows((x_fit, y_fit)), sides((x_fit, y_fit)))
  return float(roc_auc_score(sides((x_test, y_test)), trees.predict_proba(rows((x_test, y_test)))[:, 1]))


def _trained_on_synthetic(random, seed, x, y, kinds, scales, at) -> dict[str, tuple[float, float]]:
  """What trees fitted to the sample are worth on half of the real rows; the null is that of trees fitted to the other half."""
  from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

  target = x.columns[at]
  classes = not kinds[at] or len(np.unique(target)) <= min(_MOST_CLASSES, max(len(target) // 5, 1))
  known, test = _halves(random, x)
  test = _some(random, test)

  def labels(table):
    if not kinds[at]:
      return table.columns[at]
    return np.where(np.isnan(table.columns[at]), scales[at][0], table.columns[at])

  def worth(table):
    table = _some(random, table)
    told, truth = labels(table), labels(test)
    if len(np.unique(told)) == 1:
      guess = np.full(len(truth), told[0])
    else:
      trees = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
      model = trees(max_iter=_NUM_TREES, random_state=seed, early_stopping=False)
      guess = model.fit(_features(table, kinds, scales, at), told).predict(_features(test, kinds, scales, at))
    if classes:
      return float(np.mean(guess == truth))
    return float(1 - np.mean((guess - truth) ** 2) / (np.var(truth) or scales[at][1] ** 2))

  return {"synthetic_accuracy" if classes else "synthetic_r2": (worth(y), worth(known))}
