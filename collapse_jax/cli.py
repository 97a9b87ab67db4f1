"""`collapse run NAME` starts the experiment NAME; `python -m collapse_jax` is the same. Imports no JAX."""

import importlib.util
import pkgutil
import runpy
import sys
from pathlib import Path

__all__ = ["main"]

_NOT_RUN = {"common", "directory", "language_flags", "streams", "watching"}  # what experiments share


def _package() -> str:
  """Where the experiments are: in this package once it is installed, beside it in a checkout."""
  inside = f"{__package__}.experiments"
  if importlib.util.find_spec(inside) is not None:
    return inside
  sys.path.insert(0, str(Path(__file__).parent.parent))
  return "experiments"


def main() -> None:
  """The command line."""
  package = _package()
  names = sorted(
    one.name for one in pkgutil.iter_modules(importlib.import_module(package).__path__) if one.name not in _NOT_RUN
  )
  command, name = [*sys.argv[1:3], "", ""][:2]
  if command in ("-h", "--help", "help"):
    print(f"collapse run NAME --FLAG=VALUE ...\n\nNAME: {', '.join(names)}\ncollapse run NAME --help lists the flags.")
  elif command != "run":
    sys.exit(_refuse(f"the first word must be run, got {command!r}."))
  elif name not in names:
    sys.exit(_refuse(f"run must be followed by one of {', '.join(names)}, got {name!r}."))
  else:
    sys.argv = [name, *sys.argv[3:]]
    runpy.run_module(f"{package}.{name}", run_name="__main__", alter_sys=True)


def _refuse(reason: str) -> int:
  print(f"error: {reason}", file=sys.stderr)
  return 2
