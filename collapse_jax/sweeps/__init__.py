"""A grid of hyperparameters x seeds, and what a sweep needs: programs, chunks, checkpoints, devices.

Imports on first use: files and processes are looked after before JAX is imported.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.sweeps.scheduler import Plan as Plan
  from collapse_jax.sweeps.scheduler import load as load
  from collapse_jax.sweeps.scheduler import plan as plan
  from collapse_jax.sweeps.scheduler import sweep as sweep

_HOME = dict.fromkeys(["Plan", "load", "plan", "sweep"], "scheduler")

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
