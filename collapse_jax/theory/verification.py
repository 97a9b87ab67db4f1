"""Verified synthetic data (Feng et al. 2406.07515; Yi et al. 2510.16657)."""

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count

__all__ = [
  "breakdown_point",
  "generator_direction",
  "kept_error_rate",
  "linear_verifier",
  "linear_verifier_loop",
  "truncation_loop",
  "truncation_rate",
  "verified_accuracy",
]


def kept_error_rate(error: float, phi: float, psi: float) -> float:
  """Share of wrong labels among what a verifier keeps: p psi / (p psi + (1 - p) phi) (Feng et al.).

  Args:
    error: p, share of wrong labels before.
    phi, psi: chance that a right, a wrong label is kept.
  """
  for name, value in (("error", error), ("phi", phi), ("psi", psi)):
    check(name, value, 0, 1)
  kept = error * psi + (1 - error) * phi
  if not np.all(np.asarray(kept) > 0):
    raise Refused("phi and psi must be such that something is kept.")
  return error * psi / kept


def breakdown_point(phi, psi):
  """Error rate up to which less than half of what is kept is wrong: 1 / (1 + psi / phi) (Feng et al.)."""
  phi, psi = np.asarray(phi, float), np.asarray(psi, float)
  check("phi", phi, 0, 1)
  check("psi", psi, 0, 1)
  check("phi + psi", phi + psi, 0, open_least=True)
  return phi / (phi + psi)


def verified_accuracy(separation: float, dim: int, num_kept: float, error: float) -> float:
  """Expected accuracy of the mean of label * x over rows of two Gaussian classes, labels independently wrong (derived).

  The mean is N((1 - 2p) s, (1 + 4 p (1-p) s^2) / n) along the best direction and N(0, I / n) across it, so that the accuracy
  Phi(s cos) is a double integral; to first order Phi(s a / sqrt(a^2 + d/n)), a = (1 - 2p) s.

  Args:
    separation: s, of either class from 0.
    dim: d, at least 2.
    num_kept: n rows.
    error: p, share of wrong labels among them.
  """
  from scipy import stats

  check("separation", separation, 0, open_most=True)
  check_count("dim", dim, 2)
  check("num_kept", num_kept, 1)
  check("error", error, 0, 1)
  if np.isinf(num_kept):
    return float(special.ndtr(separation) if error < 0.5 else special.ndtr(-separation) if error > 0.5 else 0.5)
  nodes, weights = np.polynomial.hermite_e.hermegauss(60)
  spread = np.sqrt((1 + 4 * error * (1 - error) * separation**2) / num_kept)
  along = (1 - 2 * error) * separation + spread * nodes
  across = stats.chi2.ppf((np.arange(400) + 0.5) / 400, dim - 1) / num_kept
  cosine = along[:, None] / np.sqrt(along[:, None] ** 2 + across[None])
  return float(weights / weights.sum() @ stats.norm.cdf(separation * cosine).mean(axis=1))


def linear_verifier(angle_generator: float, angle_verifier: float, angle_between: float) -> tuple[float, float, float]:
  """p, phi and psi of a linear generator and a linear verifier, x ~ N(0, I), by orthant probabilities (derived).

  Three directions give x the same sign with probability 1 - (sum of the three angles) / (2 pi).

  Args:
    angle_generator, angle_verifier: to the truth, radians.
    angle_between: generator and verifier, radians.
  """
  check("angle_generator", angle_generator, 0, np.pi, open_least=True, open_most=True)
  check("angle_verifier", angle_verifier, 0, np.pi)
  check("angle_between", angle_between, 0, np.pi)
  all_agree = 1 - (angle_generator + angle_verifier + angle_between) / (2 * np.pi)
  error = angle_generator / np.pi
  return error, all_agree / (1 - error), (1 - angle_between / np.pi - all_agree) / error


