"""Between conformers of a molecule [n, atoms, 3]: distances after alignment, coverage and matching. Pure JAX."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from collapse_jax.types import Array

__all__ = ["CoverageMatching", "aligned_rmsd", "coverage_matching"]


class CoverageMatching(NamedTuple):
  """Of GeoDiff (2203.02923), each []; the null is another real sample of the same sizes.

  Attributes:
    recall_coverage: share of real conformers with an emitted one within the threshold.
    recall_matching: mean distance of a real conformer to the nearest emitted one.
    precision_coverage, precision_matching: the same of emitted ones, to the nearest real one.
  """

  recall_coverage: Any
  recall_matching: Any
  precision_coverage: Any
  precision_matching: Any


def aligned_rmsd(real: Array, sample: Array) -> Array:
  """Root mean square distance [n, m] of atoms after the best rotation and shift, units of the positions (Theobald 2005).

  Args:
    real: [n, atoms, 3].
    sample: [m, atoms, 3], atoms in the same order.
  """
  x, y = (one - jnp.mean(one, axis=1, keepdims=True) for one in (real, sample))
  c = jnp.einsum("nai,maj->nmij", x, y, precision="highest")
  xx, xy, xz, yx, yy, yz, zx, zy, zz = (c[..., i, j] for i in range(3) for j in range(3))
  rows = [
    [xx + yy + zz, yz - zy, zx - xz, xy - yx],
    [yz - zy, xx - yy - zz, xy + yx, zx + xz],
    [zx - xz, xy + yx, yy - xx - zz, yz + zy],
    [xy - yx, zx + xz, yz + zy, zz - xx - yy],
  ]
  quaternion = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
  largest = jnp.linalg.eigvalsh(quaternion)[..., -1]
  inner = jnp.sum(x**2, axis=(1, 2))[:, None] + jnp.sum(y**2, axis=(1, 2))[None] - 2 * largest
  return jnp.sqrt(jnp.maximum(inner, 0.0) / x.shape[1])


def coverage_matching(distances: Array, threshold, used: Array | None = None) -> CoverageMatching:
  """Coverage and matching of emitted conformers.

  Args:
    distances: [n real, m emitted], as of `aligned_rmsd`.
    threshold: a distance.
    used: [m] 1 for emitted conformers that count, else 0; None: all.
  """
  counts = jnp.ones(distances.shape[1]) if used is None else used
  nearest = jnp.min(jnp.where(counts[None] > 0, distances, jnp.inf), axis=1)
  to_real = jnp.min(distances, axis=0)
  mean = lambda values: jnp.sum(counts * values) / jnp.maximum(jnp.sum(counts), 1e-30)
  return CoverageMatching(jnp.mean(nearest <= threshold), jnp.mean(nearest), mean(to_real <= threshold), mean(to_real))
