"""Many runs of a loop, as arrays."""

from collections.abc import Callable

import jax
import numpy as np

from collapse_jax import transforms
from collapse_jax.generation import run
from collapse_jax.random import new_key
from collapse_jax.types import MetricInfo, TaskSetting, Workflow

__all__ = ["expected_shares", "showing", "simulate"]


def expected_shares(workflow: Workflow, num_generations: int) -> np.ndarray:
  """[T, T] of batch j, 0 = real, in the training data of generation t, of a workflow that knows them."""
  assert workflow.weights is not None
  return workflow.weights(num_generations)


def simulate(
  task: TaskSetting | Callable[[jax.Array], TaskSetting],
  workflow: Workflow | Callable[[jax.Array], Workflow],
  num_runs: int,
  num_generations: int,
  seed: int = 0,
  at_once: int | None = None,
) -> dict[str, np.ndarray]:
  """Metrics [num_runs, num_generations, ...] in float64, by one compiled program.

  Args:
    task, workflow: or functions of the run's number, so that cases that differ in traced values share the program.
    at_once: runs side by side, which bounds the memory; default all.
  """
  make = (lambda i: task) if isinstance(task, TaskSetting) else task
  flow = (lambda i: workflow) if isinstance(workflow, Workflow) else workflow
  one = lambda i: run(jax.random.fold_in(new_key(seed), i), make(i), flow(i), num_generations)
  out = jax.jit(lambda i: jax.lax.map(one, i, batch_size=at_once or num_runs))(jax.numpy.arange(num_runs))
  return {name: np.asarray(value, np.float64) for name, value in out.items()}


def showing(task: TaskSetting, num_rows: int) -> TaskSetting:
  """A task whose results have `shown_rows`, the first rows that every model emits, which figures show."""
  shown = MetricInfo("rows of a model, one after the other", "data units", dims=("number",))
  look = lambda problem, context, batch: {"shown_rows": batch.rows[0, :num_rows].reshape(-1)}
  return transforms.observe(task, look, {"shown_rows": shown})
