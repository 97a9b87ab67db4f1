"""How much real data is enough: the smallest share with which a metric stays as it was. On results, or by running a task."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from collapse_jax import diagnostics, vocabulary
from collapse_jax.decisions import _reading
from collapse_jax.refused import Refused

__all__ = ["RequiredShare", "required_share", "required_shares"]

NUM_BOOTSTRAP = 1000
CLEARLY = 4.0  # standard errors
FIRST_SHARES = (0.02, 0.1, 0.3, 0.6, 1.0)  # that are run where a task is given
ROUNDS = 3  # of three shares each, between the last that fails and the first that holds


class RequiredShare(NamedTuple):
  """The smallest real share with which a metric stays within a tolerance.

  Attributes:
    share: of the real rows in the training data, by a monotone fit between the shares that were run; NaN where none of them is
      enough.
    low, high: its interval; NaN where that end lies outside the shares that were run.
    status: "ok", or in words what stands against it: "not reachable", "every share is enough", too few runs.
    metric, tolerance, generation: what was asked: |metric(t) / metric(1) - 1| <= tolerance for t up to this generation.
  """

  share: float
  low: float
  high: float
  status: str
  metric: str = ""
  tolerance: float = 0.2
  generation: int = 0

  def __str__(self) -> str:
    within = (
      f"{self.metric} stays within {self.tolerance:.3g} of the first generation's until generation {self.generation}"
    )
    if np.isnan(self.share):
      return f"Whether there is a real share with which {within}: {self.status}."
    shown = lambda x: "?" if np.isnan(x) else f"{x:.3g}"
    told = not (np.isnan(self.low) and np.isnan(self.high))
    interval = f" ({shown(self.low)} to {shown(self.high)})" if told else ""
    sentence = f"With a real share of {self.share:.3g}{interval} {within}"
    return f"{sentence}." if self.status == "ok" else f"{sentence}: {self.status}."


def required_share(
  results: Any,
  tolerance: float = 0.2,
  metric: str = "",
  *,
  horizon: int | None = None,
  level: float = 0.9,
  seed: int = 0,
  num_seeds: int = 100,
  fresh: bool = False,
) -> RequiredShare:
  """The smallest real share with which a metric stays within a tolerance of what it is in the first generation.

  The means over runs of metric(t) - (1 + tolerance) metric(1), in the direction that is worse, and in the last generation unless
  another is clearly worse, are made to fall in the share (isotonic regression, and a monotone cubic between the shares that were
  run): it is where they are zero. The interval is that of a bootstrap over runs, which are paired between shares.

  Args:
    results: a Dataset of `sweep` or `loop` over `real_fraction`, or with workflows mix(0.1), mix(0.5), ..; the path of a CSV file
      of these, see `read`; or a task, or a function that makes one, which is then run with shares that close in on the answer.
    tolerance: of the mean relative to the first generation's, above 0.
    metric: its name; "": the primary one.
    horizon: last generation that counts; default all there are, or 20 of a task.
    level: of the interval.
    seed: of the bootstrap, and of runs.
    num_seeds: runs a share, of a task.
    fresh: real rows are drawn anew in each generation, of a task.
  Returns:
    a RequiredShare, which says itself in a sentence.
  Raises:
    ValueError: no shares to compare, several cells (select one, or use `required_shares`), no such metric, or a bad tolerance.
  """
  options: dict[str, Any] = {"tolerance": tolerance, "horizon": horizon, "level": level, "seed": seed}
  if callable(results) or hasattr(results, "fit"):
    return _by_running(results, metric, num_seeds, fresh, **options)
  found = required_shares(results, metric=metric, **options)
  if len(found) > 1:
    cells = "; ".join(", ".join(f"{k}={v}" for k, v in cell.items()) for cell, _ in found[:3])
    raise Refused(f"results have {len(found)} cells besides their shares ({cells}, ..): select one.")
  return found[0][1]


def required_shares(
  results: Any,
  tolerance: float = 0.2,
  metric: str = "",
  *,
  horizon: int | None = None,
  level: float = 0.9,
  seed: int = 0,
) -> list[tuple[dict[str, Any], RequiredShare]]:
  """`required_share` of each cell of the rest of the grid.

  Args:
    results, tolerance, metric, horizon, level, seed: as of `required_share`; results are no task.
  Returns:
    pairs of the cell's coordinates and its RequiredShare.
  """
  if not tolerance > 0:
    raise Refused.must_be("tolerance", "above 0", tolerance)
  if not 0 < level < 1:
    raise Refused.must_be("level", "above 0 and below 1", level)
  results = _reading.runs(results)
  metric = _reading.metric_of(results, metric)
  generations = results.generation.values
  if horizon is not None and not generations[0] < horizon <= generations[-1]:
    raise Refused.must_be(
      "horizon", f"a generation of the results after {generations[0]}, up to {generations[-1]}", horizon
    )
  kept = generations <= (generations[-1] if horizon is None else horizon)
  worse = results[metric].attrs.get("worse", "")
  answers = []
  for cell, shares, values in _shared(results, metric):
    found = _found(np.array(shares), np.array(values)[:, :, kept], worse, tolerance, level, seed)
    answers.append((cell, found._replace(metric=metric, tolerance=tolerance, generation=int(generations[kept][-1]))))
  if not answers:
    raise Refused(
      "results must have an axis real_fraction, or workflows mix(0.1), mix(0.5), .., of two shares at least."
    )
  return answers


def _shared(results, metric):
  """(rest of the cell, shares, values [shares, seeds, T]), shares increasing."""
  groups: dict[tuple, dict[float, np.ndarray]] = {}
  for cell, values in diagnostics.cells(results, metric):
    share, rest = _share_of(cell)
    if share is not None:
      groups.setdefault(tuple(rest.items()), {})[share] = values.astype(np.float64)
  for others, found in groups.items():
    if len(found) > 1:
      shares = sorted(found)
      yield dict(others), shares, [found[share] for share in shares]


def _share_of(cell: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
  """The real share of a cell, and what else it is."""
  cell = dict(cell)
  if "real_fraction" in cell:
    return float(cell.pop("real_fraction")), cell
  try:
    name, arguments, keywords = vocabulary.parse_call(str(cell["workflow"]))
    if name == "replace" and not arguments and not keywords:
      return 0.0, cell | {"workflow": "mix"}
    if name == "mix":
      share = keywords.pop("real_fraction") if "real_fraction" in keywords else arguments[0]
      others = ", ".join(f"{key}={value}" for key, value in sorted(keywords.items()))
      return float(share), cell | {"workflow": f"mix({others})" if others else "mix"}
  except (ValueError, IndexError, TypeError):
    pass
  return None, cell


def _found(shares, values, worse, tolerance, level, seed) -> RequiredShare:
  """Of values [shares, seeds, T]."""
  nothing = lambda why: RequiredShare(np.nan, np.nan, np.nan, why)
  finite = np.isfinite(values).all(axis=(0, 2))
  values = values[:, finite]
  if values.shape[1] < 3 or 2 * finite.sum() < len(finite):
    return nothing(
      f"cannot tell: {finite.sum()} of {len(finite)} runs are finite at all shares, 3 and half of them are needed"
    )
  first = values[:, :, 0]
  change = values - first[:, :, None]
  sign = {"higher": 1.0, "lower": -1.0}.get(worse) or float(np.sign(change.mean())) or 1.0
  excess = sign * change - tolerance * np.sign(first.mean()) * first[:, :, None]
  excess = excess[:, :, _worst(excess.mean(axis=0))]
  share = float(_crossing(shares, excess.mean(axis=1)))
  low, high = (x if np.isfinite(x) else np.nan for x in _bootstrap(shares, excess, level, np.random.default_rng(seed)))
  if share == np.inf:
    return RequiredShare(np.nan, low, np.nan, f"not reachable with shares up to {shares[-1]:.3g}")
  if share == -np.inf:
    return RequiredShare(float(shares[0]), np.nan, high, "every share that was tried is enough")
  return RequiredShare(share, low, high, "ok")


def _worst(excess) -> int:
  """The last generation of excess [seeds, T], unless another is clearly worse: the largest of many means would be so by chance."""
  beyond = excess[:, 1:] - excess[:, -1:]
  error = beyond.std(axis=0, ddof=1) / np.sqrt(len(beyond))
  ratio = np.divide(beyond.mean(axis=0), error, out=np.zeros_like(error), where=error > 0)
  return 1 + int(np.argmax(ratio)) if ratio.max() > CLEARLY else excess.shape[1] - 1


def _bootstrap(shares, excess, level, rng) -> tuple[float, float]:
  """Quantiles of the crossing over resampled runs of excess [shares, seeds], further out for few runs, as Student's t is."""
  num = excess.shape[1]
  times = rng.multinomial(num, np.full(num, 1 / num), NUM_BOOTSTRAP)
  tail = special.ndtr(np.sqrt(num / (num - 1)) * special.stdtrit(num - 1, 0.5 - level / 2))  # Hesterberg 2015
  found = _crossing(shares, excess @ times.T / num)
  low, high = np.quantile(found, [tail, 1 - tail], method="nearest")
  return float(low), float(high)


