"""Rows in time: each column a head over a window of past rows and the columns of its own row that are drawn before it (STAN).

A head is a mixture density (numbers) or a softmax (codes) over one hidden layer, or exact least squares, whose loop has laws. All
columns are one program: the hidden layers of all are one matrix product, masked so that a column sees only those before it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtr, ndtri

from collapse_jax import metrics, store, theory, training
from collapse_jax._citation import citing
from collapse_jax.data.traffic import Series
from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import Moments, add_moments, check_integer, check_positive, matmul, moments
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting

HEADS = ("mixture", "linear")
ENDS = ("known", "redraw", "clip", "ignore")
ROUNDINGS = ("truncate", "nearest", "random")
NUM_REDRAWS = 12  # until the published sampler gives up and writes 0
_LEAST_STD = 1e-3


class WindowModel(NamedTuple):
  """A fitted model of C columns, F features of a row, window W and H hidden units a column (of the linear head: 1, the mean).

  Attributes:
    weights: [(W + 1) F, C, H] from features of the window and of the row itself.
    bias: [C, H].
    head: {"weights": [C, H, outputs], "bias": [C, outputs]}; of the linear head {"std": [C]}.
    train_loss: [] nats a value, of the last steps.
  """

  weights: Any
  bias: Any
  head: Any
  train_loss: Any


@citing("2009.12740")
def ar_window(
  source: Series,
  num_samples: int,
  *,
  window: int = 5,
  order=None,
  head: str = "mixture",
  intercept: bool = True,
  num_components: int = 10,
  hidden: int = 64,
  budget: str = "epochs",
  amount=10.0,
  batch_size: int = 512,
  learning_rate=1e-3,
  ends: str = "known",
  rounding: str | None = None,
  num_test: int = 16,
  num_lags: int = 5,
  num_bins: int = 304,
) -> TaskSetting:
  """Series of rows in time; a row of the loop is a series [length, columns], of a host.

  Args:
    source: from `collapse_jax.data.traffic`: `autoregression`, `flows`, `read_flows`, or your own.
    num_samples: series per batch.
    window: past rows that a head sees, from 0; a series begins with an empty one.
    order: names of the columns, in the order in which those of a row are drawn; None: as rows hold them.
    head: "mixture": densities and softmax over a hidden layer, by gradient. "linear": least squares with normal errors, exact,
      for columns of numbers.
    intercept: of the linear head.
    num_components: of a mixture.
    hidden: units of a column.
    budget, amount: see `training.num_steps`; an epoch is all rows of all series.
    batch_size: rows of a step.
    learning_rate: of Adam; may be traced.
    ends: of bounded columns. "known": densities within the ends, drawn exactly. "redraw": as published, densities that know of no
      ends, drawn again until a value is inside, and 0 after 12 times. "clip": moved to the nearest end. "ignore": as drawn, as
      "known" is of the linear head.
    rounding: of sizes that are written: "truncate" as int() does, "nearest", or "random"; None: numbers stay what they are.
    num_test: series held out.
    num_lags: of autocorrelations, below the length of series.
    num_bins: of marginal laws, common to real and emitted series.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> source = cj.data.traffic.autoregression(length=100, coefficients=[0.5])
  >>> task = cj.tasks.ar_window(source, num_samples=1, window=1, head="linear", intercept=False)
  >>> print(*task.metrics)
  test_nll excess_nll lag1_coefficient residual_variances autocorrelation_error correlation_error jensen_shannon
  """
  linear = head == "linear"
  columns, length = source.columns, source.length
  places = _checked(source, num_samples, num_test, window, order, head, num_lags, ends, rounding)
  for name, value in (("num_components", num_components), ("hidden", hidden), ("num_bins", num_bins)):
    check_integer(name, value, 1)
  check_positive("amount", amount)
  check_positive("learning_rate", learning_rate)
  training.check_batches(batch_size)
  layout = _Layout(columns, places, window, hidden, num_components, linear)
  sized = [c for c, column in enumerate(columns) if column.log_scale]
  bounded = [c for c, column in enumerate(columns) if column.bounded]

  def fresh(key, problem) -> Data:
    return store.batch(source.draw(key, num_samples))

  def init(key):
    if source.max_series is not None:  # of a file: none is both trained on and held out
      rows = source.draw(key, num_samples + num_test)
      test, real = rows[:num_test], rows[num_test:]
    else:
      test_key, real_key = jax.random.split(key)
      test, real = source.draw(test_key, num_test), source.draw(real_key, num_samples)
    # what emitted series are held against, in every generation
    lags, between = _relations(layout, test, num_lags)
    return {"test": test, "autocorrelation": lags, "correlation": between}, store.batch(real)

  # ------------------------------------------------------------------------------------------ fits
  def of(problem, rows, row_weight) -> Moments:
    each = None if row_weight is None else jnp.repeat(row_weight, length)
    return moments(layout.windows(rows).reshape(-1, layout.inputs), each)

  def fit_linear(key, problem, context: Context) -> WindowModel:
    stats = context.data.summary
    scatter = stats.covariance
    if not intercept:
      scatter = scatter + stats.mean[:, None] * stats.mean[None]
    scale = jnp.sqrt(jnp.diag(scatter))
    scale = jnp.where(scale > 0, scale, 1.0)
    related = scatter / scale[:, None] / scale[None]
    weights, stds, bias = [], [], []
    for c in range(len(columns)):
      at = layout.seen_by(c)
      target = layout.current + c
      values, vectors = jnp.linalg.eigh(related[np.ix_(at, at)])
      least = 1e-6 * len(at)  # directions that rows do not have
      inverse = jnp.where(values > least, 1 / jnp.maximum(values, least), 0.0)
      toward = related[at, target]
      found = matmul(vectors * inverse[None], matmul(vectors.T, toward))
      left = related[target, target] - matmul(found, toward)
      stds.append(scale[target] * jnp.sqrt(jnp.maximum(left, 1e-7)))  # less is not told from 0
      found = found * scale[target] / scale[at]
      bias.append(stats.mean[target] - matmul(found, stats.mean[at]) if intercept else jnp.zeros(()))
      weights.append(jnp.zeros(layout.inputs).at[at].set(found))
    return WindowModel(
      jnp.stack(weights, axis=1)[..., None], jnp.stack(bias)[:, None], {"std": jnp.stack(stds)}, jnp.zeros(())
    )

  def fit_mixture(key, problem, context: Context) -> WindowModel:
    start_key, train_key = jax.random.split(key)
    rows, weight = store.flat(context.data)
    seen, begins = layout.strung(rows)

    def loss(params, key, begin):
      return layout.losses(params, seen(begin), ends)

    each = jnp.repeat(weight, length)
    steps, _ = training.num_steps(budget, amount, each > 0, batch_size)
    optimiser = optax.adam(learning_rate)
    old = context.previous
    params = layout.start(start_key) if old is None else (old.weights, old.bias, old.head)
    fitted = training.fit(
      train_key, loss, training.start(optimiser, params), begins, each, optimiser, steps, batch_size
    )
    weights, bias, head = fitted.params
    return WindowModel(weights, bias, head, fitted.train_losses[-1])

  # ------------------------------------------------------------------------------------------ samples
  def sample(key, problem, params: WindowModel, context: Context):
    draw_key, round_key = jax.random.split(key)
    rows = layout.draw(draw_key, params, context.num, length, ends)
    if rounding is not None:
      rows = _rounded(round_key, rows, columns, sized, rounding)
    return store.batch(rows), beside(problem, rows, store.in_use(context))

  def beside(problem, rows, used):
    """Emitted series beside those held out."""
    each = jnp.repeat(used, length)
    flat, flat_test = rows.reshape(-1, len(columns)), problem["test"].reshape(-1, len(columns))
    lags, between = _relations(layout, rows, num_lags, used)
    law = jax.vmap(lambda real, emitted, edges: metrics.jensen_shannon(real, emitted, edges, weight=each))
    laws = []
    if len(numbers := layout.numbers):
      is_bounded = jnp.asarray(layout.bounded[numbers])
      low, high = (
        jnp.where(is_bounded, end, of(flat_test[:, numbers], axis=0)) for end, of in ((0.0, jnp.min), (1.0, jnp.max))
      )
      laws.append(law(flat_test[:, numbers].T, flat[:, numbers].T, jnp.linspace(low, high, num_bins + 1, axis=1)))
    if len(coded := layout.coded):
      edges = jnp.broadcast_to(jnp.arange(layout.codes.max() + 1) - 0.5, (len(coded), layout.codes.max() + 1))
      laws.append(law(flat_test[:, coded].T, flat[:, coded].T, edges))
    found = {
      "autocorrelation_error": jnp.mean(jnp.abs(lags - problem["autocorrelation"])),
      "correlation_error": jnp.sqrt(jnp.mean((between - problem["correlation"]) ** 2)),
      "jensen_shannon": jnp.mean(jnp.concatenate(laws)),
    }
    share = lambda holds: jnp.sum(each * holds) / jnp.maximum(jnp.sum(each), 1e-30)
    if source.rules:
      passed = jnp.stack([rule(flat) for rule in source.rules.values()])
      found["rule_pass_rates"] = jnp.stack([share(one) for one in passed])
      found["rules_passed"] = share(jnp.all(passed, axis=0))
    if bounded:
      at = flat[:, np.array(bounded)]
      found["atom_share"] = share(jnp.mean((at <= 0) | (at >= 1), axis=1))
    if sized:
      size = lambda series: jnp.exp(columns[sized[0]].log_scale * series[:, sized[0]])
      found["size_ratio"] = share(size(flat)) / jnp.mean(size(flat_test))
    return found

  def evaluate(key, problem, params: WindowModel):
    test = problem["test"]
    seen, begins = layout.strung(test)
    nll = jnp.sum(jnp.mean(layout.losses(params[:3], seen(begins), ends), axis=0))
    found = {"test_nll": nll}
    if source.log_density is not None:
      found["excess_nll"] = nll + jnp.mean(source.log_density(test))
    if linear:
      for k in range(1, min(window, 2) + 1):
        found[f"lag{k}_coefficient"] = params.weights[(window - k) * layout.width, 0, 0]
      found["residual_variances"] = params.head["std"] ** 2
      if len(columns) > 1:
        found["cross_coefficient"] = params.weights[layout.current, 1, 0]
    else:
      found["train_loss"] = params.train_loss
    return found

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Of least squares: coefficients to first order; those between columns have no bias where rows are independent in time."""
    if not linear:
      return {}
    found, num_generations, rows = {}, len(schedule.sizes), float(schedule.sizes[0] * length)
    equal = not schedule.redrawn and (schedule.sizes == schedule.sizes[0]).all() and rows >= 2
    pooled = schedule.pooled and not intercept
    if equal and (schedule.alone or pooled) and len(columns) == 1 and window == len(source.coefficients) in (1, 2):
      law = theory.autoregression_loop(source.coefficients, rows, num_generations, intercept=intercept, pooled=pooled)
      for k in range(window):
        found[f"lag{k + 1}_coefficient"] = Expected(law[:, k], None, 0)
    if len(columns) == 2 and source.coupling is not None and places[0] == 0:
      exact, spread = equal and schedule.alone and window == 0 and not intercept and rows > 2, None
      if exact and source.noise_ratio is not None:
        spread = theory.cross_column_variance(source.noise_ratio, rows, num_generations)
      found["cross_coefficient"] = Expected(np.full(num_generations, source.coupling), spread)
    return found

  described = _metrics(source, linear, window, bounded, sized)
  return TaskSetting(
    init,
    fit_linear if linear else fit_mixture,
    sample,
    evaluate,
    num_samples,
    Summary(of, add_moments) if linear else None,
    None if source.max_series is not None else fresh,
    metrics=described,
    predict=predict,
  )


