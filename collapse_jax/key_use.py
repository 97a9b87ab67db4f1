"""How a traced program uses its keys: which it uses twice, and which do not come from the key that it was given."""

import collections
import itertools
import os
from typing import Any, NamedTuple

import jax

__all__ = ["Misuse", "misuses"]

_JAX = os.path.dirname(jax.__file__)
_JAX_RANDOM = os.path.join(_JAX, "_src", "random.py")
_HOUSE = os.path.dirname(__file__)
_DRAWS = os.path.join(_HOUSE, "random.py")
_MACHINERY = tuple(
  os.path.join(_HOUSE, f"{name}.py") for name in ("random", "generation", "store", "testing", "key_use")
)

# Primitives of JAX, and functions of `collapse_jax.random`, that make keys of keys.
_DERIVING = {"random_fold_in": "fold", "random_split": "split", "_fold_in": "fold", "split": "split"}


class Misuse(NamedTuple):
  """Of a key.

  Attributes:
    kind: "reused": drawn from or split more than once, or split beside being folded, which can give the same keys;
      "fixed": drawn from, and no function of the program's arguments.
    places: "file:line in function" of the uses; one where it is in a loop that the key does not change with.
  """

  kind: str
  places: tuple[str, ...]


def misuses(program) -> list[Misuse]:
  """Of the keys in a closed jaxpr. What `vmap` makes of one key, and keys in callbacks, are not seen.

  Folding a key with different numbers is no use of it, and neither is folding beside drawing.
  """
  reader = _Reader()
  reader.read(program.jaxpr, [reader.new(True) for _ in program.jaxpr.invars], [reader.new() for _ in program.consts])
  return reader.found


class _Value(NamedTuple):
  name: int  # equal names, equal values
  given: bool  # a function of the program's arguments
  loops: frozenset[int]  # with which it changes


class _Use(NamedTuple):
  kind: str  # draw, split, fold
  place: str
  branches: tuple[tuple[int, int], ...]  # (conditional, branch): two of one conditional do not both happen


