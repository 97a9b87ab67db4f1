"""Which language model is trained how, on which text: what experiments with language models share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from collapse_jax import tasks
from collapse_jax.data import files
from collapse_jax.lm import formats, presets, sharding, text, tiny
from collapse_jax.lm.checkpoint import LanguageModel, num_params
from collapse_jax.lm.training import Recipe
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices
from collapse_jax.tasks import Adapters
from collapse_jax.types import TaskSetting

__all__ = ["BLOCKS", "MALFORMED", "MESSAGES", "PAIRS", "PLAIN", "SMALL", "Setting", "Texts", "mesh_of", "read_texts"]

PLAIN, BLOCKS, PAIRS, MESSAGES = "plain text", "blocks of plain text", "prompt and response", "messages"
MALFORMED = {
  PLAIN: "are empty",
  BLOCKS: "are empty",
  PAIRS: "have no prompt, no response, or a role marker inside",
  MESSAGES: "have no answer, mention a special token, or are refused by the chat template",
}
SMALL = 5_000_000  # parameters of models of which all seeds are trained at once


class Texts(NamedTuple):
  """Rows of a data set, as tokens of a model.

  Attributes:
    train, test: what is fitted to, and what is held out.
    about: counts, checksums and the format, for results.
    remarks: what became of rows that are not there, or are another text, in sentences.
  """

  train: text.Rows
  test: text.Rows
  about: Mapping[str, Any]
  remarks: tuple[str, ...] = ()

  @property
  def plain(self) -> bool:
    """Whether no row has prompt and response between role markers, or none was to have them."""
    return self.about["format"] != PAIRS

  @property
  def blocks(self) -> bool:
    """Whether rows are blocks of running text, which do not end with a text."""
    return self.about["format"] == BLOCKS

  @property
  def whole(self) -> bool:
    """Whether begin and end tokens are part of what rows say."""
    return self.about["format"] in (BLOCKS, MESSAGES)


class Setting(NamedTuple):
  """Which model is trained how, on which text.

  Attributes:
    model: the base.
    texts: by `read_texts`.
    recipe: of training.
    pretrain: start from random weights.
    adapters: train low-rank adapters over the base; None: all parameters.
    remat: compute activations again in the backward pass: slower, in less memory.
    sample_batch_size: sequences sampled at once; None: a quarter of a batch.
    mesh: devices that the model is split over.
    model_name, dataset: what results call them.
    measure: see `tasks.language_model`; over devices few.
  """

  model: LanguageModel
  texts: Texts
  recipe: Recipe = Recipe()
  pretrain: bool = False
  adapters: Adapters | None = None
  remat: bool = False
  sample_batch_size: int | None = None
  mesh: Mesh | None = None
  model_name: str = ""
  dataset: str = ""
  measure: str = "all"

  def task(self, params, num_samples: int, **options: Any) -> TaskSetting:
    """`tasks.language_model` of this setting, with the base's parameters (or a jit's own argument for them) and further options."""
    return tasks.language_model(
      self.model._replace(params=params),
      self.texts.train,
      self.texts.test,
      num_samples,
      recipe=self.recipe,
      adapters=self.adapters,
      pretrain=self.pretrain,
      plain_text=self.texts.plain,
      endless=self.texts.blocks,
      sample_batch_size=self.sample_batch_size,
      remat=self.remat,
      mesh=self.mesh,
      **{"measure": self.measure if self.mesh is None else "few"} | options,
      judged=not (self.pretrain and self.model_name in presets.NAMES),
    )

  @property
  def mode(self) -> str:
    return "pretrain" if self.pretrain else "finetune"

  @property
  def dtype(self) -> str:
    return str(self.model.params["embedding"].dtype)

  def at_once(self, num_seeds: int, chunk_size: int = 0) -> int:
    """Seeds in one program: chunk_size, or for 0 all of a small model or of adapters, else one."""
    small = self.adapters is not None or num_params(self.model.params) < SMALL
    return min(chunk_size or (num_seeds if small else 1), num_seeds)

  def runs_at_once(self, num_seeds: int, chunk_size: int = 0) -> int | None:
    """Runs in one program, seeds of several cells among them: chunk_size, or for 0 what fits (None) of adapters, else one cell's."""
    if chunk_size or self.adapters is None:
      return chunk_size or self.at_once(num_seeds)
    return None

  def about(self) -> dict[str, Any]:
    """For results: names, counts, and checksums of the text and of the base."""
    names = {"model": self.model_name, "dataset": self.dataset}
    return names | dict(self.texts.about) | {"base_sha256": tiny.weights_hash(self.model)}


