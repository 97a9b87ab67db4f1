"""A name for what a traced program computes: equal between processes, and another one where code or data differ."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from collapse_jax.random import PRNG
from collapse_jax.sweeps import devices
from collapse_jax.sweeps.dataset import version
from collapse_jax.types import PyTree

__all__ = ["made_with", "of", "of_values", "settings"]

_ADDRESS = re.compile(r"0x[0-9a-f]+")


SETTINGS = ("jax_enable_x64", "jax_threefry_partitionable", "jax_random_seed_offset", "jax_default_matmul_precision")


def settings() -> dict[str, Any]:
  """What of JAX's configuration fixes numbers, and the kind of all keys; by name, with values that JSON and netCDF can hold."""
  values = {name: getattr(jax.config, name) for name in SETTINGS}
  plain = lambda value: "default" if value is None else int(value) if isinstance(value, bool) else value
  return {"prng": PRNG} | {name: plain(value) for name, value in values.items()}


def made_with() -> dict[str, Any]:
  """Versions and settings under which what is kept was computed, by name."""
  return {"jax": jax.__version__, "collapse_jax": version(), **settings()}


def of(*jaxprs: Any) -> str:
  """A hexadecimal digest of closed jaxprs: their equations, and the numbers of the arrays that they close over.

  A text of a jaxpr would not do: it leaves these numbers out, holds addresses, and depends on what JAX had in its caches.
  """
  known: dict[int, str] = {}
  return _digest([_text(one, known) for one in jaxprs])


def of_values(tree: PyTree) -> str:
  """A hexadecimal digest of a tree: its structure, and the numbers of its leaves."""
  return _digest(
    [_ADDRESS.sub("", str(jax.tree.structure(tree))), *(_text(leaf, {}) for leaf in jax.tree.leaves(tree))]
  )


def _digest(parts: Iterable[str]) -> str:
  return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _text(value: Any, known: dict[int, str]) -> str:
  """Of a parameter of an equation; a jaxpr that occurs twice is read once."""
  if hasattr(value, "eqns"):  # closed or not: from jax 0.12 on these are one class, whose `jaxpr` is itself
    body = getattr(value, "jaxpr", value)
    if id(body) not in known:
      known[id(body)] = _digest(_lines(body, known))
    return f"{known[id(body)]} {[_text(one, known) for one in getattr(value, 'consts', ())]}"
  if isinstance(value, tuple | list):
    return f"({', '.join(_text(one, known) for one in value)})"
  if isinstance(value, set | frozenset):
    return f"set {sorted(_text(one, known) for one in value)}"
  if isinstance(value, dict):
    return f"dict {[(str(name), _text(one, known)) for name, one in value.items()]}"
  if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
    return f"{value.dtype} {_text(jax.random.key_data(value), known)}"
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    array = devices.on_host(value)
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
  if callable(value):
    return getattr(value, "__qualname__", type(value).__qualname__)
  text = repr(value)
  return type(value).__qualname__ if _ADDRESS.search(text) else text


def _lines(jaxpr: Any, known: dict[int, str]) -> Iterator[str]:
  """A line for each equation, with numbers for variables."""
  numbers: dict[Any, int] = {}

  def name(variable: Any) -> str:
    if hasattr(variable, "val"):
      return f"{variable.aval} {_text(np.asarray(variable.val), known)}"
    return f"{numbers.setdefault(variable, len(numbers))}: {variable.aval}"

  names = lambda variables: ", ".join(map(name, variables))
  yield f"{names(jaxpr.constvars)}; {names(jaxpr.invars)}"
  for equation in jaxpr.eqns:
    parameters = [f"{key}={_text(value, known)}" for key, value in sorted(equation.params.items())]
    yield f"{names(equation.outvars)} = {equation.primitive.name} {' '.join(parameters)} {names(equation.invars)}"
  yield names(jaxpr.outvars)
