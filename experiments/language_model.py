"""Language models that are fitted to, and then write, each other's training text (Kazdan et al. 2410.16713, section 2).

  python -m experiments.language_model

About two minutes on 2 cores, with a base of 0.26 million parameters that is pretrained at the first
call. Expected: test loss rises by more than 0.2 nats per token under `replace`, less under `accumulate_subsample`, least under
`accumulate`. Published settings are flag files: --flagfile=experiments/flags/gemma2_2b_helpsteer2.flags

  python -m experiments.language_model --edit_threshold=0.9 --workflows=replace,accumulate

edits likely tokens of the text instead of generating any (token editing, Zhu et al. 2412.14689): test loss hardly moves.
"""

import functools
import importlib.util

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS, EXPORTS

from . import common, flag_values, language_flags, watching
from .directory import home


def define():
  """Flags of this binary."""
  language_flags.define()
  flags.DEFINE_string("workflows", flag_values.PAPER_WORKFLOWS, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_generations", "5", "Generations T.")
  flags.DEFINE_string("num_seeds", "3", "Runs per cell.")
  flags.DEFINE_string("temperatures", "1", "Comma list: divides logits when sampling.")
  flags.DEFINE_string(
    "real_fractions", "", "Comma list: in place of --workflows mix(F) for each, as an axis: share of real rows, 0 to 1."
  )
  flags.DEFINE_string("export", "none", "hf or peft: a directory for the model, or the adapters, of every generation.")
  flags.DEFINE_string(
    "eval_tasks", "", "Comma list: tasks of lm-eval, or folders with one in a YAML file; scores are eval_TASK/METRIC."
  )
  flags.DEFINE_string("eval_every", "1", "Of so many generations one is evaluated.")
  flags.DEFINE_string("eval_limit", "0", "Documents of a task at most; 0: all.")
  flags.DEFINE_string("top_k", "0", "Comma list: tokens that are drawn from, the likeliest; 0: all.")
  flags.DEFINE_string(
    "top_p", "1", "Comma list: least mass of the tokens that are drawn from, the likeliest (nucleus sampling)."
  )
  flags.DEFINE_string("min_p", "0", "Comma list: least probability of a token, as a share of the likeliest one's.")
  flags.DEFINE_string(
    "repetition_penalty", "1", "Comma list: divides positive logits of tokens that are there, multiplies others."
  )
  flags.DEFINE_string("no_repeat_ngram", "0", "Size of n-grams that come only once in a sample; 0: none.")
  flags.DEFINE_boolean("warm_start", False, "Start from the last generation's model, not from the base.")
  flags.DEFINE_string("on_malformed", "reject", "reject: redraw samples without the format; keep: take raw text.")
  flags.DEFINE_string(
    "max_attempts", "8", "Candidates at most, as a multiple of num_samples, before format counts as lost."
  )
  flags.DEFINE_string("num_beams", "0", "Beams of a search for the likeliest continuation, in place of draws; 0: none.")
  flags.DEFINE_boolean("keep_prefix", True, "Keep the --prefix_tokens that a sample continues in its text.")
  flags.DEFINE_boolean("prompts", False, "Sample answers to prompts of held-out real rows instead of whole rows.")
  flags.DEFINE_string(
    "measure", "all", "all, or few: without what takes more passes over samples (tails, modes, n-grams)."
  )
  flags.DEFINE_boolean("keep_checkpoints", False, "Keep the checkpoints of every generation, not only the last two.")
  flags.DEFINE_string(
    "edit_threshold", "0", "Least probability of a token that is edited, nothing being generated; 0: generate."
  )
  flags.DEFINE_string("edit_top_k", "8", "Tokens that are drawn from.")
  flags.DEFINE_string("edit_beta", "1", "Divides their log probabilities.")
  flags.DEFINE_string("edit_base", "anchor", "anchor: the real text is edited each time; chain: what was edited last.")
  flags.DEFINE_string("edit_mask", "fresh", f"One of {', '.join(EDIT_MASKS)}.")
  flags.DEFINE_boolean(
    "span_processes", False, "One model over the devices of all processes, which else compute cells of their own."
  )
  flags.DEFINE_string(
    "tensor_parallel", "1", "Of the devices so many split heads, layers and vocabulary; the others split rows."
  )
  flags.DEFINE_string(
    "device_gib",
    "0",
    "Memory of a device: a dry run refuses what needs more, as compiled; 0: it only says what is needed.",
  )
  flag_values.define_shared()


def mesh():
  """The devices that hold a model; None for a single one."""
  flag = flag_values.flag
  tensor_parallel = flag_values.integer("tensor_parallel") if "tensor_parallel" in flag_values.FLAGS else 1
  spans = flag("span_processes", False) and flag("distributed", False)
  if not spans and tensor_parallel == 1 and common.planned_processes() == 1:
    return common.mesh()
  from collapse_jax.systems import language_setting

  each = None if flag("devices", "auto") == "auto" else flag_values.integer("devices") * common.planned_processes()
  return language_setting.mesh_of(each, tensor_parallel, spans)


def simulate(
  workflows,
  num_samples=(256,),
  temperatures=(1.0,),
  *,
  num_generations=5,
  num_seeds=3,
  seed=0,
  chunk_size=0,
  warm_start=False,
  on_malformed="reject",
  max_attempts=8.0,
  prompts=False,
  edit=None,
  rules=None,
  keep_prefix=True,
  num_beams=0,
  measure="all",
  keep_checkpoints=False,
  axes=None,
  export="none",
  eval_tasks=(),
  eval_every=1,
  eval_limit=0,
  directory=None,
  device_gib=0.0,
  **model,
):
  """The sweep behind this binary; None after a dry run.

  Args:
    edit: arguments of `transforms.edit_tokens`; None: text is generated.
    rules: arguments of `lm.decoding.Rules`, but for the temperature; None: none.
    keep_prefix, num_beams, measure: see `tasks.language_model`.
    axes: further ones, see `systems.language_model.simulate`; with real_fraction `workflows` is mix alone.
    export: "hf" or "peft": what is written of the models of every generation; "none": nothing.
    eval_tasks, eval_every, eval_limit: what lm-eval scores, in one of so many generations, on how many documents (0: all).
    directory: for checkpoints and the synthetic text of every generation; None: neither is kept.
    device_gib: memory of a device, that a dry run is held against; 0: it is not.
    model: which, and how it is trained on what: see `language_flags.setting`.
  """
  common.prepare_jax()
  setting = language_flags.setting(on_malformed=on_malformed, mesh=mesh(), **model)._replace(measure=measure)
  from collapse_jax.diagnostics import findings
  from collapse_jax.lm import harness
  from collapse_jax.lm.decoding import Rules
  from collapse_jax.systems import language_model as loop
  from collapse_jax.workflows import mix

  if "real_fraction" in (axes or {}):
    workflows = {"mix": mix}
  size = {"axes": axes or {}, "num_generations": num_generations, "num_seeds": num_seeds, "chunk_size": chunk_size}
  size["writing"] = loop.Writing(
    prompts, on_malformed, max_attempts, edit, Rules(**(rules or {})), keep_prefix, num_beams
  )
  if flag_values.dry_run():
    print(loop.plan(setting, workflows, num_samples, temperatures, **size, device_bytes=2**30 * device_gib))
    return None
  with common.curves() as curves:
    results = loop.simulate(
      setting,
      workflows,
      num_samples,
      temperatures,
      **size,
      seed=seed,
      warm_start=warm_start,
      directory=directory,
      resume=flag_values.flag("resume", False),
      keep_checkpoints=keep_checkpoints,
      export="" if export == "none" else export,
      home=None if directory is None or export == "none" else home(directory),
      evaluate=functools.partial(harness.evaluate, tasks=eval_tasks, limit=eval_limit or None) if eval_tasks else None,
      evaluate_every=eval_every,
      on_metrics=None if curves is None else watching.on_metrics(curves, num_seeds),
      progress=common.is_first_process(),
    )
  print("\n".join(findings.of_test_loss(results)))
  return results


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  options = language_flags.read()
  defaults = language_flags.TINY if flag.model == "tiny" else language_flags.OTHER
  options |= {
    "num_samples": [defaults["num_samples"]] if flag.num_samples == "auto" else flag_values.integers("num_samples", 2),
    "temperatures": flag_values.positives("temperatures"),
    "num_generations": flag_values.integer("num_generations"),
    "num_seeds": flag_values.integer("num_seeds"),
    "seed": flag_values.integer("seed", 0),
    "warm_start": flag.warm_start,
    "on_malformed": flag_values.choice("on_malformed", ("reject", "keep")),
    "max_attempts": flag_values.positives("max_attempts")[0],
    "prompts": flag.prompts,
    "keep_prefix": flag.keep_prefix,
    "num_beams": flag_values.integer("num_beams", 0),
    "measure": flag_values.choice("measure", ("all", "few")),
    "chunk_size": flag_values.integer("chunk_size", 0),
    "keep_checkpoints": flag.keep_checkpoints,
  }
  if flag.span_processes and not flag.distributed:
    raise Refused("--span_processes needs --distributed; a dry run --num_processes alone.")
  if common.planned_processes() > 1 and flag.devices == "auto":
    raise Refused("--num_processes of a dry run needs --devices: how many each process has.")
  flag_values.integer("tensor_parallel")
  threshold = flag_values.share("edit_threshold")
  edit = {
    "threshold": threshold,
    "top_k": flag_values.integer("edit_top_k"),
    "beta": flag_values.positive("edit_beta"),
    "base": flag_values.choice("edit_base", EDIT_BASES),
    "mask": flag_values.choice("edit_mask", EDIT_MASKS),
  }
  if threshold and flag.prompts:
    raise Refused("--prompts is for text that is generated, and --edit_threshold generates none.")
  language_flags.check_dataset(flag.dataset, options["max_documents"])
  rules: dict[str, list] = {
    "top_k": flag_values.integers("top_k", 0),
    "top_p": flag_values.shares("top_p", zero=False),
    "min_p": flag_values.shares("min_p"),
    "repetition_penalty": flag_values.positives("repetition_penalty"),
  }
  axes = options["axes"] | {name: values for name, values in rules.items() if len(values) > 1}
  if flag.real_fractions:
    axes["real_fraction"] = flag_values.shares("real_fractions")
    if flag.workflows != flag_values.PAPER_WORKFLOWS:
      raise Refused("--real_fractions is for the workflow mix alone, in the place of --workflows.")
  if flag.eval_tasks and importlib.util.find_spec("lm_eval") is None:
    raise Refused("--eval_tasks needs lm-eval: pip install 'collapse-jax[eval]'.")
  export = flag_values.choice("export", ("none", *EXPORTS))
  if export == "peft" and not flag.lora_start and not min(axes.get("lora_rank", [options["lora_rank"]])):
    raise Refused("--export=peft needs --lora_rank, above 0 in every cell.")
  return options | {
    "axes": axes,
    "export": export,
    "eval_tasks": flag_values.items("eval_tasks") if flag.eval_tasks else [],
    "eval_every": flag_values.integer("eval_every"),
    "eval_limit": flag_values.integer("eval_limit", 0),
    "device_gib": 0.0 if flag.device_gib == "0" else flag_values.positive("device_gib"),
    "workflows": flag_values.check_workflows(law=False),
    "edit": edit if threshold else None,
    "rules": {name: values[0] for name, values in rules.items()}
    | {"no_repeat_ngram": flag_values.integer("no_repeat_ngram", 0)},
  }


def main():
  common.simulate_and_write("results/language_model", simulate, read(), compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
