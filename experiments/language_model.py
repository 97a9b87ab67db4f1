"""Language models that are fitted to, and then write, each other's training text (Kazdan et al. 2410.16713, section 2).

  python -m experiments.language_model

About two minutes on 2 cores, with a base of 0.26 million parameters that is pretrained at the first call. Expected: test
loss rises by more than 0.2 nats per token under `replace`, less under `accumulate_subsample`, least under `accumulate`. The
paper's own settings are flag files: --flagfile=experiments/flags/gemma2_2b_helpsteer2.flags

  python -m experiments.language_model --edit_threshold=0.9 --workflows=replace,accumulate

edits likely tokens of the text instead of generating any (token editing, Zhu et al. 2412.14689): test loss hardly moves.
"""

import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from absl import flags, logging

from collapse_jax import vocabulary
from collapse_jax.data import files
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS, LORA_TARGETS, TOKEN_BUDGETS

from . import common, flag_values, watching

TINY: dict[str, Any] = {"max_seq_len": 64, "batch_size": 16, "learning_rate": 1e-3, "num_samples": 256}
NUM_SHOWN = 3
PLAIN, MALFORMED = "plain text", "no prompt, no response, or a role marker inside"
OTHER: dict[str, Any] = {"max_seq_len": 512, "batch_size": 128, "learning_rate": 8e-6, "num_samples": 12531}


def define_model(num_samples: bool = True) -> None:
  """Flags that say which model is trained how on what; shared with real_data_value."""
  flags.DEFINE_string(
    "model",
    "tiny",
    "tiny, a directory or hub id with safetensors, a .gguf file; or, with "
    "--mode=pretrain or --dry_run, gpt2_9m, llama2_12m, llama2_42m, llama2_126m, gemma2_2b, gemma2_9b or "
    "gemma2_27b.",
  )
  flags.DEFINE_string(
    "dataset",
    "pydocs",
    "pydocs; a .jsonl, .json or .parquet file (prompt and response, or text); a folder with "
    "train.jsonl and validation.jsonl; or a hub data set, OWNER/NAME.",
  )
  flags.DEFINE_string(
    "mode",
    "finetune",
    "finetune: pairs of prompt and response, or plain text where the rows are; or pretrain: "
    "random weights of the model's configuration, plain text.",
  )
  if num_samples:
    flags.DEFINE_string("num_samples", "auto", "Comma list: rows per batch. auto: 256 for tiny, else 12531.")
  flags.DEFINE_string("max_seq_len", "auto", "Tokens per row; longer rows are dropped. auto: 64 for tiny, else 512.")
  flags.DEFINE_string("batch_size", "auto", "Rows per optimiser step. auto: 16 for tiny, else 128.")
  flags.DEFINE_string("micro_batch_size", "0", "Rows per forward pass, gradients accumulate; 0: all at once.")
  flags.DEFINE_string("learning_rate", "auto", "After warm-up. auto: 1e-3 for tiny, else 8e-6.")
  flags.DEFINE_string("budget", "epochs", "epochs, steps or tokens: what is held equal over generations.")
  flags.DEFINE_string("budget_amount", "1", "How much of that.")
  flags.DEFINE_string("lora_rank", "0", "Rank of low-rank adapters; 0: full fine-tuning.")
  flags.DEFINE_string("lora_targets", ",".join(LORA_TARGETS), "Comma list of kernels with adapters.")
  flags.DEFINE_string("dtype", "float32", "float32 or bfloat16, of matrix products; training keeps float32 weights.")
  flags.DEFINE_boolean("remat", False, "Compute activations again in the backward pass, to save memory.")
  flags.DEFINE_string("sample_batch_size", "0", "Sequences sampled at once; 0: a quarter of num_samples.")
  flags.DEFINE_string("max_test_rows", "256", "Held-out rows at most.")


