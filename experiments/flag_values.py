"""Flags: which there are, and what their values may be. Imports no JAX.

A value that cannot be used is `Refused`, in one line that names the flag, what was given and what may be.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from collapse_jax import vocabulary
from collapse_jax.data import files
from collapse_jax.refused import Refused

FLAGS = flags.FLAGS
_QUOTED = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)')\s*(?=,|$)""")  # an item of a comma list
# Flags that change no number of the results.
FREE = (
  "resume",
  "overwrite",
  "output_dir",
  "dry_run",
  "chunk_size",
  "devices",
  "distributed",
  "coordinator",
  "process_id",
  "num_processes",
  "log_dir",
  "track",
  "profile",
  "jobs",
  "timeout",
)
PATHS = (
  "output_dir",
  "log_dir",
  "dataset",
  "model",
  "lora_start",
  "data",
  "test",
  "train",
)  # flags in which a shell leaves "~" as it is
FLAG_FILES, FLAG_BYTES = 100, 1 << 20  # at most, one within another
PARSED: set[str] = set()  # flags there were when they were parsed: libraries that are imported later add theirs
EXPERIMENT = "python -m experiments." if __package__ == "experiments" else "collapse run "  # NAME
PAPER_WORKFLOWS = "replace,accumulate,accumulate_subsample"
# Arguments whose flag has another name than theirs, or than theirs and an s.
NAMED = {"size": "workflows", "weights": "workflows", "label_error": "errors"}


def define_common(
  num_samples: str = "10,32,100,316,1000",
  num_generations: int = 100,
  num_seeds: int = 100,
  workflows: str | None = PAPER_WORKFLOWS,
  record_every: int = 1,
  temperatures: bool = True,
) -> None:
  """Flags that every simulation has, workflows and temperatures where they are asked for."""
  if workflows is not None:
    flags.DEFINE_string("workflows", workflows, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_samples", num_samples, "Comma list: rows per batch, at least 2.")
  if temperatures:
    flags.DEFINE_string("temperatures", "1", "Comma list: factor of the variance that samples are drawn with.")
  flags.DEFINE_string("num_generations", str(num_generations), "Generations T.")
  flags.DEFINE_string("num_seeds", str(num_seeds), "Runs per cell.")
  flags.DEFINE_string("record_every", str(record_every), "Keep metrics of generation 1 and of multiples of this.")
  define_shared()


def define_compare() -> None:
  """The flag of related systems."""
  flags.DEFINE_boolean("compare", True, "Set what is predicted of the system beside simulations, in the report.")


def define_output() -> None:
  """Flags of all that writes a directory of results."""
  flags.DEFINE_string("seed", "0", "Seed of all random keys.")
  flags.DEFINE_string("output_dir", None, "Where results go; default results/NAME.")
  flags.DEFINE_boolean("overwrite", False, "Replace results that the output directory holds.")
  flags.DEFINE_boolean("resume", False, "Go on with the unfinished sweep in the output directory.")
  flags.DEFINE_boolean("dry_run", False, "Print what would run, then stop.")


def define_shared() -> None:
  """Flags that every binary has."""
  define_output()
  flags.DEFINE_boolean("enable_x64", False, "Compute in float64.")
  flags.DEFINE_string("chunk_size", "0", "Runs in one program on each device; 0: what memory allows.")
  flags.DEFINE_string("devices", "auto", "Devices that share the runs (CPU: simulated ones); auto: all accelerators.")
  flags.DEFINE_boolean(
    "distributed", False, "One of several processes: of SLURM, of a TPU pod, or as the next three say."
  )
  flags.DEFINE_string("coordinator", None, "host:port of process 0.")
  flags.DEFINE_string("process_id", None, "Which process this is, from 0.")
  flags.DEFINE_string("num_processes", None, "How many there are.")
  flags.DEFINE_string(
    "log_dir", None, "Write TensorBoard events there: curves as they come, figures at the end.", allow_override=True
  )  # absl's own, for log files, is not used
  flags.DEFINE_string(
    "track", None, "Comma list: where curves go as well: wandb:PROJECT, trackio:PROJECT, mlflow:EXPERIMENT."
  )
  flags.DEFINE_boolean("profile", False, "Write a trace of JAX's profiler into OUTPUT_DIR/profile.")


def read(argv: Sequence[str], arguments: bool = False) -> list[str]:
  """Parses flags, those of flag files among them; returns what is no flag, the program's name first.

  Args:
    arguments: whether there may be anything else than flags.
  """
  PARSED.update(FLAGS)
  FLAGS.set_gnu_getopt()  # flags may come after what is no flag
  for one in argv:
    if not _is_text(one):
      raise Refused(f"{one!r} is not UTF-8: results name what made them in UTF-8, and cannot name this.")
  try:
    given = _with_flag_files(list(argv))
  except Refused as error:
    raise Refused(f"--flagfile cannot be read: {str(error).rstrip('.')}.") from None
  try:
    rest = FLAGS(given)
  except flags.Error as error:
    raise Refused(f"{str(error).splitlines()[0].rstrip('.')}; --help lists the flags.") from None
  if len(rest) > 1 and not arguments:
    raise Refused(f"unexpected argument {rest[1]!r}; flags are written --name=value.")
  for name in PATHS:
    if flag(name, None):
      FLAGS[name].value = os.path.expanduser(str(FLAGS[name].value))
  return rest


def flag_of(argument: str) -> str:
  """The flag that an argument of the library is given as; "" where there is none."""
  return next((one for one in (NAMED.get(argument, f"{argument}s"), argument) if argument and one in FLAGS), "")


def in_flags(error: Refused) -> str:
  """The line of what was refused, with the flag that its argument was given as."""
  text, argument, name = str(error), error.argument, flag_of(error.argument)
  if not name or text.startswith("--"):
    return text
  same = name in (argument, f"{argument}s") and re.match(rf"{argument}\b", text)
  return f"--{name}{text.removeprefix(argument)}" if same else f"--{name}: {text}"


@contextlib.contextmanager
def given_as(name: str, value: str | None = None) -> Iterator[None]:
  """Says of what is refused inside that it was given as this flag, unless it names another itself."""
  try:
    yield
  except Refused as error:
    if flag_of(error.argument) not in ("", name):
      raise
    shown = name if value is None else f"{name}={value}"
    raise Refused(f"--{shown}: {error}", argument=name, value=error.value, allowed=error.allowed) from None


def _is_text(text: str) -> bool:
  try:
    return bool(text.encode()) or not text
  except UnicodeEncodeError:
    return False


def _with_flag_files(argv: list[str]) -> list[str]:
  """The arguments, with those of flag files in their place; Refused where one cannot be read.

  A name that is not found is one of this package's own flag files.
  """
  read = 0
  at = 1
  while at < len(argv) and argv[at] != "--":
    given = re.fullmatch(r"--?flagfile(?:=(.*))?", argv[at], re.DOTALL)
    if given is None:
      at += 1
      continue
    name, used = (given[1], 1) if given[1] is not None else ("".join(argv[at + 1 : at + 2]), 2)
    path = Path(os.path.expanduser(name.strip("\"'")))
    own = Path(__file__).parent / "flags" / path.name
    read += 1
    if read > FLAG_FILES:
      raise Refused(f"{path} is one of more than {FLAG_FILES}, one within another.")
    lines = files.read_text(own if not os.path.lexists(path) and own.is_file() else path, FLAG_BYTES).splitlines()
    argv[at : at + used] = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("#", "//"))]
  return argv


