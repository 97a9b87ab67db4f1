"""Flow matching and diffusion in the loop: with exact scores, in which only rows and the sampler err, or with trained ones.

With the linear score coordinates are independent: the score of N(mean, diag(variances)) is fitted in closed form, and rows are
integrated from noise step by step. `theory.variance_factor` says what each solver makes of a variance.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.data import generators, images, shapes
from collapse_jax.metrics import arrays
from collapse_jax.random import choose, exact_table, normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch, flat
from collapse_jax.tasks import _fields as fields
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks._paths import Combined, combined, couple, integrate, path_of
from collapse_jax.tasks.parts import check_integer, known, matmul, real_rows
from collapse_jax.types import Context, Expected, MetricInfo, Summary, TaskSetting
from collapse_jax.vocabulary import COUPLINGS, STARTS

SCORES = ("linear", "linear_trained", "empirical", "mlp", "patches", "unet")
DECAYS = ("constant", "cosine")
_NEIGHBORS, _DIRECTIONS, _DROPPED = 5, 32, 0.1

METRICS = {
  "covariance_trace_ratio": MetricInfo(
    "fitted variances / those of the truth, mean over coordinates", worse="lower", log_scale=True, measures="variance"
  ),
  "mean_log_variance_ratio": MetricInfo(
    "log of fitted over true variances, mean over coordinates", "nats", worse="lower"
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "variance_ratios": MetricInfo("fitted variance / that of the truth", dims=("coordinate",), log_scale=True),
}
TRAINING_METRICS = {
  "train_loss": MetricInfo("weighted squared error of the field in training", worse=""),
  "num_steps": MetricInfo("steps of the optimiser"),
}
SAMPLE_METRICS = {
  "sliced_wasserstein": MetricInfo(
    "sliced Wasserstein distance, order 1, of model rows to test rows", "data units", worse="higher", log_scale=True
  ),
  "precision": MetricInfo("share of model rows among test rows, 5 neighbours", worse="lower"),
  "recall": MetricInfo("share of test rows among model rows, 5 neighbours", worse="lower"),
  "covariance_trace_ratio": MetricInfo(
    "variance of model rows / that of test rows", worse="lower", log_scale=True, measures="variance"
  ),
}
MODE_METRICS = {
  "mode_shares": MetricInfo("share of model rows whose nearest mode it is", dims=("mode",)),
  "mode_balance": MetricInfo("modes that as even shares would have / modes", worse="lower"),
}
NORMAL_MODE_METRICS = {
  "share_near_modes": MetricInfo("share of model rows within 3 standard deviations of a mode", worse="lower"),
  "within_mode_variance_ratio": MetricInfo("variance of model rows about their modes / the true one", log_scale=True),
}


class Moments(NamedTuple):
  """Weighted count [], mean [dim] and biased variance [dim] of rows."""

  count: Any
  mean: Any
  variance: Any


class Problem(NamedTuple):
  """The truth of a run, and the numbers that may be traced."""

  truth: Any  # of the data set
  test: Any  # [num_test, dim] data units
  center: Any  # [dim] data units
  scale: Any  # [] data units per unit of the network
  amount: Any  # of the budget
  learning_rate: Any
  ema: Any
  guidance: Any
  stop_noise: Any  # per unit of signal


class Rows(NamedTuple):
  """All that an empirical score knows."""

  rows: Any  # [R, dim] in units of the noise
  weight: Any  # [R]


@citing("2310.00429")
def flow(
  data,
  num_samples: int,
  *,
  score: str = "linear",
  solver: str = "flow_euler",
  num_steps: int = 20,
  mean=None,
  coupling: str = "independent",
  budget: str = "steps",
  amount=2000,
  batch_size: int = 256,
  learning_rate=1e-3,
  decay: str = "constant",
  ema=None,
  start: str = "weights",
  stop_noise=0.0,
  guidance=None,
  width: int = 64,
  image_shape: tuple[int, int, int] | None = None,
  num_test: int = 500,
) -> TaskSetting:
  """Flow matching, DDPM, DDIM or EDM, by the family of the solver, on normal coordinates, densities in the plane or your own rows.

  Scores of "linear" and "empirical" are exact, those of "linear_trained" are the same family by gradient steps; metrics of these
  linear ones are of the fitted moments, those of all others of `num_test` rows of the model beside as many test rows.

  Args:
    data: variances [dim] of independent normal coordinates, in the units in which samplers start: N(0, 1), or N(0, 80^2) for EDM;
      a name in `data.shapes.SHAPES`; images, as `data.images.get` returns them; or else what `data.generators.get` takes (names,
      files, arrays [rows, dim]), whose columns are standardised first. Data other than variances are scaled by one number, so that
      coordinates have variance 1 (EDM: 0.25) on average.
    num_samples: rows per batch, at least 2.
    score: "linear" and "linear_trained", of N(mean, diag(variances)), for data that are variances; "empirical", of the training
      rows, which memorises them; or a network: "mlp", "patches" (attention), "unet" (for GPUs).
    solver: one of `theory.SAMPLERS`: "flow_euler", "flow_midpoint", "flow_heun", "flow_rk4", "ddpm_beta", "ddpm_posterior", "ddim",
      "edm_heun", "edm_euler".
    num_steps: of the solver.
    mean: [dim] of the truth where data are variances, default 0.
    coupling: of rows and noise of a batch in flow matching: "independent", "swaps" (near optimal transport, fast) or "exact".
    budget: "steps", "epochs" or "rows" of training a generation.
    amount: of the budget; may be traced, as all numbers below up to guidance.
    batch_size: rows of a step, drawn by weight with replacement.
    learning_rate: of Adam, at first.
    decay: of the learning rate in each generation: "constant", or "cosine", half a wave to 0. Without it minibatches leave a
      noise in the parameters, and a bias where the loss is skew.
    ema: decay of the moving average of the parameters, which samples; None: the parameters themselves.
    start: where the loop hands over the previous model (`warm_start=True` of `run` and `sweep`), training goes on from its
      "weights" or "weights+optimiser", with the moving average, or begins anew, "cold".
    stop_noise: integration ends where noise / signal falls to it, in units of the noise of the network (`theory.early_stopping`).
    guidance: w of classifier-free guidance, (1 + w) f(x, mode) - w f(x): rows are labelled by their nearest mode, and samples are
      drawn with modes of equal shares; for shapes with modes. None: no condition.
    width: of a network.
    image_shape: height, width and channels of a row of "patches" and "unet"; None: those of the images.
    num_test: test rows.
  Raises:
    Refused: an argument out of range, or arguments that do not go together.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.flow([0.25, 1.0], num_samples=50, solver="edm_heun", num_steps=18)
  >>> print(*task.metrics)
  covariance_trace_ratio mean_log_variance_ratio squared_error_of_mean variance_ratios
  >>> task = cj.tasks.flow("moons", 500, score="mlp", solver="flow_midpoint", num_steps=10)
  >>> print(*task.metrics)
  sliced_wasserstein precision recall covariance_trace_ratio mode_shares mode_balance train_loss num_steps
  """
  check_integer("num_samples", num_samples, 2)
  check_integer("num_steps", num_steps, 1)
  theory.sampler_times(solver, num_steps)
  for name, value, allowed in (
    ("score", score, SCORES),
    ("coupling", coupling, COUPLINGS),
    ("start", start, STARTS),
    ("decay", decay, DECAYS),
  ):
    if value not in allowed:
      raise Refused.must_be(name, f"one of {', '.join(allowed)}", value)
  if known(stop_noise) and not (np.isfinite(stop_noise) and stop_noise >= 0):
    raise Refused.must_be("stop_noise", "at least 0", stop_noise)
  source = source_of(data, mean, num_test)
  if mean is not None and source.variances is None:
    raise Refused("mean needs data that are variances.", argument="mean", value=mean)
  if score.startswith("linear") and source.variances is None:
    raise Refused("data must be variances for a linear score.", argument="data", value=data)
  generators.check_size(source.dataset, num_samples)
  if score == "linear":
    return _linear(source, num_samples, solver, num_steps, stop_noise)
  recipe = networks.Recipe(budget, amount, batch_size, learning_rate, start, decay=decay).check()
  check_integer("num_test", num_test, _NEIGHBORS + 1)
  check_integer("width", width, 8)
  if ema is not None and known(ema) and not 0 <= ema < 1:
    raise Refused.must_be("ema", "in [0, 1)", ema)
  if coupling != "independent" and not solver.startswith("flow"):
    raise Refused.must_be("coupling", f"independent for {solver}", coupling)
  if guidance is not None and (source.mode is None or score not in ("mlp", "patches", "unet")):
    raise Refused("guidance needs a network, and data with modes.", argument="guidance", value=guidance)
  numbers = {
    "amount": amount,
    "learning_rate": learning_rate,
    "ema": ema,
    "guidance": guidance,
    "stop_noise": stop_noise,
  }
  path, dim = path_of(solver, num_steps), source.dataset.dim
  if image_shape is None and isinstance(data, images.Images):
    image_shape = (*data.shape, 1)[:3]  # type: ignore[assignment]
  num_modes = 0 if guidance is None else source.num_modes
  model: Any = _model(score, path, dim, num_modes, width, image_shape)

  def problem_of(truth, test, centers):
    center, scale = jnp.zeros(dim), jnp.ones(())
    if source.variances is None:
      center = jnp.mean(test, axis=0)
      scale = jnp.sqrt(jnp.mean((test - center[None]) ** 2)) / path.std
    given = {name: None if value is None else jnp.asarray(value, float) for name, value in numbers.items()}
    return Problem(truth, test, center, scale, **given)

  init, fresh = real_rows(source.dataset, num_samples, num_test, problem_of)

  def modes_of(problem, rows):
    return jax.nn.one_hot(source.mode(rows * problem.scale + problem.center[None]), num_modes)

  def loss_of(problem):
    def loss(params, key, rows):
      noise_key, level_key, drop_key = jax.random.split(key, 3)
      noise = couple(coupling, rows, normal(noise_key, rows.shape))
      level = path.levels(level_key, len(rows))[:, None]
      signal, noise_std = path.place(level)
      condition = None
      if num_modes:
        kept = jax.random.bernoulli(drop_key, 1 - _DROPPED, (len(rows), 1))
        condition = jnp.where(kept, modes_of(problem, rows), 0.0)
      told = model.field(params, condition)(signal * rows + noise_std * noise, level)
      error = (told - path.target(rows, noise, level)) ** 2
      return path.weight(level[:, 0]) * jnp.mean(error, axis=1)

    return loss

  def fit(key, problem, context: Context):
    rows, row_weight = flat(context.data)
    rows = (rows - problem.center[None]) / problem.scale
    if score == "empirical":
      return Rows(rows, row_weight)
    start_key, order_key = jax.random.split(key)
    given = recipe._replace(amount=problem.amount, learning_rate=problem.learning_rate, ema=problem.ema)
    new = model.init(start_key)
    return networks.train(order_key, loss_of(problem), new, rows, row_weight, given, context.previous)

  def field_of(problem, fitted, mode):
    if isinstance(fitted, Combined):
      return combined(fitted, lambda one: field_of(problem, one, mode))
    if score == "empirical":
      return _empirical(path, fitted)
    if mode is None:
      return model.field(fitted.params, None)
    conditional, plain = (model.field(fitted.params, told) for told in (mode, jnp.zeros_like(mode)))
    w = problem.guidance
    return lambda x, level: (1 + w) * conditional(x, level) - w * plain(x, level)

  def emit(key, problem, fitted, num):
    mode_key, noise_key = jax.random.split(key)
    mode = None
    if num_modes:
      mode = jax.nn.one_hot(choose(mode_key, exact_table(np.ones(num_modes)), num), num_modes)
    field = field_of(problem, fitted, mode)
    rows = integrate(noise_key, field, num, dim, solver, num_steps, problem.stop_noise)
    return rows * problem.scale + problem.center[None]

  def sample(key, problem, fitted, context: Context):
    return batch(emit(key, problem, fitted, context.num)), {}

  sample.follows_scores = True  # type: ignore[attr-defined]

  def evaluate(key, problem, fitted):
    first = fitted.models[0] if isinstance(fitted, Combined) else fitted
    told = {}
    if score != "empirical":
      told = {"train_loss": first.train_losses[-1], "num_steps": first.num_items // batch_size}
    if score == "linear_trained":
      return _of_moments(source, first.params["mean"], jnp.exp(first.params["log_variance"])) | told
    sample_key, direction_key = jax.random.split(key)
    rows = emit(sample_key, problem, fitted, num_test)
    return of_rows(direction_key, source, problem.test, rows) | told

  found = METRICS if score == "linear_trained" else source.metrics
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    None,
    fresh,
    metrics=found | ({} if score == "empirical" else TRAINING_METRICS),
  )


# ---------------------------------------------------------------------------------------------------- data
class Source(NamedTuple):
  """Rows in the plane or elsewhere, and what is known of their law."""

  dataset: generators.Dataset
  variances: Any = None  # [dim] where coordinates are normal
  mean: Any = None
  num_modes: int = 1
  mode: Any = None
  centers: Any = None
  std: Any = None

  @property
  def metrics(self):
    found = dict(SAMPLE_METRICS)
    found |= {} if self.mode is None else MODE_METRICS
    return found | ({} if self.centers is None else NORMAL_MODE_METRICS)


def source_of(data, mean, num_test) -> Source:
  """Of what `flow` takes for its data."""
  if isinstance(data, str) and data in shapes.SHAPES:
    shape = shapes.get(data)
    return Source(
      generators.without_truth(data, 2, shape.draw), None, None, shape.num_modes, shape.mode, shape.centers, shape.std
    )
  if isinstance(data, images.Images):
    return Source(generators.of_images(data, num_test))
  pair = isinstance(data, tuple) and len(data) == 2 and np.ndim(data[0]) == 2  # of training and test rows
  if isinstance(data, str | generators.Dataset) or pair or np.ndim(data) == 2:
    return Source(generators.get(data, num_test))
  variances, center = _checked(data, mean)
  dim = len(variances)
  draw = lambda key, num: (
    jnp.asarray(center, float)[None] + jnp.sqrt(jnp.asarray(variances, float))[None] * normal(key, (num, dim))
  )
  return Source(generators.without_truth("normal", dim, draw), variances, center)


def _checked(variances, mean) -> tuple[np.ndarray, np.ndarray]:
  found = np.atleast_1d(np.asarray(variances, float))
  if found.ndim != 1 or not len(found) or not (np.isfinite(found).all() and (found > 0).all()):
    raise Refused.must_be("variances", "numbers above 0", variances)
  center = np.zeros(len(found)) if mean is None else np.asarray(mean, float)
  if center.shape != found.shape or not np.isfinite(center).all():
    raise Refused.must_be("mean", f"{len(found)} numbers", mean)
  return found, center


# ---------------------------------------------------------------------------------------------------- metrics
def _of_moments(source: Source, mean, variance):
  ratios = variance / jnp.asarray(source.variances, float)
  return {
    "covariance_trace_ratio": jnp.mean(ratios),
    "mean_log_variance_ratio": jnp.mean(jnp.log(jnp.maximum(ratios, jnp.finfo(ratios.dtype).tiny))),
    "squared_error_of_mean": jnp.sum((mean - jnp.asarray(source.mean, float)) ** 2),
    "variance_ratios": ratios,
  }


def against(key, test, rows):
  """SAMPLE_METRICS of rows beside test rows; `key` of the directions."""
  near = arrays.precision_recall(test, rows, _NEIGHBORS)
  return {
    "sliced_wasserstein": arrays.sliced_wasserstein(key, test, rows, num_directions=_DIRECTIONS),
    "precision": near.precision,
    "recall": near.recall,
    "covariance_trace_ratio": jnp.sum(jnp.var(rows, axis=0)) / jnp.sum(jnp.var(test, axis=0)),
  }


def of_rows(key, source: Source, test, rows):
  """The same, and metrics of modes where the source has them."""
  found = against(key, test, rows)
  if source.mode is not None:
    mode = source.mode(rows)
    share = jnp.mean(jax.nn.one_hot(mode, source.num_modes), axis=0)
    found |= {"mode_shares": share, "mode_balance": jnp.exp(jnp.sum(jax.scipy.special.entr(share))) / source.num_modes}
  if source.centers is not None:
    squared = jnp.sum((rows - jnp.asarray(source.centers, float)[mode]) ** 2, axis=1) / source.std**2
    found |= {
      "share_near_modes": jnp.mean((squared < 9).astype(float)),
      "within_mode_variance_ratio": jnp.mean(squared) / rows.shape[1],
    }
  return found


# ---------------------------------------------------------------------------------------------------- scores
class _Model(NamedTuple):
  init: Any  # (key) -> parameters
  field: Any  # (parameters, condition [n, k] or None) -> (x [n, dim], level) -> [n, dim]


def _model(score, path, dim, conditions, width, image_shape) -> _Model | None:
  if score == "empirical":
    return None
  if score == "linear_trained":

    def linear(params, condition):
      return lambda x, level: path.linear(params["mean"][None], jnp.exp(params["log_variance"])[None], x, level)

    return _Model(lambda key: {"mean": jnp.zeros(dim), "log_variance": jnp.zeros(dim)}, linear)
  if score == "mlp":
    network = fields.mlp(dim, conditions, width=width)
  else:
    if image_shape is None or len(image_shape) != 3 or np.prod(image_shape) != dim:
      raise Refused.must_be("image_shape", f"height, width and channels of rows of {dim} numbers", image_shape)
    make: Any = {"patches": fields.patches, "unet": fields.unet}[score]
    network = make(tuple(image_shape), conditions, width=width)

  def field(params, condition):
    return functools.partial(path.wrapped, lambda x, told: network.apply(params, x, told, condition))

  return _Model(network.init, field)


def _empirical(path, fitted: Rows):
  """The field of a distribution of rows: E[row | x] by the weights of the posterior."""
  log_weight = jnp.log(jnp.maximum(fitted.weight, 1e-37))

  def field(x, level):
    signal, noise_std = path.place(level)
    squared = jnp.sum((x[:, None] - signal * fitted.rows[None]) ** 2, axis=-1)
    logits = log_weight[None] - 0.5 * squared / jnp.maximum(noise_std, 1e-4) ** 2
    posterior = jnp.where(fitted.weight[None] > 0, jax.nn.softmax(logits, axis=1), 0.0)
    return path.of_clean(matmul(posterior, fitted.rows), x, level)

  return field


# ---------------------------------------------------------------------------------------------------- in closed form
def _linear(source: Source, num_samples, solver, num_steps, stop_noise) -> TaskSetting:
  path, dim, draw = path_of(solver, num_steps), source.dataset.dim, source.dataset.draw
  assert draw is not None

  def fresh(key, problem):
    return batch(draw(key, None, num_samples))

  def init(key):
    problem = {"stop_noise": jnp.asarray(stop_noise, float)}
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight) -> Moments:
    weight = jnp.ones(len(rows)) if row_weight is None else row_weight
    count = jnp.sum(weight)
    share = weight / jnp.maximum(count, 1e-30)
    center = matmul(share, rows)
    return Moments(count, center, matmul(share, (rows - center[None]) ** 2))

  def add(problem, a: Moments, weight_a, b: Moments, weight_b) -> Moments:
    count_a, count_b = weight_a * a.count, weight_b * b.count
    share = count_b / jnp.maximum(count_a + count_b, 1e-30)
    apart = b.mean - a.mean
    variance = a.variance + share * (b.variance - a.variance) + share * (1 - share) * apart**2
    return Moments(count_a + count_b, a.mean + share * apart, variance)

  def field_of(params):
    if isinstance(params, Combined):
      return combined(params, field_of)
    return functools.partial(path.linear, params.mean[None], jnp.maximum(params.variance, 1e-30)[None])

  def evaluate(key, problem, params):
    first = params.models[0] if isinstance(params, Combined) else params
    return _of_moments(source, first.mean, first.variance)

  def sample(key, problem, params, context: Context):
    field = field_of(params)
    return batch(integrate(key, field, context.num, dim, solver, num_steps, problem["stop_noise"])), {}

  sample.follows_scores = True  # type: ignore[attr-defined]

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """To first order in 1 / num_samples, under any schedule: batches have g(variance) for the variance; for a truth about 0."""
    if source.mean.any() or not (known(stop_noise) and stop_noise == 0):
      return {}

    def emitted(s):
      return lambda variance, error, rows: float(
        variance * theory.variance_factor(solver, num_steps=num_steps, variance=max(variance * s, 1e-300))
      )

    ratios = [theory.second_moments(schedule, emitted(s)).variance for s in source.variances]
    return {"covariance_trace_ratio": Expected(np.mean(ratios, axis=0), None, 0)}

  return TaskSetting(
    init,
    lambda key, problem, context: context.data.summary,
    sample,
    evaluate,
    num_samples,
    Summary(of, add),
    fresh,
    metrics=METRICS,
    predict=predict,
  )
