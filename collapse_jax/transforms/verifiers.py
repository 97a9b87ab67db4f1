"""Verifiers for `transforms.verify`: functions (key, problem, rows) -> weights [n] (Feng et al. 2406.07515)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax.random import uniform
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_positive, known, matmul
from collapse_jax.transforms.parts import require_parts

__all__ = ["linear", "noisy", "oracle", "within"]


def oracle():
  """Keeps the rows whose label is right; rows have the parts "label" and "truth"."""
  return lambda key, problem, rows: _is_right(rows)


def noisy(phi=1.0, psi=0.0):
  """Keeps right labels with probability phi and wrong ones with probability psi, independent of the inputs.

  Rows have the parts "label" and "truth".

  Args:
    phi, psi: in [0, 1]; may be traced.
  Raises:
    ValueError: outside [0, 1].
  """
  for name, value in (("phi", phi), ("psi", psi)):
    if known(value) and not 0 <= value <= 1:
      raise Refused.must_be(name, "from 0 to 1", value)

  def keep(key, problem, rows):
    right = _is_right(rows)
    return uniform(key, len(right)) < jnp.where(right, phi, psi)

  return keep


def linear(direction):
  """Keeps the rows whose label, -1 or 1, a linear classifier would give too; rows have the parts "x" and "label".

  Args:
    direction: [dim] of that classifier.
  Raises:
    ValueError: (while tracing) rows of another dimension, or without these parts.
  """

  def keep(key, problem, rows):
    require_parts(rows, ("x", "label"), "verifiers.linear")
    if np.shape(direction) != rows["x"].shape[1:]:
      raise Refused(
        f"direction must have the shape of a row, {rows['x'].shape[1:]}, got {np.shape(direction)}.",
        argument="direction",
        value=np.shape(direction),
      )
    return matmul(rows["x"], jnp.asarray(direction, float)) * rows["label"] > 0

  return keep


def within(centre, radius):
  """Keeps rows [n] or [n, dim] within `radius` of `centre`, both in data units (Yi et al. 2510.16657).

  Args:
    centre: a number, or [dim].
    radius: above 0.
  Raises:
    ValueError: radius not above 0, or (while tracing) a centre of another dimension than the rows.
  """
  check_positive("radius", radius)

  def keep(key, problem, rows):
    if np.ndim(centre) and np.shape(centre) != rows.shape[1:]:
      raise Refused(
        f"centre must have the shape of a row, {rows.shape[1:]}, got {np.shape(centre)}.",
        argument="centre",
        value=np.shape(centre),
      )
    centre_row = jnp.asarray(centre, float)
    off = (rows - (centre_row[None] if centre_row.ndim else centre_row)).reshape(len(rows), -1)
    return jnp.sum((off / radius) ** 2, axis=1) <= 1  # squares of tiny numbers are 0

  return keep


def _is_right(rows):
  require_parts(rows, ("label", "truth"), "this verifier")
  return rows["label"] == rows["truth"]
