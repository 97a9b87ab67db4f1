"""Text in: pairs of prompt and response or plain documents, byte-pair tokenizers, rows of tokens. No JAX."""

import ast
import bisect
import codecs
import functools
import glob
import gzip
import hashlib
import heapq
import inspect
import io
import itertools
import json
import logging
import os
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.refused import Refused

__all__ = [
  "ASSISTANT",
  "SPLITS",
  "USER",
  "Document",
  "Rows",
  "Splits",
  "answers",
  "check_known",
  "encode",
  "fingerprint",
  "formatted",
  "is_formatted",
  "is_on_hub",
  "load",
  "padded",
  "prompts",
  "pydocs",
  "read_text",
  "special_ids",
  "splits",
  "to_rows",
  "to_texts",
  "train_tokenizer",
]

USER, ASSISTANT = "user: ", "\nassistant: "
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
# Shares of `pydocs` by module: what bases are pretrained on, real training data, test data.
SPLITS = {"base": (0.0, 0.6), "train": (0.6, 0.9), "test": (0.9, 1.0)}
TEST_SHARE = 0.1
MOST_BYTES = 4 << 30  # of a file, and of the texts of a compressed one
JSON_FILES, PARQUET, PLAIN_FILE, PACKED = (".jsonl", ".ndjson", ".json"), ".parquet", ".txt", ".gz"
KINDS = (*JSON_FILES, PARQUET, PLAIN_FILE)
ROW = "texts under prompt and response, or under text, or messages of role and content"
HELD_OUT = ("validation", "test")  # what data sets that come split call it
# Names of the hub's data sets have an owner: without one, `datasets` takes a word for a builder or a script of its own.
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.+-]*))?(?::([\w .+-]+))?", re.ASCII)
_MARKS = {
  codecs.BOM_UTF8: "UTF-8",
  codecs.BOM_UTF32_LE: "UTF-32-LE",
  codecs.BOM_UTF32_BE: "UTF-32-BE",
  codecs.BOM_UTF16_LE: "UTF-16-LE",
  codecs.BOM_UTF16_BE: "UTF-16-BE",
}  # in this order: the fourth begins the second


class Document(NamedTuple):
  """Plain text, with a name that decides on which side of a split it falls.

  Attributes:
    messages: (role, content) of a conversation, whose contents are the text; () for other documents.
  """

  text: str
  group: str
  messages: tuple[tuple[str, str], ...] = ()


class Splits(NamedTuple):
  """Documents to fit to and to test on.

  Attributes:
    split_by: "module", "source" (it came split), "prompt" (no prompt is on both sides), "row" (no text is) or "place" (the last
      tenth of a single text).
    running: whether these are files of plain text, of any length.
  """

  train: list[Document]
  test: list[Document]
  split_by: str
  running: bool = False


class Rows(NamedTuple):
  """Tokenised documents: begin token, text, end token, then padding.

  Attributes:
    tokens: [num, max_seq_len] int32.
    length: [num] int32, begin and end tokens included.
    num_dropped: documents that were longer than max_seq_len.
    num_unsplittable: documents that a role marker inside made malformed, or without a prompt, a response or any text.
    num_changed: documents, no longer than that, which are another text once they have been tokens.
    num_lost: those of them that are left out, since what they are then has not the format, or ends before its end.
    changed: (text, what it is then) of one of them.
    given: [num] int32, first tokens that a sample which continues the row is given; None: samples continue no row.
    learned: [num, max_seq_len] bool, tokens that count in the loss; None: all but the first.
  """

  tokens: np.ndarray
  length: np.ndarray
  num_dropped: int = 0
  num_unsplittable: int = 0
  num_changed: int = 0
  num_lost: int = 0
  changed: tuple[str, str] = ("", "")
  given: np.ndarray | None = None
  learned: np.ndarray | None = None

  def first(self, num: int) -> "Rows":
    """The first rows."""
    cut = lambda part: None if part is None else part[:num]
    return self._replace(
      tokens=self.tokens[:num], length=self.length[:num], given=cut(self.given), learned=cut(self.learned)
    )


def formatted(prompt: str, response: str) -> str:
  """A prompt and its answer, between the role markers."""
  return f"{USER}{prompt}{ASSISTANT}{response}"