def _crossing(shares, excess) -> np.ndarray:
  """[...] where excess [shares, ...], made to fall, is zero; -inf: it is never above, inf: it is never at or below."""
  from scipy import interpolate

  falling = _falling(excess)
  holds = falling <= 0
  at = np.maximum(holds.argmax(axis=0), 1)
  cubic = np.take_along_axis(interpolate.PchipInterpolator(shares, falling).c, (at - 1)[None, None], axis=1)[:, 0]
  least, most = np.zeros(at.shape), np.diff(shares)[at - 1]
  for _ in range(50):
    middle = (least + most) / 2
    above = ((cubic[0] * middle + cubic[1]) * middle + cubic[2]) * middle + cubic[3] > 0
    least, most = np.where(above, middle, least), np.where(above, most, middle)
  return np.where(holds[0], -np.inf, np.where(holds.any(axis=0), shares[at - 1] + most, np.inf))


def _falling(values) -> np.ndarray:
  """Isotonic regression of values [k, ...]: least over a <= i of the greatest over b >= i of the mean of values a..b."""
  k = len(values)
  total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
  found = np.full(values.shape, np.inf)
  for a in range(k):
    means = (total[a + 1 :] - total[a]) / np.arange(1, k - a + 1).reshape(-1, *[1] * (values.ndim - 1))
    greatest = np.maximum.accumulate(means[::-1], axis=0)[::-1]  # over b >= i, for i = a..k-1
    found[a:] = np.minimum(found[a:], greatest)
  return found


