"""Text of a server that speaks OpenAI's interface: vLLM, SGLang, llama.cpp, transformers serve, and hosted ones."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collapse_jax.pipelines.adapters import _http, _parts, _processes
from collapse_jax.pipelines.adapters import _prompts as asking
from collapse_jax.refused import Refused

__all__ = ["openai"]


def openai(
  base_url: str,
  model: str,
  prompts: asking.Prompts,
  *,
  fit: Any = None,
  serve: str | None = None,
  chat: bool | None = None,
  keep_prompt: bool = False,
  column: str = "text",
  batch_size: int = 1,
  concurrency: int = 8,
  retries: int = 6,
  backoff: float = 0.5,
  request_timeout: float = 600.0,
  start_timeout: float = 600.0,
  key_variable: str = "OPENAI_API_KEY",
  fresh: bool = True,
  **settings: Any,
) -> _parts.Adapter:
  """A pipeline whose rows are written by a server: a request a row, with a seed of its own.

  Where `fit` makes new weights each generation, the server has to have them: answers to eight fixed prompts must differ from those
  that it gave for other weights, else the step fails. A warning tells where two requests return the same text.

  Args:
    base_url: such as "http://localhost:8000/v1"; `{port}` in it is a free port, see `serve`.
    model: the name that requests ask for; `{model}` in it is the path of the weights.
    prompts: texts, or lists of messages {"role", "content"}; or (data, *, seed) -> such a list, made of the training rows, as for
      in-context learning. Row i is written to prompt i modulo their number.
    fit: a pipeline or a function as its `fit`, whose model is a path of weights, or has one as `path`, such as `huggingface` or
      `command`; None: the server's model stays as it is.
    serve: command that serves `{model}` at `{port}`, started for each generation's sample and ended after it, such as
      "vllm serve {model} --port {port}"; None: the server is there.
    chat: ask for chat completions (texts become messages of the user), or for completions; None: chat where prompts are messages.
    keep_prompt: rows are the prompt with what was written to it: a text, or messages of a chat.
    column: of rows, which are {column: text}.
    batch_size: prompts in a request, of completions; its seed is shared by them.
    concurrency: requests at once.
    retries: of a request, after 408, 409, 425, 429, 5xx, or where the server cannot be reached.
    backoff: seconds before the first of them, doubled each time, unless the server says how long.
    request_timeout, start_timeout: seconds for a request, and until a server that is started answers.
    key_variable: variable of the environment that holds the key, if one is needed. It is not kept anywhere.
    fresh: whether new weights must show.
    settings: of all requests, such as max_tokens=64, temperature=1.0, top_p=0.9.
  Raises:
    Refused: an argument out of range.
  """
  for name, value in (("batch_size", batch_size), ("concurrency", concurrency)):
    if not isinstance(value, int) or value < 1:
      raise Refused.must_be(name, "an integer above 0", value)
  if serve is not None and "port" not in _processes.names(base_url):
    raise Refused.must_be("base_url", "an address with {port}, at which serve is started", base_url)
  if chat and batch_size > 1:
    raise Refused("batch_size above 1 is for completions, not for chat.", argument="batch_size", value=batch_size)
  style = asking.Style(model, prompts, chat, keep_prompt, column, settings, fresh)

  def ask(served, groups, seed, workdir):
    is_chat = asking.chat_of(style, served.prompts)
    with _served(base_url, serve, served.path, start_timeout) as url:

      def post(bodies):
        address = f"{url}/chat/completions" if is_chat else f"{url}/completions"
        key = os.environ.get(key_variable)
        return _http.post_all(
          address, bodies, key=key, concurrency=concurrency, retries=retries, backoff=backoff, timeout=request_timeout
        )

      questions, wanted = groups
      try:
        told = post(questions)
      except _http.Rejected:  # some servers do not know of log-probabilities
        told = post([{name: value for name, value in one.items() if "logprobs" not in name} for one in questions])
      return told, post(wanted) if batch_size == 1 or is_chat else _split(post(_joined(wanted, batch_size)), wanted)

  server = base_url if serve is None else serve
  place = base_url if fit is None else ""  # weights that are made here are the same anywhere
  return asking.adapter(style, fit, ask, lambda role: ("openai", place, batch_size), server)


@contextlib.contextmanager
def _served(base_url: str, serve: str | None, path: Path | None, timeout: float) -> Iterator[str]:
  """The address of a server, which is started if it is to be."""
  if serve is None:
    yield base_url.rstrip("/")
    return
  with socket.socket() as one:
    one.bind(("localhost", 0))
    port = one.getsockname()[1]
  url = base_url.replace("{port}", str(port)).rstrip("/")
  with _processes.running(_processes.fill(serve, {"model": path, "port": port})) as program:
    end = time.monotonic() + timeout
    while not _http.answers(f"{url}/models"):
      if program.process.poll() is not None:
        time.sleep(0.1)  # for what it still says
        raise RuntimeError(_processes.failure(program))
      if time.monotonic() > end:
        raise TimeoutError(f"{serve.split()[0]} did not answer at {url} in {timeout:g} s")
      time.sleep(0.1)
    yield url


def _joined(bodies: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
  """Fewer requests, of several prompts each, with the seed of the first."""
  groups = [bodies[i : i + size] for i in range(0, len(bodies), size)]
  return [{**group[0], "prompt": [one["prompt"] for one in group]} for group in groups]


def _split(responses: list[dict[str, Any]], bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """A body for each prompt."""
  choices = [
    choice for body in responses for choice in sorted(body["choices"], key=lambda choice: choice.get("index", 0))
  ]
  if len(choices) != len(bodies):
    raise RuntimeError(f"the server returned {len(choices)} texts to {len(bodies)} prompts")
  return [{"choices": [choice]} for choice in choices]
