"""Language models that are fitted to, and then write, each other's training text (Kazdan et al. 2410.16713, section 2)."""

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax import sweeps, transforms
from collapse_jax.diagnostics import findings
from collapse_jax.lm import decoding, measures, sharding, text
from collapse_jax.lm.checkpoint import LanguageModel, num_params
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices
from collapse_jax.sweeps.job import OnMetrics
from collapse_jax.systems.exports import Evaluations, Exports
from collapse_jax.systems.language_setting import Setting as Setting
from collapse_jax.systems.language_setting import Texts as Texts
from collapse_jax.systems.language_setting import read_texts as read_texts
from collapse_jax.systems.samples import Samples
from collapse_jax.tasks import Adapters

if TYPE_CHECKING:
  import xarray

__all__ = ["Setting", "Texts", "Writing", "plan", "read_texts", "simulate"]


class Writing(NamedTuple):
  """How the next generation's text is made.

  Attributes:
    prompts: sample answers to prompts of held-out real rows instead of whole rows.
    on_malformed, max_attempts: what becomes of samples without the format, see `tasks.language_model`.
    edit: arguments of `transforms.edit_tokens`; None: text is generated.
    rules: by which tokens are chosen, but for the temperature.
    keep_prefix, num_beams: see `tasks.language_model`.
  """

  prompts: bool = False
  on_malformed: str = "reject"
  max_attempts: float = 8.0
  edit: Mapping[str, Any] | None = None
  rules: decoding.Rules = decoding.PLAIN
  keep_prefix: bool = True
  num_beams: int = 0


_WRITING = Writing()


