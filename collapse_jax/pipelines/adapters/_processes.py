"""Programs of any language, each in a process group that ends as a whole: when it is done, late, or this process is gone."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Program", "failure", "fill", "names", "run", "running", "sources"]

# A child of the shell waits for the end of a pipe whose other end this process alone holds: where it dies, of whatever, so do they.
_WITH_US = "exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec 3<&-\n"
_GRACE = 3  # seconds between being asked to end and the end
_NAME = re.compile(r"\{([a-z_]+)\}")


def names(template: str) -> set[str]:
  """What stands in braces and is a plain name; other braces, as of awk or a shell, are none of ours."""
  return set(_NAME.findall(template))


def fill(template: str, values: Mapping[str, Any]) -> str:
  """A template with its names replaced, each quoted for a shell; other braces stay."""
  return _NAME.sub(lambda found: shlex.quote(str(values[found[1]])) if found[1] in values else found[0], template)


def sources(template: str) -> dict[str, bytes]:
  """Files that a template names, such as scripts, with what they hold: numbers depend on it."""
  try:
    words = shlex.split(template)
  except ValueError:  # quotes that the shell alone understands
    words = template.split()
  return {word: Path(word).read_bytes() for word in words if Path(word).is_file()}


class Program:
  """A program that runs; what it says goes where this process says things, which is the log of the step.

  Attributes:
    said: the last line on its stderr that is not blank.
  """

  def __init__(self, command: str):
    self.said = ""
    print(f"$ {command}", flush=True)
    self.process = subprocess.Popen(
      ["/bin/sh", "-c", _WITH_US + command],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
    )
    pairs = (self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)
    self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs]
    for reader in self._readers:
      reader.start()

  def _read(self, stream: Any, to: Any) -> None:
    for line in stream:
      text = line.decode(errors="backslashreplace")
      if stream is self.process.stderr:
        self.said = text.strip()[-300:] or self.said
      with contextlib.suppress(ValueError):  # closed, where something outlives its step
        to.write(text)
        to.flush()

  def end(self) -> None:
    """Ends it with all that it has started."""
    if self.process.poll() is None:
      self._signal(signal.SIGTERM)
      with contextlib.suppress(subprocess.TimeoutExpired):
        self.process.wait(_GRACE)
    self._signal(signal.SIGKILL)
    self.process.wait()
    for reader in self._readers:
      reader.join(_GRACE)
    if not any(reader.is_alive() for reader in self._readers):  # else what left the group still holds a pipe
      for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
        if stream is not None:
          stream.close()

  def _signal(self, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, number)


@contextlib.contextmanager
def running(command: str) -> Iterator[Program]:
  """A program beside this one, which ends where the block does."""
  program = Program(command)
  try:
    yield program
  finally:
    program.end()


def run(command: str, timeout: float | None = None) -> None:
  """A program, to its end.

  Args:
    command: as a shell takes it.
    timeout: seconds after which it is ended with all that it started; None: never.
  Raises:
    TimeoutError: it took longer.
    RuntimeError: it ended with another status than 0; with the last line that it said on stderr.
  """
  with running(command) as program:
    try:
      status = program.process.wait(timeout)
    except subprocess.TimeoutExpired:
      raise TimeoutError(f"the command was ended after {timeout:g} s") from None
  if status:
    raise RuntimeError(failure(program))


def failure(program: Program) -> str:
  """How a program that is over has failed, in one line."""
  status = program.process.returncode
  how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
  return f"the command {how}: {program.said or 'it said nothing on stderr'}"
