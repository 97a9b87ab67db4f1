"""What the binaries share: set-up of JAX, and running a sweep. Parsing and validation import no JAX."""

import contextlib
import functools
import importlib.util
import io
import ipaddress
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, logging

from collapse_jax import caches
from collapse_jax.refused import Refused

from . import flag_values, help_page, output, streams, watching
from .directory import CHUNKS
from .flag_values import FLAGS, flag, integer
from .output import BEGUN, HELD, fail, harmless, kept, warn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA complains of every program that it finds in the cache
PLANS: list[Any] = []  # of a dry run, for a total over experiments
SHARED: list[Any] = []  # the progress of several experiments, where they share one
PLANNED: list[list[Any]] = []  # programs of sweeps that are planned for later, or that were and now run, in turn


def main(define: Callable[[], None], run: Callable[..., None], arguments: bool = False) -> None:
  """Defines and parses flags and runs; a usage error is one line on standard error and exit status 2.

  Args:
    define: makes the flags.
    run: takes nothing, or the list of arguments that are no flags.
    arguments: whether there may be any.
  """
  streams.prepare()
  stderr = sys.stderr

  def end(what: str, status: int) -> None:
    sys.stderr = stderr  # what a step of a loop prints goes into its log
    fail(f"{what}{kept()}", status, at_once=True)

  streams.on_signals(
    {signal.SIGTERM: lambda: end("terminated", 143), signal.SIGINT: lambda: end("interrupted", 130)},
  )
  define()
  help_page.define(sys.modules[run.__module__].__doc__ or "")
  app.run(functools.partial(_guarded, run, arguments), flags_parser=functools.partial(parse, arguments=arguments))


def parse(argv: Sequence[str], arguments: bool = False) -> list[str]:
  """Reads flags; ends with status 2 where they cannot be read."""
  try:
    return flag_values.read(argv, arguments)
  except Refused as error:
    fail(str(error))


def _guarded(run, arguments: bool, argv: Sequence[str]) -> None:
  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  try:
    run(argv[1:]) if arguments else run()
  except Refused as error:
    fail(flag_values.in_flags(error))
  except MemoryError as error:
    fail(str(error) or "memory does not suffice.", 1)
  except OSError as error:
    fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}{kept()}", 1)
  except Exception as error:
    if not BEGUN.is_set():
      raise
    traceback.print_exc()
    fail(f"{type(error).__name__}{kept()}", 1)


def simulate_and_write(
  default_dir: str,
  simulate: Callable[..., Any],
  options: dict[str, Any],
  *,
  folders: Sequence[str] = ("",),
  compared: Sequence[str] | None = (),
  place: str = CHUNKS,
) -> None:
  """Simulates and writes the results, or goes on with a sweep, or says what would run.

  Numbers are on disk before anything is drawn; a figure or report that fails is a warning, and --resume makes it.

  Args:
    simulate: called with the options and with `directory`, for what it finishes on the way; results, a dict of them by
      folder, or None.
    options: validated; nothing has been imported or written yet.
    folders: of the experiments in a directory that holds several.
    compared: see `output.output_dir`.
    place: name of the folder in the output directory for what is finished on the way.
  """
  check_machine()
  path = output.output_dir(default_dir, compared)
  if FLAGS.dry_run:
    simulate(**options)
    return
  with contextlib.ExitStack() as stack:
    needed = _agreed(lambda: stack.enter_context(output.unfinished(path, compared, folders)))
    if needed:
      BEGUN.set()
      HELD.append(path)
      with _profiled(path):
        results = simulate(**options, directory=path / place)
      if is_first_process():
        output.write_numbers(results if isinstance(results, dict) else {"": results}, path)
      del results  # memory, for what is drawn is read again
    if is_first_process():
      output.draw(path, folders)
  _agreed(lambda: True)  # that all have ended well


