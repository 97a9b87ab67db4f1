"""Whether a metric grows without bound, and how fast, or levels off: a plain function of trajectories. Imports no JAX."""

import functools
from typing import NamedTuple

import numpy as np
from scipy import special  # scipy.stats has the same laws, and takes longer to import than a verdict takes

__all__ = ["Verdict", "verdict", "went_infinite"]

NUM_WINDOWS = 10
EVIDENCE = 6.0  # twice the log of the likelihood ratio at which a curve is ruled out; less where `alpha` is above 1.4%
HINT = 0.005  # a rise, or a trend, at this level stands against "bounded"


class Verdict(NamedTuple):
  """What a metric did over the generations of one cell.

  Attributes:
    label: "bounded"; "growing" (no limit in sight, but slower than t); "diverging" (like t or faster, or to infinity); or
      "undecided" where the runs do not tell these apart.
    final_mean, final_sem: mean over finite runs at the last generation, and its standard error.
    slope, slope_low, slope_high: per generation over the last half, least squares per run, with a 95% interval.
    p_value: one-sided, of the mean slope being in the worse direction by chance.
    num_finite, num_runs: runs that stayed finite, and all.
    possible: the labels that the runs leave, more than one where the label is "undecided"; () where too few are left to say.
  """

  label: str
  final_mean: float
  final_sem: float
  slope: float
  slope_low: float
  slope_high: float
  p_value: float
  num_finite: int
  num_runs: int
  possible: tuple[str, ...] = ()


def verdict(
  values, generations, worse: str = "higher", alpha: float = 0.001, resolution: float | None = None
) -> Verdict:
  """Whether a metric grows without bound, and how fast, or levels off.

  Families of curves a + b f(t) are compared, after the first eighth of the generations, by their likelihood given the noise
  between runs: saturating (t^-2 to t^-1/4, exponential, or flat from some generation on), growing (log t, t^1/4 to t^3/4) and
  diverging (t, t^3/2 to t^3, exponential). A label holds where a likelihood ratio (`EVIDENCE`) rules out every curve of the
  other labels; the misfit of the best curve counts as noise, so that what fits none is undecided.

  - Growing and diverging need, besides, a slope over the last half above zero at level `alpha`.
  - Bounded without such a curve (flat) needs that there is no hint of a rise (p >= 0.005), and that the rise over the last half,
    and its mean above that of the quarter before, are at 97.5% confidence below a tenth of what has changed so far or,
    where nothing goes on changing, half a standard deviation between runs; or below `resolution`. Two runs do not show it.
  - Runs that went from a finite value to an infinitely bad one: if more than half did, it is diverging, and if any did, it is
    not bounded. With fewer than half of the runs left, or fewer than two, it is undecided: survivors are no fair sample.

  Args:
    values: [seeds, T] of a metric, logged where it is judged on a log scale.
    generations: [T] increasing, positive.
    worse: "higher" or "lower": the direction that counts as growth.
    alpha: level of the tests of slope and curves; small by default, since a report has many.
    resolution: a change over the last half that may be rounding; default 1e-6 of the largest value, a few float32 roundings.
  """
  values, generations = np.asarray(values, np.float64), np.asarray(generations, np.float64)
  sign = -1.0 if worse == "lower" else 1.0
  num_runs = len(values)
  gone = went_infinite(sign * values)
  values = values[np.isfinite(values).all(axis=1)]
  num = len(values)
  if 2 * gone.sum() > num_runs:
    return Verdict("diverging", sign * np.inf, np.nan, np.nan, np.nan, np.nan, np.nan, num, num_runs, ("diverging",))
  if num < 2 or 2 * num < num_runs or len(generations) < 4:
    final = float(values[:, -1].mean()) if num else np.nan
    return Verdict("undecided", final, np.nan, np.nan, np.nan, np.nan, np.nan, num, num_runs)
  if resolution is None:
    resolution = 1e-6 * float(np.abs(values).max())
  last = generations > generations[-1] / 2
  slopes = _slopes(values[:, last], generations[last])
  half = _interval(slopes)
  rise = sign * slopes.mean()
  error = slopes.std(ddof=1) / np.sqrt(num)
  p_value = float(special.stdtr(num - 1, -rise / error)) if error > 0 else float(rise <= 0)
  span = generations[-1] - generations[last][0]
  possible = _shapes(sign * values, generations, alpha, resolution)
  if not (p_value < alpha and rise * span > resolution) and possible != ("bounded",):
    hint = p_value < HINT and rise * span > resolution
    flat = not hint and num > 2 and _flat(sign * values, generations, (rise + half) * span, resolution)
    possible = ("bounded",) if flat else ("bounded", "growing", "diverging")
  if gone.any() and possible == ("bounded",):
    possible = ("bounded", "diverging")
  label = possible[0] if len(possible) == 1 else "undecided"
  final = values[:, -1]
  return Verdict(
    label,
    float(final.mean()),
    float(final.std(ddof=1) / np.sqrt(num)),
    float(slopes.mean()),
    float(slopes.mean() - half),
    float(slopes.mean() + half),
    p_value,
    num,
    num_runs,
    possible,
  )


