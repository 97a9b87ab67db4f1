"""Flags that say which language model is trained how on what, and what they stand for. Parsing and validation import no JAX."""

import functools
import importlib.util
from typing import Any

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import LORA_TARGETS, QUANTISATIONS, TEXT_FORMATS, TOKEN_BUDGETS

from . import common, flag_values

TINY: dict[str, Any] = {"max_seq_len": 64, "batch_size": 16, "learning_rate": 1e-3, "num_samples": 256}
OTHER: dict[str, Any] = {"max_seq_len": 512, "batch_size": 128, "learning_rate": 8e-6, "num_samples": 12531}
MODES = ("finetune", "pretrain")


def define(num_samples: bool = True) -> None:
  """Flags that say which model is trained how on what.

  Args:
    num_samples: whether rows per batch are among them.
  """
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
    "pydocs; a .txt, .jsonl, .json (also .gz) or .parquet file (rows of prompt and response, messages, or text), or a "
    "pattern of such; a folder of them, or with train.jsonl and validation.jsonl; or a hub data set, "
    "OWNER/NAME:CONFIG:COLUMN.",
  )
  flags.DEFINE_string(
    "mode",
    "finetune",
    "finetune: from the model's weights; or pretrain: from random weights of its configuration, plain text.",
  )
  flags.DEFINE_string(
    "format",
    "auto",
    f"One of {', '.join(TEXT_FORMATS)}. text: documents one after another, cut into blocks; pairs: prompt and response; "
    "messages: the tokenizer's chat template; auto: what the rows are.",
  )
  flags.DEFINE_string("max_documents", "0", "Documents at most, of a corpus larger than memory; 0: all.")
  flags.DEFINE_string("block_size", "auto", "Tokens of a block of text. auto: --max_seq_len.")
  flags.DEFINE_string("prefix_tokens", "0", "First tokens of a real block, which a sample continues; 0: none.")
  flags.DEFINE_string("loss", "all", "all, or answers: what comes after a prompt or prefix is all that counts.")
  if num_samples:
    flags.DEFINE_string("num_samples", "auto", "Comma list: rows per batch. auto: 256 for tiny, else 12531.")
  flags.DEFINE_string("max_seq_len", "auto", "Tokens per row; longer rows are dropped. auto: 64 for tiny, else 512.")
  flags.DEFINE_string("batch_size", "auto", "Rows per optimiser step. auto: 16 for tiny, else 128.")
  flags.DEFINE_string("micro_batch_size", "0", "Rows per forward pass, gradients accumulate; 0: all at once.")
  flags.DEFINE_string("learning_rate", "auto", "Comma list: after warm-up. auto: 1e-3 for tiny, else 8e-6.")
  flags.DEFINE_string("budget", "epochs", "epochs, steps or tokens: what is held equal over generations.")
  flags.DEFINE_string("budget_amount", "1", "Comma list: how much of that.")
  flags.DEFINE_string("lora_rank", "0", "Comma list: rank of low-rank adapters; 0: full fine-tuning.")
  flags.DEFINE_string("lora_start", "", "Directory of adapters, as PEFT writes them, to go on from; they say the rank.")
  flags.DEFINE_string("lora_targets", ",".join(LORA_TARGETS), "Comma list of kernels with adapters.")
  flags.DEFINE_string(
    "quantize",
    "none",
    f"{', '.join(QUANTISATIONS)}: what the base's kernels are kept in below adapters (QLoRA), with the extra qlora; or none.",
  )
  flags.DEFINE_string("dtype", "float32", "float32 or bfloat16, of matrix products; training keeps float32 weights.")
  flags.DEFINE_boolean("remat", False, "Compute activations again in the backward pass, to save memory.")
  flags.DEFINE_string("sample_batch_size", "0", "Sequences sampled at once; 0: a quarter of num_samples.")
  flags.DEFINE_string("max_test_rows", "256", "Held-out rows at most.")


@functools.cache
def load_model(
  name: str,
  dtype: str,
  dataset: str,
  max_documents: int = 0,
  *,
  quantize: str = "none",
  on_host: bool = False,
  abstract: bool = False,
):
  """The base model (abstract: for a preset shapes only); a usage error where it, or the data set, cannot be had.

  Args:
    quantize: what the kernels are kept in, of which no device then holds more at once.
    on_host: see `lm.load`.
  """
  documents = load_documents(dataset, max_documents)
  import jax

  from collapse_jax import lm
  from collapse_jax.lm import presets, text, tiny

  with flag_values.given_as("model", name):
    if name in presets.NAMES:
      model = presets.build(name, documents.train, dtype, abstract)
    else:
      model = tiny.load(dtype) if name == "tiny" else lm.load(name, dtype, on_host or quantize != "none")
      if model.tokenizer is None:
        raise Refused("there is no tokenizer with it")
      text.special_ids(model.tokenizer)
    if quantize != "none":
      model = lm.quantise(model, quantize)
      if not (on_host or abstract):
        model = model._replace(params=jax.tree.map(jax.numpy.asarray, model.params))
  return model


def check_dataset(name: str, max_documents: int = 0) -> None:
  """Loads text before JAX is imported, so that a bad file ends at once; what lies on the hub waits."""
  from collapse_jax.lm import text

  with flag_values.given_as("dataset", name):
    if text.is_on_hub(name):
      return
  load_documents(name, max_documents)


@functools.cache
def load_documents(dataset: str, max_documents: int = 0):
  """`text.Splits`; a usage error where they cannot be had."""
  from collapse_jax.lm import text

  with flag_values.given_as("dataset", dataset):
    return text.splits(dataset, max_documents)


