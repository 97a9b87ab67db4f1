"""Workflows as flags and coordinates write them, what their arguments may be, and names of files made from such labels.
Imports no JAX, so that input can be checked before it."""

import ast
import difflib
import hashlib
import inspect
import numbers
import re
from collections.abc import Callable, Iterable
from typing import Any

from collapse_jax.refused import Refused

__all__ = [
  "BANDWIDTH_RULES",
  "BESIDE",
  "COUPLINGS",
  "DRAWS",
  "EDIT_BASES",
  "EDIT_MASKS",
  "EDIT_NOISES",
  "EXPORTS",
  "KERNELS",
  "LABELLED_DATASETS",
  "LABELLED_GENERATORS",
  "LABELS_OF_LOGISTIC",
  "LARGEST",
  "LORA_TARGETS",
  "NULL",
  "QUANTISATIONS",
  "RESAMPLING",
  "STARTS",
  "TABLE_MODELS",
  "TEXT_FORMATS",
  "TOKEN_BUDGETS",
  "check_num_emitted",
  "check_num_generator",
  "check_real_fraction",
  "check_size",
  "check_table",
  "check_workflow",
  "did_you_mean",
  "file_name",
  "is_call",
  "is_null",
  "parse_call",
]

# Choices that both a function and a flag take.
DRAWS = ("auto", "law", "rows")
BANDWIDTH_RULES = ("scott", "silverman", "scott_scaled", "silverman_scaled")
KERNELS = ("gaussian", "tophat")
LABELLED_DATASETS, LABELLED_GENERATORS = ("moons", "circles", "breast_cancer"), ("gaussian_mixture", "kde")
RESAMPLING = ("none", "bootstrap")  # of the real rows of an ensemble
EDIT_BASES, EDIT_MASKS = ("anchor", "chain"), ("fresh", "fixed", "disjoint")
EDIT_NOISES = ("regenerated", "additive")
LABELS_OF_LOGISTIC = ("model", "data")
COUPLINGS = ("independent", "swaps", "exact")  # of rows and noise in flow matching
STARTS = ("weights", "weights+optimiser", "cold")  # of networks, from the model before
TABLE_MODELS = ("copula", "tvae", "ctgan", "diffusion")
EXPORTS = ("hf", "peft")  # directories of transformers, or of PEFT
QUANTISATIONS = ("nf4", "int4", "int8")  # of kernels below adapters
LORA_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
TEXT_FORMATS = ("auto", "text", "pairs", "messages")
TOKEN_BUDGETS = ("epochs", "steps", "tokens")

# Endings of what theory says beside a metric: METRIC_expected, ...
BESIDE = ("expected", "expected_variance", "expected_least_variance", "expected_up_to", "limit")
NULL = "null"  # METRIC_null: what the metric would be of a sample of the real law, as the task itself says it

LARGEST = 2**31 - 1  # of integers: more would not count in int32
LONGEST = 100  # bytes of a file's name; file systems take 143 (eCryptfs) to 255, and there are endings to add


def is_null(name: str, names: Iterable[str]) -> bool:
  """Whether one of some metrics is the null of another of them."""
  return name.endswith(f"_{NULL}") and name.removesuffix(f"_{NULL}") in set(names)


