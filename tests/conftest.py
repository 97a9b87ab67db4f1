"""Strict JAX for all tests: an implicit rank promotion or a warning is an error. One compilation cache for the suite."""

import gc
import os

import jax
import matplotlib
import pytest
from helpers import CACHE, DRAWN, SUBPROCESS_WARNINGS, compile_quickly, own_flags

from collapse_jax.sweeps import programs
from experiments import common, flag_values, output

matplotlib.use("Agg")
gc.set_threshold(
  200_000, 20, 20
)  # traces are many small objects that stay: looking at them again and again is a tenth of the time
os.environ["PYTHONWARNINGS"] = SUBPROCESS_WARNINGS  # of programs that tests start
os.environ["TF_CPP_MIN_LOG_LEVEL"] = (
  "3"  # of these too: JAX has set another here, and what XLA says of its cache fills a pipe
)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def pytest_collection_modifyitems(items):
  """Slow tests first, so that no process is left alone with a long one at the end."""
  items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def quick_compilation(request):
  """Tests that are not slow are bound by compilation, of which XLA's optimisations are half; those of numbers have them."""
  compile_quickly(request.node.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="module")
def forgotten():
  """What a file has traced goes when it is done: of all files together it would be gigabytes, a collection of garbage seconds."""
  yield
  jax.clear_caches()


@pytest.fixture
def keys():
  return lambda num, seed=0: jax.random.split(jax.random.key(seed), num)


@pytest.fixture
def calls(monkeypatch):
  """(first seed, seeds) of the chunks that are computed."""
  seen = []
  plain = programs.Program.run

  def run(program, first, num, traced):
    seen.append((first, num))
    return plain(program, first, num, traced)

  monkeypatch.setattr(programs.Program, "run", run)
  return seen


@pytest.fixture
def begin(monkeypatch):
  """Parses flags as a binary does; they are gone in the end. Figures are not drawn: DRAWN stand for them."""
  monkeypatch.setattr(output, "drawings", lambda path, folders: dict(DRAWN))

  def parse(*flags):
    flag_values.FLAGS.unparse_flags()
    common.parse(["x", *map(str, flags)])
    output.NUMBERS.clear()
    output.HELD.clear()

  with own_flags():
    flag_values.define_shared()
    yield parse
  output.BEGUN.clear()
  output.NUMBERS.clear()
  output.HELD.clear()
