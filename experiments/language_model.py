"""Language models that are fitted to, and then write, each other's training text (Kazdan et al. 2410.16713, section 2).

  python -m experiments.language_model

About two minutes on 2 cores, with a base of 0.26 million parameters that is pretrained at the first call. Expected: test
loss rises by more than 0.2 nats per token under `replace`, less under `accumulate_subsample`, least under `accumulate`. The
paper's own settings are flag files: --flagfile=experiments/flags/gemma2_2b_helpsteer2.flags

  python -m experiments.language_model --edit_threshold=0.9 --workflows=replace,accumulate

edits likely tokens of the text instead of generating any (token editing, Zhu et al. 2412.14689): test loss hardly moves.
"""

import functools
import json
from pathlib import Path
from typing import Any

from absl import flags

from collapse_jax import chunks

from . import common, token_editing, watching

TINY: dict[str, Any] = {"max_seq_len": 64, "batch_size": 16, "learning_rate": 1e-3, "num_samples": 256}
NUM_SHOWN = 3
OTHER: dict[str, Any] = {"max_seq_len": 512, "batch_size": 128, "learning_rate": 8e-6, "num_samples": 12531}


def define_model(num_samples: bool = True) -> None:
  """Flags that say which model is trained how on what; shared with real_data_value."""
  flags.DEFINE_string("model", "tiny", "tiny, a directory or hub id with safetensors, a .gguf file; or, with "
                      "--mode=pretrain or --dry_run, gpt2_9m, llama2_12m, llama2_42m, llama2_126m, gemma2_2b, gemma2_9b or "
                      "gemma2_27b.")
  flags.DEFINE_string("dataset", "pydocs", "pydocs, a .jsonl or .parquet file (prompt and response, or text), or a hub id.")
  flags.DEFINE_string("mode", "finetune", "finetune, or pretrain: random weights of the model's configuration, plain text.")
  if num_samples:
    flags.DEFINE_string("num_samples", "auto", "Comma list: rows per batch. auto: 256 for tiny, else 12531.")
  flags.DEFINE_string("max_seq_len", "auto", "Tokens per row; longer rows are dropped. auto: 64 for tiny, else 512.")
  flags.DEFINE_string("batch_size", "auto", "Rows per optimiser step. auto: 16 for tiny, else 128.")
  flags.DEFINE_string("micro_batch_size", "0", "Rows per forward pass, gradients accumulate; 0: all at once.")
  flags.DEFINE_string("learning_rate", "auto", "After warm-up. auto: 1e-3 for tiny, else 8e-6.")
  flags.DEFINE_string("budget", "epochs", "epochs, steps or tokens: what is held equal over generations.")
  flags.DEFINE_string("budget_amount", "1", "How much of that.")
  flags.DEFINE_string("lora_rank", "0", "Rank of low-rank adapters; 0: full fine-tuning.")
  flags.DEFINE_string("lora_targets", "query,key,value,out,gate,up,down", "Comma list of kernels with adapters.")
  flags.DEFINE_string("dtype", "float32", "float32 or bfloat16, of matrix products; training keeps float32 weights.")
  flags.DEFINE_boolean("remat", False, "Compute activations again in the backward pass, to save memory.")
  flags.DEFINE_string("sample_batch_size", "0", "Sequences sampled at once; 0: a quarter of num_samples.")
  flags.DEFINE_string("max_test_rows", "256", "Held-out rows at most.")