def parse_call(text: str) -> tuple[str, tuple, dict[str, Any]]:
  """ "mix(0.2, fresh=True)" -> ("mix", (0.2,), {"fresh": True}); "mix" -> ("mix", (), {}).

  Raises:
    ValueError: neither a name nor a call with literal arguments.
  """
  try:
    node = ast.parse(text.strip(), mode="eval").body
    if isinstance(node, ast.Name):
      return node.id, (), {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
      return node.func.id, tuple(map(ast.literal_eval, node.args)), keywords
  except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
    pass
  raise Refused.must_be("workflow", "a name or a call with literal arguments, e.g. mix(0.2)", text)


def check_workflow(text: str) -> None:
  """Raises ValueError where `workflows.parse` would: unknown name, or arguments that do not fit."""
  name, arguments, keywords = parse_call(text)
  if name not in ARGUMENTS:
    raise Refused(f"unknown workflow {text!r}; known: {', '.join(ARGUMENTS)}.", argument="workflows", value=text)
  if is_call(text):
    try:
      bound = inspect.signature(ARGUMENTS[name]).bind(*arguments, **keywords)
    except TypeError as error:
      raise Refused(f"workflow {text!r}: {error}.", argument="workflows", value=text) from None
    ARGUMENTS[name](*bound.args, **bound.kwargs)


def is_call(text: str) -> bool:
  """Whether a text is like "name(arguments)"."""
  return "(" in text


def did_you_mean(word: str, known: Iterable[str]) -> str:
  """ " Did you mean 'loop'?", of a word that is like one that is known, else ""."""
  near = difflib.get_close_matches(word, list(known), 1)
  return f" Did you mean {near[0]!r}?" if near else ""


def file_name(label: str) -> str:
  """A name for a file or folder, at most `LONGEST` bytes of plain ASCII, another one for each label.

  A label that is such a name stays as it is; of others, what is readable comes before a digest, behind a "~".
  """
  plain = re.sub(r"[^A-Za-z0-9._=,()\[\] +-]", "_", label)
  if plain == label and len(label) <= LONGEST and re.fullmatch(r"[A-Za-z0-9_(\[](.*[^. ])?", label):
    return label
  digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:16]
  return f"{plain[: LONGEST - 17].lstrip('. -')}~{digest}"


def check_num_emitted(num_emitted=None) -> None:
  """Raises Refused where it is neither None nor a count."""
  if num_emitted is not None:
    _check_count("num_emitted", num_emitted)


def check_real_fraction(real_fraction, fresh=False, real_weight=None) -> None:
  """Raises Refused where these are no arguments of `workflows.mix`.

  Args:
    real_fraction: share of real rows.
    fresh: whether they are drawn anew in each generation.
    real_weight: share of the weight that real rows have; None: their own.
  """
  if not _is_number(real_fraction) or not 0 <= real_fraction <= 1:
    raise Refused.must_be("real_fraction", "at least 0 and at most 1", real_fraction)
  if real_weight is not None and (not _is_number(real_weight) or not 0 < real_weight <= 1 or real_fraction == 0):
    there = "" if real_fraction else ", and there must be real rows"
    raise Refused.must_be("real_weight", f"above 0 and at most 1{there}", real_weight)
  _check_fresh(fresh)


def check_num_generator(num_generator) -> None:
  """Raises Refused for fewer real rows than a model can be fitted to that writes synthetic ones."""
  if num_generator < 2:
    raise Refused(
      "num_generator must be at least 2: synthetic rows come from a model of that many real ones.",
      argument="num_generator",
      value=num_generator,
      allowed="at least 2",
    )


def check_size(size) -> None:
  """Raises Refused where a window has no such size."""
  _check_count("size", size)


def check_table(table, fresh=False) -> None:
  """Raises Refused where shares of batches are no table of them.

  Args:
    table: [T, T] shares.
    fresh: whether real rows are drawn anew in each generation.
  """
  import numpy as np

  _check_fresh(fresh)
  try:
    shares = np.asarray(table, float)
  except (TypeError, ValueError):
    shares = np.zeros(0)
  if (
    shares.ndim != 2
    or shares.shape[0] != shares.shape[1]
    or not (shares >= 0).all()
    or not np.allclose(shares, np.tril(shares))
    or not np.allclose(shares.sum(axis=1), 1, atol=1e-6)
  ):
    raise Refused(
      "weights must be a square table of shares: row t - 1 for generation t, zero right of the diagonal, "
      "each row summing to 1.",
      argument="weights",
      value=table,
    )


def _check_fresh(fresh) -> None:
  import numpy as np

  if not isinstance(fresh, bool | np.bool_):
    raise Refused.must_be("fresh", "True or False", fresh)


def _check_count(name, value) -> None:
  if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= int(value) <= LARGEST:
    raise Refused.must_be(name, f"an integer from 1 to {LARGEST}", value)


def _is_number(value) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


# What the factories of these names take.
ARGUMENTS: dict[str, Callable[..., None]] = {
  "replace": check_num_emitted,
  "accumulate": check_num_emitted,
  "accumulate_subsample": lambda: None,
  "mix": check_real_fraction,
  "grown_replace": lambda: None,
  "sliding_window": check_size,
  "weights": check_table,
}
