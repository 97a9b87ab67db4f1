"""Published systems composed from this package's core: one file a system, with its predictions beside simulations, figure and text.

Two are sweeps of their own, of language models: `language_model` and `real_data_value`.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.systems import language_model as language_model
  from collapse_jax.systems import real_data_value as real_data_value
  from collapse_jax.systems.types import Pair as Pair
  from collapse_jax.systems.types import System as System
  from collapse_jax.systems.types import pair as pair

_HOME = {"language_model": "", "real_data_value": "", **dict.fromkeys(["Pair", "System", "pair"], "types")}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
