"""Verifiers for `transforms.verify`: functions (key, problem, rows) -> weights [n] (Feng et al. 2406.07515)."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.tasks.parts import check_positive, known, matmul


def oracle():
  """Keeps the rows whose label is right."""
  return lambda key, problem, rows: rows["label"] == rows["truth"]


def noisy(phi=1.0, psi=0.0):
  """Keeps right labels with probability phi and wrong ones with probability psi, independent of the inputs.

  Args:
    phi, psi: in [0, 1]; may be traced.
  Raises:
    ValueError: outside [0, 1].
  """
  for name, value in (("phi", phi), ("psi", psi)):
    if known(value) and not 0 <= value <= 1:
      raise ValueError(f"{name} must be from 0 to 1, got {value}.")

  def keep(key, problem, rows):
    right = rows["label"] == rows["truth"]
    return jax.random.uniform(key, right.shape) < jnp.where(right, phi, psi)
  return keep


def linear(direction):
  """Keeps the rows whose label a linear classifier would give too.

  Args:
    direction: [dim] of that classifier.
  """
  return lambda key, problem, rows: matmul(rows["x"], jnp.asarray(direction, float)) * rows["label"] > 0


def near(centre, radius):
  """Keeps rows [n] or [n, 1] within `radius` of `centre`, both in data units (Yi et al. 2510.16657).

  Raises:
    ValueError: radius not above 0.
  """
  check_positive("radius", radius)
  return lambda key, problem, rows: jnp.abs(rows.reshape(np.shape(rows)[0]) - centre) <= radius
