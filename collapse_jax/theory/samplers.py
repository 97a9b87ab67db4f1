"""What samplers of diffusion and flow models do to a Gaussian: with the exact score, infinite data and no error of training
(derived).

The exact score of N(m, s I) is linear, so that every solver maps a Gaussian to a Gaussian: the variance s of a principal direction
to g(s), and a loop of generations to the Gaussian's law with s replaced by g(s). What g(s) / s leaves of 1 is the sampler's own,
of either sign. Data are in the units in which the samplers start: N(0, 1), or N(0, 80^2) of EDM.
"""

from typing import Any, NamedTuple

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count

__all__ = [
  "SAMPLERS",
  "EarlyStopping",
  "PartialFit",
  "StoppedMixture",
  "distinct_rows",
  "early_stopping",
  "early_stopping_mixture",
  "flow_euler_constant",
  "mean_factor",
  "negative_extrapolation",
  "negative_weight",
  "partial_fit",
  "partial_fit_mix",
  "partial_fit_rate",
  "sampler_log_variance",
  "sampler_loop",
  "sampler_times",
  "variance_factor",
]

SAMPLERS = (
  "flow_euler",
  "flow_midpoint",
  "flow_heun",
  "flow_rk4",
  "ddpm_beta",
  "ddpm_posterior",
  "ddim",
  "edm_heun",
  "edm_euler",
)
_TRAINING_STEPS = 1000  # of the schedule that DDIM skips through, and whose betas fewer steps scale
_SIGMA_MIN, _SIGMA_MAX, _RHO = 0.002, 80.0, 7.0  # of EDM (Karras et al. 2206.00364)


def variance_factor(name: str, *, num_steps: int, variance=1.0):
  """g(s) / s: by how much a sampler multiplies the variance that it should emit, exact.

  Flow matching with linear paths integrates x' = m + a (x - t m), a = (t s - (1 - t)) / ((1 - t)^2 + t^2 s), from t = 0; DDPM has
  linear betas from 1e-4 to 0.02 at 1000 steps, times 1000 / num_steps, and no noise in the last step; DDIM takes num_steps of its
  1000 times at equal distances, with the first and the last; EDM has sigma from 80 to 0.002 by rho = 7, and a last step to 0.

  Args:
    name: one of `SAMPLERS`: "flow_euler", "flow_midpoint", "flow_heun", "flow_rk4", "ddpm_beta" and "ddpm_posterior" (variance of
      the noise), "ddim", "edm_heun", "edm_euler".
    num_steps: of the sampler; for "ddim" at most 1000.
    variance: s, a number or an array, above 0.
  Returns:
    of the shape of `variance`.
  Raises:
    Refused: an argument out of range.
  """
  variance = _checked(name, num_steps, variance)
  return _map_of(name, num_steps, variance).variance / variance


def mean_factor(name: str, *, num_steps: int, variance=1.0):
  """The emitted mean over the fitted one, per principal direction, exact: 1 for flow matching, below 1 where sampling starts at
  mean 0 from a time at which the data have not quite vanished.

  Args:
    name: one of `SAMPLERS`.
    num_steps: of the sampler.
    variance: s, a number or an array.
  """
  return 1 - _map_of(name, num_steps, _checked(name, num_steps, variance)).missed


def flow_euler_constant(variance):
  """c(s) of Euler's flow matching: log g(s) - log s = -c(s) / num_steps + O(1 / num_steps^2), c = 1 + pi (1 + s) / (4 sqrt s).

  Args:
    variance: s, a number or an array.
  """
  check("variance", variance, 0, open_least=True)
  root = np.sqrt(np.asarray(variance, float))
  return 1 + np.pi * (1 + root**2) / (4 * root)