def define():
  """Flags of this binary."""
  define_model()
  flags.DEFINE_string("workflows", flag_values.PAPER_WORKFLOWS, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_generations", "5", "Generations T.")
  flags.DEFINE_string("num_seeds", "3", "Runs per cell.")
  flags.DEFINE_string("temperatures", "1", "Comma list: divides logits when sampling.")
  flags.DEFINE_boolean("warm_start", False, "Start from the last generation's model, not from the base.")
  flags.DEFINE_string("on_malformed", "reject", "reject: redraw samples without the format; keep: take raw text.")
  flags.DEFINE_string(
    "max_attempts", "8", "Candidates at most, as a multiple of num_samples, before format counts as lost."
  )
  flags.DEFINE_boolean("prompts", False, "Sample answers to prompts of held-out real rows instead of whole rows.")
  flags.DEFINE_boolean("keep_checkpoints", False, "Keep the checkpoints of every generation, not only the last two.")
  flags.DEFINE_string(
    "edit_threshold", "0", "Least probability of a token that is edited, nothing being generated; 0: generate."
  )
  flags.DEFINE_string("edit_top_k", "8", "Tokens that are drawn from.")
  flags.DEFINE_string("edit_beta", "1", "Divides their log probabilities.")
  flags.DEFINE_string("edit_base", "anchor", "anchor: the real text is edited each time; chain: what was edited last.")
  flags.DEFINE_string("edit_mask", "fresh", f"One of {', '.join(EDIT_MASKS)}.")
  flag_values.define_shared()


@functools.cache
def load_model(name: str, dtype: str, dataset: str, abstract: bool = False):
  """The base model (abstract: for a preset shapes only); a usage error where it, or the data set, cannot be had."""
  common.prepare_jax()
  documents = load_documents(dataset)
  from collapse_jax import lm
  from collapse_jax.lm import presets, text, tiny

  with flag_values.given_as("model", name):
    if name in presets.NAMES:
      return presets.build(name, documents.train, dtype, abstract)
    model = tiny.load(dtype) if name == "tiny" else lm.load(name, dtype)
    if model.tokenizer is None:
      raise Refused("there is no tokenizer with it")
    text.special_ids(model.tokenizer)
  return model


def check_dataset(name: str) -> None:
  """Loads text before JAX is imported, so that a bad file ends at once; what lies on the hub waits."""
  from collapse_jax.lm import text

  with flag_values.given_as("dataset", name):
    if text.is_on_hub(name):
      return
  load_documents(name)


@functools.cache
def load_documents(dataset: str):
  """`text.Splits`; a usage error where they cannot be had."""
  from collapse_jax.lm import text

  with flag_values.given_as("dataset", dataset):
    return text.splits(dataset)


def load_rows(
  model, dataset: str, max_seq_len: int, max_test_rows: int, pairs: bool, name: str, on_malformed: str = "reject"
):
  """(training rows, test rows, what to record of them). What is left out, or changed, is said.

  Args:
    pairs: rows are to be of prompt and response, unless none is.
    on_malformed: "keep" keeps rows that come back from the tokenizer without the format as well.
  """
  from collapse_jax.lm import text, tiny

  documents = load_documents(dataset)
  sides = {"train": documents.train, "test": documents.test}
  plain = not (pairs and any(one.text.startswith(text.USER) for side in sides.values() for one in side))
  with flag_values.given_as("dataset", dataset):
    rows = {
      split: text.to_rows(
        model.tokenizer, side, max_seq_len, model.config.vocab_size, not plain, on_malformed == "keep"
      )
      for split, side in sides.items()
    }
  for split, one in rows.items():
    if not len(one.length):
      raise Refused(f"--dataset={dataset} gives no {split} rows: {_why_none(one, sides[split], max_seq_len, plain)}.")
  train, test = rows["train"], rows["test"]
  total = lambda field: sum(getattr(one, field) for one in rows.values())
  about = {
    "model": name,
    "dataset": dataset,
    "max_seq_len": max_seq_len,
    "num_train_rows": len(train.length),
    "num_test_rows": min(len(test.length), max_test_rows),
    "num_dropped_rows": total("num_dropped"),
    "num_malformed_rows": total("num_unsplittable"),
    "num_changed_rows": total("num_changed"),
    "num_lost_rows": total("num_lost"),
    "format": PLAIN if plain else "prompt and response",
    "split_by": documents.split_by,
    "train_sha256": text.fingerprint(documents.train),
    "test_sha256": text.fingerprint(documents.test),
    "base_sha256": "" if flag_values.dry_run() else tiny.weights_hash(model),
  }
  if common.is_first_process():
    changed = next((one.changed for one in rows.values() if one.num_changed), ("", ""))
    print(
      "".join(
        f"{files.shown(dataset)}: {line}\n" for line in _remarks(about, sum(map(len, sides.values())), pairs, changed)
      ),
      end="",
      flush=True,
    )
  return train, test._replace(tokens=test.tokens[:max_test_rows], length=test.length[:max_test_rows]), about


def _why_none(rows, documents, max_seq_len: int, plain: bool) -> str:
  if not documents:
    return "a split needs two different rows, and what comes split a row on each side"
  reasons = [
    (rows.num_dropped, f"are longer than --max_seq_len={max_seq_len}"),
    (rows.num_unsplittable, "are empty" if plain else f"have {MALFORMED}"),
    (
      rows.num_lost,
      "have lost their format, or their end, when they come back from the tokenizer: " + _quoted(rows.changed),
    ),
  ]
  return ", ".join(f"{'all ' if num == len(documents) else ''}{num} of them {what}" for num, what in reasons if num)


def _remarks(about, num: int, pairs: bool, changed) -> list[str]:
  """What happened to the rows, of which there are num, in sentences."""
  lines = []
  if about["split_by"] == "row":
    lines.append("training and test rows are split by row, since a split by prompt leaves one side without any.")
  if pairs and about["format"] == PLAIN:
    lines.append("no row has prompt and response, so that rows are fitted to, and sampled, as plain text.")
  if about["num_malformed_rows"]:
    what = "are empty" if about["format"] == PLAIN else f"have {MALFORMED}"
    lines.append(f"{about['num_malformed_rows']} of {num} rows {what}, and are left out.")
  if about["num_changed_rows"]:
    lines.append(
      f"{about['num_changed_rows']} of {num} rows come back from the tokenizer as another text: {_quoted(changed)}."
    )
  if about["num_lost_rows"]:
    lines[-1] += f" {about['num_lost_rows']} of them have lost the format, or their end, and are left out."
  return lines


def _quoted(changed) -> str:
  return " becomes ".join(repr(files.shown(one, 80)) for one in changed)


def simulate(
  workflows,
  num_samples=(256,),
  temperatures=(1.0,),
  *,
  num_generations=5,
  num_seeds=3,
  seed=0,
  model="tiny",
  dataset="pydocs",
  mode="finetune",
  max_seq_len=64,
  recipe=None,
  lora_rank=0,
  lora_targets=(),
  dtype="float32",
  remat=False,
  sample_batch_size=0,
  max_test_rows=256,
  warm_start=False,
  on_malformed="reject",
  max_attempts=8.0,
  prompts=False,
  edit=None,
  chunk_size=0,
  directory=None,
  keep_checkpoints=False,
):
  """The sweep behind this binary; None after a dry run.

  Args:
    edit: arguments of `transforms.edit_tokens`; None: text is generated.
    directory: for checkpoints and the synthetic text of every generation; None: neither is kept.
    chunk_size: seeds in one program; 0: all for tiny and for adapters, else 1.
  """
  common.prepare_jax()
  base = load_model(model, dtype, dataset, abstract=flag_values.dry_run())
  from collapse_jax import sweeps, tasks, transforms
  from collapse_jax.diagnostics import findings
  from collapse_jax.lm import sharding, text, training
  from collapse_jax.lm.checkpoint import num_params
  from collapse_jax.sweeps import devices

  recipe = training.Recipe(**(recipe or {"learning_rate": TINY["learning_rate"], "batch_size": TINY["batch_size"]}))
  pretrain = mode == "pretrain"
  train, test, about = load_rows(base, dataset, max_seq_len, max_test_rows, not pretrain, model, on_malformed)
  adapters = tasks.Adapters(lora_rank, 2.0 * lora_rank, tuple(lora_targets)) if lora_rank else None
  given = text.prompts(base.tokenizer, test) if prompts else None

  mesh = common.mesh()

  end = text.special_ids(base.tokenizer)[1]

  def task(shared, num_samples, temperature):
    one = tasks.language_model(
      base._replace(params=shared),
      train,
      test,
      num_samples,
      recipe=recipe,
      temperature=temperature,
      adapters=adapters,
      pretrain=pretrain,
      plain_text=about["format"] == PLAIN,
      prompts=given,
      on_malformed=on_malformed,
      max_attempts=max_attempts,
      sample_batch_size=sample_batch_size or None,
      remat=remat,
      mesh=mesh,
    )
    return one if edit is None else transforms.edit_tokens(one, **edit, fixed_tokens=(end,))

  axes = {"num_samples": list(num_samples), "temperature": list(temperatures)}
  for size in num_samples:
    task(base.params, size, 1.0)
  small = num_params(base.params) < 5_000_000 or lora_rank
  chunk = chunk_size or (num_seeds if small else 1)
  num_steps = -(-max(num_samples) // recipe.batch_size)
  if flag_values.dry_run():
    cells = len(workflows) * len(num_samples) * len(temperatures)
    print(
      f"cells: {cells}\nruns: {cells * num_seeds}\nmodel: {num_params(base.params):,} parameters, {dtype}\n"
      f"rows: {len(train.length)} for training, {len(test.length)} for test, {about['num_dropped_rows']} dropped as "
      f"longer than {max_seq_len} tokens\nsteps of a generation: {num_steps} under replace, up to {num_steps * num_generations}"
    )
    used = sweeps.memory_per_device(
      task,
      workflows[0],
      {"num_samples": max(num_samples), "temperature": 1.0},
      num_seeds=chunk,
      num_generations=num_generations,
      shared=sharding.abstract(base.params, mesh),
    )
    print(
      f"memory of each of {devices.size(mesh)} devices ({chunk} at once of the runs, as compiled for {devices.name()}): "
      + ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in used.items())
    )
    return None
  base = base._replace(params=sharding.place(base.params, mesh))
  saved = _Samples(base.tokenizer, directory)
  if directory is not None and flag_values.flag("resume", False):
    chunk = min(chunk, num_seeds)
    parts = [range(first, min(first + chunk, num_seeds)) for first in range(0, num_seeds, chunk)]
    grid = [dict(zip(("workflow", *axes), values)) for values in itertools.product(workflows, *axes.values())]
    common._agreed(
      lambda: all([saved.check(cell, seeds) for cell in grid for seeds in parts])
    )  # by one process for all
  curves = watching.Curves(flag_values.FLAGS.log_dir) if flag_values.flag("log_dir", None) else None

  def judge(cell, t, seeds, metrics):
    if curves is not None:
      name = {} if len(seeds) == num_seeds else {"seeds": f"{seeds.start}-{seeds.stop - 1}"}
      curves.add(cell | name, [t], {key: value[:, None] for key, value in metrics.items()})
    missing = metrics["num_missing"].max() if "num_missing" in metrics else 0
    if missing > 0 and on_malformed == "reject":
      what = "text that ends" if about["format"] == PLAIN else "the format"
      raise sweeps.Stop(
        f"the model no longer produces {what}: {missing:.0f} samples are missing after {max_attempts:g} "
        "candidates for each that was asked for (--on_malformed=keep goes on with raw text)"
      )

  results = sweeps.sweep(
    task,
    workflows,
    axes,
    num_generations=num_generations,
    num_seeds=num_seeds,
    seed=seed,
    shared=base.params,
    warm_start=warm_start,
    chunk_size=chunk,
    place=functools.partial(sharding.place, mesh=mesh),
    resume=flag_values.flag("resume", False),
    about=about,
    keep_all=keep_checkpoints,
    directory=None if directory is None else Path(directory) / "checkpoints",
    on_batch=saved.write,
    on_metrics=judge,
    primary_metric="test_loss",
    driver="steps",
    progress=common.is_first_process(),
  )
  lines = findings.of_test_loss(results)
  print("\n".join(lines))
  results.attrs |= about | {
    "task": "language_model",
    "mode": mode,
    "budget": f"{recipe.amount:g} {recipe.budget}",
    "finding": "; ".join(lines),
    "samples": json.dumps(saved.shown()),
    "temperature_of": "logits",
  }
  return results


class _Samples:
  """Writes the text of every generation, with checksums, and remembers some of it for the report."""

  def __init__(self, tokenizer, directory):
    self.tokenizer = tokenizer
    self.directory: Any = None if directory is None else Path(directory)
    self.first: dict[str, dict[int, list[str]]] = {}

  def write(self, cell, t, seeds, batch):
    from collapse_jax.lm import text

    name, sums = _name(cell), []
    for i, seed in enumerate(seeds):
      rows = {key: value[i, 0] for key, value in batch.rows.items()}
      kept = batch.row_weight[i, 0] > 0
      texts = text.to_texts(self.tokenizer, rows["tokens"][kept], rows["length"][kept])
      if self.directory is not None:
        file = self._folder(cell) / f"seed_{seed}_generation_{t}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(json.dumps(_row(one, text)) + "\n" for one in texts).encode()
        chunks.write(file, content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
      if seed == 0:
        self.first.setdefault(name, {})[t] = texts[:NUM_SHOWN]
    if self.directory is not None:
      chunks.write(self._sums(cell, t, seeds), "".join(sums).encode())

  def _folder(self, cell) -> Path:
    return self.directory / "samples" / _name(cell)

  def _sums(self, cell, t, seeds) -> Path:
    """As `sha256sum --check` reads them."""
    return self._folder(cell) / f"seeds_{seeds.start}-{seeds.stop - 1}_generation_{t}.sha256"

  def check(self, cell, seeds) -> bool:
    """Removes the checkpoints of generations from the first on whose text is not there, or not whole: it is computed again."""
    from collapse_jax.sweeps.checkpoints import folder_name

    folder = self.directory / "checkpoints" / folder_name(cell, seeds)
    checkpoints = {int(file.stem): file for file in folder.glob("*.npz") if file.stem.isdigit()}
    torn = next((t for t in range(1, max(checkpoints, default=0) + 1) if not self._is_whole(cell, t, seeds)), None)
    if torn is not None:
      logging.warning("%s: the text of generation %d is damaged: it is computed again.", self._folder(cell), torn)
      for t, file in checkpoints.items():
        if t >= torn:
          file.unlink()
    return True

  def _is_whole(self, cell, t, seeds) -> bool:
    sums = self._sums(cell, t, seeds)
    try:
      expected = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in (sums.with_name(f"seed_{seed}_generation_{t}.jsonl") for seed in seeds)
      )
      return sums.read_bytes() == expected.encode()
    except FileNotFoundError:
      return False

  def shown(self) -> dict[str, dict[int, list[str]]]:
    """cell -> generation -> first samples of seed 0, those that were written before a resume among them."""
    from collapse_jax.lm import text

    found = {name: dict(one) for name, one in self.first.items()}
    for file in sorted(self.directory.glob("samples/*/seed_0_generation_*.jsonl")) if self.directory else ():
      t = int(file.stem.rsplit("_", 1)[1])
      if t in found.get(file.parent.name, {}):
        continue
      try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:NUM_SHOWN]]
        found.setdefault(file.parent.name, {})[t] = [
          one["text"] if "text" in one else text.formatted(one["prompt"], one["response"]) for one in rows
        ]
      except (OSError, ValueError, KeyError, TypeError):
        logging.warning("%s is damaged: the report does not show its text.", file)
    return {name: dict(sorted(one.items())) for name, one in found.items()}