def linear_verifier_loop(
  angle_generator: float, angle_verifier: float, angle_between: float, num_generations: int
) -> tuple[np.ndarray, np.ndarray]:
  """Angles to the verifier and to the truth of models 1..T, each fitted to what the verifier keeps of the last one's labels.

  The mean of label * x over rows on which two unit directions agree is along their sum: each generation halves the angle to
  the verifier, and that to the truth tends to the verifier's own (derived; the linear twin of Yi et al.). n -> inf.

  Args:
    angle_generator, angle_verifier: of model 1 and the verifier to the truth, radians.
    angle_between: of model 1 and the verifier, radians, below pi.
    num_generations: T.
  Returns:
    [T] and [T], radians; those of model 1 are the arguments.
  """
  check("angle_between", angle_between, 0, np.pi, open_most=True)
  check_count("num_generations", num_generations)
  verifier = np.array([np.cos(angle_verifier), np.sin(angle_verifier), 0.0])
  model = generator_direction(angle_generator, angle_verifier, angle_between)
  across = (
    model - (model @ verifier) * verifier
  )  # the model's direction turns within the plane of this and the verifier
  across = across / np.linalg.norm(across) if angle_between > 0 else 0 * across
  to_verifier = angle_between * 0.5 ** np.arange(num_generations)
  x, y, z = np.outer(verifier, np.cos(to_verifier)) + np.outer(across, np.sin(to_verifier))
  return to_verifier, np.arctan2(np.hypot(y, z), x)


def generator_direction(angle_generator: float, angle_verifier: float, angle_between: float) -> np.ndarray:
  """[3] unit vector at these angles to the truth (1, 0, 0) and to the verifier (cos, sin, 0) of angle_verifier.

  Args:
    angle_generator, angle_verifier: to the truth, radians in [0, pi].
    angle_between: of generator and verifier, radians in [0, pi].
  Raises:
    ValueError: no such direction: an angle is larger than the other two together.
  """
  for name, value in (
    ("angle_generator", angle_generator),
    ("angle_verifier", angle_verifier),
    ("angle_between", angle_between),
  ):
    check(name, value, 0, np.pi)
  second = np.cos(angle_between) - np.cos(angle_generator) * np.cos(angle_verifier)
  if np.sin(angle_verifier) > 1e-15:
    second = second / np.sin(angle_verifier)
  elif abs(second) < 1e-12:  # the verifier is the truth, or its opposite
    second = np.sin(angle_generator)
  else:
    second = np.inf
  third = np.sin(angle_generator) ** 2 - second**2
  if third < -1e-12:
    raise Refused("angle_generator, angle_verifier and angle_between are no angles of three directions.")
  return np.array([np.cos(angle_generator), second, np.sqrt(max(third, 0.0))])


def truncation_rate(radius: float) -> float:
  """Factor by which a small error of N(m, 1) contracts where rows within b = `radius` of a centre are kept: the variance of
  the truncated normal, 1 - 2 b phi(b) / (2 Phi(b) - 1) (Yi et al.; derived), as a ratio of chi-squared probabilities."""
  check("radius", radius, 0, open_least=True)
  if radius < 1e-4:
    return float(radius**2 / 3)
  return float(special.gammainc(1.5, radius**2 / 2) / special.gammainc(0.5, radius**2 / 2))


def truncation_loop(mean: float, centre: float, radius: float, num_generations: int) -> np.ndarray:
  """Means [T] of models 1..T of N(m, 1) under that verifier, n -> inf: they tend to the verifier's centre, not the truth.

  Args:
    mean: m of model 1.
    centre: of what the verifier keeps.
    radius: of the same, above 0, in the rows' standard deviations.
    num_generations: T.
  """
  check("radius", radius, 0, open_least=True)
  check("mean", mean)
  check("centre", centre)
  check_count("num_generations", num_generations)
  means = [float(mean)]
  for _ in range(num_generations - 1):
    means.append(means[-1] + _truncated_mean(centre - means[-1], radius))
  return np.array(means)


def _truncated_mean(centre: float, radius: float) -> float:
  """Of N(0, 1) within a radius of a centre, by logs of tails."""
  if np.isinf(radius):
    return 0.0
  low, high = abs(centre) - radius, abs(centre) + radius
  beyond_low, beyond_high = special.log_ndtr(-low), special.log_ndtr(-high)
  shift = (
    np.exp(-0.5 * low**2 - beyond_low)
    / np.sqrt(2 * np.pi)
    * np.expm1(-2 * radius * abs(centre))
    / np.expm1(beyond_high - beyond_low)
  )
  return float(np.copysign(np.clip(shift, low, high), centre))
