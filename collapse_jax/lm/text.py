"""Text in: pairs of prompt and response or plain documents, byte-pair tokenizers, rows of tokens. No JAX."""

import ast
import functools
import hashlib
import inspect
import json
import logging
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

USER, ASSISTANT = "user: ", "\nassistant: "
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
# Shares of `pydocs` by module: what bases are pretrained on, real training data, test data.
SPLITS = {"base": (0.0, 0.6), "train": (0.6, 0.9), "test": (0.9, 1.0)}
TEST_SHARE = 0.1


class Document(NamedTuple):
  """Plain text, with a name that decides on which side of a split it falls."""
  text: str
  group: str


class Rows(NamedTuple):
  """Tokenised documents: begin token, text, end token, then padding.

  Attributes:
    tokens: [num, max_seq_len] int32.
    length: [num] int32, begin and end tokens included.
    num_dropped: documents that were longer than max_seq_len.
    num_unsplittable: documents that a role marker inside made malformed.
  """
  tokens: np.ndarray
  length: np.ndarray
  num_dropped: int = 0
  num_unsplittable: int = 0


def formatted(prompt: str, response: str) -> str:
  return f"{USER}{prompt}{ASSISTANT}{response}"


def is_formatted(text: str) -> bool:
  """Begins with the user's marker and has one of the assistant, with something after each (Kazdan et al. 2410.16713)."""
  if not text.startswith(USER) or text.count(ASSISTANT) != 1:
    return False
  prompt, response = text[len(USER):].split(ASSISTANT)
  return bool(prompt.strip()) and bool(response.strip())


def load(source: str, split: str) -> list[Document]:
  """Documents of one split, of `pydocs`, a JSONL or Parquet file, or a hub data set.

  Args:
    source: "pydocs", a path, or a hub id. Files have columns prompt and response, or text.
    split: "train" or "test"; `pydocs` also has "base". Files are split by a hash of the prompt; a hub data set by its own
      validation or test split where it has one.
  Raises:
    ValueError: no such source, or rows without these columns; in JSONL the line is named.
  """
  if source == "pydocs":
    low, high = SPLITS[split]
    return [document for document in pydocs() if low <= _place(document.group) < high]
  path = Path(source)
  if path.suffix in (".jsonl", ".json") and path.is_file():
    documents = _jsonl(path)
  elif path.suffix == ".parquet" and path.is_file():
    documents = _parquet(path)
  elif path.suffix in (".jsonl", ".json", ".parquet") and not path.exists():
    raise ValueError(f"{source}: no such file.")
  elif path.exists() and not path.is_dir():
    raise ValueError(f"{source} is neither .jsonl nor .parquet.")
  else:
    own_split = _hub(source, split)
    if own_split is not None:
      return own_split
    documents = _hub(source, "") or []
  if not documents:
    raise ValueError(f"{source} holds no rows.")
  low, high = (1 - TEST_SHARE, 1.0) if split == "test" else (0.0, 1 - TEST_SHARE)
  return [document for document in documents if low <= _place(document.group) < high]


def fingerprint(documents: Iterable[Document]) -> str:
  """SHA-256 of the texts, hexadecimal."""
  digest = hashlib.sha256()
  for document in documents:
    digest.update(document.text.encode() + b"\0")
  return digest.hexdigest()


@functools.cache
def pydocs() -> tuple[Document, ...]:
  """Documentation that this Python ships: docstrings of the standard library (read, not imported) and language topics.

  A prompt is a qualified name or a topic, the response its documentation (of a topic one paragraph). The group is the
  module, so that splits have no module in common.
  """
  found: dict[str, Document] = {}
  root = Path(sysconfig.get_path("stdlib"))
  for name in sorted(sys.stdlib_module_names - {"antigravity", "idlelib", "lib2to3", "pydoc_data", "this"}):
    files = [root / f"{name}.py"] if (root / f"{name}.py").is_file() else sorted((root / name).rglob("*.py"))
    for file in files:
      parts = file.relative_to(root).with_suffix("").parts
      if {"test", "tests", "__pycache__", "site-packages", "idle_test", "turtledemo"} & set(parts):
        continue
      module = ".".join(part for part in parts if part != "__init__")
      for qualified, documentation in _docstrings(file, module):
        text = formatted(qualified, documentation)
        found.setdefault(text, Document(text, name))
  from pydoc_data import topics
  for topic, documentation in sorted(topics.topics.items()):
    for paragraph in re.split(r"\n\s*\n", documentation):
      paragraph = re.sub(r"\s+", " ", paragraph).strip()
      if len(paragraph) > 40 and re.match(r"[A-Z]", paragraph):
        text = formatted(topic, paragraph)
        found.setdefault(text, Document(text, f"topic {topic}"))
  return tuple(document for document in found.values() if is_formatted(document.text))


