"""What imports what: the table of docs/architecture.md holds, all that is imported is declared, and input is checked before JAX is there."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("collapse_jax", "experiments")


class Import(NamedTuple):
  by: str  # a module
  of: str  # a module, or where that is unknown what is written
  line: int
  late: bool  # in a function, or for types only: nothing is imported when the module is


def sources(*folders):
  """Module -> its source."""
  files = (file for folder in folders for file in (ROOT / folder).rglob("*.py"))
  return {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.read_text() for file in files
  }


@functools.cache
def written(module, text):
  """(home, names taken from it, line, late) of all there are, those by name (import_module) too."""

  def found(node, late):
    if isinstance(node, ast.ImportFrom):
      above = module.split(".")[: -node.level] if node.level else []
      home = ".".join([*above, *([node.module] if node.module else [])])
      yield home, tuple(one.name for one in node.names), node.lineno, late
    elif isinstance(node, ast.Import):
      yield from ((one.name, ("",), node.lineno, late) for one in node.names)
    elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
      name = re.match(r"f?['\"]([\w.]*)", ast.unparse(node.args[0]))
      if name and name[1].startswith(OURS):
        yield name[1].rstrip("."), ("",), node.lineno, late
    typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
      yield from found(child, late or typing or isinstance(node, ast.FunctionDef | ast.Lambda))

  return tuple(found(ast.parse(text), False))


def imports(modules):
  for module, text in modules.items():
    for home, names, line, late in written(module, text):
      for name in names:
        yield Import(module, f"{home}.{name}" if f"{home}.{name}" in modules else home, line, late)


class Room(NamedTuple):
  early: set[str]
  late: set[str]


def rooms(page):
  """The table: room (a prefix of modules) -> the rooms that it may import at once, and late.

  A name in the first column is a file or a folder, in `collapse_jax/` or beside it. The third lists names of the first, without
  endings: "store, types, workflows (late)"; or says "nothing of ours" or "all".
  """

  def clean(name):
    name = re.sub(r"(\.py|/)$", "", name.strip("` ")).replace("/", ".")
    return name if name in OURS else "collapse_jax" if name == "__init__" else f"collapse_jax.{name}"

  table: dict[str, Room] = {}
  text = re.search(r"^\| room \|.*?\n\n", page + "\n\n", re.M | re.S)
  for line in text[0].strip().splitlines()[2:]:
    names, _, allowed = (cell.strip() for cell in line.strip("|").split("|"))
    words = [] if allowed == "nothing of ours" else [one.strip() for one in allowed.split(",")]
    late = {one.removesuffix("(late)").strip() for one in words if one.endswith("(late)")}
    early = {one for one in words if not one.endswith("(late)")}
    for name in names.split(","):
      table[clean(name)] = Room(
        *({"all"} if one == {"all"} else {clean(each) for each in one} for one in (early, late))
      )
  return table


def room_of(module, table):
  """The longest name that it is, or lies in."""
  return max(
    (one for one in table if f"{module}.".startswith(f"{one}.") and one != "collapse_jax"),
    key=len,
    default="collapse_jax",
  )


def violations(modules, table):
  """What the table does not allow, one line each."""
  unknown = {each for room in table.values() for each in room.early | room.late} - set(table) - {"all"}
  yield from (f"no row of the table is {one}" for one in sorted(unknown))
  yield from (f"no module is {one}" for one in table if not any(f"{name}.".startswith(f"{one}.") for name in modules))
  for name in modules:
    if room_of(name, table) == "collapse_jax" and name != "collapse_jax":
      yield f"{name} has no row in the table"
  for one in imports(modules):
    if one.of.split(".")[0] in OURS:
      here, there = room_of(one.by, table), room_of(one.of, table)
      allowed = table[here].early | (table[here].late if one.late else set())
      if here != there and not {there, "all"} & allowed:
        yield f"{one.by}:{one.line}: {here} may not import {there}{'' if one.late else ' at once'}"


def cycle(arrows):
  """A way that comes back to where it began, or None."""
  done: set[str] = set()

  def visit(name, path):
    if name in path:
      return [*path[path.index(name) :], name]
    if name not in done:
      for one in sorted(arrows.get(name, ())):
        if found := visit(one, [*path, name]):
          return found
      done.add(name)
    return None

  return next((found for name in sorted(arrows) if (found := visit(name, []))), None)


def arrows(modules):
  """Module -> modules that it imports at once."""
  found: dict[str, set[str]] = {}
  for one in imports(modules):
    if not one.late and one.of in modules and one.of != one.by:
      found.setdefault(one.by, set()).add(one.of)
  return found


MODULES = sources(*OURS)
TABLE = rooms((ROOT / "docs" / "architecture.md").read_text())


def test_the_table_of_rooms_holds():
  assert len(TABLE) > 15
  assert not (wrong := list(violations(MODULES, TABLE))), "\n".join(wrong)


def test_nothing_imports_in_circles():
  assert cycle(arrows(MODULES)) is None
  assert cycle({name: room.early - {"all", name} for name, room in TABLE.items()}) is None  # rooms neither


@pytest.mark.parametrize(
  ("by", "line", "found"),
  [
    (
      "collapse_jax.theory.schedules",
      "from collapse_jax import tasks",
      "theory may not import collapse_jax.tasks at once",
    ),
    ("collapse_jax.types", "def f():\n  from experiments import common", "types may not import experiments"),
    ("collapse_jax.report", "import collapse_jax.sweeps.scheduler", "report may not import collapse_jax.sweeps"),
    ("collapse_jax.store", "from collapse_jax.generation import run", "store may not import collapse_jax.generation"),
    ("collapse_jax.store", "import_module(f'collapse_jax.tasks.{x}')", "store may not import collapse_jax.tasks"),
    ("collapse_jax.unheard", "", "collapse_jax.unheard has no row"),
  ],
)
def test_planted(by, line, found):
  before = set(violations(MODULES, TABLE))
  after = set(violations(MODULES | {by: f"{MODULES.get(by, '')}\n{line}\n"}, TABLE))
  assert [found in one for one in after - before] == [True], after - before


def test_planted_circles():
  assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
  assert cycle(arrows(MODULES | {"collapse_jax.types": "from collapse_jax import generation"}))


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAND_FOR = {"pil": "pillow", "sklearn": "scikit-learn", "_pytest": "pytest"}  # where nothing of that name is installed


def declared(*extras):
  listed = [*PROJECT["dependencies"], *(one for name in extras for one in PROJECT["optional-dependencies"][name])]
  return {normal(re.match(r"[\w-]+", one)[0]) for one in listed}


def normal(name):
  return re.sub(r"[-_.]+", "-", name).lower()


HOMES = importlib.metadata.packages_distributions()


def undeclared(modules, always, late=frozenset()):
  """Imports of distributions that are in neither; those in `late` may not be imported at once."""
  for one in imports(modules):
    top = one.of.split(".")[0]
    beside = (ROOT / "tests" / f"{top}.py").exists()
    if top in sys.stdlib_module_names or top in (*OURS, "benchmarks", "tests") or beside:
      continue
    names = {normal(name) for name in HOMES.get(top, [STAND_FOR.get(top.lower(), top)])}
    if not names & (always | late if one.late else always):
      yield f"{one.by}:{one.line}: {top}"


def test_what_is_imported_is_declared():
  """Of the package; extras in functions only, which say what is missing where they are. Tests and benchmarks have extras of their own."""
  always = declared()
  extras = declared("data", "hub", "watch", "ctgan", "huggingface", "molecules", "qlora", "sdv", "eval")
  assert not list(undeclared(MODULES, always, extras))
  assert not list(undeclared(sources("tests"), always | declared("test", "data", "hub", "watch"), declared("parity")))
  assert not list(undeclared(sources("benchmarks"), always, declared("parity", "peers", "browser")))
  assert "chex" not in always
  assert list(
    undeclared({"collapse_jax.a": "import chex\ndef f(): import tensorboardX"}, always, declared("watch"))
  ) == ["collapse_jax.a:1: chex"]


def test_modules_that_promise_it_import_no_jax():
  promising = [name for name, text in MODULES.items() if "no JAX" in (ast.get_docstring(ast.parse(text)) or "")]
  assert {"collapse_jax.vocabulary", "collapse_jax.data.files", "collapse_jax.sweeps.chunks"} <= set(promising)
  script = "import importlib, sys\nfor name in sys.argv[1:]:\n  importlib.import_module(name)\n  assert 'jax' not in sys.modules, name"
  done = subprocess.run(
    [sys.executable, "-c", script, *promising], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


def test_no_test_module_imports_another():
  """What they share is in files of its own, so that each can be run, moved and read alone."""
  for one in imports(sources("tests")):
    assert not re.match(r"(tests\.)?(test_\w+|conftest)$", one.of), f"{one.by}:{one.line}: put it into tests/helpers.py"
    assert "importorskip" not in (ROOT / f"{one.by.replace('.', '/')}.py").read_text() or one.by.endswith(
      "test_imports"
    ), f"{one.by}: use helpers.needed, which fails in CI"


READS = """
import sys, pathlib, numpy as np, xarray
from collapse_jax.cli import check, export, forecast, reading, score, share
shape, dims = (2, 4, 8), ("workflow", "seed", "generation")
about = {"long_name": "loss", "units": "1", "worse": "higher", "log_scale": 0, "measures": "risk"}
loss = np.arange(64.0).reshape(shape) + np.random.default_rng(0).normal(size=shape)
xarray.Dataset(
  {"loss": (dims, loss, about), "finite": (dims, np.ones(shape, bool)), "cell_status": ("workflow", ["ok", "ok"])},
  {"workflow": ["mix(0.1)", "mix(0.5)"], "seed": range(4), "generation": range(1, 9)},
).to_netcdf(sys.argv[1], engine="h5netcdf")
found = reading.measured(sys.argv[1])
assert len(check.changes(found, "loss")) == 2
from collapse_jax import decisions
assert len(decisions.required_shares(found, 0.2, "loss")) == 1
print(*sys.modules)
decisions.forecast(found, horizon=10, metric="loss")
print(*sys.modules)
"""


def test_commands_that_read_results_wait_for_no_package_that_they_do_not_use(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", READS, str(tmp_path / "results.nc")], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  read, foretold = (set(line.split()) for line in done.stdout.splitlines())
  slow = {"flax", "matplotlib", "optax", "scipy.stats", "sklearn", "transformers"}
  assert not read & (slow | {"jax"})
  assert not foretold & slow
  assert "jax" in foretold  # whose schedules are read of a workflow's text