def _by_running(task, metric, num_seeds, fresh, *, horizon, **options) -> RequiredShare:
  """`required_share` of shares that are run, more and more of them between the last that fails and the first that holds."""
  import xarray

  from collapse_jax import sweeps, workflows

  mix: Callable[..., Any] = functools.partial(workflows.mix, fresh=fresh)
  of_rows = (task() if callable(task) else task).rows is None
  run = functools.partial(
    sweeps.sweep,
    task,
    {"mix": mix},
    static_axes=("real_fraction",) if of_rows else (),  # of rows it fixes how many there are
    num_generations=horizon or 20,
    num_seeds=num_seeds,
    seed=options["seed"],
  )
  results = run({"real_fraction": list(FIRST_SHARES)})
  metric = _reading.metric_of(diagnostics.complete(results), metric)
  results = results[[metric, "cell_status"]]
  for _ in range(ROUNDS):
    found = required_share(results, metric=metric, **options)
    tried = results.real_fraction.values
    ends = [tried[tried < found.share], tried[tried >= found.share]]
    if np.isnan(found.share) or not all(map(len, ends)) or ends[1][0] - ends[0][-1] < (found.high - found.low) / 4:
      break  # narrower than the runs tell shares apart
    between = np.linspace(ends[0][-1], ends[1][0], 5)[1:-1]
    more = run({"real_fraction": between.tolist()})[[metric, "cell_status"]]
    results = xarray.concat([results, more], "real_fraction").sortby("real_fraction").assign_attrs(results.attrs)
  return required_share(results, metric=metric, **options)