def _docstrings(file: Path, module: str):
  try:
    tree = ast.parse(file.read_text(encoding="utf-8"))
  except (SyntaxError, UnicodeDecodeError, ValueError):
    return

  def walk(node, name):
    documentation = ast.get_docstring(node, clean=False)
    if documentation and documentation.strip():
      yield name, inspect.cleandoc(documentation).strip()
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield from walk(child, f"{name}.{child.name}")
  yield from walk(tree, module)


def _place(group: str) -> float:
  """A number in [0, 1) that depends on the group only."""
  return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2 ** 48


def _document(row, where: str) -> Document:
  if isinstance(row, dict):
    if isinstance(row.get("prompt"), str) and isinstance(row.get("response"), str):
      return Document(formatted(row["prompt"].strip(), row["response"].strip()), row["prompt"].strip())
    if isinstance(row.get("text"), str):
      return Document(row["text"].strip(), row["text"].strip())
  raise ValueError(f"{where}: needs texts under prompt and response, or under text.")


def _jsonl(path: Path) -> list[Document]:
  documents = []
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except UnicodeDecodeError:
    raise ValueError(f"{path} is not UTF-8 text.") from None
  for number, line in enumerate(lines, 1):
    if not line.strip():
      raise ValueError(f"{path}, line {number}: is empty.")
    try:
      row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(f"{path}, line {number}: is no JSON ({getattr(error, 'msg', 'too deep')}).") from None
    documents.append(_document(row, f"{path}, line {number}"))
  return documents


def _parquet(path: Path) -> list[Document]:
  import pandas
  try:
    table = pandas.read_parquet(path)
  except Exception as error:
    raise ValueError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}.") from None
  return [_document(row, f"{path}, row {number}") for number, row in enumerate(table.to_dict("records"), 1)]


def _hub(source: str, split: str) -> list[Document] | None:
  """Documents of a hub data set; None where it has no such split. An empty split name: its only one."""
  import datasets
  logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what went wrong is said once, below
  try:
    found = datasets.load_dataset(source)
  except Exception as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise ValueError(f"{source}: no such file, and no data set that the hub gives ({reason}).") from None
  if split == "test":
    names = [name for name in ("validation", "test") if name in found]
  else:
    names = ["train"] if "train" in found else list(found)[:1]
    if split == "train" and not ({"validation", "test"} & set(found)):
      return None
  if not names:
    return None
  return [_document(row, f"{source}, {names[0]} row {i}") for i, row in enumerate(found[names[0]], 1)]


def train_tokenizer(texts: Iterable[str], vocab_size: int):
  """A byte-level byte-pair tokenizer whose role markers are single tokens; returns a transformers tokenizer."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(vocab_size=vocab_size - 2, special_tokens=[PAD, BEGIN, END],
                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
  split = re.compile(f"{re.escape(USER)}|{re.escape(ASSISTANT)}")
  tokenizer.train_from_iterator((part for text in texts for part in split.split(text)), trainer)
  tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in (USER, ASSISTANT)])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD,
                                 clean_up_tokenization_spaces=False)


def special_ids(tokenizer) -> tuple[int, int]:
  """(begin, end) token ids; the end token opens a row where the tokenizer has no begin token.

  Raises:
    ValueError: no end token.
  """
  if tokenizer.eos_token_id is None:
    raise ValueError("the tokenizer has no end-of-sequence token, without which samples would not end.")
  begin = tokenizer.bos_token_id
  return tokenizer.eos_token_id if begin is None else begin, tokenizer.eos_token_id


def to_rows(tokenizer, documents: Sequence[Document], max_seq_len: int, vocab_size: int, pairs: bool = True) -> Rows:
  """Tokens of the documents that fit, in their order.

  Args:
    pairs: keep only documents that `is_formatted`.
  Raises:
    ValueError: no end token, or a token beyond the model's vocabulary.
  """
  begin, end = special_ids(tokenizer)
  whole = [document.text for document in documents if not pairs or is_formatted(document.text)]
  ids = tokenizer(whole, add_special_tokens=False).input_ids if whole else []
  rows = [[begin, *row, end] for row in ids]
  kept = [row for row in rows if len(row) <= max_seq_len]
  tokens = np.full((len(kept), max_seq_len), end, np.int32)
  for i, row in enumerate(kept):
    tokens[i, :len(row)] = row
  if len(kept) and tokens.max() >= vocab_size:
    raise ValueError(f"vocabulary mismatch: the tokenizer gives token {tokens.max()}, the model knows {vocab_size}.")
  return Rows(tokens, np.asarray([len(row) for row in kept], np.int32), len(rows) - len(kept), len(documents) - len(whole))


def to_texts(tokenizer, tokens, length) -> list[str]:
  """Texts of sampled rows, without begin and end tokens."""
  _, end = special_ids(tokenizer)
  tokens, length = np.asarray(tokens), np.asarray(length)
  strip = lambda row, num: row[1:num - 1] if row[num - 1] == end and num > 1 else row[1:num]
  return tokenizer.batch_decode([strip(row, num) for row, num in zip(tokens, length)], skip_special_tokens=False,
                                clean_up_tokenization_spaces=False)
