"""Loops of linear autoencoders: variational ones with a fixed noise, and probabilistic principal components (derived).

Both model rows as W z + mean + noise of variance sigma^2, with z of latent_dim normal coordinates; what they make of a principal
direction of the training data depends on its variance alone.
"""

from typing import NamedTuple

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count

__all__ = [
  "PpcaMoments",
  "linear_vae",
  "linear_vae_extinction",
  "linear_vae_mix_limit",
  "ppca_divergence",
  "ppca_replace",
]


def linear_vae(
  variances, noise_var: float, latent_dim: int, weights, *, emit: str = "mean", beta: float = 1.0
) -> np.ndarray:
  """Variances W W^T of a linear VAE's decoder in each principal direction, [T, dim], with infinite data under any schedule, exact.

  The optimum with a fixed decoder variance sigma^2 keeps (l - beta sigma^2)_+ of the variance l of the training data, in the
  latent_dim directions where that is largest. Emitting decoder means loses sigma^2 a generation: under `replace` l - t sigma^2,
  under `accumulate` l - sigma^2 H_t, and with a constant real share f the limit is l - sigma^2 / f, each down to 0. Emitting with
  noise loses nothing but once.

  Args:
    variances: [dim] of the real data.
    noise_var: sigma^2, fixed.
    latent_dim: k, at most dim.
    weights: [T, T] share of batch j (0 = real) in the training data of generation t, in row t - 1; rows sum to 1.
    emit: "mean" of the decoder, or with "noise".
    beta: weight of the divergence of a beta-VAE.
  Raises:
    Refused: an argument out of range.
  """
  real = np.asarray(variances, float)
  _check_model(real, latent_dim)
  check("noise_var", noise_var, 0)
  check("beta", beta, 0)
  if emit not in ("mean", "noise"):
    raise Refused.must_be("emit", "'mean' or 'noise'", emit)
  weights = np.asarray(weights, float)
  batches, kept = [real], []
  for t in range(len(weights)):
    trained_on = weights[t, : t + 1] @ np.array(batches)
    chosen = np.zeros(len(real), bool)
    chosen[np.argsort(-trained_on, kind="stable")[:latent_dim]] = True
    kept.append(np.where(chosen, np.maximum(trained_on - beta * noise_var, 0.0), 0.0))
    batches.append(kept[-1] + (noise_var if emit == "noise" else 0.0))
  return np.array(kept)


def linear_vae_extinction(variance: float, noise_var: float, workflow: str = "replace") -> float:
  """The generation up to which a direction of that variance lives where decoder means are emitted: the first with nothing left of
  it.

  Args:
    variance: l of the real data.
    noise_var: sigma^2, above 0.
    workflow: "replace", l / sigma^2; or "accumulate", the first t with H_t >= l / sigma^2, about exp(l / sigma^2 - 0.577).
  """
  check("variance", variance, 0)
  check("noise_var", noise_var, 0, open_least=True)
  ratio = variance / noise_var
  if workflow == "replace":
    return float(max(np.ceil(ratio), 1))
  if workflow != "accumulate":
    raise Refused.must_be("workflow", "'replace' or 'accumulate'", workflow)
  if ratio > 15:  # a harmonic number of millions: by its expansion
    return float(np.ceil(np.exp(ratio - np.euler_gamma) - 0.5))
  harmonic, t = 0.0, 0
  while harmonic < ratio or t == 0:
    t += 1
    harmonic += 1 / t
  return float(t)


def linear_vae_mix_limit(variance, noise_var: float, real_fraction: float):
  """What is left in the end where a share f of the data is real in every generation: (l - sigma^2 / f)_+.

  Args:
    variance: l, a number or an array.
    noise_var: sigma^2.
    real_fraction: f, in (0, 1].
  """
  check("real_fraction", real_fraction, 0, 1, open_least=True)
  return np.maximum(np.asarray(variance, float) - noise_var / real_fraction, 0.0)


class PpcaMoments(NamedTuple):
  """Of `ppca_replace`, expectations to first order in 1/n, but for the trace, which is exact.

  Attributes:
    leading: [T, k] fitted variances of the kept directions, largest first.
    noise: [T] fitted variance of all others.
    trace: [T] of the fitted covariance.
  """

  leading: np.ndarray
  noise: np.ndarray
  trace: np.ndarray


def ppca_replace(variances, latent_dim: int, num_samples: float, num_generations: int) -> PpcaMoments:
  """Probabilistic principal components fitted by maximum likelihood again and again under `replace` (model: Tipping and Bishop
  1999).

  The trace follows (1 - 1/n)^t exactly, while the spectrum polarises: a fitted eigenvalue l_i moves by l_i / n times
  -1 + sum_{j != i} l_j / (l_i - l_j), over all eigenvalues of what it is fitted to; the noise is the mean of those that are not
  kept. First order: eigenvalues must be further apart than their own sampling error.

  Args:
    variances: [dim] eigenvalues of the true covariance, those of the kept directions distinct and above the others.
    latent_dim: k, below dim.
    num_samples: n.
    num_generations: T.
  """
  spectrum = np.sort(np.asarray(variances, float))[::-1]
  _check_model(spectrum, latent_dim)
  check("num_samples", num_samples, 2)
  check_count("num_generations", num_generations)
  dim, k = len(spectrum), latent_dim
  if k == dim:
    raise Refused.must_be("latent_dim", f"below the number of variances, {dim}", k)
  trace = spectrum.sum() * np.exp(np.arange(1, num_generations + 1) * np.log1p(-1 / num_samples))
  leading, noise = [], []
  for t in range(num_generations):
    gaps = spectrum[:k, None] - spectrum[None]
    push = np.divide(spectrum[None], gaps, out=np.zeros((k, dim)), where=~np.eye(k, dim, dtype=bool)).sum(axis=1)
    top = spectrum[:k] * (1 + (push - 1) / num_samples)
    rest = (trace[t] - top.sum()) / (dim - k)
    spectrum = np.append(top, np.full(dim - k, rest))
    leading.append(top)
    noise.append(rest)
  return PpcaMoments(np.array(leading), np.array(noise), trace)


def ppca_divergence(variances, latent_dim: int) -> float:
  """KL(truth || model) of the best fit with infinite data, nats: ((d-k) log sigma^2 - sum_{j>k} log l_j) / 2, sigma^2 the mean of
  those.

  A second generation loses nothing more.
  """
  spectrum = np.sort(np.asarray(variances, float))[::-1]
  _check_model(spectrum, latent_dim)
  rest = spectrum[latent_dim:]
  return float(0.5 * np.sum(np.log(rest.mean() / rest))) if len(rest) else 0.0


def _check_model(variances, latent_dim) -> None:
  if variances.ndim != 1 or not len(variances):
    raise Refused.must_be("variances", "one number a direction", f"shape {variances.shape}")
  check("variances", variances, 0, open_least=True, open_most=True)
  check_count("latent_dim", latent_dim)
  if latent_dim > len(variances):
    raise Refused.must_be("latent_dim", f"at most {len(variances)}", latent_dim)
