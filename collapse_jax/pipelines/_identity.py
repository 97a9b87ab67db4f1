"""A name for what a Python object does and holds: another one where its source or its values differ. Imports no JAX.

Code is told by the text of what a function is made of, less comments and blank lines, with all of the user's own that it calls by
name: its methods, functions, classes and constants. What is installed is told by its name and version.
"""

import ast
import functools
import hashlib
import importlib.metadata
import inspect
import os
import pickle
import site
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["of", "of_role"]


def of_role(pipeline: Any, role: str) -> str:
  """A hexadecimal digest of what a pipeline does in a role.

  Args:
    pipeline: an object of the protocol; its `identity(role)`, where it has one, says what counts.
    role: "fit", "sample" or "evaluate".
  """
  told = getattr(pipeline, "identity", None)
  if callable(told):
    return of((role, told(role)))
  method = getattr(pipeline, role)
  called = getattr(method, "__func__", method)
  kept = {name: getattr(pipeline, name) for name in ("save", "load") if callable(getattr(pipeline, name, None))}
  return of((role, called, [getattr(one, "__func__", one) for one in kept.values()], _state(pipeline)), type(pipeline))


def of(value: Any, owner: type | None = None) -> str:
  """A hexadecimal digest of a value.

  Args:
    value: numbers, texts, arrays, containers of them, functions, classes, and objects with a `__dict__`.
    owner: class whose attributes functions call through `self`.
  """
  found, open_ones = hashlib.sha256(), [_Teller(owner).tell(value)]
  while open_ones:  # no recursion: what a user's own package calls of itself may be deeper than Python's stack
    part = next(open_ones[-1], None)
    if part is None:
      open_ones.pop()
    elif isinstance(part, str):
      found.update(part.encode("utf-8", "surrogatepass"))
      found.update(b"\0")
    else:
      open_ones.append(part)
  return found.hexdigest()


Telling = Iterator["str | Telling"]  # texts, and what is to be told in their place


class _Teller:
  """Texts of values, each object once; see `of`."""

  def __init__(self, owner: type | None):
    self._owner, self._seen = owner, dict[int, tuple[int, Any]]()

  def tell(self, value: Any) -> Telling:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | range):
      yield f"{type(value).__name__} {value!r}"
      return
    if not isinstance(
      value, tuple | os.PathLike | np.ndarray | np.generic
    ):  # those may be one object, or two that are equal
      if id(value) in self._seen:
        yield f"again {self._seen[id(value)][0]}"
        return
      self._seen[id(value)] = len(self._seen), value  # what is kept alive has an address of its own
    if isinstance(value, np.ndarray | np.generic):
      array = np.ascontiguousarray(value)
      content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
      yield f"array {array.dtype} {np.shape(value)} {hashlib.sha256(content).hexdigest()}"
    elif isinstance(value, tuple | list):
      yield f"{type(value).__name__} {len(value)}"
      for one in value:
        yield self.tell(one)
    elif isinstance(value, set | frozenset):
      yield f"set {sorted(of(one, self._owner) for one in value)}"
    elif isinstance(value, Mapping):
      yield f"mapping {len(value)}"
      for name in sorted(value, key=lambda one: (type(one).__name__, repr(one))):
        yield self.tell(name)
        yield self.tell(value[name])
    elif isinstance(value, os.PathLike):
      yield f"path {os.fspath(value)}"
    elif isinstance(value, functools.partial):
      yield "partial"
      yield self.tell((value.func, value.args, value.keywords))
    elif isinstance(value, property):
      yield self.tell((value.fget, value.fset))
    elif isinstance(value, types.MethodType):
      yield self.tell((value.__func__, value.__self__))
    elif isinstance(value, types.FunctionType):
      yield self._function(value)
    elif isinstance(value, type):
      yield self._class(value)
    elif isinstance(value, types.ModuleType | types.BuiltinFunctionType | types.BuiltinMethodType):
      yield _installed(value)
    elif isinstance(getattr(value, "__wrapped__", None), types.FunctionType):  # of a cache or another decorator
      yield self._function(value.__wrapped__)
    else:
      yield self._object(value)

  def _function(self, function: types.FunctionType) -> Telling:
    if not _is_own(function.__module__, function.__code__.co_filename):
      yield _installed(function)
      return
    yield _source(function) or _bytecode(function.__code__)
    yield self.tell((function.__defaults__, function.__kwdefaults__))
    names = set(_names(function.__code__))
    for name in sorted(names):
      found = function.__globals__.get(name, function)
      if isinstance(found, types.ModuleType) and _is_own(found.__name__, None):
        for each in sorted(names & vars(found).keys()):  # what it may call of a module of the user's
          yield f"{name}.{each}"
          yield self.tell(vars(found)[each])
      elif found is not function:
        yield name
        yield self.tell(found)
      attribute = inspect.getattr_static(self._owner, name, None) if self._owner is not None else None
      if isinstance(attribute, staticmethod | classmethod | property):
        attribute = attribute.fget if isinstance(attribute, property) else attribute.__func__
      if attribute is not None and not (name.startswith("__") and name.endswith("__")):
        yield f"self.{name}"
        yield self.tell(attribute)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
      if name != "__class__":
        yield name
        try:
          yield self.tell(cell.cell_contents)
        except ValueError:  # not filled yet
          continue

  def _class(self, value: type) -> Telling:
    if not _is_own(value.__module__, None):
      yield _installed(value)
      return
    yield f"class {value.__qualname__}"
    yield self.tell(value.__bases__)
    for name, one in sorted(vars(value).items()):
      if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"):
        yield name
        yield self.tell(getattr(one, "__func__", one))

  def _object(self, value: Any) -> Telling:
    yield f"object {type(value).__module__}.{type(value).__qualname__}"
    yield self.tell(type(value))
    state = _state(value)
    if state:
      yield self.tell(state)
      return
    try:
      yield hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()
    except Exception:  # whatever such objects raise: locks, sockets, generators
      return