def sampler_loop(name: str, *, num_steps: int, variance: float, num_generations: int) -> np.ndarray:
  """Variance that models 1..T emit with infinite data, each fitted to what the last one emitted, [T], data units squared.

  Args:
    name: one of `SAMPLERS`.
    num_steps: of the sampler.
    variance: of the real data.
    num_generations: T.
  """
  check_count("num_generations", num_generations)
  found = [_checked(name, num_steps, variance)]
  for _ in range(num_generations):
    found.append(_map_of(name, num_steps, found[-1]).variance)
  return np.array(found[1:])


def sampler_times(name: str, num_steps: int) -> np.ndarray:
  """[num_steps + 1] where a sampler stops over, from noise to data: times 0 to 1 of "flow", cumulative alphas up to 1 of "ddpm" and
  "ddim", sigmas down to 0 of "edm".

  Args:
    name: one of `SAMPLERS`.
    num_steps: of the sampler.
  """
  _checked(name, num_steps, 1.0)
  num_steps = int(num_steps)
  if name.startswith("flow"):
    return np.arange(num_steps + 1) / num_steps
  if name.startswith("ddpm"):
    return _cumulative(num_steps)[::-1]
  if name == "ddim":
    times = np.round(np.linspace(_TRAINING_STEPS, 1, num_steps)).astype(int)
    return np.append(_cumulative(_TRAINING_STEPS)[times], 1.0)
  grid = np.linspace(_SIGMA_MAX ** (1 / _RHO), _SIGMA_MIN ** (1 / _RHO), num_steps) ** _RHO
  return np.append(grid, 0.0)


def sampler_log_variance(
  name: str, *, num_steps: int, variance: float, num_samples: int, num_generations: int
) -> np.ndarray:
  """E log(s_t / s) of the variance s_t that model t is fitted to have, n rows a generation under `replace`, [T], nats, first order.

  log s_1 = log s + psi((n-1)/2) + log(2/n) on the average, then with log g(s_{t-1}) for log s; the plug-in of the mean log
  drifts by the curvature of log g times the variance of log s_t.

  Args:
    name: one of `SAMPLERS`.
    num_steps: of the sampler.
    variance: s of the real data.
    num_samples: n, fits divide by n.
    num_generations: T.
  """
  from scipy.special import digamma

  check("num_samples", num_samples, 2, open_most=True)
  check_count("num_generations", num_generations)
  start = at = _checked(name, num_steps, variance)
  step = digamma((num_samples - 1) / 2) + np.log(2 / num_samples)
  found = []
  for t in range(num_generations):
    at = (at if t == 0 else _map_of(name, num_steps, at).variance) * np.exp(step)
    found.append(np.log(at / start))
  return np.array(found)


# ---------------------------------------------------------------------------------------------------- scores of rows
class EarlyStopping(NamedTuple):
  """Of `early_stopping`, each [T] or, of the limit, a number."""

  mean: Any
  variance: Any