def simulate(
  setting: Setting,
  workflows: Sequence[str],
  num_samples: Sequence[int] = (256,),
  temperatures: Sequence[float] = (1.0,),
  *,
  writing: Writing = _WRITING,
  num_generations: int = 5,
  num_seeds: int = 3,
  seed: int = 0,
  warm_start: bool = False,
  chunk_size: int = 0,
  directory: Any = None,
  resume: bool = False,
  keep_checkpoints: bool = False,
  axes: Mapping[str, Sequence[Any]] = MappingProxyType({}),
  export: str = "",
  home: Any = None,
  evaluate: Callable[[LanguageModel], dict[str, float]] | None = None,
  evaluate_every: int = 1,
  on_metrics: OnMetrics | None = None,
  progress: bool = False,
) -> "xarray.Dataset":
  """A sweep of a language model.

  Args:
    setting: which model is trained how, on which text.
    workflows: names, or name -> factory that takes some of the axes.
    num_samples: rows per batch, one or more.
    temperatures: that divide logits when sampling.
    writing: how text is made.
    num_generations: T.
    num_seeds: runs per cell.
    seed: of all keys.
    warm_start: start from the last generation's model, not from the base.
    chunk_size: runs in one program: seeds, and if it is more than these, cells side by side that differ in learning rate,
      temperature and such alone; 0: what memory allows of adapters, all seeds of a cell of a small model, else 1.
    directory: for checkpoints and the synthetic text of every generation; None: neither is kept.
    resume: go on from what is there; generations whose text is damaged are computed again.
    keep_checkpoints: of every generation, not only of the last two.
    axes: further axes: learning_rate, lora_rank (0: all parameters are trained), budget_amount, numbers of `decoding.Rules`, and
      what the factories of workflows take.
    export: "hf" or "peft": the models of every generation in `directory`/models, see `exports`; "": none.
    home: where `directory` is moved in the end; None: it stays.
    evaluate: (LanguageModel) -> scores by name, such as `lm.harness.evaluate` of some tasks; variables eval_NAME of the results.
    evaluate_every: of so many generations one.
    on_metrics, progress: as of `sweep`.
  Returns:
    what `sweep` does, with some of the text in `attrs["samples"]`, and a sentence a workflow in `attrs["finding"]`. A cell whose
    model no longer writes the format is stopped.
  Raises:
    Refused: see `sweep`.
  """
  task = _task(setting, writing)
  every: dict[str, Sequence[Any]] = {"num_samples": list(num_samples), "temperature": list(temperatures), **axes}
  params = sharding.place(setting.model.params, setting.mesh)
  for size in num_samples:
    task((params, None), size, 1.0)
  of_cell = functools.partial(_of_cell, setting)
  exported = [Exports(of_cell, export, directory, home, axes.get("lora_rank", (None,)))] if export else []
  evaluated = [] if evaluate is None else [Evaluations(of_cell, evaluate, evaluate_every, directory)]
  about, chunk = setting.about(), setting.at_once(num_seeds, chunk_size)
  saved = Samples(setting.model.tokenizer, directory, whole=setting.texts.whole)
  if directory is not None and resume:
    parts = [range(first, min(first + chunk, num_seeds)) for first in range(0, num_seeds, chunk)]
    grid = [dict(zip(("workflow", *every), values)) for values in itertools.product(workflows, *every.values())]
    saved.check_all(grid, parts)

  looking: list[Exports | Evaluations] = [*exported, *evaluated]

  def on_params(*given):
    for one in looking:
      one.write(*given)

  def judge(cell, t, seeds, metrics):
    if on_metrics is not None:
      on_metrics(cell, t, seeds, metrics)
    missing = metrics["num_missing"].max() if "num_missing" in metrics else 0
    if missing > 0 and writing.on_malformed == "reject":
      what = "text that ends" if setting.texts.plain else "the format"
      raise sweeps.Stop(
        f"the model no longer produces {what}: {missing:.0f} samples are missing after {writing.max_attempts:g} "
        "candidates for each that was asked for (on_malformed=keep goes on with raw text)"
      )

  first = {name: values[0] for name, values in every.items()}
  # The same for all runs: no part of the programs in which runs begin, of which each cell has its own.
  reference = jax.jit(lambda params: task((params, None), **first).init(new_key(0))[0].get("reference"))(params)
  results = sweeps.sweep(
    task,
    workflows,
    every,
    num_generations=num_generations,
    num_seeds=num_seeds,
    seed=seed,
    shared=(params, reference),
    init_axes=_numbers(axes),
    warm_start=warm_start,
    chunk_size=setting.runs_at_once(num_seeds, chunk_size),
    place=functools.partial(sharding.place, mesh=setting.mesh),
    resume=resume,
    about=about,
    keep_all=keep_checkpoints,
    directory=None if directory is None else Path(directory) / "checkpoints",
    on_batch=saved.write,
    on_params=on_params if looking else None,
    on_metrics=judge,
    primary_metric="test_loss",
    driver="steps",
    progress=progress,
  )
  if "sample_loss_histogram" in results:
    results = results.assign_coords(loss_bin=list(measures.BINS))
  for one in evaluated:
    one.add_to(results, ("workflow", *every))
  results.attrs |= about | {
    "task": "language_model",
    "mode": setting.mode,
    "budget": f"{setting.recipe.amount:g} {setting.recipe.budget}",
    "finding": "; ".join(findings.of_test_loss(results)),
    "samples": json.dumps(saved.shown()),
    "temperature_of": "logits",
  }
  return results


