"""Packages that import on first use, so that files and flags can be checked before JAX is imported."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["attach"]


def attach(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """(`__getattr__`, `__dir__`) of a package.

  Args:
    package: its `__name__`.
    home: what a user needs of it -> the module in it that has it; "": it is a module itself. Other modules can be had by their
      names, and are not shown.
  """

  def get(name: str) -> Any:
    missing = AttributeError(f"module {package!r} has no attribute {name!r}")
    if name.startswith("_"):
      raise missing
    module = f"{package}.{home.get(name) or name}"
    try:
      found = importlib.import_module(module)
    except ModuleNotFoundError as error:
      if error.name != module:
        raise
      raise missing from None
    if home.get(name):
      found = getattr(found, name)
    setattr(sys.modules[package], name, found)
    return found

  return get, lambda: sorted({*home, "__all__", "__doc__", "__file__", "__name__", "__path__"})