def early_stopping(
  variance: float,
  *,
  noise_var: float | None = None,
  time: float | None = None,
  real_fraction: float = 0.0,
  num_generations: int | None = None,
  mean: float = 0.0,
) -> EarlyStopping:
  """Mean and variance of models whose exact score is integrated exactly and stopped before the end, exact for any data.

  Generation t is fitted to a share `real_fraction` of real data and the rest from model t-1, the first to real data alone. Stopped
  at noise of variance h^2 ("variance exploding") a generation is a convolution with N(0, h^2): from real shares a > 0 the limit
  has the variance s + h^2 / a, and without it is s + t h^2. Stopped at time d ("variance preserving"), with e = exp(-d), rows are
  e x + noise of variance 1 - e^2, and the mean tends to a e m / (1 - (1 - a) e).

  Args:
    variance: s of the real data.
    noise_var: h^2, of which one is given
    time: or d.
    real_fraction: a, in [0, 1].
    num_generations: T; None: the limit.
    mean: m of the real data.
  Raises:
    Refused: both of noise_var and time, or none; or a number out of range.
  """
  check("variance", variance, 0)
  check("real_fraction", real_fraction, 0, 1)
  if (noise_var is None) == (time is None):
    raise Refused("one of noise_var and time must be given.", argument="noise_var")
  check("noise_var" if time is None else "time", noise_var if time is None else time, 0)
  shrink = 1.0 if time is None else float(np.exp(-time))
  added = float(noise_var) if time is None else float(-np.expm1(-2 * time))  # type: ignore[arg-type]
  a, s, m = real_fraction, variance, mean

  def emitted(share, before_mean, before_variance):
    mixed = share * m + (1 - share) * before_mean
    between = share * (1 - share) * (m - before_mean) ** 2
    spread = share * s + (1 - share) * before_variance + between
    return shrink * mixed, shrink**2 * spread + added

  if num_generations is None:
    kept = (1 - a) * shrink
    last_mean = a * shrink * m / (1 - kept) if kept < 1 else m
    at_zero = emitted(a, last_mean, 0.0)[1]  # affine in the variance, of slope (1 - a) e^2
    gain = kept * shrink
    limit = at_zero / (1 - gain) if gain < 1 else (np.inf if added > 0 else s)
    return EarlyStopping(last_mean, limit)
  check_count("num_generations", num_generations)
  states = [emitted(1.0, m, s)]
  for _ in range(num_generations - 1):
    states.append(emitted(a, *states[-1]))
  return EarlyStopping(*np.array(states).T)


class StoppedMixture(NamedTuple):
  """Of `early_stopping_mixture`, [num_terms] each."""

  share: np.ndarray
  noise_var: np.ndarray


def early_stopping_mixture(noise_var: float, real_fraction: float, num_terms: int) -> StoppedMixture:
  """The limit of stopping at noise h beside real data: sum_k a (1-a)^k data * N(0, (k+1) h^2), ever smoother copies (2606.13796).

  Args:
    noise_var: h^2.
    real_fraction: a, in (0, 1].
    num_terms: of the sum; what is left of the shares is added to the last.
  """
  check("noise_var", noise_var, 0)
  check("real_fraction", real_fraction, 0, 1, open_least=True)
  check_count("num_terms", num_terms)
  k = np.arange(num_terms)
  share = real_fraction * (1 - real_fraction) ** k
  share[-1] = (1 - real_fraction) ** (num_terms - 1)
  return StoppedMixture(share, (k + 1) * float(noise_var))


def distinct_rows(num_samples: int, num_generations: int) -> np.ndarray:
  """Distinct real rows left among those that memorising model t emits under `replace`, [T]: n (1 - q_t), q_{t+1} = exp(q_t - 1),
  q_0 = 0.

  A model of the empirical score that is integrated to the end resamples its training rows; first order in 1/n.
  """
  check("num_samples", num_samples, 1, open_most=True)
  check_count("num_generations", num_generations)
  lost, found = 0.0, []
  for _ in range(num_generations):
    lost = np.exp(lost - 1)
    found.append(num_samples * (1 - lost))
  return np.array(found)


# ---------------------------------------------------------------------------------------------------- budgets
class PartialFit(NamedTuple):
  """Of `partial_fit`, each [T] in units of the truth's variance."""

  variance: np.ndarray
  mean_error: np.ndarray


def partial_fit(num_samples: int, rate: float, num_generations: int) -> PartialFit:
  """A Gaussian under `replace` whose fit moves by a share rho of the way: theta_t = (1 - rho) theta_{t-1} + rho (estimate), exact.

  Model 1 is fitted whole. E s_t = s_1 (1 - rho/n)^(t-1) and the mean errs by 1/n + (rho^2/n) sum_{j<t} s_j: a small budget slows
  the loss of variance by rho and the drift of the mean by rho^2.

  Args:
    num_samples: n.
    rate: rho, in [0, 1], see `partial_fit_rate`.
    num_generations: T.
  """
  check("num_samples", num_samples, 2, open_most=True)
  check("rate", rate, 0, 1)
  check_count("num_generations", num_generations)
  t = np.arange(num_generations)
  variance = (1 - 1 / num_samples) * (1 - rate / num_samples) ** t
  earlier = np.append(0.0, np.cumsum(variance[:-1]))
  return PartialFit(variance, 1 / num_samples + rate**2 / num_samples * earlier)