def define():
  """Flags of this binary."""
  define_model()
  flags.DEFINE_string("workflows", common.PAPER_WORKFLOWS, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_generations", "5", "Generations T.")
  flags.DEFINE_string("num_seeds", "3", "Runs per cell.")
  flags.DEFINE_string("temperatures", "1", "Comma list: divides logits when sampling.")
  flags.DEFINE_boolean("warm_start", False, "Start from the last generation's model, not from the base.")
  flags.DEFINE_string("on_malformed", "reject", "reject: redraw samples without the format; keep: take raw text.")
  flags.DEFINE_string("max_attempts", "8", "Candidates at most, as a multiple of num_samples, before format counts as lost.")
  flags.DEFINE_boolean("prompts", False, "Sample answers to prompts of held-out real rows instead of whole rows.")
  flags.DEFINE_boolean("keep_checkpoints", False, "Keep the checkpoints of every generation, not only the last two.")
  flags.DEFINE_string("edit_threshold", "0", "Least probability of a token that is edited, nothing being generated; 0: generate.")
  flags.DEFINE_string("edit_top_k", "8", "Tokens that are drawn from.")
  flags.DEFINE_string("edit_beta", "1", "Divides their log probabilities.")
  flags.DEFINE_string("edit_base", "anchor", "anchor: the real text is edited each time; chain: what was edited last.")
  flags.DEFINE_string("edit_mask", "fresh", f"One of {', '.join(token_editing.MASKS)}.")
  common.define_shared()


@functools.cache
def load_model(name: str, dtype: str, dataset: str, abstract: bool = False):
  """The base model (abstract: for a preset shapes only); a usage error where it, or the data set, cannot be had."""
  common.prepare_jax()
  documents = load_documents(dataset)
  from collapse_jax import lm
  from collapse_jax.lm import presets, text, tiny
  try:
    if name in presets.NAMES:
      return presets.build(name, documents["train"], dtype, abstract)
    model = tiny.load(dtype) if name == "tiny" else lm.load(name, dtype)
    if model.tokenizer is None:
      raise ValueError("there is no tokenizer with it")
    text.special_ids(model.tokenizer)
  except ValueError as error:
    raise common.UsageError(f"--model={name}: {error}") from None
  return model


def check_dataset(name: str) -> None:
  """Loads text before JAX is imported, so that a bad file ends at once; what lies on the hub waits."""
  if name == "pydocs" or Path(name).suffix in (".jsonl", ".parquet"):
    load_documents(name)


@functools.cache
def load_documents(dataset: str):
  """split -> documents; a usage error where they cannot be had."""
  from collapse_jax.lm import text
  try:
    return {split: text.load(dataset, split) for split in ("train", "test")}
  except ValueError as error:
    raise common.UsageError(f"--dataset={dataset}: {error}") from None


def load_rows(model, dataset: str, max_seq_len: int, max_test_rows: int, pairs: bool, name: str):
  """(training rows, test rows, what to record of them)."""
  from collapse_jax.lm import text, tiny
  documents = load_documents(dataset)
  try:
    rows = {split: text.to_rows(model.tokenizer, one, max_seq_len, model.config.vocab_size, pairs)
            for split, one in documents.items()}
  except ValueError as error:
    raise common.UsageError(f"--dataset={dataset}: {error}") from None
  for split, one in rows.items():
    if not len(one.length):
      reason = f"all {one.num_dropped} of them are longer than --max_seq_len={max_seq_len}" if one.num_dropped else \
          "none has prompt and response; plain text needs --mode=pretrain"
      raise common.UsageError(f"--dataset={dataset} gives no {split} rows: {reason}.")
  train, test = rows["train"], rows["test"]
  test = test._replace(tokens=test.tokens[:max_test_rows], length=test.length[:max_test_rows])
  about = {"model": name, "dataset": dataset, "max_seq_len": max_seq_len, "num_train_rows": len(train.length),
           "num_test_rows": len(test.length), "num_dropped_rows": train.num_dropped + rows["test"].num_dropped,
           "train_sha256": text.fingerprint(documents["train"]), "test_sha256": text.fingerprint(documents["test"]),
           "base_sha256": "" if common.dry_run() else tiny.weights_hash(model)}
  return train, test, about


def simulate(workflows, num_samples=(256,), temperatures=(1.0,), *, num_generations=5, num_seeds=3, seed=0, model="tiny",
             dataset="pydocs", mode="finetune", max_seq_len=64, recipe=None, lora_rank=0, lora_targets=(), dtype="float32",
             remat=False, sample_batch_size=0, max_test_rows=256, warm_start=False, on_malformed="reject", max_attempts=8.0,
             prompts=False, edit=None, chunk_size=0, directory=None, keep_checkpoints=False):
  """The sweep behind this binary; None after a dry run.

  Args:
    edit: arguments of `transforms.edit_tokens`; None: text is generated.
    directory: for checkpoints and the synthetic text of every generation; None: neither is kept.
    chunk_size: seeds in one program; 0: all for tiny and for adapters, else 1.
  """
  common.prepare_jax()
  base = load_model(model, dtype, dataset, abstract=common.dry_run())
  from collapse_jax import devices, host, tasks, transforms
  from collapse_jax.lm import sharding, text, training
  from collapse_jax.lm.checkpoint import num_params
  recipe = training.Recipe(**(recipe or {"learning_rate": TINY["learning_rate"], "batch_size": TINY["batch_size"]}))
  pretrain = mode == "pretrain"
  train, test, about = load_rows(base, dataset, max_seq_len, max_test_rows, not pretrain, model)
  adapters = tasks.Adapters(lora_rank, 2.0 * lora_rank, tuple(lora_targets)) if lora_rank else None
  given = _prompts(base.tokenizer, test, text) if prompts else None

  mesh = common.mesh()

  end = text.special_ids(base.tokenizer)[1]

  def task(shared, num_samples, temperature):
    one = tasks.language_model(
        base._replace(params=shared), train, test, num_samples, recipe=recipe, temperature=temperature, adapters=adapters,
        pretrain=pretrain, prompts=given, on_malformed=on_malformed, max_attempts=max_attempts,
        sample_batch_size=sample_batch_size or None, remat=remat, mesh=mesh)
    return one if edit is None else transforms.edit_tokens(one, **edit, fixed_tokens=(end,))

  axes = {"num_samples": list(num_samples), "temperature": list(temperatures)}
  try:
    for size in num_samples:
      task(base.params, size, 1.0)
  except ValueError as error:
    raise common.UsageError(common.name_flag(str(error))) from None
  small = num_params(base.params) < 5_000_000 or lora_rank
  chunk = chunk_size or (num_seeds if small else 1)
  steps = -(-max(num_samples) // recipe.batch_size)
  if common.dry_run():
    cells = len(workflows) * len(num_samples) * len(temperatures)
    print(f"cells: {cells}\nruns: {cells * num_seeds}\nmodel: {num_params(base.params):,} parameters, {dtype}\n"
          f"rows: {len(train.length)} for training, {len(test.length)} for test, {about['num_dropped_rows']} dropped as "
          f"longer than {max_seq_len} tokens\nsteps of a generation: {steps} under replace, up to {steps * num_generations}")
    used = host.memory_per_device(task, workflows[0], {"num_samples": max(num_samples), "temperature": 1.0}, num_seeds=chunk,
                                  num_generations=num_generations, shared=sharding.abstract(base.params, mesh))
    print(f"memory of each of {devices.size(mesh)} devices ({chunk} at once of the runs, as compiled for {devices.name()}): "
          + ", ".join(f"{name} {size / 2 ** 30:.2f} GiB" for name, size in used.items()))
    return None
  base = base._replace(params=sharding.place(base.params, mesh))
  saved = _Samples(base.tokenizer, directory)
  curves = watching.Curves(common.FLAGS.log_dir) if common.flag("log_dir", None) else None

  def judge(cell, t, seeds, metrics):
    if curves is not None:
      name = {} if len(seeds) == num_seeds else {"seeds": f"{seeds.start}-{seeds.stop - 1}"}
      curves.add(cell | name, [t], {key: value[:, None] for key, value in metrics.items()})
    missing = metrics["num_missing"].max() if "num_missing" in metrics else 0
    if missing > 0 and on_malformed == "reject":
      raise host.Stop(f"the model no longer produces the format: {missing:.0f} samples are missing after {max_attempts:g} "
                      "candidates for each that was asked for (--on_malformed=keep goes on with raw text)")
  try:
    results = host.sweep(
        task, workflows, axes, num_generations=num_generations, num_seeds=num_seeds, seed=seed, shared=base.params,
        warm_start=warm_start, chunk_size=chunk, place=functools.partial(sharding.place, mesh=mesh),
        resume=common.flag("resume", False), about=about, keep_all=keep_checkpoints,
        directory=None if directory is None else Path(directory) / "checkpoints",
        on_batch=saved.write, on_metrics=judge, primary_metric="test_loss", progress=common.is_first_process())
  except ValueError as error:
    raise common.UsageError(common.name_flag(str(error))) from None
  lines = findings(results)
  print("\n".join(lines))
  results.attrs |= about | {
      "task": "language_model", "mode": mode, "budget": f"{recipe.amount:g} {recipe.budget}", "finding": "; ".join(lines),
      "samples": json.dumps(saved.shown()), "temperature_of": "logits"}
  return results


def findings(results) -> list[str]:
  """A sentence per workflow: test loss at the end against the first generation's."""
  import numpy as np
  lines = [results.attrs["stopped"]] if results.attrs.get("stopped") else []
  for workflow in results.workflow.values:
    cell = results.sel(workflow=workflow).isel(num_samples=0, temperature=0)
    loss = cell.test_loss.transpose("seed", "generation").values
    if not np.isfinite(loss).all():
      continue
    spread = f" +- {1.96 * loss[:, -1].std(ddof=1) / np.sqrt(len(loss)):.2g}" if len(loss) > 1 else ""
    seeds = f"95% interval, {len(loss)} seeds" if spread else "1 seed"
    lines.append(f"{workflow}: test loss {loss[:, 0].mean():.3f} nats per token in generation 1, {loss[:, -1].mean():.3f}"
                 f"{spread} in generation {loss.shape[1]} ({seeds})")
  return lines


def _prompts(tokenizer, rows, text):
  """Rows cut after the assistant's marker."""
  texts = text.to_texts(tokenizer, rows.tokens, rows.length)
  cut = [text.Document(one.split(text.ASSISTANT)[0] + text.ASSISTANT, "") for one in texts]
  made = text.to_rows(tokenizer, cut, rows.tokens.shape[1], 1 << 30, pairs=False)
  return made._replace(tokens=made.tokens[:, :-1], length=made.length - 1)  # without the end token


class _Samples:
  """Writes the text of every generation, and remembers some of it for the report."""

  def __init__(self, tokenizer, directory):
    self.tokenizer = tokenizer
    self.folder = None if directory is None else Path(directory) / "samples"
    self.first: dict[str, dict[int, list[str]]] = {}

  def write(self, cell, t, seeds, batch):
    from collapse_jax.lm import text
    name = ",".join(f"{key}={value}" for key, value in cell.items()).replace("/", "_")
    for i, seed in enumerate(seeds):
      rows = {key: value[i, 0] for key, value in batch.rows.items()}
      kept = batch.row_weight[i, 0] > 0
      texts = text.to_texts(self.tokenizer, rows["tokens"][kept], rows["length"][kept])
      if self.folder is not None:
        file = self.folder / name / f"seed_{seed}_generation_{t}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        chunks.write(file, "".join(json.dumps(_row(one, text)) + "\n" for one in texts).encode())
      if seed == 0:
        self.first.setdefault(name, {})[t] = texts[:NUM_SHOWN]

  def shown(self) -> dict[str, dict[int, list[str]]]:
    """cell -> generation -> first samples of seed 0, those that were written before a resume among them."""
    from collapse_jax.lm import text
    found = {name: dict(one) for name, one in self.first.items()}
    for file in sorted(self.folder.glob("*/seed_0_generation_*.jsonl")) if self.folder else ():
      t = int(file.stem.rsplit("_", 1)[1])
      rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:NUM_SHOWN]]
      found.setdefault(file.parent.name, {}).setdefault(t, [
          one["text"] if "text" in one else text.formatted(one["prompt"], one["response"]) for one in rows])
    return found