class _Reader:
  def __init__(self):
    self.found: list[Misuse] = []
    self._names: dict[Any, int] = {}
    self._count = itertools.count()
    self._uses: dict[int, list[_Use]] = collections.defaultdict(list)
    self._inside: dict[int, list[_Use]] = collections.defaultdict(list)  # uses of parts of an array of keys
    self._whole: dict[int, int] = {}  # a part -> the array of keys

  def new(self, given: bool = False, loops: frozenset[int] = frozenset()) -> _Value:
    return _Value(self._named("new", next(self._count)), given, loops)

  def _named(self, *what) -> int:
    return self._names.setdefault(what, len(self._names))

  def read(self, jaxpr, inputs, consts=(), loops: tuple[int, ...] = (), branches=(), place: str = "") -> list[_Value]:
    """The values of a jaxpr's outputs, given those of its inputs; what it does to keys is noted."""
    values = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, inputs))

    def value(variable) -> _Value:
      if hasattr(variable, "val"):
        return _Value(self._named("literal", str(variable.aval), repr(variable.val)), False, frozenset())
      return values[variable]

    for equation in jaxpr.eqns:
      operands = [value(variable) for variable in equation.invars]
      where = place or _place(equation)
      results = self._step(equation, operands, loops, branches, where, place)
      values |= zip(equation.outvars, results)
    return [value(variable) for variable in jaxpr.outvars]

  def _step(self, equation, operands, loops, branches, where, place) -> list[_Value]:
    name, params = equation.primitive.name, equation.params
    given = any(one.given for one in operands)
    changing = frozenset().union(*(one.loops for one in operands))
    anew = lambda: [self.new(given, changing) for _ in equation.outvars]
    if name == "scan":
      self._scan(equation, operands, loops, branches, where, place)
      return anew()
    if name == "while":
      self._while(equation, operands, loops, branches, where, place)
      return anew()
    if name == "cond":
      number = next(self._count)
      for i, branch in enumerate(params["branches"]):
        inner = [*branches, (number, i)]
        self.read(branch.jaxpr, operands[1:], self._consts(branch), loops, tuple(inner), place)
      return anew()
    inside = [one for one in params.values() if hasattr(one, "eqns") or hasattr(one, "jaxpr")]
    if inside:
      if params.get("differentiated"):  # what is computed again for a gradient draws the same numbers on purpose
        return anew()
      body = getattr(inside[0], "jaxpr", inside[0])
      if _is_sampler(body) and params.get("name") in _DERIVING:
        names = [one.name for one in operands]
        self._note(equation, operands, loops, branches, where)
        return [_Value(self._named(name, params["name"], str(equation.outvars[0].aval), *names), given, changing)]
      if _is_sampler(body):  # one draw: it may split the key, or use it for two methods of which it takes one
        self._note(equation, operands, loops, branches, where)
        return anew()
      if len(inside) == 1 and len(body.invars) == len(operands) and len(body.outvars) == len(equation.outvars):
        # A jitted function is traced once: its lines would be those of its first call.
        return self.read(body, operands, self._consts(inside[0]), loops, branches, where)
      return anew()
    self._note(equation, operands, loops, branches, where)
    text = repr(sorted((key, value) for key, value in params.items() if key not in ("sharding", "strides")))
    strides = params.get("strides") or ()
    kind = (name, text, tuple(strides) if any(step != 1 for step in strides) else (), *(one.name for one in operands))
    results = [_Value(self._named(*kind, i), given, changing) for i in range(len(equation.outvars))]
    if not name.startswith("random_") and operands and _is_key(equation.invars[0]):
      self._whole |= {one.name: operands[0].name for one in results if one.name != operands[0].name}
    return results

  def _consts(self, closed) -> list[_Value]:
    return [self.new() for _ in getattr(closed, "consts", ())]

  def _scan(self, equation, operands, loops, branches, where, place):
    params = equation.params
    body, num_consts, num_carry = params["jaxpr"], params["num_consts"], params["num_carry"]
    loop = next(self._count)
    kept = num_consts + num_carry
    inputs = list(operands[:num_consts])
    for i, one in enumerate(operands[num_consts:], num_consts):
      same = i < kept and body.jaxpr.outvars[i - num_consts] is body.jaxpr.invars[i]
      inputs.append(one if same or params["length"] == 1 else self.new(one.given, one.loops | {loop}))
      if i < kept and not same and _is_key(equation.invars[i]):  # the first of a chain of keys
        self._use(one, "split", where, loops, branches, _is_ours(equation))
    inner = loops if params["length"] == 1 else (*loops, loop)
    self.read(body.jaxpr, inputs, self._consts(body), inner, branches, place)

  def _while(self, equation, operands, loops, branches, where, place):
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    loop = next(self._count)
    body = params["body_jaxpr"]
    num = params["body_nconsts"]
    carry = []
    for i, one in enumerate(operands[second:]):
      same = body.jaxpr.outvars[i] is body.jaxpr.invars[num + i]
      carry.append(one if same else self.new(one.given, one.loops | {loop}))
      if not same and _is_key(equation.invars[second + i]):
        self._use(one, "split", where, loops, branches, _is_ours(equation))
    test = params["cond_jaxpr"]
    self.read(test.jaxpr, [*operands[:first], *carry], self._consts(test), (*loops, loop), branches, place)
    self.read(body.jaxpr, [*operands[first:second], *carry], self._consts(body), (*loops, loop), branches, place)

  def _note(self, equation, operands, loops, branches, where):
    """The use that an equation makes of its keys."""
    name = equation.primitive.name
    if name == "random_clone":
      return
    kind = _DERIVING.get(equation.params.get("name", name), "draw")
    if kind == "draw" and any(_is_key(variable) for variable in equation.outvars):
      return  # a part of an array of keys, or a choice among keys
    for variable, one in zip(equation.invars, operands):
      if _is_key(variable):
        self._use(one, kind, where, loops, branches, _is_ours(equation))

  def _use(self, one: _Value, kind: str, where: str, loops, branches, ours: bool):
    use = _Use(kind, where, branches)
    lineage = [one.name]
    while lineage[-1] in self._whole:
      lineage.append(self._whole[lineage[-1]])
    others = [*self._inside[one.name], *itertools.chain(*(self._uses[name] for name in lineage))]
    clash = next((other for other in others if _clash(use, other)), None)
    if clash is not None:
      self._tell("reused", clash.place, where)
    elif kind != "fold" and not set(loops) <= one.loops and not ours:
      self._tell("reused", where)
    if kind == "draw" and not one.given:
      self._tell("fixed", where)
    self._uses[one.name].append(use)
    for name in lineage[1:]:
      self._inside[name].append(use)

  def _tell(self, kind, *places):
    misuse = Misuse(kind, tuple(dict.fromkeys(places)) if len(set(places)) > 1 else places[:1])
    if misuse not in self.found:
      self.found.append(misuse)


def _clash(a: _Use, b: _Use) -> bool:
  taken = dict(b.branches)
  if any(taken.get(number, branch) != branch for number, branch in a.branches):
    return False
  return {a.kind, b.kind} not in ({"fold"}, {"fold", "draw"})


def _is_key(variable) -> bool:
  return jax.dtypes.issubdtype(getattr(variable.aval, "dtype", None), jax.dtypes.prng_key)


def _is_sampler(jaxpr) -> bool:
  """Whether it is a jitted function of `jax.random` or `collapse_jax.random`."""
  return getattr(getattr(jaxpr, "debug_info", None), "func_filename", None) in (_JAX_RANDOM, _DRAWS)


def _frames(equation):
  traceback = equation.source_info.traceback
  return () if traceback is None else traceback.frames


def _is_ours(equation) -> bool:
  """In one of `collapse_jax.random`, which draws the same words again where it looks at more of their digits."""
  return any(frame.file_name == _DRAWS for frame in _frames(equation))


def _place(equation) -> str:
  """Where a user's code, or a task of ours, has this equation; "" where it is of machinery only."""
  for frame in _frames(equation):
    if not frame.file_name.startswith(_JAX) and frame.file_name not in _MACHINERY and "<" not in frame.file_name:
      return f"{os.path.basename(frame.file_name)}:{frame.line_num} in {frame.function_name}"
  return ""