def _name(cell) -> str:
  """Of its folder."""
  return vocabulary.file_name(",".join(f"{key}={value}" for key, value in cell.items()))


def _row(one, text):
  if text.is_formatted(one):
    prompt, response = one[len(text.USER) :].split(text.ASSISTANT)
    return {"prompt": prompt, "response": response}
  return {"text": one}


def recipe_of_flags():
  """Training as the flags say, with the defaults of tiny or of larger models."""
  flag = flag_values.FLAGS
  defaults = TINY if flag.model == "tiny" else OTHER
  auto = lambda name, parse: defaults[name] if getattr(flag, name) == "auto" else parse(name)
  rates = flag_values.positives("learning_rate") if flag.learning_rate != "auto" else [defaults["learning_rate"]]
  amounts = flag_values.positives("budget_amount")
  micro = flag_values.integer("micro_batch_size", 0)
  from collapse_jax.lm import presets

  if flag.model in presets.NAMES and flag.mode != "pretrain" and not flag.dry_run:
    raise Refused(f"--model={flag.model} has no weights: use it with --mode=pretrain, or with --dry_run.")
  values: dict[str, Any] = {
    "learning_rate": rates[0],
    "budget": flag_values.choice("budget", TOKEN_BUDGETS),
    "amount": amounts[0],
    "batch_size": auto("batch_size", flag_values.integer),
    "micro_batch_size": micro or None,
  }
  if values["batch_size"] % (micro or 1):
    raise Refused(f"--micro_batch_size={micro} must divide --batch_size={values['batch_size']}.")
  targets = flag_values.items("lora_targets")
  for target in targets:
    if target not in LORA_TARGETS:
      raise Refused(f"--lora_targets names {target!r}; allowed are {', '.join(LORA_TARGETS)}.")
  return values, {
    "model": flag.model,
    "dataset": flag.dataset,
    "mode": flag_values.choice("mode", ("finetune", "pretrain")),
    "max_seq_len": auto("max_seq_len", lambda name: flag_values.integer(name, 4)),
    "lora_rank": flag_values.integer("lora_rank", 0),
    "lora_targets": targets,
    "dtype": flag_values.choice("dtype", ("float32", "bfloat16")),
    "remat": flag.remat,
    "sample_batch_size": flag_values.integer("sample_batch_size", 0),
    "max_test_rows": flag_values.integer("max_test_rows"),
  }


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  recipe, options = recipe_of_flags()
  defaults = TINY if flag.model == "tiny" else OTHER
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
    "chunk_size": flag_values.integer("chunk_size", 0),
    "keep_checkpoints": flag.keep_checkpoints,
  }
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
  check_dataset(flag.dataset)
  return options | {
    "workflows": flag_values.check_workflows(law=False),
    "recipe": recipe,
    "edit": edit if threshold else None,
  }


def main():
  common.simulate_and_write("results/language_model", simulate, read(), compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
