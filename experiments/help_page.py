"""What --help prints: what a program is, three examples, and every flag that a user may set. Imports no JAX."""

import re
import shutil
import sys
import textwrap

from absl import app, flags

from . import flag_values
from .flag_values import FLAGS, FREE, PARSED

_EXAMPLES = 3
# Of a program whose text has fewer, where it has the flag.
_USUAL = {
  "dry_run": "--dry_run",
  "num_seeds": "--num_seeds=10 --output_dir=first",
  "resume": "--output_dir=first --resume",
}
_NAMES = 20  # columns


class _Help(flags.BooleanFlag):
  """absl's own shows the flags of one module only."""

  def __init__(self, text: str):
    super().__init__("help", False, "Show this.", short_name="h", allow_override=True)
    self._text = text

  def parse(self, arg):
    if self._parse(arg):
      print(page(self._text))
      sys.exit(0)


def define(text: str) -> None:
  """The flag --help of a program that `text`, its docstring, is about."""
  app.define_help_flags()
  flags.DEFINE_flag(_Help(text))


def page(text: str) -> str:
  """The text of a program, with examples, and its flags: those that fix numbers first."""
  start = flag_values.program()
  name = re.split(r"[ .]", start)[-1]
  text = text.strip().replace(f"python -m experiments.{name}", start)
  text = text.replace("python -m experiments.", flag_values.EXPERIMENT)
  missing = _EXAMPLES - len(re.findall(rf"^  {re.escape(start)}\b", text, re.M))
  usual = [f"  {start} {example}" for name, example in _USUAL.items() if name in FLAGS][: max(missing, 0)]
  mine = [one for one in _in_order() if one.name in PARSED]
  groups = {
    "flags:": [one for one in mine if one.name not in FREE],
    "flags that change no number:": [one for one in mine if one.name in FREE],
  }
  parts = [text, "\n".join(usual)]
  parts += ["\n".join([head, *map(_entry, group)]) for head, group in groups.items() if group]
  return "\n\n".join(filter(None, parts))


def _in_order() -> list[flags.Flag]:
  """Flags of this project as they were defined, a program's own before what it shares with others."""
  groups = [(name, group) for name, group in FLAGS.flags_by_module_dict().items() if not name.startswith("absl.")]
  groups.sort(key=lambda one: one[0].endswith((".flag_values", ".language_flags")))
  return [one for _, group in groups for one in group if one.name != "help"]


def _entry(one: flags.Flag) -> str:
  name = f"  --[no]{one.name}" if one.boolean and one.default else f"  --{one.name}"
  default = f" ({one.default})" if one.default not in (None, "", False, True) else ""
  width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
  return "\n".join(
    textwrap.wrap(
      f"{name.ljust(_NAMES)} {one.help}{default}", width, subsequent_indent=" " * (_NAMES + 1), break_on_hyphens=False
    )
  )
