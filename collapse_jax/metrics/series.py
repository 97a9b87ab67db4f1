"""Between series of rows in time [num, length, columns]: autocorrelations, correlations of columns, marginal laws. Pure JAX."""

import jax
import jax.numpy as jnp

from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["autocorrelation", "column_correlation", "jensen_shannon", "jensen_shannon_null"]


def autocorrelation(series: Array, num_lags: int, weight: Array | None = None) -> Array:
  """[num_lags, columns] at lags 1, ..., about the mean of all series; 0 of a column that is constant.

  Args:
    series: [num, length, columns], longer than num_lags.
    num_lags: from 1.
    weight: [num] of the series; None: all alike.
  Returns:
    means over pairs of rows, over the variance: -1 / (num length) where rows are independent, to first order.
  """
  num, length, _ = series.shape
  if not 1 <= num_lags < length:
    raise Refused.must_be("num_lags", f"from 1 to {length - 1}, below the length of series", num_lags)
  each = _shares(weight, num)[:, None, None]
  away = series - jnp.sum(each * jnp.mean(series, axis=1, keepdims=True), axis=0, keepdims=True)
  mean = lambda values: jnp.sum(each[:, 0] * jnp.mean(values, axis=1), axis=0)
  variance = mean(away**2)
  found = jnp.stack([mean(away[:, :-lag] * away[:, lag:]) for lag in range(1, num_lags + 1)])
  return found / jnp.where(variance > 0, variance, 1.0)[None]


def column_correlation(rows: Array, weight: Array | None = None) -> Array:
  """[columns, columns] of rows [n, columns]; 0 beside a column that is constant.

  Args:
    rows: [n, columns].
    weight: [n]; None: all alike.
  """
  share = _shares(weight, len(rows))
  away = rows - jnp.matmul(share, rows, precision="highest")[None]
  covariance = jnp.matmul((share[:, None] * away).T, away, precision="highest")
  std = jnp.sqrt(jnp.diag(covariance))
  return covariance / jnp.where(std > 0, std, jnp.inf)[:, None] / jnp.where(std > 0, std, jnp.inf)[None]


def jensen_shannon(
  real: Array, sample: Array, edges: Array, *, smoothing: float = 1.0, weight: Array | None = None
) -> Array:
  """Jensen-Shannon divergence of two samples of numbers over the same bins, [] nats, at most log 2.

  Published code takes the bins of each sample from its own ends, so that they differ: a shift is not seen.

  Args:
    real: [n].
    sample: [m].
    edges: [bins + 1], rising, common to both; what lies outside counts to the bin at that end.
    smoothing: added to each bin (Laplace); 0: none.
    weight: [m] of the sample; None: all alike.
  """
  num_bins = len(edges) - 1

  def shares(values, weight):
    place = jnp.clip(jnp.searchsorted(edges, values, side="right") - 1, 0, num_bins - 1)
    counts = jnp.zeros(num_bins).at[place].add(weight) + smoothing
    return counts / jnp.sum(counts)

  p = shares(real, jnp.ones(real.shape))
  q = shares(sample, jnp.ones(sample.shape) if weight is None else weight)
  middle = (p + q) / 2
  entropy = lambda law: -jnp.sum(jax.scipy.special.xlogy(law, law))
  return jnp.maximum(entropy(middle) - (entropy(p) + entropy(q)) / 2, 0.0)


def jensen_shannon_null(num_bins: int, num_real: float, num_sample: float) -> float:
  """E `jensen_shannon` of two samples of one law of independent rows, without smoothing, first order: (bins - 1)(1/n + 1/m) / 8.

  Smoothing makes it less; rows in time that depend on each other make it more, as fewer of them would.

  Args:
    num_bins: that the law fills.
    num_real, num_sample: n, m.
  """
  return (num_bins - 1) * (1 / num_real + 1 / num_sample) / 8


def _shares(weight, num) -> Array:
  if weight is None:
    return jnp.full(num, 1 / num)
  return weight / jnp.maximum(jnp.sum(weight), 1e-30)
