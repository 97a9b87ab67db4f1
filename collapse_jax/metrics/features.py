"""Metrics of rows as an embedding sees them: how far clusters are apart, how many kinds there are, and MAUVE. JAX."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array

__all__ = ["clusters", "mauve", "separation", "vendi"]

_ROUNDS = 20  # of Lloyd's algorithm
_SCALE, _MIXTURES = 5.0, 25  # of MAUVE, as in the paper and its program


def clusters(features: Array, num: int, weight: Array | None = None) -> Array:
  """Centres [num, d] of k-means, from those rows that are farthest from all before; the same for the same rows.

  Args:
    features: [n, d].
    num: of clusters, a Python int, at most n.
    weight: [n], how often a row counts; None: once.
  """
  weight = jnp.ones(len(features)) if weight is None else weight
  mean = jnp.sum(features * weight[:, None], axis=0) / jnp.maximum(jnp.sum(weight), 1)

  def farthest(far, i):
    """The row that is farthest from all before, and how far each row is then from the nearest."""
    score = jnp.where(i == 0, -_squared(features, mean[None])[:, 0], far)  # the first is the one nearest to the middle
    chosen = features[jnp.argmax(jnp.where(weight > 0, score, -jnp.inf))]
    return jnp.minimum(far, _squared(features, chosen[None])[:, 0]), chosen

  def lloyd(_, centres):
    share = jax.nn.one_hot(_nearest(features, centres), num) * weight[:, None]
    size = jnp.sum(share, axis=0)[:, None]
    return jnp.where(size > 0, _matmul(share.T, features) / jnp.maximum(size, 1e-9), centres)

  start = jax.lax.scan(farthest, jnp.full(len(features), jnp.inf), jnp.arange(num))[1]
  return jax.lax.fori_loop(0, _ROUNDS, lloyd, start)


def separation(features: Array, centres: Array, weight: Array | None = None) -> Array:
  """Variance between over variance within the rows that are nearest to each centre: falls where modes come closer, or are lost.

  Args:
    features: [n, d] of a sample.
    centres: [k, d] of real rows, by `clusters`.
    weight: [n], how often a row counts; None: once.
  """
  weight = jnp.ones(len(features)) if weight is None else weight
  share = jax.nn.one_hot(_nearest(features, centres), len(centres)) * weight[:, None] / jnp.maximum(jnp.sum(weight), 1)
  size = jnp.sum(share, axis=0)
  means = _matmul(share.T, features) / jnp.maximum(size, 1e-9)[:, None]
  middle = jnp.sum(size[:, None] * means, axis=0)
  between = jnp.sum(size * jnp.sum((means - middle[None]) ** 2, axis=1))
  within = jnp.sum(share * _squared(features, means))
  real = jnp.mean(jnp.sum((centres - jnp.mean(centres, axis=0, keepdims=True)) ** 2, axis=1))
  return between / (within + 1e-6 * real + 1e-30)  # copies of one row have neither


def vendi(features: Array, weight: Array | None = None) -> Array:
  """Effective number of kinds: exp of the entropy of the eigenvalues of cosine similarities over n (Friedman and Dieng 2210.02410).

  Args:
    features: [n, d].
    weight: [n], how often a row counts; None: once.
  Returns:
    [], from 1 (all alike) to n (none has anything to do with another).
  """
  weight = jnp.ones(len(features)) if weight is None else weight
  root = jnp.sqrt(weight / jnp.maximum(jnp.sum(weight), 1e-9))
  x = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-20) * root[:, None]
  gram = _matmul(x.T, x) if x.shape[1] < x.shape[0] else _matmul(x, x.T)
  p = jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0)
  p = p / jnp.maximum(jnp.sum(p), 1e-20)
  return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))


def mauve(real: Array, sample: Array, weight: Array | None = None, num_clusters: int | None = None) -> Array:
  """Area under the curve of divergences of both from their mixtures, of shares of clusters (Pillutla et al. 2102.01454).

  The clusters are k-means of both together; scaling 5 and 25 mixtures as in the paper. From 0 (nothing in common) to 1.

  Args:
    real: [n, d].
    sample: [m, d].
    weight: [m], how often a row of the sample counts; None: once.
    num_clusters: None: a tenth of n + m, from 2 to 500.
  """
  num = num_clusters or min(max((len(real) + len(sample)) // 10, 2), 500)
  weight = jnp.ones(len(sample)) if weight is None else weight
  both, counts = jnp.concatenate([real, sample]), jnp.concatenate([jnp.ones(len(real)), weight])
  centres = clusters(both, num, counts)
  shares = lambda rows, counts: (
    jnp.sum(jax.nn.one_hot(_nearest(rows, centres), num) * counts[:, None], axis=0) / jnp.maximum(jnp.sum(counts), 1e-9)
  )
  return _area(shares(real, jnp.ones(len(real))), shares(sample, weight))


def _area(p: Array, q: Array) -> Array:
  """Under the curve (exp(-c KL(q|r)), exp(-c KL(p|r))) of mixtures r = w p + (1 - w) q, with its ends (1, 0) and (0, 1)."""
  w = jnp.linspace(1e-6, 1 - 1e-6, _MIXTURES)[:, None]
  r = w * p[None] + (1 - w) * q[None]
  divergence = lambda a: jnp.sum(
    jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0) / jnp.maximum(r, 1e-30)), 0.0), axis=1
  )
  x = jnp.concatenate([jnp.ones(1), jnp.exp(-_SCALE * divergence(q[None])), jnp.zeros(1)])
  y = jnp.concatenate([jnp.zeros(1), jnp.exp(-_SCALE * divergence(p[None])), jnp.ones(1)])
  along = lambda x, y: jnp.abs(jnp.sum(0.5 * (y[1:] + y[:-1]) * jnp.diff(x)))
  ascending, descending = jnp.argsort(x, stable=True), jnp.argsort(y, stable=True)
  return 0.5 * (along(x[ascending], y[ascending]) + along(y[descending], x[descending]))


def _squared(rows, centres):
  """Squared distances [n, k]."""
  cross = _matmul(rows, centres.T)
  return jnp.maximum(jnp.sum(rows**2, axis=1)[:, None] - 2 * cross + jnp.sum(centres**2, axis=1)[None], 0.0)


def _nearest(rows, centres):
  return jnp.argmin(_squared(rows, centres), axis=1)


def _matmul(a, b):
  return jnp.matmul(a, b, precision="highest")
