"""Whether this process was forked from one that had used JAX. Imports no JAX, and early, for it must know of every fork."""

import os
import sys

__all__ = ["check"]

_without_threads = False


def _note() -> None:
  global _without_threads
  bridge = sys.modules.get("jax._src.xla_bridge")  # no public function tells this without starting what it tells about
  _without_threads = bool(getattr(bridge, "backends_are_initialized", lambda: False)())


os.register_at_fork(after_in_child=_note)


def check() -> None:
  """Raises a RuntimeError in a process that lacks the threads of JAX, for which it would wait for ever."""
  if _without_threads:
    raise RuntimeError(
      "this process was forked from one that had used JAX, whose threads it lacks: start it with "
      "multiprocessing.get_context('spawn'), or fork before JAX is used."
    )
