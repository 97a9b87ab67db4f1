"""What a user sees first: names, examples, citations; and what importing them costs."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import jaxtyped

import collapse_jax as cj
from collapse_jax import _citation

FACE = [
  "Context",
  "Data",
  "Expected",
  "MetricInfo",
  "Refused",
  "Run",
  "Summary",
  "TaskSetting",
  "Workflow",
  "advance",
  "citation",
  "data",
  "decisions",
  "diagnose",
  "diagnostics",
  "lm",
  "load",
  "loop",
  "metrics",
  "pipelines",
  "plotting",
  "report",
  "rewards",
  "run",
  "start",
  "store",
  "sweep",
  "tasks",
  "testing",
  "theory",
  "training",
  "transforms",
  "verifiers",
  "workflows",
]
TASKS = [
  "Adapters",
  "ar_window",
  "classification",
  "discrete",
  "exponential_family",
  "flow",
  "gaussian",
  "gaussian_mixture",
  "kde",
  "labelled",
  "language_model",
  "linear_regression",
  "logistic_regression",
  "molecules",
  "ngram",
  "normalizing_flow",
  "ppca",
  "sample_median",
  "table",
  "unrealistic",
  "vae",
]
WORKFLOWS = [
  "accumulate",
  "accumulate_subsample",
  "grown_replace",
  "mix",
  "parse",
  "replace",
  "sliding_window",
  "weights",
]


def shown(module):
  return [name for name in dir(module) if not name.startswith("__")]


def test_names():
  """What a user needs, and nothing else: no helper, no module that it is made of."""
  assert shown(cj) == FACE
  assert shown(cj.tasks) == TASKS
  assert shown(cj.workflows) == WORKFLOWS
  assert {"curate", "ensemble", "verify"} <= set(shown(cj.transforms)) and not {"parts", "curation"} & set(
    dir(cj.transforms)
  )
  for module in (cj, cj.data, cj.lm, cj.metrics, cj.tasks, cj.transforms, cj.workflows):
    assert sorted(module.__all__) == shown(module)
    for name in module.__all__:
      assert getattr(module, name) is not None
  with pytest.raises(AttributeError, match="no attribute 'swep'"):
    cj.swep  # noqa: B018


def test_a_sweep_imports_no_statistics():
  """They take 0.4 s, which only theory needs. Twin: they are there once they are asked for."""
  script = """
import sys
import collapse_jax as cj
assert "jax" not in sys.modules
cj.sweep, cj.tasks.gaussian, cj.workflows.replace
print("scipy.stats" in sys.modules, "optax" in sys.modules)
import scipy.stats
print("scipy.stats" in sys.modules)
"""
  ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
  assert ran.stdout.split() == ["False", "False", "True"]


# ------------------------------------------------------------------------------------------------- examples in docstrings
FACTORIES = [
  *(getattr(cj.tasks, name) for name in TASKS if name != "Adapters"),
  *(getattr(cj.transforms, name) for name in ("curate", "class_shares", "edit_labels", "edit_tokens", "ensemble")),
  *(getattr(cj.transforms, name) for name in ("select_nearest", "train_on_synthetic", "verify")),
  *(getattr(cj.workflows, name) for name in WORKFLOWS if name != "parse"),
  cj.citation,
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda one: one.__name__)
def test_examples(factory):
  module = importlib.import_module(factory.__module__)
  (example,) = doctest.DocTestFinder().find(factory, factory.__name__, module=module, globs={})
  assert example.examples
  ran = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, clear_globs=False)
  assert ran.failed == 0
  if "task" in example.globs:  # what it says of metrics is all of them
    assert example.examples[-1].want.split() == list(example.globs["task"].metrics)
  assert not inspect.signature(factory).parameters or "Args:" in factory.__doc__


# ------------------------------------------------------------------------------------------------- every public module
CORE = [
  f"collapse_jax.{name}" for name in ("generation", "store", "transforms.rewards", "transforms.verifiers", "types")
]


def public_modules():
  """All modules of the package whose names have no underscore in front."""
  found = (one.name for one in pkgutil.walk_packages(cj.__path__, "collapse_jax."))
  return ["collapse_jax", *(name for name in found if "._" not in name)]


def defined(module):
  """Functions and classes that a module defines, by name."""
  tree = ast.parse(Path(module.__file__).read_text())
  return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def undocumented(node, fewest=3):
  """What is wrong with the docstring of a function or class, or None. Of a Protocol that of its call is meant."""
  if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
    (node,) = (one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__call__")
  text = ast.get_docstring(node)
  if not text:
    return "no docstring"
  if isinstance(node, ast.ClassDef):
    return None
  every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
  names = {one.arg for one in every if one is not None} - {"self"}
  block = re.search(r"^Args:\n((?:  .*\n?)+)", text, re.M)
  if block is None:
    return "no Args" if len(names) >= fewest else None
  told = {name for line in re.findall(r"^  (\w+(?:, \w+)*):", block[1], re.M) for name in line.split(", ")}
  return f"no argument is {', '.join(sorted(told - names))}" if told - names or not told else None


@pytest.mark.parametrize("name", public_modules())
def test_a_public_module(name):
  """Says what is public; all of that is there, and documented with its arguments."""
  module = importlib.import_module(name)
  assert len(set(module.__all__)) == len(module.__all__)
  for one in module.__all__:
    assert getattr(module, one) is not None
  own = {one: node for one, node in defined(module).items() if not one.startswith("_")}
  assert set(own) <= set(module.__all__)
  fewest = 1 if name in CORE else 3
  assert {one: wrong for one, node in own.items() if (wrong := undocumented(node, fewest))} == {}
  if hasattr(module, "__path__"):
    assert shown(module) == sorted(module.__all__)


@pytest.mark.parametrize(
  ("source", "wrong"),
  [
    ("def f(a, b): pass", "no docstring"),
    ("def f(a, *b, c):\n  'One.'", "no Args"),
    ("def f(a, b):\n  'One.\\n\\n  Args:\\n    a: one.\\n    old: two.\\n  '", "no argument is old"),
    ("class F(Protocol):\n  def __call__(self, a): pass", "no docstring"),
    ("def f(a, b, c):\n  'One.\\n\\n  Args:\\n    a, b: one: two.\\n  '", None),
    ("def f(a, b):\n  'One.'", None),
  ],
)
def test_undocumented(source, wrong):
  assert undocumented(ast.parse(source).body[0]) == wrong


# ------------------------------------------------------------------------------------------------------------- citations
def keys(text):
  return [line.split("{")[1].rstrip(",") for line in text.splitlines() if line.startswith("@")]


def test_citation():
  task = cj.transforms.curate(cj.tasks.gaussian(dim=1, num_samples=10), 2, cj.rewards.near(0.0))
  found = keys(cj.citation(task, cj.workflows.replace(), cj.workflows.accumulate()))
  once = ["kazdan2024collapse", "shumailov2023curse", "ferbach2024curated", "gerstgrasser2024inevitable"]
  assert found[0] == "collapse_jax" and sorted(found[1:]) == sorted(once)
  mine = cj.workflows.replace()._replace(cites=("@book{mine,\n}", "2601.00001"))
  assert keys(cj.citation(mine)) == ["collapse_jax", "mine", "arXiv:2601.00001"]
  assert keys(cj.citation(cj.workflows.sliding_window(2))) == ["collapse_jax"]


def test_papers_are_whole():
  """Braces close, nothing is there twice, and what factories cite is there."""
  papers = _citation._papers()
  assert len(set(map(str, papers.values()))) == len(papers) == len({keys(entry)[0] for entry in papers.values()})
  for number, entry in papers.items():
    assert entry.count("{") == entry.count("}") and "author = " in entry and "title = " in entry
    assert f"year = {{20{number[:2]}}}" in entry
  cited = set()
  for factory in FACTORIES:
    source = inspect.getsource(factory)
    cited |= (
      set(source.split("@citing(")[1].split(")")[0].replace('"', "").split(", ")) if "@citing(" in source else set()
    )
  assert cited and cited <= set(papers)


# ------------------------------------------------------------------------------------------------------------ annotations
def test_shapes_are_as_annotated():
  """Signatures of the core, checked by beartype while workflows run. Twin: a row weight of two axes is refused."""
  script = """
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook(["collapse_jax.random", "collapse_jax.store"], "beartype.beartype"):
  import collapse_jax.store
