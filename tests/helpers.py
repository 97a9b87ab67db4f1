"""What several test modules share: z-scores, programs of their own, small sweeps and tasks. No test module imports another."""

import contextlib
import importlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

import collapse_jax as cj
from collapse_jax import TaskSetting, cli, store
from collapse_jax.refused import Refused
from experiments import common, flag_values, help_page, output

# As in pyproject.toml; the interpreter takes no patterns of modules, so that deprecations are left to the tests in this process.
SUBPROCESS_WARNINGS = (
  "error,ignore::DeprecationWarning,ignore::PendingDeprecationWarning,ignore::FutureWarning,ignore::ImportWarning"
)


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


CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "tests"))
QUICK_CACHE = os.path.join(CACHE, "quick")  # JAX's keys do not tell such programs apart


# Fusions through LLVM alone, in one module: by way of MLIR compilation takes two to three times as long. Later versions know no other.
QUICK_FLAGS = {"xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 10):
  QUICK_FLAGS["xla_cpu_use_fusion_emitters"] = False


def compile_quickly(quick: bool) -> None:
  """Without XLA's optimisations, or with them as for users."""
  if jax.config.read("jax_disable_most_optimizations") != quick:
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.config.update("jax_compilation_cache_dir", QUICK_CACHE if quick else CACHE)
    compilation_cache.reset_cache()


def _with_quick_flags(plain=compiler.get_compile_options):
  def options(*arguments, **named):
    found = plain(*arguments, **named)
    if jax.config.read("jax_disable_most_optimizations"):
      found.env_option_overrides = [*QUICK_FLAGS.items(), *found.env_option_overrides]
    return found

  return options


compiler.get_compile_options = _with_quick_flags()  # XLA_FLAGS would be those of slow tests too


def by_steps(*arguments, **options):
  """A sweep by the driver "steps"."""
  return cj.sweep(*arguments, driver="steps", **options)


@contextlib.contextmanager
def own_flags():
  """Flags that are defined inside are gone afterwards, and none is parsed."""
  before = set(flag_values.FLAGS)
  try:
    yield
  finally:
    for flag in set(flag_values.FLAGS) - before:
      delattr(flag_values.FLAGS, flag)
    flag_values.FLAGS.unparse_flags()
    flag_values.FLAGS(["test"])
    flag_values.PARSED.clear()


GAUSSIAN_FLAGS = (
  "--dims=2",
  "--num_samples=10",
  "--workflows=replace",
  "--num_generations=5",
  "--num_seeds=20",
  "--chunk_size=2",
)  # 10 chunks
KILLED = str(Path(__file__).parent / "killed.py")
USUAL = {
  **os.environ,
  "PYTHONPATH": os.getcwd(),
  "PYTHONWARNINGS": SUBPROCESS_WARNINGS,
  "JAX_COMPILATION_CACHE_DIR": CACHE,
}
ENVIRONMENT = USUAL | {
  "JAX_COMPILATION_CACHE_DIR": QUICK_CACHE,
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  "XLA_FLAGS": " ".join(
    [os.environ.get("XLA_FLAGS", ""), *(f"--{name}={value}".lower() for name, value in QUICK_FLAGS.items())]
  ),
}  # of tests that start many programs and look at what is on disk, or at what is said


def run(*arguments, expect=0):
  """A Python program, to its end, with the status that is expected."""
  done = subprocess.run(
    [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False
  )
  assert done.returncode == expect, done.stderr
  assert "Traceback" not in done.stderr
  return done


@contextlib.contextmanager
def waiting(log, when, *arguments, **environment):
  """A binary that has come to a write, and waits in it; is killed in the end."""
  with subprocess.Popen(
    [sys.executable, KILLED, str(log), when, "wait", *map(str, arguments)],
    text=True,
    env=ENVIRONMENT | environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  ) as process:
    try:
      while not (log.exists() and "waiting" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
      yield process
    finally:
      process.kill()


def dataset(path):
  """Results in a directory, without what differs from run to run."""
  return xarray.load_dataset(path / "results.nc", engine="h5netcdf").drop_attrs(deep=False)


def events(file):
  """Events of a file: records of length, checksum, bytes, checksum."""
  from tensorboardX.proto import event_pb2

  data = file.read_bytes()
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    yield event_pb2.Event.FromString(data[12 : 12 + length])
    data = data[16 + length :]


def values(log_dir):
  """Run -> [(tag, step, value)], in the order of the files."""
  found: dict = {}
  for file in sorted(log_dir.rglob("*tfevents*")):
    found.setdefault(file.parent.name, []).extend(
      (value.tag, event.step, value) for event in events(file) for value in event.summary.value
    )
  return found


HELD: list[socket.socket] = []


def start(*arguments, environment=USUAL):
  """A Python program that goes on beside the test; what it says is one stream."""
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finished(*processes):
  """Waits until all have ended well; if one has not, none is left running."""
  try:
    for one in processes:
      out, _ = one.communicate(timeout=300)
      assert one.returncode == 0, out
  finally:
    for one in processes:
      one.kill()
      one.wait()
      if one.stdout is not None:
        one.stdout.close()


def free_port():
  """A port that nobody else gets meanwhile: it stays bound here, and the server of JAX may share it."""
  one = socket.socket()
  one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
  one.bind(("localhost", 0))
  HELD.append(one)
  return one.getsockname()[1]


class Hang(BaseException):
  """Not an Exception, which a loader might take for a damaged file."""


@contextlib.contextmanager
def limited(seconds=60):
  """Fails what takes longer, but for a loop in C."""

  def stop(number, frame):
    raise Hang(f"not done after {seconds} seconds")

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(name: str, arguments: list[str]) -> str:
  """ "" where a binary would run, or its one line of refusal; anything else that it does is raised."""
  module = importlib.import_module(f"experiments.{name}")
  before = set(flag_values.FLAGS)
  module.define()
  said = io.StringIO()
  try:
    with limited(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
      rest = common.parse(["x", *arguments], arguments=name == "compare")
      if name == "compare":
        module.load(rest[1] if len(rest) > 1 else "nowhere")
      else:
        module.read()
        common.check_machine()
        output.output_dir("results/x")
    return ""
  except SystemExit as end:
    assert end.code == 2 or any("help" in one for one in arguments), (end.code, said.getvalue())
    return said.getvalue() or "help"
  except Refused as error:
    return flag_values.in_flags(error) or "?"
  finally:
    for flag in set(flag_values.FLAGS) - before:
      delattr(flag_values.FLAGS, flag)


def called(capsys, command: str, *arguments) -> tuple[int, str, str]:
  """`collapse COMMAND` in this process: its exit status, what it prints, what it says on standard error."""
  module = importlib.import_module(cli.home(command))

  def ended(status):
    raise SystemExit(status)

  argv = [f"collapse {command}", *map(str, arguments)]
  capsys.readouterr()
  status = 0
  with own_flags(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "argv", argv)
    patch.setattr(output.os, "_exit", ended)
    module.define()
    help_page.define(module.__doc__)
    try:
      common._guarded(module.main, True, common.parse(argv, arguments=True))
    except SystemExit as end:
      status = int(end.code or 0)
    finally:
      output.BEGUN.clear()
      output.NUMBERS.clear()
      output.HELD.clear()
  return status, *capsys.readouterr()


def poisson_mean(rate=4.0, num_samples=10):
  """What a user writes."""

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows) / jnp.sum(weight)

  draw = lambda key, mean, num: store.batch(jax.random.poisson(key, mean, (num,)).astype(float))
  return TaskSetting(
    init=lambda key: (rate, draw(key, rate, num_samples)),
    fit=fit,
    sample=lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
    evaluate=lambda key, problem, mean: {"squared_error": (mean - problem) ** 2},
    num_samples=num_samples,
    fresh=lambda key, problem: draw(key, rate, num_samples),
  )


REAL = np.linspace(-1, 1, 6).astype(np.float32)


def resampled(rows=REAL, noise=1.0):
  """A small task with data of its own."""
  draw = lambda key, mean: store.batch(mean + noise * jax.random.normal(key, rows.shape))
  return cj.TaskSetting(
    init=lambda key: (jnp.zeros(()), store.batch(jnp.asarray(rows) + jax.random.normal(key, rows.shape))),
    fit=lambda key, problem, context: jnp.mean(store.flat(context.data)[0]),
    sample=lambda key, problem, mean, context: (draw(key, mean), {}),
    evaluate=lambda key, problem, mean: {"error": (mean - problem) ** 2},
    num_samples=len(rows),
  )


def small(task=lambda shift: resampled(REAL + shift), shifts=(1.0, 2.0), **options):
  """Two cells of one program, 12 seeds in chunks of 4."""
  return cj.sweep(
    task,
    ["replace"],
    {"shift": list(shifts)},
    **{"num_generations": 3, "num_seeds": 12, "chunk_size": 4, "num_workers": 1} | options,
  )


DRAWN = {"figures/a.png": b"png", "figures/b.pdf": b"pdf", "report.html": b"<html>"}  # by the fixture `begin`


def go(simulate, path, **options):
  """A binary whose flags the fixture `begin` has parsed."""
  common.simulate_and_write(str(path), lambda directory: simulate(directory), {}, **options)


def numbers(value=1.0):
  """The least results there are."""
  return xarray.Dataset({"loss": (("workflow", "seed", "generation"), [[[value], [value]]])}, {"workflow": ["replace"]})


def finish(directory, value=1.0):
  """A simulation that only writes."""
  directory.mkdir(parents=True, exist_ok=True)
  return numbers(value)