def setting(
  *,
  model="tiny",
  dataset="pydocs",
  mode="finetune",
  format="auto",
  block_size=0,
  prefix_tokens=0,
  loss="all",
  max_documents=0,
  max_seq_len=64,
  recipe=None,
  lora_rank=0,
  lora_targets=(),
  lora_start="",
  quantize="none",
  dtype="float32",
  remat=False,
  sample_batch_size=0,
  max_test_rows=256,
  on_malformed="reject",
  mesh=None,
):
  """`systems.language_setting.Setting` of what the flags say; in a dry run a preset's weights are shapes only.

  Args:
    mesh: devices that the model is split over: no single one is to hold it.
  """
  common.prepare_jax()
  options = {"quantize": quantize, "on_host": mesh is not None, "abstract": flag_values.dry_run()}
  base = load_model(model, dtype, dataset, max_documents, **options)
  from collapse_jax import lm
  from collapse_jax.data import files
  from collapse_jax.lm.training import Recipe
  from collapse_jax.systems import language_setting
  from collapse_jax.tasks import Adapters

  pretrain = mode == "pretrain"
  with flag_values.given_as("dataset", dataset):
    texts = language_setting.read_texts(
      base,
      load_documents(dataset, max_documents),
      max_seq_len,
      pairs=not pretrain,
      lossy=on_malformed == "keep",
      max_test_rows=max_test_rows,
      format=format,
      block_size=block_size,
      prefix_tokens=prefix_tokens,
      loss=loss,
    )
  if common.is_first_process():
    print("".join(f"{files.shown(dataset)}: {line}\n" for line in texts.remarks), end="", flush=True)
  adapters = Adapters(lora_rank, 2.0 * lora_rank, tuple(lora_targets)) if lora_rank else None
  if lora_start:
    with flag_values.given_as("lora_start", lora_start):
      adapters = lm.load_adapters(lora_start, base.config)
  return language_setting.Setting(
    base,
    texts,
    Recipe(**(recipe or {})),
    pretrain,
    adapters,
    remat,
    sample_batch_size or None,
    mesh,
    model_name=model,
    dataset=dataset,
  )


def read():
  """Options of `setting`, from validated flags, with the defaults of tiny or of larger models."""
  flag = flag_values.FLAGS
  defaults = TINY if flag.model == "tiny" else OTHER
  auto = lambda name, parse: defaults[name] if getattr(flag, name) == "auto" else parse(name)
  rates = flag_values.positives("learning_rate") if flag.learning_rate != "auto" else [defaults["learning_rate"]]
  amounts = flag_values.positives("budget_amount")
  micro = flag_values.integer("micro_batch_size", 0)
  from collapse_jax.lm import presets

  if flag.model in presets.NAMES and flag.mode != "pretrain" and not flag.dry_run:
    raise Refused(f"--model={flag.model} has no weights: use it with --mode=pretrain, or with --dry_run.")
  ranks = flag_values.integers("lora_rank", 0)
  if flag.lora_start and ranks != [0]:
    raise Refused("--lora_start says the rank of its adapters: leave --lora_rank out.")
  quantize, mode = flag_values.choice("quantize", ("none", *QUANTISATIONS)), flag_values.choice("mode", MODES)
  if quantize != "none":
    if mode == "pretrain" or not (flag.lora_start or min(ranks)):
      raise Refused("--quantize needs --lora_rank, above 0 in every cell, and --mode=finetune.")
    if importlib.util.find_spec("qwix") is None:
      raise Refused("--quantize needs qwix: pip install 'collapse-jax[qlora]'.")
  several = {"learning_rate": rates, "budget_amount": amounts, "lora_rank": ranks}
  values: dict[str, Any] = {
    "learning_rate": rates[0],
    "budget": flag_values.choice("budget", TOKEN_BUDGETS),
    "amount": amounts[0],
    "batch_size": auto("batch_size", flag_values.integer),
    "micro_batch_size": micro or None,
  }
  if values["batch_size"] % (micro or 1):
    raise Refused(f"--micro_batch_size={micro} must divide --batch_size={values['batch_size']}.")
  max_seq_len = auto("max_seq_len", lambda name: flag_values.integer(name, 4))
  block_size = 0 if flag.block_size == "auto" else flag_values.integer("block_size", 4)
  prefix, least = flag_values.integer("prefix_tokens", 0), block_size or max_seq_len
  if prefix > least or (prefix == least and flag_values.flag("keep_prefix", True)):
    raise Refused(f"--prefix_tokens must be below --block_size={least}, got {prefix}.")
  targets = flag_values.items("lora_targets")
  for target in targets:
    if target not in LORA_TARGETS:
      raise Refused(f"--lora_targets names {target!r}; allowed are {', '.join(LORA_TARGETS)}.")
  return {
    "recipe": values,
    "model": flag.model,
    "dataset": flag.dataset,
    "mode": mode,
    "quantize": quantize,
    "format": flag_values.choice("format", TEXT_FORMATS),
    "block_size": block_size,
    "prefix_tokens": prefix,
    "loss": flag_values.choice("loss", ("all", "answers")),
    "max_documents": flag_values.integer("max_documents", 0),
    "max_seq_len": max_seq_len,
    "lora_rank": max(ranks),
    "lora_start": flag.lora_start,
    "axes": {name: values for name, values in several.items() if len(values) > 1},
    "lora_targets": targets,
    "dtype": flag_values.choice("dtype", ("float32", "bfloat16")),
    "remat": flag.remat,
    "sample_batch_size": flag_values.integer("sample_batch_size", 0),
    "max_test_rows": flag_values.integer("max_test_rows"),
  }