def _row(one, text):
  if text.is_formatted(one):
    prompt, response = one[len(text.USER):].split(text.ASSISTANT)
    return {"prompt": prompt, "response": response}
  return {"text": one}


def recipe_of_flags():
  """Training as the flags say, with the defaults of tiny or of larger models."""
  flag = common.FLAGS
  defaults = TINY if flag.model == "tiny" else OTHER
  auto = lambda name, parse: defaults[name] if getattr(flag, name) == "auto" else parse(name)
  rates = common.positives("learning_rate") if flag.learning_rate != "auto" else [defaults["learning_rate"]]
  amounts = common.positives("budget_amount")
  micro = common.integer("micro_batch_size", 0)
  from collapse_jax.lm import presets
  if flag.model in presets.NAMES and flag.mode != "pretrain" and not flag.dry_run:
    raise common.UsageError(f"--model={flag.model} has no weights: use it with --mode=pretrain, or with --dry_run.")
  values: dict[str, Any] = {"learning_rate": rates[0], "budget": common.choice("budget", ("epochs", "steps", "tokens")),
            "amount": amounts[0], "batch_size": auto("batch_size", common.integer), "micro_batch_size": micro or None}
  if values["batch_size"] % (micro or 1):
    raise common.UsageError(f"--micro_batch_size={micro} must divide --batch_size={values['batch_size']}.")
  targets = common.items("lora_targets")
  known = ("query", "key", "value", "out", "gate", "up", "down")
  for target in targets:
    if target not in known:
      raise common.UsageError(f"--lora_targets names {target!r}; allowed are {', '.join(known)}.")
  return values, {
      "model": flag.model, "dataset": flag.dataset, "mode": common.choice("mode", ("finetune", "pretrain")),
      "max_seq_len": auto("max_seq_len", lambda name: common.integer(name, 4)), "lora_rank": common.integer("lora_rank", 0),
      "lora_targets": targets, "dtype": common.choice("dtype", ("float32", "bfloat16")), "remat": flag.remat,
      "sample_batch_size": common.integer("sample_batch_size", 0), "max_test_rows": common.integer("max_test_rows")}