def _agreed(decide: Callable[[], bool]) -> bool:
  """What process 0 decides, for all processes; also the error that it ends with."""
  go, why, kind = False, "", ""
  try:
    go = is_first_process() and decide()
  except (Refused, OSError) as error:
    if not flag("distributed", False):
      raise
    why, kind = flag_values.in_flags(error) if isinstance(error, Refused) else str(error), type(error).__name__
  if flag("distributed", False):
    import numpy as np

    from collapse_jax.sweeps import devices

    said = devices.gather({"said": np.frombuffer(json.dumps([go, why, kind]).encode(), np.uint8)})[0]
    go, why, kind = json.loads(said["said"].tobytes())
  if why:
    raise (Refused if kind == Refused.__name__ else OSError)(why)
  return go


@contextlib.contextmanager
def _profiled(path: Path) -> Iterator[None]:
  if not flag("profile", False):
    yield
    return
  prepare_jax()
  import jax

  begun = harmless("--profile", jax.profiler.start_trace, str(path / "profile"))
  try:
    yield
  finally:
    if begun:
      harmless("--profile", jax.profiler.stop_trace)


def check_machine() -> None:
  """Flags that say where to run, of programs that have them; no JAX."""
  if "devices" not in FLAGS:
    return
  integer("chunk_size", 0)
  if FLAGS.devices != "auto":
    integer("devices")
  given = [name for name in ("coordinator", "process_id", "num_processes") if getattr(FLAGS, name) is not None]
  if given == ["num_processes"] and planned_processes() > 1:
    given = []
  if given and not FLAGS.distributed:
    raise Refused(f"--{given[0]} needs --distributed.")
  if given and len(given) < 3:
    raise Refused(
      "--coordinator, --process_id and --num_processes go together: give all three, or none where SLURM "
      "or a TPU pod tells them."
    )
  if given:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):\d{1,5}", FLAGS.coordinator):
      raise Refused(f"--coordinator must be host:port, got {FLAGS.coordinator!r}.")
    if integer("process_id", 0) >= integer("num_processes"):
      raise Refused(f"--process_id must be below --num_processes={FLAGS.num_processes}, got {FLAGS.process_id!r}.")
  if FLAGS.log_dir is not None:
    output.check_writable("log_dir", Path(FLAGS.log_dir))
    if importlib.util.find_spec("tensorboardX") is None:
      raise Refused("--log_dir needs tensorboardX: pip install 'collapse-jax[watch]'.")
  for text in flag_values.items("track") if FLAGS.track else ():
    watching.check(text)


def planned_processes() -> int:
  """Processes of a dry run of one model that is split over their devices, all of which are simulated in this one; else 1."""
  of_one_model = "span_processes" in FLAGS and flag("dry_run", False) and not flag("distributed", False)
  return integer("num_processes") if of_one_model and flag("num_processes", None) is not None else 1


def is_first_process() -> bool:
  """Whether this process writes results."""
  if not flag("distributed", False):
    return True
  prepare_jax()
  import jax

  return jax.process_index() == 0


def _has_home() -> bool:
  try:
    return bool(Path.home())
  except RuntimeError:
    return False