class _Layout:
  """Where columns, features and outputs of a model lie.

  Args:
    columns: of the source.
    places: [C] numbers of columns, in the order in which those of a row are drawn.
    window, hidden, num_components, linear: of the task.
  """

  def __init__(self, columns, places, window, hidden, num_components, linear):
    self.columns, self.places, self.window, self.linear = columns, places, window, linear
    self.num_components, self.hidden = num_components, 1 if linear else hidden
    sizes = [column.num_codes or 1 for column in columns]
    self.begins = np.cumsum([0, *sizes])
    self.width = int(self.begins[-1])
    self.current = window * self.width  # where features of the row itself begin
    self.inputs = self.current + self.width
    self.outputs = max([column.num_codes or 3 * num_components for column in columns])
    self.codes = np.array([column.num_codes for column in columns])
    self.bounded = np.array([column.bounded for column in columns])
    self.numbers, self.coded = np.flatnonzero(self.codes == 0), np.flatnonzero(self.codes)
    owner = np.repeat(np.arange(len(columns)), sizes)
    rank = np.argsort(places)
    earlier = rank[owner][:, None] < rank[None]
    self.mask = np.concatenate([np.ones((self.current, len(columns)), bool), earlier])

  def seen_by(self, c) -> np.ndarray:
    return np.flatnonzero(self.mask[:, c])

  def features(self, rows: Array) -> Array:
    """[..., C] -> [..., F]: numbers, and codes as one of many; of an empty row 0."""
    parts = [
      jax.nn.one_hot(rows[..., c].astype(jnp.int32), column.num_codes) if column.num_codes else rows[..., c, None]
      for c, column in enumerate(self.columns)
    ]
    return jnp.concatenate(parts, axis=-1)

  def padded(self, rows: Array) -> Array:
    """[n, W + length, C], with empty rows before the first."""
    nothing = jnp.asarray([-1.0 if column.num_codes else 0.0 for column in self.columns])
    before = jnp.broadcast_to(nothing, (len(rows), self.window, len(self.columns)))
    return jnp.concatenate([before, rows], axis=1)

  def strung(self, rows: Array):
    """(places -> [B, W + 1, C] of those rows and their windows), and the places [n * length] of all rows."""
    padded = self.padded(rows)
    flat = padded.reshape(-1, len(self.columns))
    places = jnp.arange(len(rows))[:, None] * padded.shape[1] + jnp.arange(rows.shape[1])[None]
    return lambda places: flat[places[:, None] + jnp.arange(self.window + 1)[None]], places.reshape(-1)

  def windows(self, rows: Array) -> Array:
    """[n, length, (W + 1) F]."""
    seen = self.features(self.padded(rows))
    length = rows.shape[1]
    return jnp.concatenate([seen[:, k : k + length] for k in range(self.window + 1)], axis=-1)

  def start(self, key):
    """Parameters that training begins with: mixtures spread over [0, 1]."""
    in_key, out_key = jax.random.split(key)
    num, K = len(self.columns), self.num_components
    weights = normal(in_key, (self.inputs, num, self.hidden)) * math.sqrt(2 / self.inputs)
    out = normal(out_key, (num, self.hidden, self.outputs)) * (0.1 / math.sqrt(self.hidden))
    spread = np.concatenate([np.zeros(K), (np.arange(K) + 0.5) / K, np.full(K, math.log(1 / K))])
    bias = np.zeros((num, self.outputs))
    for c, column in enumerate(self.columns):
      if not column.num_codes:
        bias[c, : 3 * K] = spread
    return weights, jnp.zeros((num, self.hidden)), {"weights": out, "bias": jnp.asarray(bias, float)}

  def masked(self, weights):
    return weights * jnp.asarray(self.mask, float)[..., None]

  def losses(self, params, seen: Array, ends: str) -> Array:
    """-log density of each value, [B, C] nats, of rows with their windows [B, W + 1, C]."""
    weights, bias, head = params
    inputs = self.features(seen).reshape(len(seen), self.inputs)
    flat = self.masked(weights).reshape(self.inputs, -1)
    product = matmul if self.linear else jnp.matmul
    units = product(inputs, flat).reshape(len(seen), *bias.shape) + bias[None]
    values = seen[:, -1]
    if self.linear:
      std = jnp.maximum(head["std"], 1e-30)[None]
      return 0.5 * ((values - units[..., 0]) / std) ** 2 + jnp.log(std) + 0.5 * math.log(2 * math.pi)
    outputs = jnp.einsum("bch,cho->bco", jax.nn.relu(units), head["weights"]) + head["bias"][None]
    found = jnp.zeros(values.shape)
    if len(self.numbers):
      logs, means, stds = self._mixture(outputs[:, self.numbers])
      inside = self.bounded[self.numbers] & (ends == "known")
      found = found.at[:, self.numbers].set(-_log_density(logs, means, stds, values[:, self.numbers], inside))
    if len(self.coded):
      logs = jax.nn.log_softmax(self._logits(outputs[:, self.coded], self.codes[self.coded]))
      chosen = values[:, self.coded, None].astype(jnp.int32)
      found = found.at[:, self.coded].set(-jnp.take_along_axis(logs, chosen, axis=2)[..., 0])
    return found

  def _logits(self, outputs, codes):
    """Of the codes that a column has [..., outputs], of others none; `codes` [...] how many."""
    beyond = jnp.arange(self.outputs).reshape((1,) * (outputs.ndim - 1) + (-1,)) >= jnp.asarray(codes).reshape(
      (1,) * (outputs.ndim - 1 - jnp.ndim(codes)) + jnp.shape(codes) + (1,)
    )
    return jnp.where(beyond, -1e30, outputs)

  def _mixture(self, outputs):
    """Log shares, means and standard deviations [..., K]."""
    K = self.num_components
    logits, means, logs = outputs[..., :K], outputs[..., K : 2 * K], outputs[..., 2 * K : 3 * K]
    return jax.nn.log_softmax(logits), means, _LEAST_STD + jnp.exp(jnp.minimum(logs, 5.0))

  def draw(self, key: Array, params: WindowModel, num: int, length: int, ends: str) -> Array:
    """[num, length, C]: a scan over rows, all series side by side, and in it one over columns: one program for them all."""
    num_columns, tries = len(self.columns), NUM_REDRAWS if ends == "redraw" else 1
    flat = self.masked(params.weights).reshape(self.inputs, -1)
    past, own = flat[: self.current], flat[self.current :]
    normal_key, uniform_key = jax.random.split(key)
    shape = num, length, num_columns, tries
    noise = normal(normal_key, shape)
    chance = uniform(uniform_key, math.prod(shape) * 2).reshape(*shape, 2)
    product = matmul if self.linear else jnp.matmul
    places = jnp.asarray(self.places)
    about = places, jnp.asarray(self.begins)[places], jnp.asarray(self.codes)[places], jnp.asarray(self.bounded)[places]

    def column(units, given):
      (c, begin, codes, bounded), e, u = given
      at = lambda tree: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, c, keepdims=False), tree)
      unit = jax.lax.dynamic_index_in_dim(units, c, axis=1, keepdims=False)
      value = self._value(unit, at(params.head), e, u, codes, bounded, ends)
      code = jnp.where(codes > 0, value, 0.0).astype(jnp.int32)
      added = jnp.where(codes > 0, 1.0, value)[:, None] * own[begin + code]
      return units + added.reshape(units.shape), value

    def step(before, given):
      units = product(before.reshape(num, -1), past).reshape(num, num_columns, -1) + params.bias[None]
      drawn = jax.lax.scan(column, units, (about, *given))[1]
      row = drawn[np.argsort(self.places)].T
      if self.window:
        before = jnp.concatenate([before[:, 1:], self.features(row)[:, None]], axis=1)
      return before, row

    order = np.array(self.places)
    given = noise.transpose(1, 2, 0, 3)[:, order], chance.transpose(1, 2, 0, 3, 4)[:, order]
    empty = jnp.zeros((num, self.window, self.width))
    return jax.lax.scan(step, empty, given)[1].transpose(1, 0, 2)

  def _value(self, units, head, e, u, codes, bounded, ends) -> Array:
    """[num] of a column, given its hidden units [num, H], its head, normal [num, tries] and uniform numbers [num, tries, 2]."""
    if self.linear:
      return jnp.where(bounded, _inside(units + head["std"] * e, ends), units[:, 0] + head["std"] * e[:, 0])
    outputs = jnp.matmul(jax.nn.relu(units), head["weights"]) + head["bias"][None]
    number, code = jnp.zeros(len(units)), jnp.zeros(len(units))
    if len(self.coded):
      chances = jnp.cumsum(jax.nn.softmax(self._logits(outputs, jnp.maximum(codes, 1))), axis=1)
      code = jnp.minimum(jnp.sum(chances < u[:, 0, :1], axis=1), codes - 1).astype(float)
    if len(self.numbers):
      logs, means, stds = self._mixture(outputs)
      known = bounded & (ends == "known")
      logs = jax.nn.log_softmax(jnp.where(known, logs + _log_inside(means, stds), logs))
      which = jnp.sum(jnp.cumsum(jnp.exp(logs), axis=1)[:, None] < u[..., :1], axis=-1)  # [num, tries]
      which = jnp.minimum(which, self.num_components - 1)
      mean, std = (jnp.take_along_axis(each, which, axis=1) for each in (means, stds))
      free = mean + std * e
      held = _between(mean[:, 0], std[:, 0], u[:, 0, 1]) if ends == "known" else _inside(free, ends)
      number = jnp.where(bounded, held, free[:, 0])
    return jnp.where(codes > 0, code, number)


