"""What a sweep will cost, before it is run: work counted in the traced program, time scaled to this machine.

Counting takes no compilation. The constants were fitted to `docs/benchmarks.md`; a factor of two is what to expect.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.random import new_key

__all__ = [
  "EFFORTS",
  "RUN_NS",
  "Clock",
  "Counted",
  "Effort",
  "effort",
  "seconds",
  "slowness",
  "text",
  "work",
  "work_of",
]


class Effort(NamedTuple):
  """How well a program is compiled.

  Attributes:
    up_to: nanoseconds of a reference core that a call of it takes at most, by `work`.
    compile_seconds: of one core, a program, tracing included.
    options: of XLA on CPU.
  """

  up_to: float
  compile_seconds: float
  options: dict[str, Any]


# XLA takes seconds to make a program fast that then runs for milliseconds. Without its kernels of MLIR it compiles in two thirds
# of the time, at LLVM's lowest level in a quarter; run time grows 1.3 to 2 times, up to 7 for a KDE, and 4 to 10 times.
_NO_MLIR = {"xla_cpu_use_fusion_emitters": False}
EFFORTS = (
  Effort(5e7, 1.7, _NO_MLIR | {"xla_backend_optimization_level": 0}),
  Effort(1.5e8, 3.0, _NO_MLIR | {"xla_backend_optimization_level": 1}),
  Effort(math.inf, 5.0, {}),
)
RUN_NS = 1.5e5  # of one core, a run: starting it, and copying its results
REFERENCE_NS = 6.0  # of one core, an element of the kernel that `slowness` times, where the constants below were fitted

# Nanoseconds of one core an element of the result, where that is not the cost of simple arithmetic.
_SIMPLE = 0.06
_FREE = {
  "broadcast_in_dim",
  "reshape",
  "squeeze",
  "transpose",
  "iota",
  "copy",
  "convert_element_type",
  "slice",
  "rev",
  "stop_gradient",
  "random_wrap",
  "random_unwrap",
  "random_clone",
  "bitcast_convert_type",
}
_PER_ELEMENT = {
  "exp": 0.5,
  "log": 1.2,
  "log1p": 1.5,
  "logistic": 1.2,
  "tanh": 1.5,
  "erf_inv": 4.0,
  "pow": 4.0,
  "sin": 2.0,
  "cos": 2.0,
  "sqrt": 0.5,
  "div": 0.3,
  "gather": 6.0,
  "dynamic_slice": 0.3,
  "threefry2x32": 2.5,
  "random_bits": 2.5,
  "cumsum": 1.0,
  "cummax": 1.0,
  "lgamma": 10.0,
  "digamma": 10.0,
}
_PER_FLOP = 0.015
_LAPACK_FLOP = 0.045
_OVERHEAD = 3.0  # an equation
_DECOMPOSITIONS = ("qr", "geqrf", "householder_product", "eigh", "svd", "lu")


class Counted(NamedTuple):
  """What of a traced program counts, that its equations do not tell.

  Attributes:
    fallbacks: whether loops around a matrix decomposition are entered, once. That is how a task writes a second way of
      fitting that must cost nothing under vmap where no run needs it.
    dear: share of calls in which the outermost conditionals take their dearest branch, as generations do of which metrics are
      recorded; else, and inside, the cheapest counts.
    trips: of a loop that ends by chance, such as rejection sampling or Newton's method.
  """

  fallbacks: bool = False
  dear: float = 0.0
  trips: float = 4.0


_PLAIN = Counted()


def work(jaxpr: Any, counted: Counted = _PLAIN) -> float:
  """Nanoseconds of one reference core for one call of a jaxpr.

  Args:
    jaxpr: open or closed.
    counted: see `Counted`.
  """
  return sum(_equation(equation, counted) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _decomposes(jaxpr: Any) -> bool:
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    inside = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    if equation.primitive.name in _DECOMPOSITIONS or any(map(_decomposes, inside)):
      return True
  return False


def _shape(variable: Any) -> tuple[int, ...]:
  return getattr(variable.aval, "shape", ())


def _equation(equation: Any, counted: Counted) -> float:
  name, parameters = equation.primitive.name, equation.params
  if name == "scan":
    return int(parameters["length"]) * work(parameters["jaxpr"], counted)
  if name == "while":
    if _decomposes(parameters["body_jaxpr"]):
      return work(parameters["body_jaxpr"]) if counted.fallbacks else 0.0
    if counted.trips == 0:
      return 0.0
    counted = counted._replace(fallbacks=False)
    return counted.trips * (work(parameters["body_jaxpr"], counted) + work(parameters["cond_jaxpr"], counted))
  if name == "cond":
    branches = [work(branch, counted._replace(dear=0.0)) for branch in parameters["branches"]]
    return (1 - counted.dear) * min(branches) + counted.dear * max(branches)
  if name == "custom_vmap_call":  # runs side by side, which take a branch where any of them needs it
    counted = counted._replace(dear=0.5)
  if parameters.get("name") == "hashed":  # of `collapse_jax.random`: a hundred operations, and one kernel
    return _OVERHEAD + _PER_ELEMENT["threefry2x32"] * math.prod(_shape(equation.outvars[0]))
  for inside in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call"):
    if inside in parameters:
      return work(parameters[inside], counted)
  size = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
  if name in _FREE:
    return 0.0
  if name == "dot_general":
    contracted = parameters["dimension_numbers"][0][0]
    contractions = math.prod(_shape(equation.invars[0])[i] for i in contracted)
    return float(_PER_FLOP * 2 * size * contractions)
  if name in (*_DECOMPOSITIONS, "cholesky", "triangular_solve"):
    operand = _shape(equation.invars[0])
    batch, rows, columns = operand[:-2], operand[-2], operand[-1]
    short = min(rows, columns)
    flops = {
      "cholesky": short**3 / 3,
      "triangular_solve": short * size / math.prod(batch),
      "eigh": 9 * short**3,
      "svd": 20 * rows * columns * short,
    }.get(name, 2 * rows * columns * short)
    return math.prod(batch) * (_LAPACK_FLOP * flops + 500)
  if name == "sort":
    return 2.0 * size * math.log2(max(size, 2))
  if name == "dynamic_update_slice":  # in place
    return _OVERHEAD + 0.3 * math.prod(_shape(equation.invars[1]))
  if name.startswith("scatter"):
    return 2.5 * math.prod(_shape(equation.invars[-1]))
  if name.startswith(("reduce", "arg")):
    return _SIMPLE * math.prod(_shape(equation.invars[0]))
  return _OVERHEAD + _PER_ELEMENT.get(name, _SIMPLE) * size


def work_of(function: Callable[..., Any], *arguments: Any, counted: Counted = _PLAIN) -> float:
  """`work` of a function at arguments or their shapes.

  Args:
    function: traced, not run.
    arguments: arrays or shapes.
    counted: see `Counted`.
  """
  return work(jax.make_jaxpr(function)(*arguments), counted)


@functools.cache
def slowness() -> float:
  """Time of this machine over that of the reference, for a kernel of exponentials and random numbers; one core or device."""
  key = new_key(0)
  kernel = jax.jit(lambda key: jnp.sum(jnp.exp(-jax.random.uniform(key, (1 << 18,)))))
  kernel(key).block_until_ready()
  times = []
  for _ in range(50):
    begun = time.perf_counter()
    kernel(key).block_until_ready()
    times.append(time.perf_counter() - begun)
  return min(times) / (1 << 18) * 1e9 / REFERENCE_NS


def effort(work_ns: float) -> Effort:
  """How well a program is compiled, by what a call of it takes: nothing else, so that equal chunks have equal numbers.

  Args:
    work_ns: of a call on the reference machine, nanoseconds.
  """
  return next(one for one in EFFORTS if work_ns <= one.up_to)


def seconds(work_ns: float, compile_seconds: float, workers: int) -> tuple[float, float]:
  """(compiling, running) on this machine, from an empty compilation cache.

  Args:
    work_ns: of all runs on the reference machine, nanoseconds.
    compile_seconds: of all programs there.
    workers: processes or devices that share it.
  """
  return (compile_seconds * slowness() / workers, 1e-9 * work_ns * slowness() / workers)


def text(total_seconds: float) -> str:
  """A duration as people say it."""
  if total_seconds < 90:
    return f"{total_seconds:.0f} s"
  if total_seconds < 5400:
    return f"{total_seconds / 60:.0f} min"
  return f"{total_seconds / 3600:.0f} h" if total_seconds < 48 * 3600 else f"{total_seconds / 86400:.0f} days"


class Clock:
  """Seconds of steps of about equal size, with those of compiling apart.

  Args:
    num_left: steps, all in all.
  """

  def __init__(self, num_left: int):
    self.num_left, self.compiling, self.num_compilations = num_left, 0.0, 0
    self._num_done, self._running = 0, 0.0
    self.start()

  def start(self) -> None:
    """Of a step."""
    self._begun, self._compiled = time.perf_counter(), self.compiling

  def call(self, program: Any, *arguments: Any) -> Any:
    before = program._cache_size()
    clock = time.perf_counter()
    out = program(*arguments)
    if program._cache_size() > before:  # dispatch is asynchronous: the time of a first call is that of compiling
      self.compiling += time.perf_counter() - clock
      self.num_compilations += 1
    return out

  def step(self) -> str:
    """Ends a step: how long it was, and how long those that are left will take at the mean pace."""
    wall = time.perf_counter() - self._begun
    self._running += wall - (self.compiling - self._compiled)
    self.num_left, self._num_done = self.num_left - 1, self._num_done + 1
    return f"{wall:.1f} s, about {text(self.num_left * self._running / self._num_done)} left"