def partial_fit_mix(num_samples: int, rate: float, real_fraction: float) -> float:
  """Variance of the mean about that of the fixed real rows in the long run, in units of the rows' variance: rho (1-a)^2 / (m a (2 -
  rho a)), where a share a of real rows stays and m rows of the last model are added.

  Args:
    num_samples: m, rows that each model adds.
    rate: rho, in (0, 1].
    real_fraction: a, in (0, 1].
  """
  check("num_samples", num_samples, 1, open_most=True)
  check("rate", rate, 0, 1, open_least=True)
  check("real_fraction", real_fraction, 0, 1, open_least=True)
  a = real_fraction
  return rate * (1 - a) ** 2 / (num_samples * a * (2 - rate * a))


def partial_fit_rate(learning_rates, curvature):
  """rho = 1 - prod_k (1 - eta_k h) of gradient descent along a direction of curvature h.

  Args:
    learning_rates: eta, [steps].
    curvature: h, a number or an array.
  """
  rates = np.atleast_1d(np.asarray(learning_rates, float))
  return 1 - np.prod(1 - np.multiply.outer(np.asarray(curvature, float), rates), axis=-1)


# ---------------------------------------------------------------------------------------------------- going the other way
def negative_extrapolation(temperature, weight, parameter: str = "log_variance"):
  """The model's variance over that of its data, where it goes away from a model of its own samples.

  The sampler multiplies variances by `temperature` l. Extrapolating parameters by w (Neon, 2510.03597) leaves l^-w where they are
  logs of variances, and 1 + w (1 - l) where they are variances; guidance by the difference of scores along the probability-flow ODE
  (SIMS, 2408.16333) leaves l^-w too, which is not what it leaves of precisions.

  Args:
    temperature: l, above 0: a number or an array.
    weight: w.
    parameter: "log_variance" or "variance"; for guidance "log_variance".
  """
  check("temperature", temperature, 0, open_least=True, open_most=True)
  l, w = np.asarray(temperature, float), np.asarray(weight, float)
  if parameter not in ("log_variance", "variance"):
    raise Refused.must_be("parameter", "log_variance or variance", parameter)
  return l**-w if parameter == "log_variance" else 1 + w * (1 - l)


def negative_weight(bias, temperature, parameter: str = "log_variance"):
  """w that undoes a bias: model r has `bias` times the variance of its data, such as 1 - 1/n, and its sampler the temperature l.

  Args:
    bias: above 0: a number or an array.
    temperature: l of what the other model is fitted to, above 0 and not 1.
    parameter: as of `negative_extrapolation`.
  """
  check("bias", bias, 0, open_least=True, open_most=True)
  negative_extrapolation(temperature, 0.0, parameter)
  b, l = np.asarray(bias, float), np.asarray(temperature, float)
  if (l == 1).any():
    raise Refused.must_be("temperature", "other than 1", temperature)
  return np.log(b) / np.log(l) if parameter == "log_variance" else (1 / b - 1) / (1 - l)


# ---------------------------------------------------------------------------------------------------- maps
class _Map(NamedTuple):
  """What all steps together do, each of which is linear in the coordinate: products over a last axis, of the steps."""

  variance: np.ndarray  # g(s)
  missed: np.ndarray  # share of the mean that is not emitted


def _checked(name, num_steps, variance) -> np.ndarray:
  if name not in SAMPLERS:
    raise Refused.must_be("name", f"one of {', '.join(SAMPLERS)}", name)
  check_count("num_steps", num_steps)
  if name == "ddim" and num_steps > _TRAINING_STEPS:
    raise Refused.must_be("num_steps", f"at most {_TRAINING_STEPS} for ddim", num_steps)
  if name.startswith("edm") and num_steps < 2:
    raise Refused.must_be("num_steps", "at least 2 for edm", num_steps)
  check("variance", variance, 0, open_least=True, open_most=True)
  return np.asarray(variance, float)