def _inside(values: Array, ends: str) -> Array:
  """[num] of tries [num, tries]: the first that lies in [0, 1], else 0; one that is moved there; or as it is."""
  if ends in ("ignore", "known"):
    return values[:, 0]
  if ends == "clip":
    return jnp.clip(values[:, 0], 0, 1)
  fits = (values >= 0) & (values <= 1)
  first = jnp.take_along_axis(values, jnp.argmax(fits, axis=1)[:, None], axis=1)[:, 0]
  return jnp.where(jnp.any(fits, axis=1), first, 0.0)


def _log_inside(mean: Array, std: Array) -> Array:
  """log P(0 < x < 1), from the nearer tail; below 1e-10 it is taken for that."""
  far = jnp.where(mean < 0.5, mean, 1 - mean)  # of the end that is nearer, negative where the mean is outside
  return jnp.log(jnp.maximum(ndtr(far / std) - ndtr((far - 1) / std), 1e-10))


def _between(mean: Array, std: Array, u: Array) -> Array:
  """A normal law within [0, 1] by its quantiles, from the nearer tail."""
  mirrored = mean >= 0.5
  far = jnp.where(mirrored, 1 - mean, mean)
  low, high = ndtr((far - 1) / std), ndtr(far / std)
  z = ndtri(jnp.maximum(low + u * (high - low), 1e-37))
  away = far - std * z  # from the nearer end
  return jnp.clip(jnp.where(mirrored, 1 - away, away), 0.0, 1.0)


