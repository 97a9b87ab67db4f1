"""A laboratory for model collapse: self-consuming training loops as pure, vectorised JAX functions."""

from collapse_jax import tasks as tasks
from collapse_jax import transforms as transforms
from collapse_jax import workflows as workflows
from collapse_jax.definitions import diagnose as diagnose
from collapse_jax.generation import advance as advance
from collapse_jax.generation import run as run
from collapse_jax.generation import start as start
from collapse_jax.sweep import load as load
from collapse_jax.sweep import sweep as sweep
from collapse_jax.types import Data as Data
from collapse_jax.types import TaskSetting as TaskSetting
from collapse_jax.types import Workflow as Workflow

__version__ = "0.1.0"