def went_infinite(values) -> np.ndarray:
  """[seeds] bool: runs of values [seeds, T], higher = worse, that began finite and ended at +infinity."""
  return np.isfinite(values[:, 0]) & (values[:, -1] == np.inf)


def _flat(values, generations, most, resolution) -> bool:
  """Whether a rise over the last half, at most `most`, is none beside what has changed before or, where nothing has, beside the
  spread of runs; values [seeds, T], higher = worse."""
  last = generations > generations[-1] / 2
  before = (generations > generations[-1] / 4) & ~last
  step = values[:, last].mean(axis=1) - values[:, before].mean(axis=1)  # an oscillation can hide a slope
  most = max(most, step.mean() + _interval(step))
  windows = values @ _design(tuple(generations))[0]
  noise = windows.std(axis=0, ddof=1).max() / np.sqrt(len(values))
  trend = _slopes(windows, np.arange(windows.shape[1]))
  if np.ptp(windows.mean(axis=0)) > 4 * noise or abs(trend.mean()) > _interval(trend, 1 - HINT):
    return most < max(resolution, 0.1 * np.abs(windows.mean(axis=0) - values[:, 0].mean()).max())
  return most < max(resolution, 0.5 * np.sqrt(values[:, last].var(axis=0, ddof=1).mean()))


def _interval(sample, level=0.95) -> float:
  """Half the width of the interval of a mean."""
  return float(special.stdtrit(len(sample) - 1, 0.5 + level / 2) * sample.std(ddof=1) / np.sqrt(len(sample)))


def _slopes(values, x):
  """Least-squares slope of each row of values [seeds, k] against x [k]."""
  x = x - x.mean()
  return values @ x / (x @ x)


def _shapes(values, generations, alpha, resolution) -> tuple[str, ...]:
  """The labels of which a curve is likely; values [seeds, T], higher = worse.

  Means over windows of the runs are taken as normal, with the covariance between runs shrunk towards its diagonal; the
  profile likelihood of each curve is then that of Hotelling's T^2, and it is corrected for few runs.
  """
  pool, curves, labels = _design(tuple(generations))
  windows = values @ pool
  num, k = windows.shape
  between = np.cov(windows.T)
  shrink = k / (k + num)
  each = np.diag(between)
  each = (1 - shrink) * each + shrink * each.mean()  # of two or three runs even the variances are guesses
  between = (1 - shrink) * between + np.diag(shrink * each + max(resolution, 1e-150) ** 2)
  whiten = np.linalg.inv(np.linalg.cholesky(between))
  y = whiten @ windows.mean(axis=0)
  basis = whiten @ np.stack([np.ones_like(curves), curves], axis=2)  # [curves, windows, 2]
  q, r = np.linalg.qr(basis)
  along = np.einsum("cwi,w->ci", q, y)
  flat = (along[:, 1] * r[:, 1, 1] < 0) & (
    labels != "bounded"
  )  # a fall is no growth: a constant is the best of these curves
  along = np.where(flat[:, None] & (np.arange(2) == 1), 0.0, along)
  misfit = np.maximum(np.sum(y**2) - np.sum(along**2, axis=1), 0.0)
  unlikely = num * np.log1p(misfit * num / (num - 1))
  noise = max(1.0, unlikely.min() / max(k - 2, 1))
  evidence = min(EVIDENCE, special.chdtri(1, alpha)) * num / (num - 1)
  left = labels[unlikely < unlikely.min() + evidence * noise]
  return tuple(dict.fromkeys(left.tolist()))


@functools.lru_cache(32)
def _design(generations: tuple[float, ...]):
  """Weights [T, windows] that average generations, curves [shapes, windows], and their labels [shapes].

  Windows are equal in log t, after the first eighth; where there are few generations each is one.
  """
  t = np.asarray(generations)
  first = min(np.searchsorted(t, t[-1] / 8, side="right"), len(t) - 4)
  late = t[first:]
  edges = np.geomspace(late[0], late[-1], min(NUM_WINDOWS, len(late)) + 1)[1:-1]
  which = np.unique(np.searchsorted(edges, late), return_inverse=True)[1]
  if which[-1] < 3:
    which = np.arange(len(late)) * min(NUM_WINDOWS, len(late)) // len(late)
  pool = np.zeros((len(t), which[-1] + 1))
  pool[first + np.arange(len(late)), which] = 1
  pool /= pool.sum(axis=0)
  s = t / t[-1]
  families = {
    "bounded": [-(s**-power) for power in (0.25, 0.5, 1.0, 2.0)]
    + [-np.exp(-s / rate) for rate in (0.05, 0.1, 0.2, 1 / 3)]
    + [np.minimum(s, end) for end in (0.3, 0.5, 0.7)],
    "growing": [np.log(s), s**0.25, s**0.5, s**0.75],
    "diverging": [s, s**1.5, s**2, s**3, np.exp(s / 0.2), np.exp(s / 0.1)],
  }
  curves = np.array([curve @ pool for family in families.values() for curve in family])
  curves = curves - curves.mean(axis=1, keepdims=True)
  size = np.abs(curves).max(axis=1, keepdims=True)
  labels = np.array([label for label, family in families.items() for _ in family])
  keep = size[:, 0] > 1e-12  # a curve that ends before the first window is flat
  return pool, curves[keep] / size[keep], labels[keep]
