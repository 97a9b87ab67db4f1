"""Documents as rows of tokens in two further forms: blocks of running text, and conversations by a chat template. No JAX."""

from collections.abc import Sequence

import numpy as np

from collapse_jax.data import files
from collapse_jax.lm import text
from collapse_jax.refused import Refused

__all__ = ["blocks", "conversations"]

_AT_ONCE = 1000  # documents that are tokens in lists


def blocks(
  tokenizer,
  documents: Sequence[text.Document],
  block_size: int,
  vocab_size: int,
  prefix_tokens: int = 0,
  loss: str = "all",
) -> text.Rows:
  """Documents one after another, each with an end token behind it, cut into blocks; the last one is shorter, and none is dropped.

  Where a tokenizer's begin token is another one, documents have it in front. In a block these are tokens like any other.

  Args:
    tokenizer: a transformers tokenizer.
    documents: in their order.
    block_size: tokens of a block.
    vocab_size: of the model.
    prefix_tokens: first tokens of a block that samples which continue it are given; 0: samples continue none.
    loss: "all", or "answers": only what comes after the prefix counts.
  Raises:
    Refused: no end token, or a token beyond the model's vocabulary.
  """
  begin, end = text.special_ids(tokenizer)
  front = [begin] if begin != end else []
  parts, num_changed, changed = [], 0, ("", "")
  whole = [document.text for document in documents if document.text]
  for first in range(0, len(whole), _AT_ONCE):
    some = whole[first : first + _AT_ONCE]
    encoded = text.encode(tokenizer, some)
    back = text.to_texts(tokenizer, [[begin, *row, end] for row in encoded], [len(row) + 2 for row in encoded])
    others = [both for both in zip(some, back) if both[0] != both[1]]
    num_changed, changed = num_changed + len(others), changed if changed[0] or not others else others[0]
    parts += [np.asarray([*front, *row, end], np.int32) for row in encoded]
  stream = np.concatenate(parts) if parts else np.zeros(0, np.int32)
  text.check_known(stream, vocab_size)
  num = -(-len(stream) // block_size)
  tokens = np.full(num * block_size, end, np.int32)
  tokens[: len(stream)] = stream
  length = np.minimum(len(stream) - block_size * np.arange(num), block_size).astype(np.int32)
  return text.Rows(
    tokens.reshape(num, block_size),
    length,
    num_unsplittable=len(documents) - len(whole),
    num_changed=num_changed,
    changed=changed,
    given=np.full(num, prefix_tokens, np.int32) if prefix_tokens else None,
    learned=np.broadcast_to(np.arange(block_size) >= prefix_tokens, (num, block_size)) if loss == "answers" else None,
  )


def conversations(
  tokenizer, documents: Sequence[text.Document], max_seq_len: int, vocab_size: int, loss: str = "all"
) -> text.Rows:
  """Conversations by the tokenizer's chat template, up to their last answer and the end token; samples are last answers.

  A conversation is told in parts, the messages up to an answer and that answer, each of which is tokens by itself, so that a
  prompt is the same with and without its answer. Longer rows are dropped; those without an answer, which mention a special token
  or which the template refuses are counted in `num_unsplittable`.

  Args:
    tokenizer: a transformers tokenizer with a chat template.
    documents: with messages; one of prompt and response is a conversation of two.
    max_seq_len: tokens of a row.
    vocab_size: of the model.
    loss: "all", or "answers": only what the assistant says counts, in all of its messages.
  Raises:
    Refused: there is no chat template, it fails for all documents, or gives a token beyond the model's vocabulary.
  """
  _, end = text.special_ids(tokenizer)
  if not tokenizer.chat_template:
    raise Refused("the tokenizer has no chat template, which rows of messages need.", argument="format")
  special = [token for token in tokenizer.all_special_tokens if token]
  rows: list[list[int]] = []
  given: list[int] = []
  said: list[list[bool]] = []  # what the assistant says
  num_dropped, reason = 0, ""
  for document in documents:
    messages = _messages(document)
    if not any(role == "assistant" for role, _ in messages) or any(
      token in content for _, content in messages for token in special
    ):
      continue
    try:
      parts = _told(tokenizer, messages)
    except Exception as error:  # templates are programs of others, which fail as they like
      reason = reason or (str(error).splitlines() or [type(error).__name__])[0]
      continue
    row, answers, start = list[int](), list[bool](), 0
    for is_answer, part in parts:
      start = len(row) if is_answer else start
      tokens = tokenizer(part, add_special_tokens=False).input_ids
      row, answers = row + tokens, answers + [is_answer] * len(tokens)
    stop = row.index(end, start) if end in row[start:] else len(row)
    row, answers = [*row[:stop], end], [*answers[:stop], True]
    if len(row) > max_seq_len:
      num_dropped += 1
      continue
    rows.append(row)
    given.append(start)
    said.append(answers)
  if reason and not rows and not num_dropped:
    raise Refused(f"the chat template fails: {files.shown(reason)}.", argument="format")
  tokens = text.padded(rows, max_seq_len, end)
  text.check_known(tokens, vocab_size)
  return text.Rows(
    tokens,
    np.asarray([len(row) for row in rows], np.int32),
    num_dropped,
    len(documents) - len(rows) - num_dropped,
    given=np.asarray(given, np.int32),
    learned=text.padded(said, max_seq_len, False).astype(bool) if loss == "answers" else None,
  )


def _messages(document: text.Document) -> tuple[tuple[str, str], ...]:
  if document.messages or not text.is_formatted(document.text):
    return document.messages
  prompt, response = document.text[len(text.USER) :].split(text.ASSISTANT)
  return ("user", prompt), ("assistant", response)


def _told(tokenizer, messages) -> list[tuple[bool, str]]:
  """(whether the assistant says it, text) of a conversation up to its last answer, by the tokenizer's template."""
  told = [{"role": role, "content": content} for role, content in messages]
  shown = lambda num, prompt: tokenizer.apply_chat_template(told[:num], tokenize=False, add_generation_prompt=prompt)
  parts, before = [], ""
  for at, (role, _) in enumerate(messages):
    if role != "assistant":
      continue
    question, whole = shown(at, True), shown(at + 1, False)
    if not whole.startswith(question) or not question.startswith(before):
      raise ValueError("what it makes of some messages is not how it begins with more of them")
    parts += [(False, question[len(before) :]), (True, whole[len(question) :])]
    before = whole
  return parts
