"""The modules of experiments/ that commands are made of, wherever that package is. Imports no JAX."""

import importlib
from typing import TYPE_CHECKING

from collapse_jax.cli import package

__all__ = ["common", "compare", "directory", "flag_values", "output"]

if TYPE_CHECKING:
  from experiments import common, compare, directory, flag_values, output
else:
  common, compare, directory, flag_values, output = (
    importlib.import_module(f"{package()}.{name}")
    for name in ("common", "compare", "directory", "flag_values", "output")
  )