def mesh_of(num_devices: int | None = None, tensor_parallel: int = 1, every_process: bool = False) -> Mesh | None:
  """Devices that hold one model; None where that is a single one.

  Args:
    num_devices: of each process that takes part; None: all.
    tensor_parallel: of these along the axis `lm.sharding.MODEL`, which splits activations; the others split rows.
    every_process: the devices of all processes, which then go through the same programs, and not only of this one.
  Raises:
    Refused: there are not so many devices, or they are no multiple of tensor_parallel.
  """
  mine = devices.mesh_of(num_devices)
  if every_process:
    of_process = [[one for one in jax.devices() if one.process_index == i] for i in range(jax.process_count())]
    found = [device for each in of_process for device in each[:num_devices]]
  else:
    found = [] if mine is None else list(mine.devices.flat)
  num = max(len(found), 1)
  if num % tensor_parallel:
    raise Refused.must_be("tensor_parallel", f"a divisor of the {num} devices", tensor_parallel)
  if num == 1:
    return None
  if tensor_parallel == 1:
    return Mesh(np.asarray(found), (devices.RUNS,))
  return Mesh(np.asarray(found).reshape(-1, tensor_parallel), (devices.RUNS, sharding.MODEL))


def read_texts(
  model: LanguageModel,
  documents: text.Splits,
  max_seq_len: int,
  *,
  pairs: bool = True,
  lossy: bool = False,
  max_test_rows: int = 256,
  format: str = "auto",
  block_size: int = 0,
  prefix_tokens: int = 0,
  loss: str = "all",
) -> Texts:
  """Rows of documents.

  Args:
    model: whose tokenizer and vocabulary are used.
    documents: `lm.text.splits`.
    max_seq_len: tokens of a row; longer ones are dropped.
    pairs: for the format "auto": rows are to be of prompt and response, or messages, unless none is.
    lossy: keep rows that come back from the tokenizer without the format as well.
    max_test_rows: held-out rows at most.
    format: "text": documents one after another, cut into blocks (`formats.blocks`); "pairs": prompt and response; "messages": by
      the tokenizer's chat template (`formats.conversations`); "auto": what the documents are, where plain text is a document a
      row, but for files of plain text, and if there are block_size or prefix_tokens.
    block_size: tokens of a block; 0: max_seq_len.
    prefix_tokens: first tokens of a block that a sample continues; 0: samples continue none.
    loss: "all", or "answers": only what samples are to write counts, that is responses, or what comes after a prefix.
  Raises:
    Refused: a split without rows, tokens that the model does not know, no chat template, or arguments that do not go together.
  """
  sides = {"train": documents.train, "test": documents.test}
  kind = _format(documents, format, pairs, bool(block_size or prefix_tokens))
  size = (block_size or max_seq_len) if kind == BLOCKS else max_seq_len
  if prefix_tokens and kind != BLOCKS:
    raise Refused(f"prefix_tokens are of blocks of text, and these rows are {kind}.", argument="prefix_tokens")
  if loss == "answers" and (kind == PLAIN or (kind == BLOCKS and not prefix_tokens)):
    raise Refused("loss=answers needs prompts, or prefix_tokens, that answers come after.", argument="loss")
  known = model.config.vocab_size
  if kind == BLOCKS:
    make = lambda side: formats.blocks(model.tokenizer, side, size, known, prefix_tokens, loss)
  elif kind == MESSAGES:
    make = lambda side: formats.conversations(model.tokenizer, side, size, known, loss)
  else:
    make = lambda side: text.to_rows(model.tokenizer, side, size, known, kind == PAIRS, lossy)
  rows = {split: make(side) for split, side in sides.items()}
  for split, one in rows.items():
    if not len(one.length):
      why = _why_none(one, sides[split], size, kind)
      raise Refused(f"the data set gives no {split} rows: {why}.", argument="dataset")
  if kind == PAIRS and loss == "answers":
    rows = {split: one._replace(learned=text.answers(model.tokenizer, one)) for split, one in rows.items()}
  train, test = rows["train"], rows["test"]
  total = lambda field: sum(getattr(one, field) for one in rows.values())
  about = {
    "max_seq_len": size,
    "num_train_rows": len(train.length),
    "num_test_rows": min(len(test.length), max_test_rows),
    "num_dropped_rows": total("num_dropped"),
    "num_malformed_rows": total("num_unsplittable"),
    "num_changed_rows": total("num_changed"),
    "num_lost_rows": total("num_lost"),
    "format": kind,
    "prefix_tokens": prefix_tokens,
    "loss_on": loss,
    "split_by": documents.split_by,
    "train_sha256": text.fingerprint(documents.train),
    "test_sha256": text.fingerprint(documents.test),
  }
  changed = next((one.changed for one in rows.values() if one.num_changed), ("", ""))
  remarks = _remarks(about, sum(map(len, sides.values())), pairs and format == "auto", changed)
  return Texts(train, test.first(max_test_rows), about, tuple(remarks))


