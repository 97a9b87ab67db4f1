"""What is refused, apart from what is broken."""

from typing import Any

__all__ = ["Refused"]


class Refused(ValueError):
  """An argument, a file or a combination that cannot be used, said in one line.

  The only error that a sweep takes for a fact about a cell (`cell_status`), and that a binary turns into its one line and status 2.
  Any other error of a task's or workflow's code is a mistake there, and keeps its traceback.

  Attributes:
    argument: what it was given as, "num_samples"; "" where it is no single argument.
    value: what was given.
    allowed: what may be, in words; "" where the text says it.
  """

  def __init__(self, text: str, *, argument: str = "", value: Any = None, allowed: str = ""):
    super().__init__(text)
    self.argument, self.value, self.allowed = argument, value, allowed

  @classmethod
  def must_be(cls, argument: str, allowed: str, value: Any) -> "Refused":
    """The usual line: "temperature must be above 0, got -1."."""
    shown = repr(value) if isinstance(value, str) else value
    return cls(f"{argument} must be {allowed}, got {shown}.", argument=argument, value=value, allowed=allowed)