def is_formatted(text: str) -> bool:
  """Begins with the user's marker and has one of the assistant, with something after each (Kazdan et al. 2410.16713)."""
  if not text.startswith(USER) or text.count(ASSISTANT) != 1:
    return False
  prompt, response = text[len(USER) :].split(ASSISTANT)
  return bool(prompt.strip()) and bool(response.strip())


def load(source: str, split: str) -> list[Document]:
  """Documents of one split, see `splits`; `pydocs` also has "base"."""
  return _pydocs_of(split) if source == "pydocs" else getattr(splits(source), split)


def splits(source: str, max_documents: int = 0) -> Splits:
  """Documents of `pydocs`, of files, folders of them, or a hub data set.

  What comes with a validation or test split keeps it. Else a tenth is held out by a hash of the prompt, or of the plain text;
  where that leaves a side without rows, as with a single prompt, by a hash of the row; of a single text its last tenth.

  Args:
    source: "pydocs"; the path of a .jsonl or .json file (rows in lines or in an array), a .parquet file or a .txt file (one
      document), all but Parquet also as .gz; a pattern of such paths (`data/*.txt`); a folder with train.jsonl and
      validation.jsonl or the like, else with any such files; or the name of a hub data set,
      OWNER/NAME, OWNER/NAME:CONFIG or OWNER/NAME:CONFIG:COLUMN, where COLUMN holds the texts. Rows have texts under prompt and
      response, or under text, or messages of role and content.
    max_documents: of a source of more than these, the same ones each time are taken, and no others kept in memory; 0: all.
  Raises:
    ValueError: no such source, or rows without these texts; in JSON the line is named.
  """
  if source == "pydocs":
    return Splits(_pydocs_of("train"), _pydocs_of("test"), "module")
  paths = _local(source)
  test, running = None, False
  if paths is None:
    train, test = _hub(source, max_documents)
  elif len(paths) == 1 and paths[0].is_dir():
    train, test, running = _folder(paths[0], max_documents)
  else:
    train, running = _of_files(paths, max_documents)
  if not train:
    raise Refused(f"{files.shown(source)} holds no {'text' if running else 'rows'}.", argument="dataset", value=source)
  return (_split(train) if test is None else Splits(train, test, "source"))._replace(running=running)


def is_on_hub(source: str) -> bool:
  """Whether a name stands for a data set that has to be fetched; a ValueError where it stands for nothing."""
  return source != "pydocs" and _local(source) is None


