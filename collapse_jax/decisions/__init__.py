"""What to do about it: forecasts, the real share that is enough, the schedule that is best. On results, or on anybody's numbers.

Imports on first use: only `learn_schedule`, and `required_share` of a task that it is to run, need JAX.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.decisions._forecast import forecast as forecast
  from collapse_jax.decisions._reading import read as read
  from collapse_jax.decisions._share import RequiredShare as RequiredShare
  from collapse_jax.decisions._share import required_share as required_share
  from collapse_jax.decisions._share import required_shares as required_shares

_HOME = {
  "RequiredShare": "_share",
  "forecast": "_forecast",
  "read": "_reading",
  "required_share": "_share",
  "required_shares": "_share",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
