"""Densities in the plane: that rows have the density and the shares that their shape says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax.data import shapes
from collapse_jax.refused import Refused


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_rows_have_their_density(name):
  """Counts in cells are held against the integral of the density; shares of modes against equal ones."""
  shape, num = shapes.get(name), 40_000
  rows = np.asarray(jax.jit(shape.draw, static_argnums=1)(jax.random.key(0), num))
  assert rows.shape == (num, 2) and np.isfinite(rows).all()
  if shape.log_density is not None:
    edge, fine = np.linspace(-9, 9, 19), 12
    at = -9 + (np.arange(18 * fine) + 0.5) / fine
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)
    density = np.exp(np.asarray(jax.lax.map(shape.log_density, jnp.asarray(grid).reshape(18 * fine, -1, 2))))
    expected = density.reshape(18, fine, 18, fine).sum(axis=(1, 3)) / fine**2
    assert expected.sum() == pytest.approx(1, abs=2e-3)
    there = expected * num > 5
    z = [
      ((np.histogram2d(*(scale * rows).T, bins=(edge, edge))[0] - num * expected)[there])
      / np.sqrt(num * expected[there])
      for scale in (1, 1.05)
    ]
    assert np.abs(z[0]).max() < 5 and np.mean(z[0] ** 2) < 1.5
    assert np.abs(z[1]).max() > 5  # rows of another size are seen
  if shape.mode is not None:
    count = np.bincount(np.asarray(shape.mode(jnp.asarray(rows))), minlength=shape.num_modes)
    share = 1 / shape.num_modes
    if name != "moons":  # the two overlap, and the nearest is not always the one that made a row
      assert np.abs(count / num - share).max() < 5 * np.sqrt(share / num)
  if shape.centers is not None:
    apart = rows - shape.centers[np.asarray(shape.mode(jnp.asarray(rows)))]
    assert np.var(apart) == pytest.approx(shape.std**2, rel=5 / np.sqrt(num))


def test_refused():
  with pytest.raises(Refused, match="name must be one of eight_gaussians"):
    shapes.get("moon")
