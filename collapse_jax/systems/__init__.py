"""Predictions for the related systems beside simulations by this package, composed from its core: one file a system.

Each `pairs()` simulates with fixed seeds and returns rows of a table, which the tests, the report and the docs share.
"""

from collapse_jax.systems.types import Pair as Pair
from collapse_jax.systems.types import pair as pair
