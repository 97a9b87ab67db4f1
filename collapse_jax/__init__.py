"""A laboratory for model collapse: self-consuming training loops as pure, vectorised JAX functions."""

import importlib.metadata
from typing import TYPE_CHECKING

from collapse_jax import forks as forks
from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax import data as data
  from collapse_jax import decisions as decisions
  from collapse_jax import diagnostics as diagnostics
  from collapse_jax import lm as lm
  from collapse_jax import metrics as metrics
  from collapse_jax import pipelines as pipelines
  from collapse_jax import plotting as plotting
  from collapse_jax import report as report
  from collapse_jax import store as store
  from collapse_jax import tasks as tasks
  from collapse_jax import testing as testing
  from collapse_jax import theory as theory
  from collapse_jax import training as training
  from collapse_jax import transforms as transforms
  from collapse_jax import workflows as workflows
  from collapse_jax._citation import citation as citation
  from collapse_jax.diagnostics.definitions import diagnose as diagnose
  from collapse_jax.generation import advance as advance
  from collapse_jax.generation import run as run
  from collapse_jax.generation import start as start
  from collapse_jax.pipelines import loop as loop
  from collapse_jax.refused import Refused as Refused
  from collapse_jax.sweeps import load as load
  from collapse_jax.sweeps import sweep as sweep
  from collapse_jax.transforms import rewards as rewards
  from collapse_jax.transforms import verifiers as verifiers
  from collapse_jax.types import Context as Context
  from collapse_jax.types import Data as Data
  from collapse_jax.types import Expected as Expected
  from collapse_jax.types import MetricInfo as MetricInfo
  from collapse_jax.types import Run as Run
  from collapse_jax.types import Summary as Summary
  from collapse_jax.types import TaskSetting as TaskSetting
  from collapse_jax.types import Workflow as Workflow

try:
  __version__ = importlib.metadata.version("collapse-jax")  # of tags, by setuptools-scm, when it was built or installed
except importlib.metadata.PackageNotFoundError:  # a copy of the sources that nobody installed
  __version__ = "0+unknown"

# Name -> the module that it is from; of modules themselves their package, "".
_HOME = {
  **dict.fromkeys(["Context", "Data", "Expected", "MetricInfo", "Run", "Summary", "TaskSetting", "Workflow"], "types"),
  **dict.fromkeys(["advance", "run", "start"], "generation"),
  **dict.fromkeys(["load", "sweep"], "sweeps"),
  **dict.fromkeys(["rewards", "verifiers"], "transforms"),
  **dict.fromkeys(
    ["data", "decisions", "diagnostics", "lm", "metrics", "pipelines", "plotting", "report", "store"], ""
  ),
  **dict.fromkeys(["tasks", "testing", "theory", "training", "transforms", "workflows"], ""),
  "Refused": "refused",
  "citation": "_citation",
  "diagnose": "diagnostics",
  "loop": "pipelines",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
