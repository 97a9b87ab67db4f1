"""A grid of hyperparameters x seeds, and what a sweep needs: programs, chunks, checkpoints, devices.

Imports on first use: files and processes are looked after before JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from collapse_jax.sweeps.scheduler import Plan as Plan
  from collapse_jax.sweeps.scheduler import load as load
  from collapse_jax.sweeps.scheduler import plan as plan
  from collapse_jax.sweeps.scheduler import sweep as sweep

__all__ = ["Plan", "load", "plan", "sweep"]


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.scheduler"), name)