@functools.cache
def prepare_jax() -> None:
  """Precision, devices, other processes, and a compilation cache on disk that makes the second start fast."""
  import jax

  jax.config.update("jax_enable_x64", FLAGS.enable_x64 if "enable_x64" in FLAGS else False)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    harmless(
      "a cache of compiled programs", lambda: jax.config.update("jax_compilation_cache_dir", str(caches.directory()))
    )
  if not _has_home():  # older versions of Matplotlib ask for one
    with contextlib.suppress(OSError):
      os.environ.setdefault("MPLCONFIGDIR", str(caches.directory("matplotlib")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if "devices" in FLAGS and FLAGS.devices != "auto" and integer("devices") * planned_processes() > 1:
    jax.config.update("jax_num_cpu_devices", integer("devices") * planned_processes())
  if "distributed" in FLAGS and FLAGS.distributed:
    given = (
      {}
      if FLAGS.coordinator is None
      else {
        "coordinator_address": FLAGS.coordinator,
        "num_processes": integer("num_processes"),
        "process_id": integer("process_id", 0),
        "coordinator_bind_address": bind_address(FLAGS.coordinator),
      }
    )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
      jax.distributed.initialize(**given, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
      raise Refused(f"--distributed: {error}") from None
  from collapse_jax.sweeps import devices

  devices.check()


def bind_address(coordinator: str) -> str | None:
  """Where process 0 listens: at the address that was named. None: everywhere, for to a host its own name may be another address."""
  host = coordinator.rpartition(":")[0]
  with contextlib.suppress(ValueError):
    return coordinator if host == "localhost" or ipaddress.ip_address(host.strip("[]")) else None
  if integer("process_id", 0) == 0:
    warn(f"process 0 listens on all interfaces, for anybody: name an address instead of {host} to listen there alone.")
  return None


def mesh():
  """The devices that --devices asks for; None for a single one."""
  import jax

  from collapse_jax.sweeps import devices

  if flag("devices", "auto") != "auto":
    return devices.mesh_of(integer("devices")) if integer("devices") > 1 else None
  return None if jax.default_backend() == "cpu" else devices.mesh_of()


def simulate(task, workflows, axes: dict[str, list], **options):
  """`collapse_jax.sweep` as the flags ask; None after a dry run."""
  prepare_jax()
  from collapse_jax.sweeps import plan, sweep

  if FLAGS.dry_run:
    planning = ("num_generations", "num_seeds", "record_every", "warm_start", "static_axes")
    planned = plan(task, workflows, axes, **{name: options[name] for name in planning if name in options})
    PLANS.append(planned._replace(traced={}))  # programs are large
    if PLANNED:
      PLANNED[-1].append(planned.traced)
    print(planned)
    return None
  with curves() as open_curves:
    if open_curves is not None:
      options["on_cell"] = watching.on_cell(open_curves, options["num_generations"], options.get("record_every", 1))
    return sweep(
      task,
      workflows,
      axes,
      progress=is_first_process() and (SHARED[-1] if SHARED else True),
      mesh=mesh(),
      resume=FLAGS.resume,
      chunk_size=integer("chunk_size", 0) or None,
      traced=PLANNED[-1].pop(0) if PLANNED else None,
      **options,
    )


def curves() -> contextlib.AbstractContextManager[watching.Curves | None]:
  """Curves to where the flags say, of the first process."""
  track = flag_values.items("track") if flag("track", None) else ()
  found = watching.curves(flag("log_dir", None), track) if is_first_process() else None
  return contextlib.nullcontext() if found is None else found


@contextlib.contextmanager
def planned() -> Iterator[list[Any]]:
  """What is simulated inside is only planned, and nothing of it printed; what it traces comes into a list, see `as_planned`."""
  FLAGS["dry_run"].value = True
  try:
    with contextlib.redirect_stdout(io.StringIO()), as_planned([]) as traced:
      yield traced
  finally:
    FLAGS["dry_run"].value = False


@contextlib.contextmanager
def as_planned(traced: list[Any]) -> Iterator[list[Any]]:
  """What is simulated inside, and was planned before, is not traced again.

  Args:
    traced: what `planned` gave.
  """
  PLANNED.append(traced)
  try:
    yield traced
  finally:
    PLANNED.pop()


def read_once(num_test: int = 500) -> Callable:
  """A function that gives data sets by name, and reads each once: a pipe cannot be read again."""
  from collapse_jax.data import generators

  return functools.cache(lambda name: generators.get(name, num_test))


def related(results, system: str, compare: bool, **about):
  """Says of which published system a sweep is, and if asked to sets predictions of the system beside simulations."""
  if results is None:
    return None
  results.attrs |= {"task": system, "system": system, **about}
  if compare and is_first_process():
    from collapse_jax.systems.table import SYSTEMS

    rows = [row._asdict() | {"z": row.z, "twin_z": row.twin_z} for row in SYSTEMS[system].pairs()]
    results.attrs["comparisons"] = json.dumps(rows)
    worst = max(rows, key=lambda row: abs(row["z"]))
    print(
      f"{len(rows)} predictions beside simulations: largest |z| {abs(worst['z']):.1f} ({worst['quantity']})", flush=True
    )
  return results
