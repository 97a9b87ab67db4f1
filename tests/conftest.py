"""Strict JAX for all tests: an implicit rank promotion or a warning is an error. One compilation cache for the suite."""

import importlib
import os
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

matplotlib.use("Agg")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
  "jax_compilation_cache_dir",
  os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def pytest_collection_modifyitems(items):
  """Slow tests first, so that no process is left alone with a long one at the end."""
  items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def z_score(values, expected, variance=None):
  """z of the mean over the leading axis, with the known variance where there is one."""
  values = np.asarray(values, np.float64)
  spread = values.var(axis=0, ddof=1) if variance is None else np.asarray(variance)
  return (values.mean(axis=0) - expected) / np.sqrt(spread / len(values))


def needed(what, reason=""):
  """A module, or a condition, without which a test is skipped; where CI is set, as .ci/run does, it fails instead."""
  if isinstance(what, str):
    try:
      return importlib.import_module(what)
    except ImportError as error:
      what, reason = False, f"needs {what}: pip install -e '.[parity]' ({error})"
  if not what:
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason, allow_module_level=True)
  return what


CACHE = jax.config.jax_compilation_cache_dir


def compile_quickly(quick: bool) -> None:
  """Without XLA's optimisations, or with them; a cache for each, since JAX's keys do not tell such programs apart."""
  if jax.config.read("jax_disable_most_optimizations") != quick:
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.config.update("jax_compilation_cache_dir", os.path.join(CACHE, "quick") if quick else CACHE)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def quick_compilation(request):
  """Tests that are not slow are bound by compilation, of which XLA's optimisations are half; those of numbers have them."""
  compile_quickly(request.node.get_closest_marker("slow") is None)


@pytest.fixture
def keys():
  return lambda num, seed=0: jax.random.split(jax.random.key(seed), num)
