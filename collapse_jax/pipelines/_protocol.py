"""What a pipeline is. Imports no JAX."""

import inspect
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.refused import Refused

__all__ = ["Pipeline", "check", "name_of", "options", "resampled"]


class Pipeline(Protocol):
  """A generator of the user's own: any object with these methods, of which `evaluate` may be left out; nothing inherits.

  All three depend on their arguments only: what is random is drawn from `seed`, and what a model is made of is returned.

  Data are a pandas DataFrame, {name: array [n, ...]}, a list of dicts, or a `datasets.Dataset`, of the kind that the real rows are.

  It may also have:
  - a keyword `generation` of `fit` and `sample`: 1..T;
  - a keyword `weight` of `fit`: [n] float32, how much each row counts, or None where all count alike. Where rows do not count
    alike (`mix(0.2, real_weight=0.5)`, a verifier that gives weights) a fit without it is refused, unless the pipeline is
    `resampled`;
  - `save(model, folder)` and `load(folder) -> model`; else models are pickled, into `model/model.pkl`;
  - `name`: what results and their report call it; else its class;
  - `identity(role)`: what fixes the numbers of "fit", "sample" or "evaluate", such as a command and the bytes of a script, of which
    a digest is kept: steps that something else made are not used again. Default: the source of the method and of what it calls,
    and the attributes of the object.
  """

  def fit(self, data: kinds.Rows, *, seed: int, workdir: Path, previous: Any = None) -> Any:
    """A model of the data.

    Args:
      data: training rows.
      seed: 31 bits.
      workdir: a folder for what the model is made of, empty, which stays where it is.
      previous: the model of the generation before where runs are warm-started, else None.
    Returns:
      a model: anything but None.
    """
    ...

  def sample(self, model: Any, num: int, *, seed: int, workdir: Path) -> kinds.Rows:
    """Rows that a model writes.

    Args:
      model: what `fit` returned, or an equal object that was loaded.
      num: how many.
      seed: 31 bits, another one than of the fit.
      workdir: a folder for anything on the way, empty, which is removed afterwards.
    Returns:
      as many rows, of the kind and the columns of the real ones.
    """
    ...

  def evaluate(self, model: Any, sample: kinds.Rows, real_test: kinds.Rows, *, seed: int) -> dict[str, float]:
    """Metrics of a model; where a pipeline has none, those of `collapse_jax.metrics.score`.

    Args:
      model: what `fit` returned, or an equal object that was loaded.
      sample: rows that it wrote.
      real_test: real rows that no model is fitted to.
      seed: 31 bits.
    Returns:
      name -> number; the same names in all generations.
    """
    ...


def check(pipeline: Any) -> None:
  """Raises Refused where something is no pipeline."""
  for role in ("fit", "sample"):
    if not callable(getattr(pipeline, role, None)):
      raise Refused(
        f"pipeline must have a method {role}, got {type(pipeline).__name__}.",
        argument="pipeline",
        value=pipeline,
        allowed="an object with fit(data, *, seed, workdir, previous=None) and sample(model, num, *, seed, workdir)",
      )


def options(method: Any, **given: Any) -> dict[str, Any]:
  """Those of some keywords that a method has."""
  names = inspect.signature(method).parameters
  return {name: value for name, value in given.items() if name in names}


def name_of(pipeline: Any) -> str:
  """What people call a pipeline, or a factory of one."""
  told = getattr(pipeline, "name", None)
  return told if isinstance(told, str) else getattr(pipeline, "__name__", type(pipeline).__name__)


class _Resampled:
  """See `resampled`."""

  def __init__(self, pipeline: Any):
    self.pipeline = pipeline

  @property
  def name(self) -> str:
    return name_of(self.pipeline)

  def __getattr__(self, name: str) -> Any:
    if name in ("pipeline", "identity") or name.startswith("__"):
      raise AttributeError(name)
    return getattr(self.pipeline, name)

  def identity(self, role: str) -> Any:
    from collapse_jax.pipelines import _identity

    return ("resampled", _identity.of_role(self.pipeline, role))

  def fit(
    self,
    data: kinds.Rows,
    *,
    seed: int,
    workdir: Path,
    previous: Any = None,
    weight: Any = None,
    generation: int | None = None,
  ) -> Any:
    if weight is not None:
      data = kinds.take(data, _systematic(np.asarray(weight, np.float64), seed))
    more = options(self.pipeline.fit, generation=generation)
    return self.pipeline.fit(data, seed=seed, workdir=workdir, previous=previous, **more)


def resampled(pipeline: Any) -> Any:
  """The pipeline, where rows do not count alike fitted to rows drawn in proportion to their weights.

  As many are drawn as the weights sum to, by systematic sampling: a row of weight 2.3 is there two or three times, and exactly as
  often as it weighs where that is an integer. This adds a little noise to what a weighted fit would give, but no bias.

  Args:
    pipeline: one whose `fit` takes no weights.
  """
  check(pipeline)
  return _Resampled(pipeline)


def _systematic(weight: np.ndarray, seed: int) -> np.ndarray:
  """Indices of rows, in order: ticks of a ruler, at a random place, on the cumulative weights."""
  ends = np.cumsum(weight)
  num = max(1, round(ends[-1]))
  ticks = (np.arange(num) + np.random.default_rng(seed).uniform()) * (ends[-1] / num)
  return np.minimum(np.searchsorted(ends, ticks, side="right"), len(weight) - 1)