def integer(name: str, least: int = 1) -> int:
  return _number(name, getattr(FLAGS, name), int, least, strict=False)


def integers(name: str, least: int = 1) -> list[int]:
  return [_number(name, item, int, least, strict=False) for item in items(name)]


def positives(name: str) -> list[float]:
  return [_number(name, item, float, 0.0, strict=True) for item in items(name)]


def shares(name: str, zero: bool = True) -> list[float]:
  """A comma list of numbers from 0, or above it, to 1."""
  return [_share(name, item, zero) for item in items(name)]


def share(name: str, zero: bool = True) -> float:
  return _share(name, getattr(FLAGS, name), zero)


def positive(name: str) -> float:
  return _number(name, getattr(FLAGS, name), float, 0.0, strict=True)


def _share(name, text, zero):
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1 or (value == 0 and not zero):
    raise Refused(f"--{name} must be {'numbers from 0' if zero else 'numbers above 0'} to 1, got {text!r}.")
  return value


def items(name: str) -> list[str]:
  """A comma list; what stands in quotes or brackets is not split."""
  text = getattr(FLAGS, name)
  found = _split(text)
  if not text.strip() or not all(found):
    raise Refused(f"--{name} must be a comma list without empty items, got {text!r}.")
  if len(set(found)) < len(found):
    raise Refused(f"--{name} names an item twice: {text!r}.")
  return found