def _split(documents: list[Document]) -> Splits:
  if len(documents) == 1 and not documents[0].messages and not is_formatted(documents[0].text):
    text = documents[0].text
    most = round((1 - TEST_SHARE) * len(text))
    at = text.rfind("\n", most // 2, most) + 1 or text.rfind(" ", 0, most) + 1 or most
    train, test = ([Document(part, part)] if (part := side.strip()) else [] for side in (text[:at], text[at:]))
    return Splits(train, test, "place")
  held_out = [_place(document.group) >= 1 - TEST_SHARE for document in documents]
  by = "prompt"
  if len(set(held_out)) < 2:
    by, texts = "row", sorted({document.text for document in documents}, key=_place)
    last = set(texts[-max(1, round(TEST_SHARE * len(texts))) :] if len(texts) > 1 else [])
    held_out = [document.text in last for document in documents]
  side = lambda test: [document for document, out in zip(documents, held_out) if out == test]
  return Splits(side(False), side(True), by)


def fingerprint(documents: Iterable[Document]) -> str:
  """SHA-256 of the texts, hexadecimal."""
  digest = hashlib.sha256()
  for document in documents:
    digest.update(document.text.encode() + b"\0")
  return digest.hexdigest()


def _pydocs_of(split: str) -> list[Document]:
  low, high = SPLITS[split]
  return [document for document in pydocs() if low <= _place(document.group) < high]


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
  return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def _local(source: str) -> list[Path] | None:
  """The file or folder of this name, also below ~, or the files of a pattern; None for a name that only the hub may know."""
  for path in (source, os.path.expanduser(source)):
    if os.path.exists(path):
      return [Path(path)]
  if glob.has_magic(source) and "\0" not in source:
    found = [Path(path) for path in sorted(glob.glob(os.path.expanduser(source), recursive=True))]
    if not any(path.is_file() for path in found):
      raise Refused(f"{files.shown(source)}: no such file, and none that this pattern matches.")
    return [path for path in found if path.is_file()]
  if _kind(Path(source)) in KINDS:
    raise Refused(f"{files.shown(source)}: no such file.")
  if not HUB_ID.fullmatch(source):
    raise Refused(f"{files.shown(source)}: no such file, and no name of a hub data set, which is OWNER/NAME.")
  return None


def _kind(path: Path) -> str:
  """The suffix, without that of a packed file."""
  path = Path(path.stem) if path.suffix.lower() == PACKED and Path(path.stem).suffix.lower() != PARQUET else path
  return path.suffix.lower()


def _of_files(paths: Sequence[Path], most: int) -> tuple[list[Document], bool]:
  """Documents of all files, and whether all are plain text."""
  whole = _collected(itertools.chain.from_iterable(map(_file, paths)), paths[-1], most)
  return whole, all(_kind(path) == PLAIN_FILE for path in paths)


def _collected(documents: Iterable[Document], path, most: int) -> list[Document]:
  """All documents; or of more than `most` those whose texts have the least hashes, in their order, without the others in memory."""
  kept: list[tuple[float, int, Document]] = []
  size = 0
  try:
    for number, document in enumerate(documents):
      if most and len(kept) == most:
        heapq.heappushpop(kept, (-_place(f"kept {document.text}"), number, document))
        continue
      heapq.heappush(kept, (-_place(f"kept {document.text}") if most else number, number, document))
      size += len(document.text)
      if size > MOST_BYTES:
        raise Refused(f"{files.shown(path)} holds more than {MOST_BYTES >> 30} GiB of text: use max_documents.")
  except MemoryError:
    raise Refused(f"{files.shown(path)} is too large for this machine's memory.") from None
  return [document for _, _, document in sorted(kept, key=lambda one: one[1])]


def _file(path: Path) -> Iterator[Document]:
  suffix = _kind(path)
  if suffix not in KINDS and not path.is_fifo():
    raise Refused(f"{files.shown(path)} is neither .txt, .jsonl, .json (nor one of them as .gz) nor .parquet.")
  if suffix == PLAIN_FILE:
    text = read_text(path).strip()
    yield from [Document(text, text)] if text else []
    return
  for where, row in _parquet(path) if suffix == PARQUET else _json(path):
    yield _document(row, f"{files.shown(path)}, {where}")


def _folder(path: Path, most: int) -> tuple[list[Document], list[Document] | None, bool]:
  """Of the files train.jsonl, validation.jsonl and the like: those for training, and those held out where there are any.

  Without such a file, of all files. The last is whether all are plain text.
  """
  found = {}
  names = [f"{kind}{packed}" for kind in KINDS for packed in ("", PACKED) if kind + packed != PARQUET + PACKED]
  for name in ("train", *HELD_OUT):
    here = [file for suffix in names if (file := path / f"{name}{suffix}").is_file()]
    if len(here) > 1:
      raise Refused(f"{files.shown(path)} has both {here[0].name} and {here[1].name}.")
    if here:
      found[name] = here[0]
  if "train" not in found:
    every = [file for file in sorted(path.iterdir()) if _kind(file) in KINDS and file.is_file() and file.name[0] != "."]
    if not every:
      raise Refused(f"{files.shown(path)} is a folder without train.jsonl, or any {', '.join(KINDS)} file.")
    documents, running = _of_files(every, most)
    return documents, None, running
  train, *held_out = (_of_files([found[name]], most) for name in ("train", *HELD_OUT) if name in found)
  return train[0], held_out[0][0] if held_out else None, train[1]


def _document(row, where: str, column: str | None = None) -> Document:
  if isinstance(row, dict):
    prompt, response, plain = (row.get(name) for name in ("prompt", "response", column or "text"))
    if column is None and isinstance(prompt, str) and isinstance(response, str):
      return Document(formatted(_checked(prompt, where), _checked(response, where)), prompt.strip())
    if column is None and isinstance(row.get("messages"), list):
      return _conversation(row["messages"], where)
    if isinstance(plain, str):
      return Document(text := _checked(plain, where), text)
  raise Refused(f"{where}: needs {ROW if column is None else f'a text under {column}'}.")


def _conversation(messages: list, where: str) -> Document:
  told = []
  for message in messages:
    role, content = (message.get(name) if isinstance(message, dict) else None for name in ("role", "content"))
    if not isinstance(role, str) or not isinstance(content, str):
      raise Refused(f"{where}: messages must each have texts under role and content.")
    told.append((role, _checked(content, where)))
  asked = next((content for role, content in told if role == "user"), "")  # system messages are the same in many rows
  return Document("\n\n".join(content for _, content in told), asked, tuple(told))


def _checked(text: str, where: str) -> str:
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise Refused(
      f"{where}: holds {text[error.start]!a}, half of a surrogate pair and no character; \\ufffd can stand in "
      "its place."
    ) from None
  return text.strip()


def read_text(path) -> str:
  """Text of a file: UTF-8, or what its byte order mark says. A ValueError where it is none; the line is named."""
  content = files.read_bytes(path, MOST_BYTES, pipe=True)
  content = _unpacked(content, path) if Path(path).suffix.lower() == PACKED else content
  mark, encoding = next(((mark, name) for mark, name in _MARKS.items() if content.startswith(mark)), (b"", "UTF-8"))
  content = content[len(mark) :]
  try:
    return content.decode(encoding)
  except UnicodeDecodeError as error:
    line = content[: error.start].decode(encoding).count("\n") + 1
    raise Refused(f"{files.shown(path)}, line {line}: is not {encoding} text.") from None


def _unpacked(content: bytes, path) -> bytes:
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
      found = file.read(MOST_BYTES + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise Refused(f"{files.shown(path)} is no readable gzip file: {error}.") from None
  if len(found) > MOST_BYTES:
    raise Refused(f"{files.shown(path)} holds more than {MOST_BYTES >> 30} GiB of text.")
  return found


def _json(path: Path) -> Iterator[tuple[str, Any]]:
  """(where, row) of an array of rows, or of rows in lines."""
  text = read_text(path)
  if text[_after_space(text, 0) :][:1] == "[":
    yield from _array(text, path)
    return
  lines = text.split("\n")  # not splitlines, to which characters inside a string are ends of lines as well
  while lines and not lines[-1].strip():
    del lines[-1]
  for number, line in enumerate(lines, 1):
    if not line.strip():
      raise Refused(f"{files.shown(path)}, line {number}: is empty.")
    try:
      yield f"line {number}", json.loads(line)
    except (ValueError, RecursionError) as error:
      raise _no_json(path, number, error) from None


def _array(text: str, path: Path) -> Iterator[tuple[str, Any]]:
  decode = json.JSONDecoder().raw_decode  # row by row, so that lines are known
  at, line, counted, number = _after_space(text, 0), 1, 0, 0
  while text[at : at + 1] == ("," if number else "["):
    at = _after_space(text, at + 1)
    line, counted = line + text.count("\n", counted, at), at
    if not number and text[at : at + 1] == "]":
      break
    number += 1
    try:
      row, at = decode(text, at)
    except (ValueError, RecursionError) as error:
      raise _no_json(path, getattr(error, "lineno", line), error) from None
    yield f"item {number}, line {line}", row
    at = _after_space(text, at)
  if text[at : at + 1] != "]" or _after_space(text, at + 1) < len(text):
    raise _no_json(path, text.count("\n", 0, at) + 1, ValueError("an array that does not end as one"))


def _after_space(text: str, at: int) -> int:
  return re.compile(r"[ \t\r\n]*").match(text, at).end()  # type: ignore[union-attr]


def _no_json(path: Path, line: int, error: Exception) -> Refused:
  reason = getattr(error, "msg", "too deep" if isinstance(error, RecursionError) else str(error).split(";")[0])
  return Refused(f"{files.shown(path)}, line {line}: is no JSON ({reason}).")


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
  files.check_regular(path, MOST_BYTES)
  try:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
      names = [name for name in ("prompt", "response", "text", "messages") if name in file.schema_arrow.names]
      number = 0
      for some in file.iter_batches(128, columns=names) if names else ():
        for row in some.to_pylist():
          number += 1
          yield f"row {number}", row
  except MemoryError:
    raise
  except Exception as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise Refused(f"{files.shown(path)} is no readable Parquet file: {reason}.") from None
  if not names:
    yield "row 1", None


def _hub(source: str, most: int) -> tuple[list[Document], list[Document] | None]:
  """As `_folder`, of a hub data set; runs no code of it."""
  try:
    import datasets
  except ImportError:
    raise Refused(
      f"{source}: data sets of the hub need the package datasets: pip install 'collapse-jax[hub]'."
    ) from None
  logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what went wrong is said once, below
  # Later versions, which run no scripts, have no such parameter, and would hand it on.
  known = inspect.signature(datasets.load_dataset).parameters
  options = {"trust_remote_code": False} if "trust_remote_code" in known else {}
  name, config, column = HUB_ID.fullmatch(source).groups()  # type: ignore[union-attr]
  try:
    found = datasets.load_dataset(name, *filter(None, [config]), **options)
  except Exception as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise Refused(f"{source}: no such file, and no data set that the hub gives ({reason}).") from None
  names = ["train" if "train" in found else next(iter(found)), *(name for name in HELD_OUT if name in found)]
  told = lambda name: (_document(row, f"{source}, {name} row {i}", column) for i, row in enumerate(found[name], 1))
  train, *held_out = [_collected(told(name), source, most) for name in names[:2]]
  return train, held_out[0] if held_out else None


def train_tokenizer(texts: Iterable[str], vocab_size: int):
  """A byte-level byte-pair tokenizer whose role markers are single tokens; returns a transformers tokenizer."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast

  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - 2,
    special_tokens=[PAD, BEGIN, END],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  split = re.compile(f"{re.escape(USER)}|{re.escape(ASSISTANT)}")
  tokenizer.train_from_iterator((part for text in texts for part in split.split(text)), trainer)
  tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in (USER, ASSISTANT)])
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
  )


def special_ids(tokenizer) -> tuple[int, int]:
  """(begin, end) token ids; the end token opens a row where the tokenizer has no begin token.

  Raises:
    ValueError: no end token.
  """
  if tokenizer.eos_token_id is None:
    raise Refused("the tokenizer has no end-of-sequence token, without which samples would not end.")
  begin = tokenizer.bos_token_id
  return tokenizer.eos_token_id if begin is None else begin, tokenizer.eos_token_id


def to_rows(
  tokenizer, documents: Sequence[Document], max_seq_len: int, vocab_size: int, pairs: bool = True, lossy: bool = False
) -> Rows:
  """Tokens of the documents that fit, in their order. Special tokens that a text mentions are text like any other.

  Args:
    pairs: keep only documents that `is_formatted`, and still are when they come back from the tokenizer.
    lossy: keep also those that have lost the format then.
  Raises:
    ValueError: no end token, or a token beyond the model's vocabulary.
  """
  begin, end = special_ids(tokenizer)
  whole = [document.text for document in documents if (is_formatted(document.text) if pairs else document.text)]
  rows = [[begin, *row, end] for row in encode(tokenizer, whole)]
  fits = np.asarray([len(row) <= max_seq_len for row in rows], bool)
  kept = [row for row, good in zip(rows, fits) if good]
  tokens, length = padded(kept, max_seq_len, end), np.asarray([len(row) for row in kept], np.int32)
  check_known(tokens, vocab_size)
  ends = np.asarray(
    [row.index(end, 1) + 1 for row in kept], int
  )  # some models read the end token in a text that mentions it
  came_back = zip((text for text, good in zip(whole, fits) if good), to_texts(tokenizer, tokens, ends))
  changed = {i: both for i, both in enumerate(came_back) if both[0] != both[1]}
  lost = [
    i for i, (_, back) in changed.items() if ends[i] < length[i] or (pairs and not lossy and not is_formatted(back))
  ]
  return Rows(
    np.delete(tokens, lost, axis=0),
    np.delete(length, lost),
    len(rows) - len(kept),
    len(documents) - len(whole),
    len(changed),
    len(lost),
    changed[min(lost or changed)] if changed else ("", ""),
  )


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
  """Rows of tokens as one array [num, width] int32.

  Args:
    rows: of tokens, at most `width` each.
    width: of the array.
    fill: token behind those of a row.
  """
  tokens = np.full((len(rows), width), fill, np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  return tokens


def check_known(tokens: np.ndarray, vocab_size: int) -> None:
  """Raises Refused where one of the tokens is beyond the model's vocabulary."""
  if tokens.size and tokens.max() >= vocab_size:
    raise Refused(f"vocabulary mismatch: the tokenizer gives token {tokens.max()}, the model knows {vocab_size}.")


def encode(tokenizer, texts: Sequence[str]) -> list[list[int]]:
  """Tokens of texts, nothing before or after them."""
  return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True).input_ids if texts else []


def to_texts(tokenizer, tokens, length, whole: bool = False) -> list[str]:
  """Texts of sampled rows, without begin and end tokens, and without white space that the tokenizer puts before every text.

  Args:
    tokenizer: a transformers tokenizer.
    tokens: [n, L] int32, or lists of tokens.
    length: [n] int32, tokens in use of each row.
    whole: of blocks of running text (`formats.blocks`), which have begin and end tokens where documents do: those are shown.
  """
  _, end = special_ids(tokenizer)
  tokens, length = tokens if isinstance(tokens, list) else np.asarray(tokens), np.asarray(length)
  if whole:
    return [_decode(tokenizer, row[:num]) for row, num in zip(tokens, length)]
  strip = lambda row, num: row[1 : num - 1] if row[num - 1] == end and num > 1 else row[1:num]
  added = _space_in_front(tokenizer)
  return [_decode(tokenizer, strip(row, num)).removeprefix(added) for row, num in zip(tokens, length)]


@functools.lru_cache(16)  # samples are judged in threads, and encoding changes a tokenizer's state for a moment
def _space_in_front(tokenizer) -> str:
  probe = "a"
  back = _decode(tokenizer, encode(tokenizer, [probe])[0])
  return back.removesuffix(probe) if back.endswith(probe) and back.strip() == probe else ""


def prompts(tokenizer, rows: Rows) -> Rows:
  """Beginnings of rows, up to their responses: the row's own first tokens, without the end token.

  Tokenised alone, a prompt can end in a token that no row has there: the space before a response often belongs to the token of
  its first word. So that the cut does not depend on the response, a token of nothing but that space is left to the model too.

  Raises:
    ValueError: no row has a prompt and a response.
  """
  _, end = special_ids(tokenizer)
  size = _prompt_lengths(tokenizer, rows)
  kept = size > 0
  if not kept.any():
    raise Refused("prompts: no row of prompt and response to take them from.", argument="prompts")
  inside = np.arange(rows.tokens.shape[1] - 1)[None] < size[kept, None]
  return Rows(np.where(inside, rows.tokens[kept, :-1], end).astype(np.int32), size[kept])


def answers(tokenizer, rows: Rows) -> np.ndarray:
  """[num, max_seq_len] bool, the tokens of responses: those after a row's `prompts`; of rows without response all.

  Args:
    tokenizer: a transformers tokenizer.
    rows: of prompts and responses.
  """
  return np.arange(rows.tokens.shape[1])[None] >= _prompt_lengths(tokenizer, rows)[:, None]


def _prompt_lengths(tokenizer, rows: Rows) -> np.ndarray:
  """[num] int32, tokens of each row's prompt; 0 where it has none."""
  length = np.zeros(len(rows.length), np.int32)
  for i, row in enumerate(row[1:num] for row, num in zip(rows.tokens, rows.length)):
    whole = _decode(tokenizer, row)
    if ASSISTANT not in whole:
      continue
    size = whole.index(ASSISTANT) + len(ASSISTANT)
    upto = lambda num: _decode(tokenizer, row[:num])  # noqa: B023
    num = bisect.bisect_right(range(1, len(row) + 1), size, key=lambda num: len(upto(num)))
    while num > 1 and upto(num - 1).rstrip() == upto(num).rstrip():
      num -= 1
    length[i] = 1 + num
  return length


def _decode(tokenizer, row) -> str:
  return tokenizer.decode(np.asarray(row).tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
