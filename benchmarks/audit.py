"""Every task under every workflow against an independent reference in NumPy, float64: means, variances and quantiles.

  python -m benchmarks.audit [--tasks=gaussian,kde] [--workflows=replace] [--runs=400]

The references share no code with the product: rows are drawn, pooled and fitted as the definitions say, without statistics
that are carried, factors or logs. Where num_samples is too large for rows, batches are drawn as their exact moments.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import collapse_jax as cj
from collapse_jax import tasks

NUM_GENERATIONS = 30
SHOWN = (1, 2, 3, 10, 30)
RESOLUTION = 5e-7  # of float32 results, relative
QUANTILES = (0.1, 0.5, 0.9)
TEMPERATURES = (0.1, 1.0, 10.0)
TABLE = [[1.0 if t == 0 and j == 0 else 0.0 for j in range(NUM_GENERATIONS)] for t in range(NUM_GENERATIONS)]
for _t in range(1, NUM_GENERATIONS):  # the real batch, the last two, and one in the middle
  for _j, _share in ((0, 0.2), (_t // 2, 0.1), (_t - 1, 0.3), (_t, 0.4)):
    TABLE[_t][_j] += _share


class Flow(NamedTuple):
  """A workflow in words of this file: `shares(t, sizes)` is the weight of a row of each batch in generation t, 0 = not used."""

  emits: Callable[[int, int], int]  # (n, t) -> rows that model t writes
  row_weights: Callable[[int, list[int]], list[float]]  # (t, rows of batches 0..t-1) -> weight of each batch's rows
  fresh: bool = False
  redrawn: bool = False


def mix(share: float, fresh=False, real_weight=None) -> Flow:
  def row_weights(t, sizes):
    if t == 1:
      return [1.0]
    latest = 1.0
    if real_weight is not None and sizes[-1]:
      latest = (1 - real_weight) / real_weight * sizes[0] / sizes[-1]
    return [1.0, *[0.0] * (t - 2), latest]

  return Flow(lambda n, t: int(np.rint(n * (1 - share) / share)), row_weights, fresh)


def latest(size: int):
  return lambda t, sizes: [float(j >= t - size) for j in range(t)]


everything = lambda t, sizes: [1.0] * t
same = lambda n, t: n

FLOWS = {
  "replace": Flow(same, latest(1)),
  "replace(5)": Flow(lambda n, t: 5, latest(1)),
  "accumulate": Flow(same, everything),
  "accumulate(5)": Flow(lambda n, t: 5, everything),
  "accumulate_subsample": Flow(same, everything, redrawn=True),
  "mix(0.2)": mix(0.2),
  "mix(0.56)": mix(0.56),
  "mix(0.5, fresh=True)": mix(0.5, fresh=True),
  "mix(0.5, real_weight=0.2)": mix(0.5, real_weight=0.2),
  "mix(0.3, fresh=True, real_weight=0.6)": mix(0.3, fresh=True, real_weight=0.6),
  "mix(1.0)": mix(1.0),
  "grown_replace": Flow(lambda n, t: n * (t + 1), latest(1)),
  "sliding_window(2)": Flow(same, latest(2)),
  "sliding_window(3)": Flow(same, latest(3)),
  f"weights({TABLE})": Flow(
    same, lambda t, sizes: [TABLE[t - 1][j] * sum(s > 0 for s in TABLE[t - 1]) for j in range(t)]
  ),
}
OTHER_SIZES = [name for name, flow in FLOWS.items() if any(flow.emits(7, t) != 7 for t in (1, 2))]


class Reference(NamedTuple):
  """A task on all runs at once: batches are dicts of arrays [runs, rows, ...].

  Attributes:
    truth: (rng, runs, n) -> the truth of each run and its real batch.
    fresh: (rng, truth, runs, n) -> another real batch; None: there is none.
    fit: (truth, rows, weight [runs, rows]) -> model.
    sample: (rng, truth, model, rows, weight, num, temperature) -> batch.
    metrics: (truth, model, generation facts) -> name -> [runs].
    make: (num_samples, temperature) -> the product's task.
    sizes: values of num_samples for rows; `law_sizes` for moments.
    skip: workflows that the task refuses.
    temperatures: that it takes.
  """

  truth: Callable
  fresh: Callable | None
  fit: Callable
  sample: Callable
  metrics: Callable
  make: Callable
  sizes: tuple[int, ...] = (2, 3, 4, 100)
  skip: tuple[str, ...] = ()
  temperatures: tuple[float, ...] = TEMPERATURES
  moments: Any = None
  log: tuple[str, ...] = ()


def simulate(reference: Reference, flow: Flow, n: int, temperature: float, runs: int, rng) -> dict[str, np.ndarray]:
  """name -> [runs, T]."""
  truth, real = reference.truth(rng, runs, n)
  batches, sizes, found, state = [real], [n], [], {}
  for t in range(1, NUM_GENERATIONS + 1):
    if flow.fresh and t > 1:
      batches[0] = reference.fresh(rng, truth, runs, n)
    used = [(batch, weight) for batch, weight in zip(batches, flow.row_weights(t, sizes)) if weight > 0]
    rows = {name: np.concatenate([batch[name] for batch, _ in used], axis=1) for name in real}
    weight = np.concatenate([np.full(next(iter(batch.values())).shape[:2], weight) for batch, weight in used], axis=1)
    if flow.redrawn and t > 1:
      chosen = np.argsort(rng.random(weight.shape), axis=1)[:, :n]
      pick = lambda x: np.take_along_axis(x, chosen.reshape(chosen.shape + (1,) * (x.ndim - 2)), axis=1)  # noqa: B023
      rows, weight = {name: pick(x) for name, x in rows.items()}, pick(weight)
    model = reference.fit(truth, rows, weight)
    num = flow.emits(n, t)
    state = {"t": t, "n": n, "fresh": flow.fresh, "emits": flow.emits, "before": state.get("rank")}
    state["rank"] = _rank(reference, state, batches)
    found.append(reference.metrics(truth, model, state))
    batches.append(reference.sample(rng, truth, model, rows, weight, num, temperature))
    sizes.append(num)
  return {name: np.stack([one[name] for one in found], axis=1) for name in found[0]}


def _rank(reference, state, batches):
  """Dimensions that the training data of a Gaussian span: models write inside the span of what they were fitted to."""
  x = batches[0].get("x")
  if x is None or x.ndim < 3:
    return None
  dim, n, t = x.shape[2], state["n"], state["t"]
  if not state["fresh"] or t == 1:
    return min(dim, n - 1)
  num = state["emits"](n, t - 1)
  return min(dim, n - 1 + min(num, state["before"] + 1))


# ------------------------------------------------------------------------------------------------- references
def gaussian(dim: int) -> Reference:
  def real(rng, truth, runs, n):
    return {"x": rng.standard_normal((runs, n, dim))}

  def fit(truth, rows, weight):
    share = weight / weight.sum(axis=1, keepdims=True)
    mean = np.einsum("rn,rnd->rd", share, rows["x"])
    return mean, np.sqrt(share)[..., None] * (rows["x"] - mean[:, None])

  def sample(rng, truth, model, rows, weight, num, temperature):
    mean, deviation = model
    size = np.abs(deviation).max(axis=(1, 2), keepdims=True) + 1e-300
    factor = np.linalg.qr(deviation / size, mode="r") * size  # rows of it combine to the deviations' law
    noise = rng.standard_normal((len(mean), num, factor.shape[1]))
    return {"x": mean[:, None] + np.sqrt(temperature) * np.einsum("rnk,rkd->rnd", noise, factor)}

  def metrics(truth, model, state):
    mean, deviation = model
    size = np.abs(deviation).max(axis=(1, 2)) + 1e-300
    singular = np.linalg.svd(deviation / size[:, None, None], compute_uv=False)[:, : state["rank"]]
    variance = np.sum(deviation**2, axis=1)
    # Rows are numbers of 53 bits: where a run's smallest direction comes near that, the reference has lost it.
    if np.min(singular[:, -1] * size / np.maximum(1e-300, np.abs(mean).max(axis=1) + size)) < 1e-10:
      singular, variance = singular * np.nan, variance * np.nan
    return {
      "squared_error_of_mean": np.sum(mean**2, axis=1),
      "covariance_trace_ratio": variance.sum(axis=1) / dim,
      "covariance_log_det_ratio": 2 * np.sum(np.log(singular) + np.log(size)[:, None], axis=1),
      "marginal_mean": mean[:, 0],
      "marginal_log_variance": np.log(variance[:, 0]),
    }

  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    fit,
    sample,
    metrics,
    lambda num_samples, temperature: tasks.gaussian(dim, num_samples, temperature=temperature),
    tuple(sorted({2, 3, dim, dim + 1, 100})),
    moments=gaussian_moments(dim),
    log=("squared_error_of_mean", "covariance_trace_ratio"),
  )


class Moments(NamedTuple):
  """The same of batches too large for rows: a batch is its moments; `pool(list of (moments, rows, row weight))`."""

  real: Callable  # (rng, runs, n) -> moments
  pool: Callable
  sample: Callable  # (rng, model, num, temperature) -> moments
  metrics: Callable
  sizes: tuple[int, ...] = (10**6, 10**9)


def gaussian_moments(dim: int) -> Moments:
  """Mean and covariance, by Bartlett's decomposition of Wishart's law."""

  def standard(rng, runs, num):
    lower, freedom = np.tril(rng.standard_normal((runs, dim, dim)), -1), num - 1 - np.arange(dim)
    lower[:, np.arange(dim), np.arange(dim)] = np.sqrt(rng.chisquare(np.maximum(freedom, 1), (runs, dim)))
    lower = lower * (freedom > 0)
    return rng.standard_normal((runs, dim)) / np.sqrt(num), lower / np.sqrt(num)

  def real(rng, runs, n):
    mean, lower = standard(rng, runs, n)
    return mean, lower @ lower.transpose(0, 2, 1)

  def pool(batches):
    mass = np.array([rows * weight for _, rows, weight in batches])
    share = mass / mass.sum()
    mean = sum(s * moments[0] for s, (moments, _, _) in zip(share, batches))
    outer = lambda x: x[:, :, None] * x[:, None]
    return mean, sum(s * (moments[1] + outer(moments[0] - mean)) for s, (moments, _, _) in zip(share, batches))

  def sample(rng, model, num, temperature):
    values, vectors = np.linalg.eigh(model[1] * temperature)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
    mean, lower = standard(rng, len(root), num)
    factor = root @ lower
    return model[0] + np.einsum("rij,rj->ri", root, mean), factor @ factor.transpose(0, 2, 1)

  def metrics(model):
    mean, covariance = model
    values = np.linalg.eigvalsh(covariance)
    if np.min(values[:, 0] / values[:, -1]) < 1e-9:  # the reference has lost its smallest direction
      covariance = covariance * np.nan
    return {
      "squared_error_of_mean": np.sum(mean**2, axis=1),
      "covariance_trace_ratio": np.trace(covariance, axis1=1, axis2=2) / dim,
      "covariance_log_det_ratio": np.linalg.slogdet(covariance)[1],
      "marginal_mean": mean[:, 0],
      "marginal_log_variance": np.log(covariance[:, 0, 0]),
    }

  return Moments(real, pool, sample, metrics)


def simulate_moments(moments: Moments, flow: Flow, n: int, temperature: float, runs: int, rng) -> dict[str, np.ndarray]:
  batches, sizes, found = [moments.real(rng, runs, n)], [n], []
  for t in range(1, NUM_GENERATIONS + 1):
    if flow.fresh and t > 1:
      batches[0] = moments.real(rng, runs, n)
    weights = flow.row_weights(t, sizes)
    model = moments.pool([(b, s, w) for b, s, w in zip(batches, sizes, weights) if w > 0 and s > 0])
    found.append(moments.metrics(model))
    sizes.append(flow.emits(n, t))
    batches.append(moments.sample(rng, model, sizes[-1], temperature) if sizes[-1] else model)
  return {name: np.stack([one[name] for one in found], axis=1) for name in found[0]}


def exponential_family(family: str, truth: float) -> Reference:
  draw = {
    "bernoulli": lambda rng, mean, shape: (rng.random(shape) < mean[:, None]).astype(float),
    "poisson": lambda rng, mean, shape: rng.poisson(np.broadcast_to(mean[:, None], shape)).astype(float),
    "exponential": lambda rng, mean, shape: mean[:, None] * rng.standard_exponential(shape),
    "gaussian": lambda rng, mean, shape: mean[:, None] + rng.standard_normal(shape),
  }[family]
  total = {
    "bernoulli": lambda rng, mean, num: rng.binomial(num, mean),
    "poisson": lambda rng, mean, num: rng.poisson(num * mean),
    "exponential": lambda rng, mean, num: mean * rng.standard_gamma(float(num), mean.shape),
    "gaussian": lambda rng, mean, num: num * mean + np.sqrt(num) * rng.standard_normal(mean.shape),
  }[family]

  def warmed(mean, temperature):
    if family == "bernoulli":
      with np.errstate(divide="ignore", over="ignore"):
        return 1 / (1 + np.exp(-np.log(mean / (1 - mean)) / temperature))
    return mean * temperature if family == "exponential" else mean

  def of(mean):
    spread = {
      "bernoulli": lambda m: m * (1 - m),
      "poisson": lambda m: m,
      "exponential": lambda m: m**2,
      "gaussian": np.ones_like,
    }[family]
    return {
      "squared_error_of_mean": (mean - truth) ** 2,
      "fitted_mean": mean,
      "variance_ratio": spread(mean) / spread(np.asarray(truth)),
    }

  start = lambda runs: np.full(runs, truth)
  real = lambda rng, _, runs, n: {"x": draw(rng, start(runs), (runs, n))}
  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    lambda _, rows, weight: np.sum(weight * rows["x"], axis=1) / weight.sum(axis=1),
    lambda rng, _, model, rows, weight, num, temperature: {
      "x": draw(rng, warmed(model, temperature), (len(model), num))
    },
    lambda _, model, state: of(model),
    lambda num_samples, temperature=1.0: tasks.exponential_family(family, num_samples, truth, temperature=temperature),
    (2, 3, 100),
    temperatures=(1.0,) if family in ("poisson", "gaussian") else TEMPERATURES,
    moments=Moments(
      lambda rng, runs, n: total(rng, start(runs), n) / n,
      lambda batches: sum(s * w * m for m, s, w in batches) / sum(s * w for _, s, w in batches),
      lambda rng, model, num, temperature: total(rng, warmed(model, temperature), num) / num,
      of,
    ),
    log=("squared_error_of_mean",)
    if family != "exponential"
    else ("squared_error_of_mean", "variance_ratio", "fitted_mean"),
  )


def discrete(num_outcomes: int, probabilities=None) -> Reference:
  share = np.full(num_outcomes, 1 / num_outcomes) if probabilities is None else np.asarray(probabilities)
  entropy_of = lambda p: -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0), axis=-1)

  def draw(rng, p, num):
    below = np.cumsum(p, axis=1)
    u = rng.random((len(p), num)) * below[:, -1:]
    return {"x": np.sum(u[:, :, None] >= below[:, None, :], axis=2)}

  def fit(_, rows, weight):
    counts = np.stack([np.sum(weight * (rows["x"] == k), axis=1) for k in range(num_outcomes)], axis=1)
    return counts / counts.sum(axis=1, keepdims=True)

  def sample(rng, _, model, rows, weight, num, temperature):
    with np.errstate(divide="ignore"):
      logs = np.log(model) / temperature
    power = np.exp(logs - logs.max(axis=1, keepdims=True))
    return draw(rng, power / power.sum(axis=1, keepdims=True), num)

  def metrics(_, model, state):
    return {
      "entropy": entropy_of(model),
      "support_ratio": np.sum(model > 0, axis=1) / np.sum(share > 0),
      "heterozygosity": 1 - np.sum(model**2, axis=1),
      "total_variation": 0.5 * np.sum(np.abs(model - share), axis=1),
    }

  real = lambda rng, _, runs, n: draw(rng, np.tile(share, (runs, 1)), n)
  few = num_outcomes > 8  # then fewer rows are renumbered, and fresh ones are refused
  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    fit,
    sample,
    metrics,
    lambda num_samples, temperature: tasks.discrete(num_outcomes, num_samples, probabilities, temperature=temperature),
    (2, 3, 100),
    skip=tuple(name for name, flow in FLOWS.items() if flow.fresh and few),
  )


def kde(bandwidth) -> Reference:
  num_test, dim = 100, 2

  def width_of(weight, rows):
    if isinstance(bandwidth, float):
      return np.full(len(weight), bandwidth)
    size = weight.sum(axis=1) * (1.0 if bandwidth.startswith("scott") else (dim + 2) / 4)
    factor = size ** (-1 / (dim + 4))
    if bandwidth.endswith("_scaled"):
      share = weight / weight.sum(axis=1, keepdims=True)
      mean = np.einsum("rn,rnd->rd", share, rows["x"])
      factor = factor * np.sqrt(np.einsum("rn,rnd->r", share, (rows["x"] - mean[:, None]) ** 2) / dim)
    return factor

  def truth(rng, runs, n):
    return rng.standard_normal((runs, num_test, dim)), {"x": rng.standard_normal((runs, n, dim))}

  def fit(test, rows, weight):
    width = width_of(weight, rows)
    share = weight / weight.sum(axis=1, keepdims=True)
    x = rows["x"]
    squared = sum((test[:, :, None, i] - x[:, None, :, i]) ** 2 for i in range(dim))
    exponent = -0.5 * squared / width[:, None, None] ** 2
    top = exponent.max(axis=2)
    kernels = np.log(np.sum(share[:, None] * np.exp(exponent - top[..., None]), axis=2)) + top
    mean = np.einsum("rn,rnd->rd", share, x)
    spread = np.einsum("rn,rnd->r", share, (x - mean[:, None]) ** 2) / dim
    return kernels - dim / 2 * np.log(2 * np.pi) - dim * np.log(width)[:, None], width, spread + width**2

  def sample(rng, test, model, rows, weight, num, temperature):
    below = np.cumsum(weight, axis=1)
    u = rng.random((len(weight), num)) * below[:, -1:]
    chosen = np.stack([np.searchsorted(b, one, side="right") for b, one in zip(below, u)])
    x = np.take_along_axis(rows["x"], np.minimum(chosen, weight.shape[1] - 1)[..., None], axis=1)
    return {"x": x + np.sqrt(temperature) * model[1][:, None, None] * rng.standard_normal(x.shape)}

  return Reference(
    truth,
    lambda rng, _, runs, n: {"x": rng.standard_normal((runs, n, dim))},
    fit,
    sample,
    lambda _, model, state: {"test_nll": -model[0].mean(axis=1), "model_variance": model[2]},
    lambda num_samples, temperature: tasks.kde(
      "normal", num_samples, bandwidth, num_test=num_test, temperature=temperature
    ),
    (2, 3, 30),
    log=("model_variance",),
  )


def linear_regression(dim: int, covariates: str) -> Reference:
  def fresh(rng, truth, runs, n):
    x = truth[1] if covariates == "same" else rng.standard_normal((runs, n, dim))
    return {"x": x, "y": np.einsum("rnd,rd->rn", x, truth[0]) + rng.standard_normal((runs, n))}

  def truth(rng, runs, n):
    w, test = rng.standard_normal((runs, dim)), rng.standard_normal((runs, 1000, dim))
    made = w, rng.standard_normal((runs, n, dim)), np.einsum("rnd,rne->rde", test, test) / 1000
    return made, fresh(rng, made, runs, n)

  def fit(truth, rows, weight):
    root = np.sqrt(weight)
    return np.einsum("rdn,rn->rd", np.linalg.pinv(root[..., None] * rows["x"], rcond=1e-9), root * rows["y"])

  def sample(rng, truth, model, rows, weight, num, temperature):
    x = truth[1] if covariates == "same" else rng.standard_normal((len(model), num, dim))
    return {"x": x, "y": np.einsum("rnd,rd->rn", x, model) + np.sqrt(temperature) * rng.standard_normal(x.shape[:2])}

  def metrics(truth, model, state):
    error = model - truth[0]
    return {"test_mse": np.einsum("rd,rde,re->r", error, truth[2], error)}

  skip = (*OTHER_SIZES,) if covariates == "same" else ()
  return Reference(
    truth,
    fresh,
    fit,
    sample,
    metrics,
    lambda num_samples, temperature: tasks.linear_regression(
      dim, num_samples, covariates=covariates, temperature=temperature
    ),
    (2, 3, 4, 40),
    skip,
    log=("test_mse",),
  )


def sample_median() -> Reference:
  def fit(_, rows, weight):
    order = np.argsort(rows["x"], axis=1)
    x, w = np.take_along_axis(rows["x"], order, 1), np.take_along_axis(weight, order, 1)
    below = np.cumsum(w, axis=1)
    half = 0.5 * below[:, -1:]
    pick = lambda at: np.take_along_axis(x, np.argmax(at, axis=1)[:, None], 1)[:, 0]
    return 0.5 * (pick(below >= half * (1 - 1e-9)) + pick(below > half * (1 + 1e-9)))

  real = lambda rng, _, runs, n: {"x": rng.standard_normal((runs, n))}
  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    fit,
    lambda rng, _, model, rows, weight, num, temperature: {
      "x": model[:, None] + np.sqrt(temperature) * rng.standard_normal((len(model), num))
    },
    lambda _, model, state: {"squared_error_of_mean": model**2, "fitted_mean": model},
    lambda num_samples, temperature: tasks.sample_median(num_samples, temperature=temperature),
    (2, 3, 30),
    log=("squared_error_of_mean",),
  )


def ngram() -> Reference:
  vocab, length, smoothing = 4, 6, 0.01
  table = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.1, 0.7], [0.25, 0.25, 0.25, 0.25], [0.05, 0.05, 0.8, 0.1]])
  law = np.full(vocab, 0.25)
  for _ in range(300):
    law = law @ table

  def choose(rng, p):
    return np.sum(rng.random(p.shape[:-1])[..., None] >= np.cumsum(p, axis=-1)[..., :-1], axis=-1)

  def draw(rng, first, following, num):
    runs = np.arange(len(first))[:, None]
    tokens = [choose(rng, np.broadcast_to(first[:, None], (len(first), num, vocab)))]
    for _ in range(length - 1):
      tokens.append(choose(rng, following[runs, tokens[-1]]))
    return {"x": np.stack(tokens, axis=2)}

  def fit(_, rows, weight):
    x = rows["x"]
    first = np.stack([np.sum(weight * (x[:, :, 0] == k), axis=1) for k in range(vocab)], axis=1) + smoothing
    counts = (
      np.array(
        [
          [np.sum(weight * np.sum((x[:, :, :-1] == a) & (x[:, :, 1:] == b), axis=2), axis=1) for b in range(vocab)]
          for a in range(vocab)
        ]
      ).transpose(2, 0, 1)
      + smoothing
    )
    return first / first.sum(axis=1, keepdims=True), counts / counts.sum(axis=2, keepdims=True)

  def sample(rng, _, model, rows, weight, num, temperature):
    logs = np.log(model[1]) / temperature
    power = np.exp(logs - logs.max(axis=2, keepdims=True))
    return draw(rng, model[0], power / power.sum(axis=2, keepdims=True), num)

  def metrics(_, model, state):
    following = model[1]
    own = np.full((len(following), vocab), 1 / vocab)
    for _ in range(400):
      own = np.einsum("rv,rvw->rw", own, following)
    cross = -np.sum(table * np.log(following), axis=2)
    return {
      "test_nll": cross @ law,
      "entropy": -np.sum(own * np.sum(following * np.log(following), axis=2), axis=1),
      "total_variation": 0.5 * np.sum(np.abs(following - table), axis=2) @ law,
    }

  real = lambda rng, _, runs, n: draw(rng, np.tile(law, (runs, 1)), np.tile(table, (runs, 1, 1)), n)
  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    fit,
    sample,
    metrics,
    lambda num_samples, temperature: tasks.ngram(num_samples, truth=table, length=length, temperature=temperature),
    (2, 3, 30),
  )


def mixture() -> Reference:
  """One component, which is a Gaussian with a floor under its variances."""
  one = gaussian(2)

  def truth(rng, runs, n):
    return rng.standard_normal((runs, 500, 2)), {"x": rng.standard_normal((runs, n, 2))}

  def fit(test, rows, weight):
    mean, deviation = one.fit(None, rows, weight)
    covariance = np.einsum("rnd,rne->rde", deviation, deviation)
    floor = 1e-6 * np.trace(covariance, axis1=1, axis2=2) / 2
    return mean, covariance + floor[:, None, None] * np.eye(2)

  def sample(rng, test, model, rows, weight, num, temperature):
    root = np.linalg.cholesky(model[1])
    noise = np.einsum("rij,rnj->rni", root, rng.standard_normal((len(root), num, 2)))
    return {"x": model[0][:, None] + np.sqrt(temperature) * noise}

  def metrics(test, model, state):
    mean, covariance = model
    if np.trace(covariance, axis1=1, axis2=2).min() < 1e-11:  # float32 rows about a mean do not resolve that
      covariance = covariance * np.nan
    apart = test - mean[:, None]
    squared = np.einsum("rni,rij,rnj->rn", apart, np.linalg.inv(covariance), apart)
    return {
      "test_nll": 0.5 * squared.mean(axis=1) + 0.5 * np.linalg.slogdet(covariance)[1] + np.log(2 * np.pi),
      "model_variance": np.trace(covariance, axis1=1, axis2=2) / 2,
    }

  return Reference(
    truth,
    one.fresh,
    fit,
    sample,
    metrics,
    lambda num_samples, temperature: tasks.gaussian_mixture(
      "normal", num_samples, 1, num_steps=2, temperature=temperature
    ),
    (30,),
    log=("test_nll", "model_variance"),
  )


def classification() -> Reference:
  dim, wrong = 3, 0.2

  def labelled(rng, runs, num, direction):
    truth = np.where(rng.random((runs, num)) < 0.5, 1.0, -1.0)
    x = rng.standard_normal((runs, num, dim))
    x[:, :, 0] += truth
    if direction is None:
      label = np.where(rng.random((runs, num)) < wrong, -truth, truth)
    else:
      label = np.where(np.einsum("rnd,rd->rn", x, direction) < 0, -1.0, 1.0)
    return {"x": x, "y": label}

  def metrics(_, model, state):
    from scipy.special import ndtr

    norm = np.linalg.norm(model, axis=1)
    return {"accuracy": ndtr(model[:, 0] / norm), "angle_to_truth": np.arccos(np.clip(model[:, 0] / norm, -1, 1))}

  real = lambda rng, _, runs, n: labelled(rng, runs, n, None)
  return Reference(
    lambda rng, runs, n: (None, real(rng, None, runs, n)),
    real,
    lambda _, rows, weight: np.einsum("rn,rnd->rd", weight * rows["y"], rows["x"]) / weight.sum(axis=1)[:, None],
    lambda rng, _, model, rows, weight, num, temperature: labelled(rng, len(model), num, model),
    metrics,
    lambda num_samples: tasks.classification(dim, num_samples, label_error=wrong),
    (2, 3, 30),
    temperatures=(1.0,),
  )


def logistic() -> Reference:
  """Labels of fixed covariates; runs whose labels separate have no estimate, and both sides tell only how many there are."""
  pool = np.random.default_rng(5).standard_normal((300, 1))
  w = np.array([0.2, 1.0])
  labels = (np.random.default_rng(6).random(300) < 1 / (1 + np.exp(-(w[0] + w[1] * pool[:, 0])))).astype(float)
  scaled = (pool - pool.mean(axis=0)) / pool.std(axis=0)
  design = np.concatenate([np.ones((300, 1)), scaled], axis=1)

  def truth(rng, runs, n):
    order = np.argsort(rng.random((runs, 300)), axis=1)
    made = design[order[:, :n]], design[order[:, n:]]
    return made, fresh(rng, made, runs, n)

  def draw(rng, x, w, temperature):
    odds = np.einsum("rnd,rd->rn", x, w) / temperature
    return {"x": x, "y": (rng.random(odds.shape) < 1 / (1 + np.exp(-np.clip(odds, -700, 700)))).astype(float)}

  def fresh(rng, made, runs, n):
    return draw(rng, made[0], np.tile(w, (runs, 1)), 1.0)

  def fit(made, rows, weight):
    share = weight / weight.sum(axis=1, keepdims=True)
    found = np.zeros((len(weight), 2))
    for _ in range(100):
      odds = np.clip(np.einsum("rnd,rd->rn", rows["x"], found), -500, 500)
      p = 1 / (1 + np.exp(-odds))
      gradient = np.einsum("rn,rnd->rd", share * (rows["y"] - p), rows["x"])
      curvature = np.einsum("rn,rnd,rne->rde", share * p * (1 - p), rows["x"], rows["x"]) + 1e-12 * np.eye(2)
      step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
      found = found + step * np.minimum(1, 2 / np.maximum(np.abs(step).max(axis=1), 1e-30))[:, None]
    return found

  def metrics(made, model, state):
    odds = np.clip(np.einsum("rnd,rd->rn", made[1], model), -500, 500)
    true = np.einsum("rnd,d->rn", made[1], w)
    p = 1 / (1 + np.exp(-true))
    return {"excess_risk": np.mean(p * (true - odds) - np.logaddexp(0, true) + np.logaddexp(0, odds), axis=1)}

  relabel = lambda rng, made, model, rows, weight, num, temperature: draw(rng, made[0], model, temperature)
  return Reference(
    truth,
    fresh,
    fit,
    relabel,
    metrics,
    lambda num_samples: tasks.logistic_regression((pool, labels), num_samples, num_features=None, coefficients=w),
    (60,),
    (*OTHER_SIZES, "replace"),
    (1.0,),
    log=("excess_risk",),
  )


REFERENCES: dict[str, Callable[[], Reference]] = {
  "gaussian": lambda: gaussian(3),
  "gaussian of 10": lambda: gaussian(10),
  "bernoulli": lambda: exponential_family("bernoulli", 0.3),
  "poisson": lambda: exponential_family("poisson", 2.5),
  "exponential": lambda: exponential_family("exponential", 1.0),
  "normal mean": lambda: exponential_family("gaussian", 0.0),
  "discrete": lambda: discrete(6),
  "discrete, unequal": lambda: discrete(5, [0.5, 0.3, 0.15, 0.05, 0.0]),
  "discrete, renumbered": lambda: discrete(500),
  "kde": lambda: kde(0.4),
  "kde, rule": lambda: kde("silverman_scaled"),
  "linear regression": lambda: linear_regression(3, "same"),
  "linear regression, fresh": lambda: linear_regression(3, "fresh"),
  "logistic regression": logistic,
  "sample median": sample_median,
  "n-gram": ngram,
  "mixture": mixture,
  "classification": classification,
}


# ------------------------------------------------------------------------------------------------ comparison
def two_sample(a: np.ndarray, b: np.ndarray, least_size=0.0) -> dict[str, np.ndarray]:
  """z of the differences between samples [runs, T] of one law: mean, variance, and the share below pooled quantiles.

  Float32 resolves them to `RESOLUTION` of their size, or of `least_size`: a log is rounded as what it is the log of.
  """
  size = np.maximum(np.maximum(np.abs(a).max(axis=0), np.abs(b).max(axis=0)), least_size)
  coarse = np.concatenate([a, b]).std(axis=0) < RESOLUTION * size  # what float32 results do not resolve

  def welch(x, y):
    error = np.sqrt(x.var(axis=0, ddof=1) / len(x) + y.var(axis=0, ddof=1) / len(y))
    apart = x.mean(axis=0) - y.mean(axis=0)
    z = apart / np.maximum(error, 1e-300)
    return np.where(coarse, np.where(np.abs(apart) <= RESOLUTION * size, np.nan, z), z)

  found = {"mean": welch(a, b)}
  both = np.concatenate([a, b])
  low, high = np.quantile(both, [0.005, 0.995], axis=0)  # squares of heavy tails have no z
  a_cut, b_cut = np.clip(a, low, high), np.clip(b, low, high)
  centre, spread = (f(np.concatenate([a_cut, b_cut]), axis=0) for f in (np.mean, np.std))
  found["variance"] = np.where(spread < RESOLUTION * size, np.nan, welch((a_cut - centre) ** 2, (b_cut - centre) ** 2))
  for quantile in QUANTILES:
    at = np.quantile(both, quantile, axis=0)
    slack = np.maximum(
      1e-5 * np.maximum(np.abs(at), np.median(np.abs(both), axis=0)), RESOLUTION * least_size
    )  # float32 ties
    below = [((x < at - slack).mean(axis=0), (x <= at + slack).mean(axis=0)) for x in (a, b)]
    share = (below[0][0] * len(a) + below[1][0] * len(b)) / len(both)
    error = np.sqrt(np.maximum(share * (1 - share), 1 / len(both)) * (1 / len(a) + 1 / len(b)))
    strict = (below[0][0] - below[1][0]) / error
    share = (below[0][1] * len(a) + below[1][1] * len(b)) / len(both)
    error = np.sqrt(np.maximum(share * (1 - share), 1 / len(both)) * (1 / len(a) + 1 / len(b)))
    weak = (below[0][1] - below[1][1]) / error
    found[f"quantile {quantile:g}"] = np.where(coarse, np.nan, np.where(np.abs(strict) < np.abs(weak), strict, weak))
  return found


def audit(name: str, flow_name: str, runs: int, seed: int = 0, sizes=None, temperatures=None) -> list[dict[str, Any]]:
  """z-scores of one task under one workflow: a row for each size, temperature, metric, generation and statistic."""
  reference, flow = REFERENCES[name](), FLOWS[flow_name]
  temperatures = temperatures or reference.temperatures
  axes: dict[str, list] = {"num_samples": list(sizes or reference.sizes)}
  if reference.moments is not None and not flow.redrawn and sizes is None:
    axes["num_samples"] += [n for n in reference.moments.sizes]
  if len(reference.temperatures) > 1:
    axes["temperature"] = list(temperatures)
  results = cj.sweep(reference.make, [flow_name], axes, num_generations=NUM_GENERATIONS, num_seeds=runs, seed=seed)
  results = results.isel(workflow=0)
  rng, rows = np.random.default_rng(seed + 1), []
  for n in axes["num_samples"]:
    for temperature in axes.get("temperature", [1.0]):
      cell = results.sel({"num_samples": n} | ({"temperature": temperature} if "temperature" in axes else {}))
      if str(cell.cell_status.values) != "ok":
        rows.append(
          {
            "task": name,
            "workflow": flow_name,
            "n": n,
            "temperature": temperature,
            "metric": "",
            "t": 0,
            "statistic": str(cell.cell_status.values),
            "z": np.nan,
          }
        )
        continue
      large = reference.moments is not None and n > 10**4
      simulated = (
        simulate_moments(reference.moments, flow, n, temperature, runs, rng)
        if large
        else simulate(reference, flow, n, temperature, runs, rng)
      )
      for metric, expected in simulated.items():
        # The reference knows its limits, and float32 has a range.
        shown = [t for t in SHOWN if np.abs(expected[:, t - 1]).max() < 1e34]
        at = np.array(shown) - 1
        ours, theirs = cell[metric].transpose("seed", "generation").values.astype(float)[:, at], expected[:, at]
        if metric in reference.log:
          least = np.maximum(1e-37, 1e-9 * np.median(theirs, axis=0))  # an error that is 0 but for rounding has no log
          ours, theirs = np.log(np.maximum(ours, least)), np.log(np.maximum(theirs, least))
        for statistic, z in two_sample(ours, theirs, float(metric in reference.log)).items() if shown else ():
          rows += [
            {
              "task": name,
              "workflow": flow_name,
              "n": n,
              "temperature": temperature,
              "metric": metric,
              "t": t,
              "statistic": statistic,
              "z": float(one),
            }
            for t, one in zip(shown, z)
            if not (np.isnan(one) and np.isfinite(ours).all())
          ]
  return rows


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tasks", default=";".join(REFERENCES), help="separated by semicolons")
  parser.add_argument("--workflows", default=";".join(FLOWS), help="separated by semicolons")
  parser.add_argument("--runs", type=int, default=400)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args(argv)
  number = worst = 0
  for name in arguments.tasks.split(";"):
    for flow_name in arguments.workflows.split(";"):
      if flow_name in REFERENCES[name]().skip:
        continue
      clock = time.perf_counter()
      rows = audit(name, flow_name, arguments.runs, arguments.seed)
      jax.clear_caches()
      known = [row for row in rows if np.isfinite(row["z"])]
      number, top = number + len(known), max(known, key=lambda row: abs(row["z"]), default=None)
      worst = max(worst, 0 if top is None else abs(top["z"]))
      line = "nothing compared" if top is None else f"{len(known)} z, largest {top['z']:+.1f}"
      print(f"{name}, {flow_name[:40]}: {line} ({time.perf_counter() - clock:.0f} s)", flush=True)
      for row in rows:
        if not abs(row["z"]) < 5:
          print("    ", {key: value for key, value in row.items() if key not in ("task", "workflow")}, flush=True)
  print(f"{number} comparisons, largest |z| {worst:.2f}")
  return int(worst >= 5)


if __name__ == "__main__":
  sys.exit(main())