def _split(text: str) -> list[str]:
  closing, opened = {}, []
  for at, character in enumerate(text):
    if character in "([{":
      opened.append(at)
    elif character in ")]}" and opened:
      closing[opened.pop()] = at
  found, at, begun = [], 0, 0
  while at <= len(text):
    quoted = _QUOTED.match(text, at) if at == begun else None
    if quoted is not None:
      found.append(quoted[1] if quoted[1] is not None else quoted[2])
      at = begun = quoted.end() + 1
    elif at == len(text) or text[at] == ",":
      found.append(os.path.expanduser(text[begun:at].strip()))
      at = begun = at + 1
    else:
      at = closing.get(at, at) + 1
  return found


def choices(name: str, allowed: Sequence[str]) -> list[str]:
  for item in items(name):
    if item not in allowed:
      raise Refused(f"--{name} must be among {', '.join(allowed)}, got {item!r}.")
  return items(name)


def choice(name: str, allowed: Sequence[str]) -> str:
  if getattr(FLAGS, name) not in allowed:
    raise Refused(f"--{name} must be one of {', '.join(allowed)}, got {getattr(FLAGS, name)!r}.")
  return getattr(FLAGS, name)


def _number(name, text, kind, least, strict):
  what = {int: "an integer", float: "a number"}[kind]
  most = vocabulary.LARGEST if kind is int else sys.float_info.max
  bound = f"above {least:g}" if strict else f"of at least {least}"
  try:
    value = kind(text)
  except ValueError:
    raise Refused(f"--{name} must be {what} {bound}, got {text!r}.") from None
  if value > most and value < float("inf"):
    raise Refused(f"--{name} must be {what} of at most {most}, got {text!r}.")
  if not least <= value <= most or (strict and value == least):
    raise Refused(f"--{name} must be {what} {bound}, got {text!r}.")
  return value


def common_options() -> dict[str, Any]:
  """Validated values of the single-valued flags that `sweep` takes."""
  return {
    "num_generations": integer("num_generations"),
    "num_seeds": integer("num_seeds"),
    "seed": integer("seed", 0),
    "record_every": integer("record_every"),
  }


def related_options() -> dict[str, Any]:
  """The same of a related system."""
  return common_options() | {"compare": FLAGS.compare}


def bandwidths() -> list[float | str]:
  """--bandwidths: numbers above 0, and names of rules."""
  values: list[float | str] = []
  for item in items("bandwidths"):
    try:
      values.append(item if item in vocabulary.BANDWIDTH_RULES else float(item))
    except ValueError:
      values.append(-1.0)
    if not isinstance(values[-1], str) and not 0 < values[-1] < float("inf"):
      known = ", ".join(vocabulary.BANDWIDTH_RULES)
      raise Refused(f"--bandwidths must be numbers above 0 or among {known}, got {item!r}.")
  return values


def datasets() -> list[str]:
  """--datasets: real data are loaded before JAX starts, so that a bad file ends at once."""
  from collapse_jax.data import real_data

  with given_as("datasets"):
    for name in items("datasets"):
      real_data.check(name)
  return items("datasets")


def check_workflows(law: bool) -> list[str]:
  """The workflow list, checked."""
  for name in items("workflows"):
    with given_as("workflows"):
      vocabulary.check_workflow(name)
  if law and any(name.startswith("accumulate_subsample") for name in items("workflows")):
    raise Refused(
      "--draws=law keeps statistics only, and --workflows=accumulate_subsample needs rows: "
      "use --draws=auto or --draws=rows."
    )
  return items("workflows")


def command() -> str:
  """The command that was given, in a checkout runnable from its root."""
  return shlex.join([*program().split(), *sys.argv[1:]])


def program() -> str:
  """What a command begins with: "collapse loop" as it is; of a binary in a checkout "python -m experiments.NAME"."""
  name = Path(sys.argv[0]).stem
  return name if name.startswith("collapse ") else f"{EXPERIMENT}{name}"


def dry_run() -> bool:
  return flag("dry_run", False)


def flag(name: str, otherwise):
  """A flag's value, also where `simulate` is called without flags."""
  return FLAGS[name].value if name in FLAGS else otherwise


def config() -> dict[str, Any]:
  """All flags of this project and their values, and a name for those that fix numbers."""
  mine = [
    flag
    for module, group in FLAGS.flags_by_module_dict().items()
    if not module.startswith("absl.")
    for flag in group
    if flag.name in PARSED
  ]
  values = {flag.name: flag.value for flag in sorted(mine, key=lambda f: f.name)}
  fixed = {name: value for name, value in values.items() if name not in FREE}
  identity = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
  return {"command": command(), "id": identity, "flags": values}
