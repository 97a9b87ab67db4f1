"""Laws of workflows given as their coordinates."""

import numpy as np

from collapse_jax.theory.checks import check_run
from collapse_jax.theory.gaussian import (
  SUBSAMPLE_LIMIT,
  Moments,
  gaussian_accumulate,
  gaussian_accumulate_subsample,
  gaussian_accumulate_trace_limit,
  gaussian_mix,
  gaussian_mix_limit,
  gaussian_replace,
)
from collapse_jax.vocabulary import parse_call


def gaussian_moments(workflow: str, num_samples: int, num_generations: int, unbiased: bool = False) -> Moments | None:
  """Exact moments under a workflow given as its coordinate: "replace", "mix(0.2, fresh=True)", ...

  Args:
    workflow: the name, or a call with literal arguments.
    num_samples: n, real items and items per model, at least 2.
    num_generations: T.
    unbiased: fits divide by (number of items - 1).
  Returns:
    Moments, or None for names of no workflow; `schedule_moments` has those of any schedule.
  Raises:
    ValueError: `workflow` is neither a name nor a call with literal arguments, or these do not fit.
  """
  check_run(num_samples, num_generations)
  n, T = num_samples, num_generations
  name, arguments, keywords = parse_call(workflow)
  fast = {
    "replace": gaussian_replace,
    "accumulate": gaussian_accumulate,
    "accumulate_subsample": gaussian_accumulate_subsample,
  }
  if name in fast and not arguments and not keywords:
    return fast[name](n, T, unbiased)
  given = dict(zip(("real_fraction", "fresh", "real_weight"), arguments)) | keywords
  if name == "mix" and "real_fraction" in given and given.keys() <= {"real_fraction", "fresh"}:
    return gaussian_mix(n, num_generations=T, unbiased=unbiased, **given)
  from collapse_jax.theory.schedules import schedule_moments, schedule_of

  schedule = schedule_of(workflow, n, T)
  return None if schedule is None else schedule_moments(schedule, unbiased=unbiased)


def gaussian_limit(workflow: str, num_samples: int, unbiased: bool = False) -> Moments | None:
  """Limit t -> inf of `gaussian_moments`, scalars; None where no closed form is known.

  Exact, but for `accumulate_subsample`, which is first order and given from num_samples = 30 on.
  """
  check_run(num_samples)
  n = num_samples
  name, arguments, keywords = parse_call(workflow)
  if name == "mix":
    mix_limit = lambda real_fraction, fresh=False, real_weight=None: (
      gaussian_mix_limit(n, real_fraction, fresh, unbiased) if real_weight is None else None
    )
    return mix_limit(*arguments, **keywords)
  if arguments or keywords:
    return None
  if name == "replace":
    return Moments(np.array(1.0), np.array(np.inf)) if unbiased else Moments(np.array(0.0), np.array(1.0))
  if name == "accumulate" and not unbiased:
    trace_ratio = gaussian_accumulate_trace_limit(n)
  elif name == "accumulate_subsample" and not unbiased and n >= 30:
    trace_ratio = 1 - SUBSAMPLE_LIMIT / n
  else:
    return None
  return Moments(np.array(trace_ratio), np.array(1 - trace_ratio))
