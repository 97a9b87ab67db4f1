"""Temperature: heat death of discrete models (Marchi et al. 2404.02325), sampling bias of Gaussians (MAD, 2307.01850)."""

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count
from collapse_jax.theory.gaussian import Moments

__all__ = [
  "gaussian_temperature",
  "heat_death",
  "heat_death_exponent",
  "heat_death_noise",
  "polya_variance",
  "tempered",
  "tempered_models",
]


def tempered(probability, temperature: float) -> np.ndarray:
  """p^(1/temperature), normalised over the last axis; zeros stay zero. At temperature 0 the likeliest alone, at infinity all
  that are not zero alike."""
  probability = np.asarray(probability, float)
  check("probability", probability, 0, open_most=True)
  check("temperature", temperature, 0)
  largest = probability.max(axis=-1, keepdims=True)
  if not (largest > 0).all():
    raise Refused("probability must be above 0 somewhere.")
  if temperature == 0:
    power = (probability == largest).astype(float)
  else:
    with np.errstate(divide="ignore"):
      power = np.where(probability > 0, np.exp(np.maximum(np.log(probability / largest), -1e300) / temperature), 0.0)
  return power / power.sum(axis=-1, keepdims=True)


def heat_death(
  probability,
  temperature: float,
  num_generations: int,
  *,
  synthetic_share: float = 1.0,
  real=None,
  accumulate: bool = False,
) -> np.ndarray:
  """Law of model t, n -> inf, with samples drawn at a temperature (Marchi et al. 2404.02325; recursions derived).

  Under `replace` p_t = p_1^(1/temperature^(t-1)), normalised. With real data p <- (1 - share) real + share tempered(p), and
  under `accumulate` p <- p + (tempered(p) - p) / (t + 1).

  Args:
    probability: [k] of model 1.
    synthetic_share: of the training data, under `mix`.
    real: [k] of the real data; default `probability`.
    accumulate: all batches of equal size are kept.
  Returns:
    [T, k].
  """
  check("synthetic_share", synthetic_share, 0, 1)
  check_count("num_generations", num_generations)
  p = np.asarray(probability, float)
  real = p if real is None else np.asarray(real, float)
  laws = [p]
  for t in range(1, num_generations):
    emitted = tempered(p, temperature)
    p = p + (emitted - p) / (t + 1) if accumulate else (1 - synthetic_share) * real + synthetic_share * emitted
    laws.append(p)
  return np.array(laws)


def tempered_models(real, temperature: float, shares, score=1.0) -> np.ndarray:
  """Models in the limit of many rows, of any workflow: samples at a temperature, drawn again by a score (derived).

  Args:
    real: [k] probabilities of the real data.
    temperature: samples follow p^(1/temperature).
    shares: [T, T] of batch j in the data of generation t; batch 0 is real.
    score: [k] of at least 0, by which samples are drawn again (Drayson et al. 2502.15654); default none are.
  Returns:
    [T, k].
  """
  shares = np.asarray(shares, float)
  check("shares", shares, 0, 1)
  if shares.ndim != 2 or shares.shape[0] != shares.shape[1]:
    raise Refused(f"shares must be [T, T], got shape {shares.shape}.", argument="shares", value=shares)
  batches, models = [np.asarray(real, float)], []
  for share in shares:
    models.append(sum(weight * batch for weight, batch in zip(share, batches)))
    kept = score * tempered(models[-1], temperature)
    batches.append(kept / kept.sum())
  return np.array(models)


def heat_death_exponent(temperature: float) -> float:
  """Under `accumulate` deviations from uniform go like t^-(1 - 1/temperature): falling above 1, growing below (derived)."""
  check("temperature", temperature, 0, open_least=True)
  return -(1 - 1 / temperature)


def heat_death_noise(num_rows: float, temperature: float, synthetic_share: float) -> float:
  """E|p - 1/2| of two outcomes in the stationary state about uniform, fresh real data, first order (derived).

  Deviations obey d <- (share / temperature) d + noise of variance 1 / (4 N).

  Args:
    num_rows: N, of the whole training data, real and synthetic.
    temperature: above synthetic_share.
  """
  check("num_rows", num_rows, 0, open_least=True)
  check("synthetic_share", synthetic_share, 0, 1)
  check("temperature", temperature, synthetic_share, open_least=True)
  slope = synthetic_share / temperature
  return float(np.sqrt(2 / np.pi) * np.sqrt(0.25 / num_rows) / np.sqrt(1 - slope**2))


def polya_variance(counts, num_generations: int) -> float:
  """Variance of the share of the first of two outcomes in an urn that gains one ball a generation, model T (Polya).

  p (1-p) / (N+1) * T' / (N + T') after T' = T - 1 draws; the limit is that of Beta(counts).

  Args:
    counts: (a, b) balls at the start, N = a + b.
  """
  check("counts", counts, 0, open_most=True)
  check_count("num_generations", num_generations)
  total = counts[0] + counts[1]
  check("sum of counts", total, 0, open_least=True)
  p, drawn = counts[0] / total, num_generations - 1
  return p * (1 - p) / (total + 1) * drawn / (total + drawn)


def gaussian_temperature(
  num_samples: float, temperature: float, num_generations: int, *, real_fraction: float = 0.0
) -> Moments:
  """Moments of Gaussians that are sampled with variance times temperature, exact (derived; MAD 2307.01850).

  Under `replace` the trace is (1 - 1/n)^t temperature^(t-1). With fresh real data each generation (`mix(f, fresh=True)`) its
  limit for n -> inf is f / (1 - (1-f) temperature).

  Args:
    num_samples: n, rows of a batch; with real data, real rows n of n / f.
    temperature: factor of the variance; MAD's sampling bias lambda.
    num_generations: T.
    real_fraction: f; 0: `replace`.
  """
  check("num_samples", num_samples, 2, open_most=True)
  check("temperature", temperature, 0, open_most=True)
  check("real_fraction", real_fraction, 0, 1)
  check_count("num_generations", num_generations)
  num_synthetic = num_samples if real_fraction == 0 else round(num_samples * (1 - real_fraction) / real_fraction)
  share = 0.0 if real_fraction == 0 else num_samples / (num_samples + num_synthetic)
  error, variance = 1 / num_samples, 1 - 1 / num_samples
  found = [(variance, error)]
  for _ in range(num_generations - 1):
    second = share + (1 - share) * (temperature * variance + error)  # about the true mean
    error = share**2 / num_samples + (1 - share) ** 2 * (error + temperature * variance / max(num_synthetic, 1))
    variance = second - error
    found.append((variance, error))
  return Moments(*np.transpose(found))