def _state(value: Any) -> dict[str, Any]:
  """Attributes, also those in slots."""
  slots = (name for one in type(value).__mro__ for name in _slots(one))
  held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
  return {**held, **getattr(value, "__dict__", {})}


def _slots(one: type) -> list[str]:
  names = vars(one).get("__slots__", ())
  names = [names] if isinstance(names, str) else list(names)
  return [name for name in names if name not in ("__dict__", "__weakref__")]


def _names(code: types.CodeType) -> Iterator[str]:
  """Globals and attributes that code reads, also in what is defined inside of it."""
  yield from code.co_names
  for one in code.co_consts:
    if isinstance(one, types.CodeType):
      yield from _names(one)


def _source(function: types.FunctionType) -> str:
  """Its text without comments and docstrings; "" where there is none, as of what is typed at a prompt."""
  try:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
  except (OSError, TypeError, SyntaxError, ValueError):  # of a lambda in the middle of a line too
    return ""
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
      node.body = node.body[1:] or [ast.Pass()]
  return ast.dump(tree)


def _bytecode(code: types.CodeType) -> str:
  constants = [_bytecode(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
  return f"{sys.version_info[:2]} {code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"


@functools.cache
def _libraries() -> tuple[str, ...]:
  """Folders of what is installed."""
  paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
  paths |= {*site.getsitepackages(), site.getusersitepackages()}
  return tuple(str(Path(path).resolve()) + os.sep for path in paths if path)


def _is_own(module: str | None, file: str | None) -> bool:
  """Whether code is the user's, and not of an installed package."""
  if module == "__main__":
    return True
  loaded = sys.modules.get(str(module).split(".")[0])
  place = getattr(loaded, "__file__", None) or (file if loaded is None else None)
  if place is None:  # built in, or a package without a file
    return bool(getattr(loaded, "__path__", None))
  return not str(Path(place).resolve()).startswith(_libraries()) and not place.startswith("<frozen")


def _installed(value: Any) -> str:
  """Name and version of something of a package."""
  module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
  name = getattr(value, "__qualname__", getattr(value, "__name__", repr(type(value))))
  return f"installed {module}.{name} {_version(str(module).split('.')[0])}"


@functools.cache
def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return str(getattr(sys.modules.get(package), "__version__", ""))
