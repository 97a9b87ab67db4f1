"""Synthesizers of tables: CTGAN, SDV, synthcity, and functions as SDGym takes them."""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.pipelines.adapters import _parts
from collapse_jax.refused import Refused

__all__ = ["ctgan", "sdgym", "sdv", "synthcity"]

_CTGAN = ("ctgan", "tvae")


class Trained(NamedTuple):
  """A synthesizer, and no rows, of the kind that it is fitted to."""

  synthesizer: Any
  like: kinds.Rows


def ctgan(model: str = "ctgan", *, discrete_columns: Sequence[str] = (), **settings: Any) -> _parts.Adapter:
  """CTGAN or TVAE of the package ctgan (Xu et al. 1907.00503), trained anew each generation. Extra: ctgan.

  Args:
    model: "ctgan" or "tvae".
    discrete_columns: columns of numbers that are categories; columns that hold no numbers always are.
    settings: of the class, such as epochs=100, batch_size=500. PyTorch's device is `enable_gpu`, here False unless given.
  Raises:
    Refused: another model, or the package is not installed.
  """
  if model not in _CTGAN:
    raise Refused.must_be("model", f"one of {', '.join(_CTGAN)}", model)
  _parts.need("ctgan", "ctgan")
  settings = {"enable_gpu": False} | settings

  def train(table, seed):
    import ctgan as package

    others = [name for name in table.columns if table[name].dtype.kind not in "iuf" and name not in discrete_columns]
    synthesizer = getattr(package, model.upper())(**settings)
    synthesizer.set_random_state(seed)
    synthesizer.fit(table, [*discrete_columns, *others])
    return synthesizer

  def draw(synthesizer, num, seed):
    synthesizer.set_random_state(seed)
    return synthesizer.sample(num)

  return _adapter("ctgan", model, train, draw, (model, tuple(discrete_columns), settings))


def sdv(synthesizer: Callable[[Any], Any], metadata: Any = None) -> _parts.Adapter:
  """A single-table synthesizer of SDV, fitted anew each generation. Extra: sdv.

  Args:
    synthesizer: metadata -> synthesizer: a class such as `sdv.single_table.GaussianCopulaSynthesizer`, or a function that also
      sets its options.
    metadata: `sdv.metadata.Metadata`, or as a dict; None: columns of numbers are numerical, of times datetime, of truth values
      boolean, all others categorical, told by their types alone, so that all generations have the same.
  Raises:
    Refused: the package is not installed.
  """
  _parts.need("sdv", "sdv")
  by_name = int(_version("sdv").partition(".")[0] or 1) > 1  # from version 2 on tables are {name: table}, in and out

  def train(table, seed):
    from sdv.metadata import Metadata

    told = _metadata(table) if metadata is None else metadata
    if isinstance(told, Mapping):
      told = Metadata.load_from_dict(dict(told) if "tables" in told else {"tables": {"table": dict(told)}})
    made = synthesizer(told)
    made.fit({next(iter(told.tables)): table} if by_name else table)
    return made

  def draw(made, num, seed):
    made.reset_sampling()
    # Otherwise the first rows of every model are drawn with one seed that SDV has fixed.
    set_state = getattr(made, "_set_random_state", None)
    if set_state is not None and getattr(made, "_model", None) is not None:
      set_state(seed)
    found = made.sample(num_rows=num)
    return next(iter(found.values())) if by_name else found

  told = metadata.to_dict() if hasattr(metadata, "to_dict") else metadata
  return _adapter("sdv", getattr(synthesizer, "__name__", ""), train, draw, (synthesizer, told))


def sdgym(
  train: Callable[[Any, dict], Any], sample: Callable[[Any, int], Any], metadata: Mapping | None = None
) -> _parts.Adapter:
  """The two functions of a custom synthesizer of SDGym, as they are. What they draw of NumPy and PyTorch is drawn by the seed.

  Args:
    train: (data, metadata) -> a trained synthesizer.
    sample: (synthesizer, n_rows) -> DataFrame.
    metadata: handed to `train`; None: {"columns": {name: {"sdtype": ...}}}, as in `sdv`.
  """
  return _adapter(
    "sdgym",
    getattr(train, "__name__", ""),
    lambda table, seed: train(table, _metadata(table) if metadata is None else dict(metadata)),
    lambda synthesizer, num, seed: sample(synthesizer, num),
    (train, sample, metadata),
  )


def synthcity(name: str, *, target_column: str | None = None, **settings: Any) -> _parts.Adapter:
  """A generator of synthcity, fitted anew each generation, where a release is installed that NumPy 2 is enough for.

  Those to 0.2.12 are not: run them in an environment of their own by `command`.

  Args:
    name: of the plugin, such as "bayesian_network", "ddpm", "nflow".
    target_column: handed to `GenericDataLoader`, for plugins that want one.
    settings: of the plugin, such as n_iter=100.
  Raises:
    Refused: the package is not installed.
  """
  _parts.need(
    "synthcity", "", "until 0.2.12 it needs NumPy below 2 and an environment of its own, see docs/adapters.md"
  )

  def train(table, seed):
    plugins = importlib.import_module("synthcity.plugins")
    loaders = importlib.import_module("synthcity.plugins.core.dataloader")
    loader = loaders.GenericDataLoader(table, **({} if target_column is None else {"target_column": target_column}))
    plugin = plugins.Plugins().get(name, **{"random_state": seed} | settings)
    plugin.fit(loader)
    return plugin

  def draw(plugin, num, seed):
    return plugin.generate(count=num, random_state=seed).dataframe()

  return _adapter("synthcity", name, train, draw, (name, target_column, settings))


def _adapter(package: str, model: str, train: Callable, draw: Callable, settings: Any) -> _parts.Adapter:
  """A pipeline.

  Args:
    package: what it is of.
    model: which of its models.
    train: (DataFrame, seed) -> synthesizer.
    draw: (synthesizer, num, seed) -> DataFrame.
    settings: that fix the numbers.
  """

  def fit(data, *, seed, workdir, previous=None):
    import joblib

    # Some start a process for each core for what takes milliseconds.
    with _parts.seeded(seed), joblib.parallel_config(backend="threading"):
      return Trained(train(_parts.as_table(data, package), seed), kinds.take(data, np.arange(0)))

  def sample(model, num, *, seed, workdir):
    with _parts.seeded(seed):
      return _parts.from_table(draw(model.synthesizer, num, seed), model.like)

  return _parts.Adapter(fit, sample, lambda role: (package, _version(package), settings), f"{package} {model}".strip())


def _version(package: str) -> str:
  """Of what is installed; "" of what is not."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ""


def _metadata(table: Any) -> dict[str, Any]:
  """Of a single table, by the types of its columns."""
  kinds_of = {"i": "numerical", "u": "numerical", "f": "numerical", "b": "boolean", "M": "datetime"}
  return {"columns": {name: {"sdtype": kinds_of.get(table[name].dtype.kind, "categorical")} for name in table.columns}}
