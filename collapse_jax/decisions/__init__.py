"""What to do about it: forecasts, the real share that is enough, the schedule that is best. On results, or on anybody's numbers.

Imports on first use: only `learn_schedule`, and `required_share` of a task that it is to run, need JAX.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.decisions._forecast import forecast as forecast
  from collapse_jax.decisions._reading import read as read
  from collapse_jax.decisions._schedule import LearnedSchedule as LearnedSchedule
  from collapse_jax.decisions._schedule import Search as Search
  from collapse_jax.decisions._schedule import begin_search as begin_search
  from collapse_jax.decisions._schedule import learn_schedule as learn_schedule
  from collapse_jax.decisions._schedule import propose as propose
  from collapse_jax.decisions._schedule import tell as tell
  from collapse_jax.decisions._share import RequiredShare as RequiredShare
  from collapse_jax.decisions._share import required_share as required_share
  from collapse_jax.decisions._share import required_shares as required_shares

_HOME = {
  **dict.fromkeys(["LearnedSchedule", "Search", "begin_search", "learn_schedule", "propose", "tell"], "_schedule"),
  "RequiredShare": "_share",
  "forecast": "_forecast",
  "read": "_reading",
  "required_share": "_share",
  "required_shares": "_share",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
