"""Requests to models in the terms of OpenAI's interfaces, and rows of what they answer."""

import collections
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.pipelines import _protocol, kinds
from collapse_jax.pipelines.adapters import _freshness, _parts
from collapse_jax.refused import Refused

__all__ = ["Served", "Style", "adapter", "bodies", "chat_of", "of_kind", "row", "seeds", "text_of"]

Prompt = str | Sequence[Mapping[str, Any]]
Prompts = Sequence[Prompt] | Callable[..., Sequence[Prompt]]


class Served(NamedTuple):
  """A model that something else serves.

  Attributes:
    path: its weights; None: they are the server's own.
    weights: digest of them.
    folder: of the fit.
    prompts: that rows are written to.
    fitted: what `fit` returned.
    like: no rows, of the kind that it was fitted to.
  """

  path: Path | None
  weights: str
  folder: Path
  prompts: list[Any]
  fitted: Any
  like: kinds.Rows


class Style(NamedTuple):
  """How models are asked, and what rows are made of answers; see `openai`."""

  model: str
  prompts: Prompts
  chat: bool | None
  keep_prompt: bool
  column: str
  settings: Mapping[str, Any]
  fresh: bool


def adapter(style: Style, fit: Any, ask: Callable, identity: Callable[[str], Any], server: str) -> _parts.Adapter:
  """A pipeline.

  Args:
    style: see above.
    fit: a pipeline or a function as its `fit`, whose model is a path or has one as `path`; None: the server's model stays.
    ask: (Served, groups of requests, seed, workdir) -> the bodies of the responses to each group.
    identity: role -> what else fixes the numbers.
    server: a name that tells servers apart.
  """
  fit_of = getattr(fit, "fit", fit)
  if fit is not None and not callable(fit_of):
    raise Refused.must_be("fit", "a pipeline, or a function as its fit", type(fit).__name__)
  if not callable(style.prompts) and not len(style.prompts):
    raise Refused("prompts must be some, got none.", argument="prompts", value=style.prompts)

  def learn(data, *, seed, workdir, previous=None):
    folder = Path(workdir).absolute()
    fitted, path, weights = None, None, ""
    if fit is not None:
      before = None if previous is None else previous.fitted
      fitted = fit_of(data, seed=seed, workdir=folder, previous=before)
      path = Path(getattr(fitted, "path", fitted)).absolute()
      weights = _freshness.digest(path)
    prompts = style.prompts(data, seed=seed) if callable(style.prompts) else style.prompts
    if not len(prompts):
      raise ValueError("prompts returned none")
    return Served(path, weights, folder, list(prompts), fitted, kinds.take(data, np.arange(0)))

  def sample(model, num, *, seed, workdir):
    name = style.model.replace("{model}", str(model.path))
    chat = chat_of(style, model.prompts)
    asked = [model.prompts[i % len(model.prompts)] for i in range(num)]
    wanted = bodies(name, asked, chat, seeds(seed, num), style.settings)
    check = style.fresh and model.path is not None
    questions = [{"model": name, **one} for one in _freshness.questions(chat)] if check else []
    told, answers = ask(model, [questions, wanted], seed, Path(workdir))
    if check:
      _freshness.check(model.folder, server, model.weights, told)
    texts = [text_of(body) for body in answers]
    warn_of_copies(texts)
    rows = [row(prompt, text, chat, style) for prompt, text in zip(asked, texts)]
    return of_kind(rows, model.like)

  def told(role):
    return style._replace(fresh=True), getattr(fit, "identity", lambda role: fit)(role), identity(role)

  name = style.model if fit is None else _protocol.name_of(fit)
  judge = getattr(fit, "evaluate", None)

  def evaluate(model, sample, real_test, *, seed):
    assert judge is not None
    return judge(model.fitted, sample, real_test, seed=seed)

  return _parts.Adapter(learn, sample, told, name, evaluate if callable(judge) else None)


def chat_of(style: Style, prompts: Sequence[Any]) -> bool:
  """Whether prompts are messages."""
  return not isinstance(prompts[0], str) if style.chat is None else style.chat


def seeds(seed: int, num: int) -> list[int]:
  """One for each request, 31 bits; those of fewer requests are the first of more."""
  return [int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1) for i in range(num)]


def bodies(
  model: str, prompts: Sequence[Any], chat: bool, seeds: Sequence[int], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """Of requests, one for each prompt."""
  key = "messages" if chat else "prompt"
  messages = lambda prompt: [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt
  return [{"model": model, key: messages(prompt), "seed": seed, **settings} for prompt, seed in zip(prompts, seeds)]


def text_of(body: Mapping[str, Any]) -> str:
  """What a response says.

  Raises:
    RuntimeError: nothing.
  """
  choice = body["choices"][0]
  text = choice["text"] if "text" in choice else choice["message"].get("content")
  if not isinstance(text, str):
    raise RuntimeError(f"a response has no text: {str(choice)[:200]}")
  return text


def row(prompt: Any, text: str, chat: bool, style: Style) -> dict[str, Any]:
  """A row of a prompt and what a model wrote."""
  if not style.keep_prompt:
    return {style.column: text}
  if not chat:
    return {style.column: prompt + text}
  before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
  return {style.column: [*before, {"role": "assistant", "content": text}]}


def of_kind(rows: list[dict[str, Any]], like: kinds.Rows) -> kinds.Rows:
  """Rows of text, of another kind if those are."""
  return rows if kinds.kind_of(like) == "text" else _parts.from_table(_parts.as_table(rows, "text"), like)


def warn_of_copies(texts: Sequence[str]) -> None:
  """Warns where two requests returned one text, as engines do that take one seed for all."""
  copies = sum(count - 1 for text, count in collections.Counter(texts).items() if text.strip())
  if copies:
    warnings.warn(
      f"{copies} of {len(texts)} requests returned a text that another one returned: does the server look at seeds?",
      RuntimeWarning,
      stacklevel=2,
    )
