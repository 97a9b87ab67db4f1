"""A laboratory for model collapse: self-consuming training loops as pure, vectorised JAX functions."""

import importlib
from typing import TYPE_CHECKING

from collapse_jax import forks as forks

if TYPE_CHECKING:
  from collapse_jax import tasks as tasks
  from collapse_jax import testing as testing
  from collapse_jax import transforms as transforms
  from collapse_jax import workflows as workflows
  from collapse_jax.diagnostics.definitions import diagnose as diagnose
  from collapse_jax.generation import advance as advance
  from collapse_jax.generation import run as run
  from collapse_jax.generation import start as start
  from collapse_jax.sweeps import load as load
  from collapse_jax.sweeps import sweep as sweep
  from collapse_jax.types import Data as Data
  from collapse_jax.types import TaskSetting as TaskSetting
  from collapse_jax.types import Workflow as Workflow

__version__ = "0.1.0"

_HOME = {
  "diagnose": "diagnostics",
  "rewards": "transforms",
  "verifiers": "transforms",
  "advance": "generation",
  "run": "generation",
  "start": "generation",
  "load": "sweeps",
  "sweep": "sweeps",
  "Data": "types",
  "TaskSetting": "types",
  "Workflow": "types",
}


def __getattr__(name: str):
  """Imports on first use, so that `collapse_jax.data` and `.vocabulary` can check input before JAX is imported."""
  if name in _HOME:
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
  elif name.startswith("_"):
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  else:
    try:
      found = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
      if error.name != f"{__name__}.{name}":
        raise
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
  globals()[name] = found
  return found


def __dir__():
  return sorted({*globals(), *_HOME, "tasks", "transforms", "workflows", "theory", "diagnostics", "plotting", "report", "testing"})