def _log_density(logs, means, stds, values, inside) -> Array:
  """[B, C] of values [B, C] under mixtures [B, C, K]; where `inside` [C], under what of them lies within [0, 1]."""
  each = logs - 0.5 * ((values[..., None] - means) / stds) ** 2 - jnp.log(stds) - 0.5 * math.log(2 * math.pi)
  found = jax.nn.logsumexp(each, axis=-1)
  if not np.any(inside):
    return found
  mass = jax.nn.logsumexp(logs + _log_inside(means, stds), axis=-1)
  return found - jnp.where(jnp.asarray(inside)[None], mass, 0.0)


def _relations(layout, rows, num_lags, used=None) -> tuple[Array, Array]:
  """Autocorrelations [num_lags, F] and correlations [F, F] of the features of series [n, length, C]; `used` [n] or None: all."""
  features = layout.features(rows)
  each = None if used is None else jnp.repeat(used, rows.shape[1])
  return (
    metrics.autocorrelation(features, num_lags, used),
    metrics.column_correlation(features.reshape(-1, layout.width), each),
  )


def _rounded(key, rows, columns, sized, rounding) -> Array:
  """Sizes as whole numbers of at least 1."""
  up = uniform(key, rows.shape[0] * rows.shape[1] * len(sized)).reshape(*rows.shape[:2], len(sized))
  for i, c in enumerate(sized):
    scale = columns[c].log_scale
    size = jnp.exp(scale * rows[..., c])
    shift: Any = {"truncate": 0.0, "nearest": 0.5, "random": up[..., i]}[rounding]
    rows = rows.at[..., c].set(jnp.log(jnp.maximum(jnp.floor(size + shift), 1.0)) / scale)
  return rows


