"""Where real data come from: files that people bring, bundled sets, images (none imports JAX), generators."""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.data import generators as generators
  from collapse_jax.data import images as images
  from collapse_jax.data import real_data as real_data
  from collapse_jax.data import tables as tables

_HOME = dict.fromkeys(["generators", "images", "real_data", "tables"], "")

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
