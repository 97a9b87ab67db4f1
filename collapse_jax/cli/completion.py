"""Print what makes a shell complete commands, experiments and flags.

  collapse completion bash >> ~/.bashrc
  collapse completion zsh >> ~/.zshrc
  collapse completion bash > /etc/bash_completion.d/collapse

The text names the flags of this version; print it again after an update.
"""

import importlib
import shlex
from collections.abc import Callable

from collapse_jax import cli
from collapse_jax.cli import reading
from collapse_jax.cli.parts import flag_values
from collapse_jax.refused import Refused

__all__ = ["define", "main", "script"]

SHELLS = ("bash", "zsh")
_SCRIPT = """\
_collapse() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={commands}
  elif [ "${{COMP_WORDS[1]}}" = run ] && [ "$COMP_CWORD" -eq 2 ]; then
    words={experiments}
  elif [ "${{COMP_WORDS[1]}}" = run ]; then
    case "${{COMP_WORDS[2]}}" in
{of_experiments}
    esac
  else
    case "${{COMP_WORDS[1]}}" in
{of_commands}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -F _collapse collapse
"""


def define() -> None:
  """This command has no flags."""


def main(arguments: list[str]) -> None:
  """Prints the script of a shell."""
  shell = reading.only(arguments, f"a shell: {' or '.join(SHELLS)}")
  if shell not in SHELLS:
    raise Refused(f"there is completion for {' and '.join(SHELLS)}, not for {shell!r}.")
  print(script(shell), end="")


def script(shell: str) -> str:
  """The text that a shell reads.

  Args:
    shell: one of `SHELLS`; zsh reads bash's with a module of its own.
  """
  experiments = list(cli.experiments())
  of_experiments = {name: _flags(f"{cli.package()}.{name}") for name in experiments}
  of_commands = {name: _flags(cli.home(name)) for name in cli.COMMANDS if name != "run"}
  of_commands["completion"] += SHELLS
  text = _SCRIPT.format(
    commands=shlex.quote(" ".join((*cli.COMMANDS, "--help"))),
    experiments=shlex.quote(" ".join((*experiments, "--help"))),
    of_experiments=_branches(of_experiments),
    of_commands=_branches(of_commands),
  )
  return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _branches(words) -> str:
  return "\n".join(f"      {name}) words={shlex.quote(' '.join(some))} ;;" for name, some in words.items())


def _flags(module: str) -> list[str]:
  """What a program's flags are written like; "--seed=" where a value follows."""
  define: Callable[[], None] = importlib.import_module(module).define
  known = flag_values.FLAGS
  before = set(known)
  define()
  mine = {name: known[name] for name in set(known) - before}
  for name in mine:
    delattr(known, name)
  return [*sorted(f"--{name}" if one.boolean else f"--{name}=" for name, one in mine.items()), "--help"]