def _metrics(source, linear, window, bounded, sized) -> dict[str, MetricInfo]:
  found = {"test_nll": MetricInfo("cross entropy of the truth under the model", "nats per row", worse="higher")}
  if source.log_density is not None:
    found["excess_nll"] = MetricInfo("test NLL less that of the truth", "nats per row", worse="higher", measures="risk")
  if linear:
    for k in range(1, min(window, 2) + 1):
      found[f"lag{k}_coefficient"] = MetricInfo(f"coefficient of the first column, {k} row{'s' * (k > 1)} before")
    found["residual_variances"] = MetricInfo(
      "residual variance", "data units squared", dims=("column",), worse="lower", log_scale=True, measures="variance"
    )
    if len(source.columns) > 1:
      found["cross_coefficient"] = MetricInfo("coefficient of the first column in the second of the same row")
  else:
    found["train_loss"] = MetricInfo("training loss", "nats per value")
  found |= {
    "autocorrelation_error": MetricInfo("error of autocorrelations, mean over lags and columns", worse="higher"),
    "correlation_error": MetricInfo("error of correlations within rows, root mean square", worse="higher"),
    "jensen_shannon": MetricInfo("Jensen-Shannon divergence of columns, common bins", "nats", worse="higher"),
  }
  if source.rules:
    found["rule_pass_rates"] = MetricInfo("rows that keep a rule", dims=("rule",), worse="lower")
    found["rules_passed"] = MetricInfo("rows that keep all rules", worse="lower", measures="hallucination")
  if bounded:
    found["atom_share"] = MetricInfo("values at an end of their range", worse="higher")
  if sized:
    name = source.columns[sized[0]].name
    found["size_ratio"] = MetricInfo(f"mean {name} emitted / real", log_scale=True)
  return found


