"""Which language model is trained how, on which text: what experiments with language models share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from collapse_jax import tasks
from collapse_jax.data import files
from collapse_jax.lm import text, tiny
from collapse_jax.lm.checkpoint import LanguageModel, num_params
from collapse_jax.lm.training import Recipe
from collapse_jax.refused import Refused
from collapse_jax.tasks import Adapters
from collapse_jax.types import TaskSetting

__all__ = ["MALFORMED", "PLAIN", "SMALL", "Setting", "Texts", "read_texts"]

PLAIN, MALFORMED = "plain text", "no prompt, no response, or a role marker inside"
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
    """Whether no row has prompt and response, or none was to have them."""
    return self.about["format"] == PLAIN


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
      sample_batch_size=self.sample_batch_size,
      remat=self.remat,
      mesh=self.mesh,
      **options,
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

  def about(self) -> dict[str, Any]:
    """For results: names, counts, and checksums of the text and of the base."""
    names = {"model": self.model_name, "dataset": self.dataset}
    return names | dict(self.texts.about) | {"base_sha256": tiny.weights_hash(self.model)}


def read_texts(
  model: LanguageModel,
  documents: text.Splits,
  max_seq_len: int,
  *,
  pairs: bool = True,
  lossy: bool = False,
  max_test_rows: int = 256,
) -> Texts:
  """Rows of documents.

  Args:
    model: whose tokenizer and vocabulary are used.
    documents: `lm.text.splits`.
    max_seq_len: tokens of a row; longer ones are dropped.
    pairs: rows are to be of prompt and response, unless none is.
    lossy: keep rows that come back from the tokenizer without the format as well.
    max_test_rows: held-out rows at most.
  Raises:
    Refused: a split without rows, or tokens that the model does not know.
  """
  sides = {"train": documents.train, "test": documents.test}
  plain = not (pairs and any(one.text.startswith(text.USER) for side in sides.values() for one in side))
  rows = {
    split: text.to_rows(model.tokenizer, side, max_seq_len, model.config.vocab_size, not plain, lossy)
    for split, side in sides.items()
  }
  for split, one in rows.items():
    if not len(one.length):
      why = _why_none(one, sides[split], max_seq_len, plain)
      raise Refused(f"the data set gives no {split} rows: {why}.", argument="dataset")
  train, test = rows["train"], rows["test"]
  total = lambda field: sum(getattr(one, field) for one in rows.values())
  about = {
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
  }
  changed = next((one.changed for one in rows.values() if one.num_changed), ("", ""))
  remarks = _remarks(about, sum(map(len, sides.values())), pairs, changed)
  test = test._replace(tokens=test.tokens[:max_test_rows], length=test.length[:max_test_rows])
  return Texts(train, test, about, tuple(remarks))


def _why_none(rows: text.Rows, documents: Sequence[text.Document], max_seq_len: int, plain: bool) -> str:
  if not documents:
    return "a split needs two different rows, and what comes split a row on each side"
  reasons = [
    (rows.num_dropped, f"are longer than max_seq_len={max_seq_len}"),
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
