"""The command `collapse`; `python -m collapse_jax` is the same. Imports no JAX.

A command is a module here with a docstring (its first line, and examples, are its help), `define()`, which makes its flags, and
`main(arguments)`, which takes what is no flag.
"""

import ast
import importlib
import importlib.util
import pkgutil
import runpy
import sys
from pathlib import Path

from collapse_jax.vocabulary import did_you_mean

__all__ = ["COMMANDS", "experiments", "home", "main", "package"]

COMMANDS = (
  "run",
  "loop",
  "score",
  "check",
  "forecast",
  "share",
  "lineage",
  "report",
  "compare",
  "export",
  "completion",
)
_HELP = ("-h", "--help", "help")


def __dir__() -> list[str]:
  return __all__


def main() -> None:
  """The command line."""
  command, *rest = sys.argv[1:] or ["--help"]
  if command in _HELP:
    _say(_overview())
  elif command not in COMMANDS:
    _refuse(f"there is no command {command!r}.{did_you_mean(command, COMMANDS)} collapse --help lists them.")
  elif command == "run":
    _run(rest)
  else:
    sys.argv = [f"collapse {command}", *rest]
    module = importlib.import_module(home(command))
    common = importlib.import_module(f"{package()}.common")
    common.main(module.define, module.main, arguments=True)


def package() -> str:
  """Where the experiments are: in this package once it is installed, beside it in a checkout."""
  home = Path(__file__).parent.parent
  if (home / "experiments").is_dir():
    return "collapse_jax.experiments"
  if str(home.parent) not in sys.path:
    sys.path.insert(0, str(home.parent))
  return "experiments"


def experiments() -> dict[str, str]:
  """Name -> first line of what can be run."""
  found = importlib.import_module(package()).__path__
  modules = {one.name: _tree(f"{package()}.{one.name}") for one in pkgutil.iter_modules(found)}
  return {name: _first_line(tree) for name, tree in sorted(modules.items()) if _is_program(tree)}


def _run(rest: list[str]) -> None:
  known = experiments()
  name, *arguments = rest or ["--help"]
  if name in _HELP:
    _say(f"collapse run NAME --FLAG=VALUE ...; collapse run NAME --help lists its flags.\n\n{_table(known)}")
  elif name not in known:
    _refuse(f"there is no experiment {name!r}.{did_you_mean(name, known)} collapse run lists them.")
  else:
    sys.argv = [name, *arguments]
    runpy.run_module(f"{package()}.{name}", run_name="__main__", alter_sys=True)


def home(command: str) -> str:
  """The module of a command."""
  return f"{package()}.{command}" if command == "compare" else f"{__name__}.{command}"


def _overview() -> str:
  lines = {name: _first_line(_tree(home(name))) for name in COMMANDS if name != "run"}
  run = {"run": "Run one of the experiments; alone it lists them."}
  about = "A laboratory for model collapse. collapse COMMAND --help says what a command takes."
  return f"{about}\n\n{_table(run | lines)}"


def _table(lines: dict[str, str]) -> str:
  width = max(map(len, lines))
  return "\n".join(f"  {name.ljust(width)}  {line}" for name, line in lines.items())


def _tree(module: str) -> ast.Module:
  """A module, read but not run."""
  spec = importlib.util.find_spec(module)
  return ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8"))


def _first_line(tree: ast.Module) -> str:
  return (ast.get_docstring(tree) or "").partition("\n")[0]


def _is_program(tree: ast.Module) -> bool:
  return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


def _say(text: str) -> None:
  importlib.import_module(f"{package()}.streams").prepare()  # whoever reads may have gone, as `head` does
  print(text)


def _refuse(reason: str) -> None:
  print(f"error: {reason}", file=sys.stderr)
  sys.exit(2)
