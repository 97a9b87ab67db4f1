"""Density models of scikit-learn, and of what keeps to its conventions."""

import inspect
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.pipelines.adapters import _parts
from collapse_jax.refused import Refused

__all__ = ["sklearn"]

_ALLOWED = (
  "an estimator with fit and sample, or a Pipeline that ends in one and whose other steps have inverse_transform"
)


class Fitted(NamedTuple):
  """An estimator, and no rows, of the kind that it is fitted to."""

  estimator: Any
  like: kinds.Rows


def sklearn(estimator: Any) -> _parts.Adapter:
  """A pipeline of a density model of scikit-learn, fitted anew each generation.

  Each fit is of a clone, whose `random_state` is the seed of the step. Rows are numbers: a table, a dataset, or
  {name: array [n, ...]}. Where the estimator has densities (`score_samples`), `evaluate` tells "test_nll", nats a row, and
  "variance_ratio", the variance of the sample over that of the test rows; else metrics by kind of data are taken.

  Args:
    estimator: with `fit` and `sample`, such as `KernelDensity` or `GaussianMixture`; or a scikit-learn `Pipeline` whose last step
      is one, and whose other steps have `inverse_transform`. Where its `fit` takes `sample_weight`, rows may count unequally;
      where it does not, see `pipelines.resampled`.
  Raises:
    Refused: it cannot be fitted and sampled.

  >>> from sklearn.mixture import GaussianMixture
  >>> import collapse_jax as cj
  >>> import numpy as np
  >>> pipeline = cj.pipelines.sklearn(GaussianMixture(2))
  >>> model = pipeline.fit({"x": np.arange(10.0), "y": np.ones((10, 2))}, seed=0, workdir=None)
  >>> {name: value.shape for name, value in pipeline.sample(model, 3, seed=1, workdir=None).items()}
  {'x': (3,), 'y': (3, 2)}
  """
  *before, last = _steps(estimator)
  able = all(callable(getattr(last, name, None)) for name in ("fit", "sample", "get_params"))
  if not able or not all(hasattr(step, "inverse_transform") for step in before):
    raise Refused.must_be("estimator", _ALLOWED, type(estimator).__name__)

  def fit(data, *, seed, workdir, previous=None):
    return fit_weighted(data, seed=seed, workdir=workdir)

  def fit_weighted(data, *, seed, workdir, previous=None, weight=None):
    from sklearn.base import clone

    options = {} if weight is None else {"sample_weight": weight}
    fitted = _seeded(clone(estimator), seed).fit(_parts.numbers(data, "sklearn"), **options)
    return Fitted(fitted, kinds.take(data, np.arange(0)))

  def evaluate(model, sample, real_test, *, seed):
    test, drawn = _parts.numbers(real_test, "sklearn"), _parts.numbers(sample, "sklearn")
    ratio = np.sum(np.var(drawn, axis=0)) / np.sum(np.var(test, axis=0))
    return {"test_nll": -float(np.mean(model.estimator.score_samples(test))), "variance_ratio": float(ratio)}

  # Of several steps, densities are those of transformed rows, each generation in other units.
  weighted = not before and _takes(last.fit, "sample_weight")
  dense = not before and hasattr(last, "score_samples")
  return _parts.Adapter(
    fit_weighted if weighted else fit,
    draw,
    lambda role: ("sklearn", estimator),
    type(last).__name__,
    evaluate if dense else None,
  )


def draw(model: Fitted, num, *, seed, workdir) -> kinds.Rows:
  """`sample` of the pipeline."""
  *before, last = _steps(model.estimator)
  found = (
    last.sample(num, random_state=seed) if _takes(last.sample, "random_state") else _seeded(last, seed).sample(num)
  )
  rows = np.asarray(found[0] if isinstance(found, tuple) else found)  # a mixture tells components too
  rows = np.random.default_rng(seed).permutation(rows)  # and has rows in their order
  for step in reversed(before):
    rows = step.inverse_transform(rows)
  return _parts.rows_of_numbers(rows, model.like)


def _takes(function: Any, name: str) -> bool:
  return name in inspect.signature(function).parameters


def _steps(estimator: Any) -> list[Any]:
  """Of a Pipeline, or the estimator alone."""
  steps = getattr(estimator, "steps", None)
  return [estimator] if steps is None else [step for _, step in steps if step not in (None, "passthrough")]


def _seeded(estimator: Any, seed: int) -> Any:
  """The same estimator, which draws by a seed, and so do those inside of it."""
  names = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
  return estimator.set_params(**dict.fromkeys(names, seed))
