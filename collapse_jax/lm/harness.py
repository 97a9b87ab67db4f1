"""A language model in memory as lm-eval asks for one (the extra `eval`): log-likelihoods, and text up to a stop."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.lm import families, sampling, text
from collapse_jax.lm.checkpoint import LanguageModel, functions_of
from collapse_jax.lm.decoder import Functions
from collapse_jax.lm.decoding import Rules
from collapse_jax.random import new_key
from collapse_jax.refused import Refused

__all__ = ["evaluate", "harness_model"]


@functools.partial(jax.jit, static_argnums=0)
def _scored(functions: Functions, params, tokens):
  """Of each token after the first: its log-probability, and whether it is the likeliest. Compiled once for all generations."""
  found = jax.nn.log_softmax(functions.apply(params, tokens)[:, :-1])
  following = tokens[:, 1:, None]
  return jnp.take_along_axis(found, following, 2)[..., 0], jnp.argmax(found, 2) == following[..., 0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _written(functions: Functions, size: int, begin: int, end: int, params, prompts, length):
  """Greedy text [n, size] that continues prompts. Compiled once for all generations."""
  keys = jax.random.split(new_key(0), len(prompts))
  greedy = Rules(temperature=0.0)
  return sampling.generate(keys, functions, params, size, begin, end, greedy, prompts, length)[0]


def harness_model(model: LanguageModel, batch_size: int = 8, max_length: int = 512) -> Any:
  """A subclass of lm-eval's `TemplateLM`, for `lm_eval.simple_evaluate(model=...)`.

  Args:
    model: with a tokenizer.
    batch_size: sequences at once.
    max_length: tokens of a sequence at most, and no more than the model has positions; of longer ones the last count, as lm-eval
      has it.
  Raises:
    Refused: lm-eval is not there.
  """
  try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
  except ImportError as error:
    raise Refused(f"lm-eval is not there ({error}): pip install 'collapse-jax[eval]'.") from None
  functions, tokenizer = functions_of(model.config, model.params), model.tokenizer
  params = jax.tree.map(jnp.asarray, model.params)  # once, and not at every call, where they are on the host
  max_length = min(max_length, families.architecture(model.config).max_length)
  begin, end = text.special_ids(tokenizer)

  def width(size: int) -> int:
    """Few lengths, for each is compiled."""
    return min(max(32, 1 << (size - 1).bit_length()), max_length)

  class Harness(TemplateLM):
    """`model`, through the decoder's pure functions."""

    def __init__(self):
      super().__init__()
      self.tokenizer = tokenizer

    @property
    def eot_token_id(self):
      return end

    @property
    def prefix_token_id(self):
      return begin

    @property
    def tokenizer_name(self):
      return str(getattr(tokenizer, "name_or_path", ""))

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
      tokens = tokenizer.encode(string, add_special_tokens=False)
      return tokens if add_special_tokens is False else [begin, *tokens]  # as every row that the model was fitted to

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
      return tokenizer.apply_chat_template(
        chat_history,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
      )

    def _loglikelihood_tokens(self, requests, **kwargs):
      rows = [(context + continuation)[-max_length:] for _, context, continuation in requests]
      counts = [min(len(continuation), len(row) - 1) for (_, _, continuation), row in zip(requests, rows)]
      found: list[Any] = [None] * len(rows)
      order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
      for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        blank: list[list[int]] = [[]] * (batch_size - len(some))
        tokens = text.padded([*(rows[i] for i in some), *blank], width(max(len(rows[i]) for i in some)), end)
        logp, likeliest = map(np.asarray, _scored(functions, params, tokens))
        for row, i in enumerate(some):
          last = slice(len(rows[i]) - 1 - counts[i], len(rows[i]) - 1)
          found[i] = float(logp[row, last].sum()), bool(likeliest[row, last].all())
      return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
      totals = []
      for request in requests:
        tokens = self.tok_encode(request.args[0], False)
        windows = get_rolling_token_windows(tokens, begin, max_length - 1, 1)
        parts = [(("", ""), *make_disjoint_window(window)) for window in windows]
        totals.append(sum(value for value, _ in self._loglikelihood_tokens(parts)))
      return totals

    def generate_until(self, requests, disable_tqdm=False):
      texts = []
      for request in requests:
        context, options = request.args
        num = int(options.get("max_gen_toks", 64))
        if options.get("do_sample") or options.get("temperature"):
          raise Refused("tasks that draw are not evaluated, only greedy ones.")
        prompt = self.tok_encode(context)[-max(max_length - num, 1) :]
        size = min(width(len(prompt)), max_length - 1)
        whole, length = min(size + num, max_length), jnp.asarray([len(prompt)])
        out = _written(functions, whole, begin, end, params, text.padded([prompt], size, end), length)
        row = np.asarray(out)[0, len(prompt) : len(prompt) + num].tolist()
        row = row[: row.index(end)] if end in row else row
        found = tokenizer.decode(row)
        until = options.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
          found = found.split(stop)[0] if stop else found
        texts.append(found)
      return texts

  return Harness()


def evaluate(model: LanguageModel, tasks: Sequence[str], limit: int | None = None, **options: Any) -> dict[str, float]:
  """Scores of tasks of lm-eval: "TASK/METRIC" -> number.

  Args:
    model: with a tokenizer.
    tasks: names of tasks, or folders with a task in a YAML file.
    limit: documents of a task at most; None: all.
    options: as of `harness_model`.
  """
  ours = harness_model(model, **options)
  import lm_eval

  found = lm_eval.simple_evaluate(model=ours, tasks=list(tasks), limit=limit, bootstrap_iters=0, verbosity="ERROR")
  scores = {}
  for task, values in found["results"].items():
    for name, value in values.items():
      metric = name.removesuffix(",none").replace(",", "_")
      if isinstance(value, int | float) and not metric.endswith(("_stderr", "sample_len")) and "_stderr" not in metric:
        scores[f"{task}/{metric}"] = float(value)
  return scores
