"""Published systems composed from this package's core: one file a system, with its predictions beside simulations, figure and text."""

from collapse_jax.systems.types import Pair as Pair
from collapse_jax.systems.types import System as System
from collapse_jax.systems.types import pair as pair

__all__ = ["Pair", "System", "pair"]


def __dir__() -> list[str]:
  return __all__