import jax, jax.numpy as jnp
import collapse_jax as cj
for task in (cj.tasks.sample_median(7), cj.tasks.discrete(3, 8)):
  for workflow in (cj.workflows.accumulate(), cj.workflows.accumulate_subsample(), cj.workflows.mix(0.5)):
    jax.eval_shape(lambda key: cj.run(key, task, workflow, 3), jax.random.key(0))
rows = cj.store.batch(jnp.arange(6.0), jnp.ones(6))
assert cj.store.draw_rows(jax.random.key(0), rows, 4).shape == (4,)
for wrong in (lambda: cj.store.batch(jnp.arange(6.0), jnp.ones((6, 1))), lambda: cj.store.mass(rows._replace(count=jnp.ones((1, 1))))):
  try:
    wrong()
  except TypeCheckError:
    print("refused")
"""
  ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert ran.returncode == 0, ran.stderr[-3000:]
  assert ran.stdout.split() == ["refused", "refused"]


def as_annotated(data):
  """Whether shapes and dtypes of a batch's fields are those of their annotations, with `slots` and `n` the same in all."""
  kinds = {name: kind for name, kind in get_type_hints(cj.Data.__base__).items() if kind is not Any}
  assert set(kinds) == {"row_weight", "count", "weight", "origin"}
  with jaxtyped("context"):
    return all(isinstance(getattr(data, name), kind) for name, kind in kinds.items())


@pytest.mark.parametrize(
  "task", [cj.tasks.sample_median(7), cj.tasks.discrete(3, 8, draws="rows"), cj.tasks.gaussian(2, 9)]
)
def test_data_are_as_annotated(task):
  seen = []

  def fit(key, problem, context):
    seen.extend((context.data, context.real, context.latest))
    assert all(map(as_annotated, seen[-3:]))
    return task.fit(key, problem, context)

  for workflow in (cj.workflows.accumulate(), cj.workflows.accumulate_subsample(), cj.workflows.mix(0.5)):
    if task.rows is None or not workflow.redrawn:
      jax.eval_shape(lambda key: cj.run(key, task._replace(fit=fit), workflow, 3), jax.random.key(0))  # noqa: B023
  assert len(seen) >= 6


def test_other_data_are_not():
  data = cj.store.batch(jnp.arange(6.0), jnp.ones(6))
  assert as_annotated(data)
  for other in (
    {"count": jnp.ones((1, 1))},
    {"weight": jnp.ones(2)},
    {"origin": jnp.zeros(1)},
    {"row_weight": jnp.ones(6)},
  ):
    assert not as_annotated(cj.store.same(data, **other))