def _checked(source, num_samples, num_test, window, order, head, num_lags, ends, rounding) -> tuple[int, ...]:
  """Numbers of the columns in the order in which they are drawn."""
  if not isinstance(source, Series):
    raise Refused.must_be("source", "a data.traffic.Series", type(source).__name__)
  check_integer("num_samples", num_samples, 1)
  check_integer("num_test", num_test, 1)
  check_integer("window", window, 0)
  if source.length < 2:
    raise Refused.must_be("source", "series of two rows or more", source.length)
  check_integer("num_lags", num_lags, 1, source.length - 1)
  most = source.max_series
  if most is not None and num_samples + num_test > most:
    raise Refused.must_be("num_samples", f"at most {most - num_test}: {most} series, {num_test} held out", num_samples)
  for name, value, allowed in (("head", head, HEADS), ("ends", ends, ENDS), ("rounding", rounding, (None, *ROUNDINGS))):
    if value not in allowed:
      raise Refused.must_be(name, f"one of {', '.join(map(str, allowed))}", value)
  if rounding is not None and not any(column.log_scale for column in source.columns):
    raise Refused(f"rounding is of sizes, and {source.name} has none.", argument="rounding", value=rounding)
  names = [column.name for column in source.columns]
  coded = [column.name for column in source.columns if column.num_codes]
  if head == "linear" and coded:
    raise Refused(
      f"head='linear' is for columns of numbers, and {', '.join(coded)} are codes: use head='mixture'.",
      argument="head",
      value=head,
      allowed="mixture",
    )
  if order is None:
    return tuple(range(len(names)))
  if sorted(order) != sorted(names):
    raise Refused.must_be("order", f"each of {', '.join(names)} once", order)
  return tuple(names.index(name) for name in order)
