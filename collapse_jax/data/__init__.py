"""Where real data come from: files that people bring, bundled sets, images (none imports JAX), generators, plane densities."""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.data import generators as generators
  from collapse_jax.data import images as images
  from collapse_jax.data import molecules as molecules
  from collapse_jax.data import real_data as real_data
  from collapse_jax.data import shapes as shapes
  from collapse_jax.data import tables as tables
  from collapse_jax.data import traffic as traffic

_HOME = dict.fromkeys(["generators", "images", "molecules", "real_data", "shapes", "tables", "traffic"], "")

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
