"""A grid of hyperparameters x seeds, and what a sweep needs: programs, chunks, checkpoints, devices.

Imports on first use: files and processes are looked after before JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from collapse_jax.sweeps.dataset import load as load
  from collapse_jax.sweeps.job import Stop as Stop
  from collapse_jax.sweeps.planning import Plan as Plan
  from collapse_jax.sweeps.planning import plan as plan
  from collapse_jax.sweeps.scheduler import sweep as sweep
  from collapse_jax.sweeps.steps_driver import memory_per_device as memory_per_device

__all__ = ["Plan", "Stop", "load", "memory_per_device", "plan", "sweep"]

_HOME = {
  "Plan": "planning",
  "Stop": "job",
  "load": "dataset",
  "memory_per_device": "steps_driver",
  "plan": "planning",
  "sweep": "scheduler",
}


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