def read():
  """Options of `simulate`, from validated flags."""
  flag = common.FLAGS
  recipe, options = recipe_of_flags()
  defaults = TINY if flag.model == "tiny" else OTHER
  options |= {
      "num_samples": [defaults["num_samples"]] if flag.num_samples == "auto" else common.integers("num_samples", 2),
      "temperatures": common.positives("temperatures"), "num_generations": common.integer("num_generations"),
      "num_seeds": common.integer("num_seeds"), "seed": common.integer("seed", 0), "warm_start": flag.warm_start,
      "on_malformed": common.choice("on_malformed", ("reject", "keep")), "max_attempts": common.positives("max_attempts")[0],
      "prompts": flag.prompts, "chunk_size": common.integer("chunk_size", 0), "keep_checkpoints": flag.keep_checkpoints}
  threshold = common.share("edit_threshold")
  edit = {"threshold": threshold, "top_k": common.integer("edit_top_k"), "beta": common.positive("edit_beta"),
          "base": common.choice("edit_base", token_editing.BASES[1:]), "mask": common.choice("edit_mask", token_editing.MASKS)}
  if threshold and flag.prompts:
    raise common.UsageError("--prompts is for text that is generated, and --edit_threshold generates none.")
  check_dataset(flag.dataset)
  return options | {"workflows": common.check_workflows(law=False), "recipe": recipe, "edit": edit if threshold else None}


def main():
  common.simulate_and_write("results/language_model", simulate, read(), compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