def _format(documents: text.Splits, format: str, pairs: bool, cut: bool) -> str:
  """What rows are, by what is asked for and what there is."""
  both = [*documents.train, *documents.test]
  some_pairs, some_messages = any(one.text.startswith(text.USER) for one in both), any(one.messages for one in both)
  if format == "messages" and not (some_messages or some_pairs):
    raise Refused("no row has messages, or prompt and response.", argument="format", value=format)
  if format == "pairs" and not some_pairs:
    raise Refused("no row has prompt and response.", argument="format", value=format)
  if format != "auto":
    return {"text": BLOCKS, "pairs": PAIRS, "messages": MESSAGES}[format]
  if cut or documents.running:
    return BLOCKS
  if pairs and (some_pairs or some_messages):
    return PAIRS if some_pairs else MESSAGES
  return PLAIN


def _why_none(rows: text.Rows, documents: Sequence[text.Document], max_seq_len: int, kind: str) -> str:
  if not documents:
    return "a split needs two different rows, and what comes split a row on each side"
  reasons = [
    (rows.num_dropped, f"are longer than max_seq_len={max_seq_len}"),
    (rows.num_unsplittable, MALFORMED[kind]),
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
  if about["split_by"] == "place":
    lines.append("the last tenth of the one text there is is held out.")
  if pairs and about["format"] == PLAIN:
    lines.append("no row has prompt and response, so that rows are fitted to, and sampled, as plain text.")
  if about["num_malformed_rows"]:
    lines.append(f"{about['num_malformed_rows']} of {num} rows {MALFORMED[about['format']]}, and are left out.")
  if about["num_changed_rows"]:
    lines.append(
      f"{about['num_changed_rows']} of {num} rows come back from the tokenizer as another text: {_quoted(changed)}."
    )
  if about["num_lost_rows"]:
    lines[-1] += f" {about['num_lost_rows']} of them have lost the format, or their end, and are left out."
  return lines


def _quoted(changed) -> str:
  return " becomes ".join(repr(files.shown(one, 80)) for one in changed)