def plan(
  setting: Setting,
  workflows: Sequence[str],
  num_samples: Sequence[int] = (256,),
  temperatures: Sequence[float] = (1.0,),
  *,
  writing: Writing = _WRITING,
  num_generations: int = 5,
  num_seeds: int = 3,
  chunk_size: int = 0,
  axes: Mapping[str, Sequence[Any]] = MappingProxyType({}),
  device_bytes: float = 0.0,
) -> str:
  """What `simulate` would do, in lines.

  Args:
    setting: as of `simulate`; of the base, shapes suffice (`presets.build(..., abstract=True)`).
    workflows, num_samples, temperatures, writing, num_generations, num_seeds, chunk_size, axes: as of `simulate`.
    device_bytes: memory of a device; 0: as much as is needed.
  Raises:
    Refused: a device has less than is needed, as compiled here.
  """
  task = _task(setting, writing)
  for size in num_samples:
    task((setting.model.params, None), size, 1.0)
  lengths = {"num_samples": len(num_samples), "temperature": len(temperatures)}
  lengths |= {name: len(values) for name, values in axes.items()}
  cells = len(workflows) * math.prod(lengths.values())
  chunk = setting.at_once(num_seeds, chunk_size)
  alike = math.prod(lengths.get(name, 1) for name in _numbers(axes))
  beside = max(1, min(alike, (setting.runs_at_once(num_seeds, chunk_size) or alike * num_seeds) // num_seeds))
  side_by_side = (
    f"cells side by side: {beside}, or as many as memory allows\n" if beside > 1 and setting.mesh is None else ""
  )
  num_steps = -(-max(num_samples) // setting.recipe.batch_size)
  about = setting.texts.about
  used = sweeps.memory_per_device(
    task,
    workflows,
    {"num_samples": max(num_samples), "temperature": 1.0} | {name: max(values) for name, values in axes.items()},
    num_seeds=chunk,
    num_generations=num_generations,
    shared=(sharding.abstract(setting.model.params, setting.mesh), None),
  )
  if 0 < device_bytes < (most := max(used.values())):
    raise Refused(
      f"a device of {device_bytes / 2**30:.3g} GiB is too small: of {devices.size(setting.mesh)} devices each needs "
      f"{most / 2**30:.3g} GiB.",
      argument="device_gib",
      value=device_bytes / 2**30,
      allowed=f"{most / 2**30:.3g} and above",
    )
  return (
    f"cells: {cells}\nruns: {cells * num_seeds}\nmodel: {num_params(setting.model.params):,} parameters, {setting.dtype}\n"
    f"rows: {about['num_train_rows']} for training, {about['num_test_rows']} for test, {about['num_dropped_rows']} dropped "
    f"as longer than {about['max_seq_len']} tokens\n"
    f"steps of a generation: {num_steps} under replace, up to {num_steps * num_generations}\n{side_by_side}"
    f"memory of each of {devices.size(setting.mesh)} devices ({chunk} at once of the runs, as compiled for {devices.name()}): "
    + ", ".join(f"{name} {size / 2**30:.3g} GiB" for name, size in used.items())
  )


def _numbers(axes: Mapping[str, Sequence[Any]]) -> list[str]:
  """Axes along which cells differ in numbers alone, and go side by side."""
  return ["temperature", "learning_rate", *(name for name in decoding.NUMBERS if _always(name, axes))]


def _always(rule: str, axes: Mapping[str, Sequence[Any]]) -> bool:
  """Whether a rule is in force in all cells, so that its number is all that differs between them."""
  return not any(decoding.is_default(decoding.PLAIN._replace(**{rule: value}), rule) for value in axes.get(rule, ()))


def _of_cell(setting: Setting, cell: Mapping[str, Any]) -> Setting:
  """The setting with what the axes say of one cell."""
  recipe, adapters = setting.recipe, setting.adapters
  recipe = recipe._replace(
    learning_rate=cell.get("learning_rate", recipe.learning_rate), amount=cell.get("budget_amount", recipe.amount)
  )
  if (rank := cell.get("lora_rank")) is not None:
    like = adapters or Adapters()
    scale = like.alpha / like.rank
    adapters = Adapters(rank, scale * rank, like.targets) if rank else None
  return setting._replace(recipe=recipe, adapters=adapters)


def _task(setting: Setting, writing: Writing):
  """A factory for `sweep`."""
  given, test = None, setting.texts.test
  if writing.prompts:
    if setting.texts.whole:
      kind = setting.texts.about["format"]
      raise Refused(f"prompts are of rows of prompt and response, and these are {kind}.", argument="prompts")
    given = text.prompts(setting.model.tokenizer, test)
    if len(given.length) == len(test.length):  # samples are held against the answers of real rows
      setting = setting._replace(texts=setting.texts._replace(test=test._replace(given=given.length)))
  end = text.special_ids(setting.model.tokenizer)[1]

  def task(shared, num_samples, temperature, **values):
    params, reference = shared
    one = _of_cell(setting, values).task(
      params,
      num_samples,
      reference=reference,
      on_host=True,
      temperature=temperature,
      prompts=given,
      rules=writing.rules._replace(**{name: values[name] for name in writing.rules._fields if name in values}),
      keep_prefix=writing.keep_prefix,
      num_beams=writing.num_beams,
      on_malformed=writing.on_malformed,
      max_attempts=writing.max_attempts,
    )
    return one if writing.edit is None else transforms.edit_tokens(one, **writing.edit, fixed_tokens=(end,))

  return task
