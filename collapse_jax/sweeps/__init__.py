"""A grid of hyperparameters x seeds, and what a sweep needs: programs, chunks, checkpoints, devices.

Imports on first use: files and processes are looked after before JAX is imported.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.sweeps.job import Failed as Failed
  from collapse_jax.sweeps.job import Stop as Stop
  from collapse_jax.sweeps.loading import load as load
  from collapse_jax.sweeps.planning import Plan as Plan
  from collapse_jax.sweeps.planning import plan as plan
  from collapse_jax.sweeps.scheduler import sweep as sweep
  from collapse_jax.sweeps.steps_driver import memory_per_device as memory_per_device

_HOME = {
  "Failed": "job",
  "Plan": "planning",
  "Stop": "job",
  "load": "loading",
  "memory_per_device": "steps_driver",
  "plan": "planning",
  "sweep": "scheduler",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