def _map_of(name, num_steps, s) -> _Map:
  family, _, kind = name.partition("_")
  return {"flow": _flow, "ddpm": _ddpm, "ddim": _ddim, "edm": _edm}[family](kind, int(num_steps), s)


def _flow(kind, num_steps, s) -> _Map:
  h, t = 1 / num_steps, sampler_times("flow_euler", num_steps)[:-1]
  slope = lambda t: (t * s[..., None] - (1 - t)) / ((1 - t) ** 2 + t**2 * s[..., None])
  start = slope(t)
  if kind == "euler":
    rate = start
  elif kind == "midpoint":
    rate = slope(t + h / 2) * (1 + h / 2 * start)
  elif kind == "heun":
    rate = (start + slope(t + h) * (1 + h * start)) / 2
  else:
    second = slope(t + h / 2) * (1 + h / 2 * start)
    third = slope(t + h / 2) * (1 + h / 2 * second)
    rate = (start + 2 * second + 2 * third + slope(t + h) * (1 + h * third)) / 6
  return _Map(np.prod(1 + h * rate, axis=-1) ** 2, np.zeros_like(s))


def _cumulative(num_steps) -> np.ndarray:
  """A_0 = 1 .. A_N of DDPM."""
  betas = np.linspace(1e-4, 0.02, num_steps) * (_TRAINING_STEPS / num_steps)
  if num_steps == 1 or betas.max() >= 1:
    raise Refused.must_be("num_steps", "at least 21 for ddpm, whose betas must be below 1", num_steps)
  return np.cumprod(np.append(1.0, 1 - betas))


def _ddpm(kind, num_steps, s) -> _Map:
  now, later, clean = _cleaned(sampler_times("ddpm_beta", num_steps), s)
  alpha = now / later
  beta = 1 - alpha
  factor = np.sqrt(later) * beta * clean / (1 - now) + np.sqrt(alpha) * (1 - later) / (1 - now)
  noise = beta * (1 - later) / (1 - now) if kind == "posterior" else beta * (later < 1)
  onwards = np.cumprod(factor[..., ::-1], axis=-1)[..., ::-1]  # of this step and all after it
  whole, after = onwards[..., 0], np.append(onwards[..., 1:], np.ones_like(factor[..., :1]), axis=-1)
  return _Map(whole**2 + np.sum(after**2 * noise, axis=-1), np.sqrt(now[0]) * whole)


def _ddim(kind, num_steps, s) -> _Map:
  now, later, clean = _cleaned(sampler_times("ddim", num_steps), s)
  noise = np.sqrt((1 - later) * (1 - now)) / (now * s[..., None] + 1 - now)
  whole = np.prod(np.sqrt(later) * clean + noise, axis=-1)
  return _Map(whole**2, np.sqrt(now[0]) * whole)


def _cleaned(times, s) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Cumulative alphas before and after each step [steps], and what E[x_0 | x_t] makes of x_t [..., steps]."""
  now, later = times[:-1], times[1:]
  return now, later, np.sqrt(now) * s[..., None] / (now * s[..., None] + 1 - now)


def _edm(kind, num_steps, s) -> _Map:
  sigma = sampler_times("edm_heun", num_steps)
  slope, step, ends = sigma / (s[..., None] + sigma**2), np.diff(sigma), sigma[1:] == 0
  factor = 1 + step * slope[..., :-1]
  if kind == "heun":
    corrected = 1 + step / 2 * (slope[..., :-1] + slope[..., 1:] * factor)
    factor = np.where(ends, factor, corrected)
  whole = np.prod(factor, axis=-1)
  return _Map(whole**2 * _SIGMA_MAX**2, whole)
