"""Language models that are fitted to, and then write, the next generation's text (Kazdan et al. 2410.16713, section 2)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from collapse_jax._citation import citing
from collapse_jax.lm import checkpoint, decoder, decoding, families, sampling, text, training
from collapse_jax.lm.checkpoint import LanguageModel
from collapse_jax.lm.peft import Adapters as Adapters
from collapse_jax.lm.peft import adapted
from collapse_jax.lm.training import Recipe
from collapse_jax.refused import Refused
from collapse_jax.store import batch, flat, in_use
from collapse_jax.tasks.parts import check_integer
from collapse_jax.types import Context, MetricInfo, TaskSetting

METRICS = {
  "test_loss": MetricInfo("cross entropy of held-out real text", "nats per token", worse="higher", measures="risk"),
  "learning_curve": MetricInfo("loss of some test rows while training", "nats per token", ("training_progress",)),
  "train_loss": MetricInfo("training loss, last part of the budget", "nats per token"),
  "num_steps": MetricInfo("optimiser steps", "steps"),
  "num_tokens": MetricInfo("tokens trained on", "tokens"),
  "rejection_rate": MetricInfo("malformed share of samples", worse="higher"),
  "num_missing": MetricInfo("samples that could not be had well-formed", "items", worse="higher"),
  "duplicate_rate": MetricInfo("share of samples that repeat another one", worse="higher"),
  "distinct_1": MetricInfo("distinct tokens as a share of all", worse="lower"),
  "distinct_2": MetricInfo("distinct 2-grams as a share of all", worse="lower"),
  "distinct_3": MetricInfo("distinct 3-grams as a share of all", worse="lower"),
  "mean_length": MetricInfo("mean length of samples", "tokens"),
}


_RECIPE = Recipe()


@citing("2410.16713")
def language_model(
  model: LanguageModel,
  train: text.Rows,
  test: text.Rows,
  num_samples: int,
  *,
  recipe: Recipe = _RECIPE,
  learning_rate=None,
  temperature=1.0,
  adapters: Adapters | None = None,
  pretrain: bool = False,
  plain_text: bool = False,
  prompts: text.Rows | None = None,
  rules: decoding.Rules = decoding.PLAIN,
  on_malformed: str = "reject",
  max_attempts: float = 8.0,
  sample_batch_size: int | None = None,
  curve_points: int = 4,
  curve_rows: int = 64,
  remat: bool = False,
  mesh: Mesh | None = None,
) -> TaskSetting:
  """A causal language model.

  Rows are {"tokens": [n, L] int32, "length": [n] int32}. Every generation starts from `model` (or, warm-started, from the
  last one), and its parameters are closed over: inside a jit, hand them in as an argument (`model._replace(params=...)`).

  Args:
    model: the base.
    train: real rows; each run draws its num_samples of them without replacement.
    test: held-out real rows.
    num_samples: rows per batch.
    recipe: of training.
    learning_rate, temperature: may be traced; learning_rate overrides that of the recipe.
    adapters: train low-rank adapters over the base; None: all parameters.
    pretrain: start from random weights, with plain text.
    plain_text: ask of samples only that they hold text and end, not the format of prompt and response.
    prompts: what samples begin with (`lm.text.prompts`), used in turn; None: nothing but the begin token, as in the paper.
    rules: by which tokens are chosen, but for the temperature.
    on_malformed: "reject" draws until num_samples well-formed rows are there (at most max_attempts * num_samples candidates;
      rows that are then missing get weight 0 and are counted in `num_missing`); "keep" takes samples as they come.
    sample_batch_size: candidates at once. Results do not depend on it.
    curve_points, curve_rows: how often, and on how many test rows, the learning curve is taken.
    remat: compute activations again in the backward pass: slower, in less memory.
    mesh: devices over which weights, optimiser state, batches and samples are split (`lm.sharding`).
  Raises:
    ValueError: an argument out of range, or fewer real rows than num_samples.

  >>> import collapse_jax as cj
  >>> from collapse_jax.lm import text, tiny
  >>> documents = text.load("pydocs", "base")[:50]
  >>> model = tiny.untrained(documents)
  >>> rows = text.to_rows(model.tokenizer, documents, 64, tiny.VOCAB_SIZE)
  >>> task = cj.tasks.language_model(model, rows, rows, num_samples=4)
  >>> print(*task.metrics)
  test_loss learning_curve train_loss num_steps num_tokens rejection_rate num_missing duplicate_rate distinct_1 distinct_2
  distinct_3 mean_length
  """
  check_integer("num_samples", num_samples, 2)
  training.check(recipe)
  decoding.check(rules)
  if on_malformed not in ("reject", "keep"):
    raise Refused.must_be("on_malformed", "reject or keep", on_malformed)
  if num_samples > len(train.length):
    raise Refused(
      f"num_samples {num_samples} asks for more real rows than there are: {len(train.length)} of at most "
      f"{train.tokens.shape[1]} tokens."
    )
  if not len(test.length):
    raise Refused(f"there are no test rows of at most {test.tokens.shape[1]} tokens.")
  arch = families.architecture(model.config)
  begin, end = text.special_ids(model.tokenizer)
  max_length = train.tokens.shape[1]
  if max_length > arch.max_length:
    raise Refused(f"max_seq_len {max_length} is beyond the {arch.max_length} positions of the model.")
  if adapters is not None:
    arch = adapted(arch, adapters)
  dtype = jnp.dtype(model.params["embedding"].dtype)
  functions = decoder.functions(arch, dtype, remat, mesh)
  rate = recipe.learning_rate if learning_rate is None else learning_rate
  parts = 1 if mesh is None else mesh.size
  rows = recipe.micro_batch_size or recipe.batch_size
  if rows % parts:
    which = "micro_batch_size" if recipe.micro_batch_size else "batch_size"
    raise Refused(f"{which} must be a multiple of the {parts} devices, got {rows}.", argument=which, value=rows)
  size = sample_batch_size or max(min(num_samples, 32), -(-num_samples // 4))
  size = -(-size // parts) * parts
  wellformed = _wellformed(model.tokenizer, end, pretrain or plain_text, on_malformed, train)
  whole = (
    (lambda weights: checkpoint.join(model.params, weights)) if adapters is not None else (lambda weights: weights)
  )
  logits = training.Scores(
    lambda weights, tokens: functions.hidden(whole(weights), tokens),
    lambda weights: functions.output(whole(weights)),
    functions.head,
  )
  held_out = jnp.asarray(test.tokens), jnp.asarray(test.length)

  ruled = [name for name in decoding.NUMBERS if not decoding.is_default(rules, name)]

  def real_rows(key):
    chosen = jax.random.permutation(key, len(train.length))[:num_samples]
    return batch(
      {"tokens": jnp.asarray(train.tokens)[chosen], "length": jnp.asarray(train.length)[chosen]}, jnp.ones(num_samples)
    )

  def init(key):
    # What differs between cells of a sweep is no constant of the costly programs: they are compiled once.
    numbers = {"learning_rate": rate, "temperature": temperature} | {name: getattr(rules, name) for name in ruled}
    return {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}, real_rows(key)

  def start(key, context: Context):
    if context.previous is not None:
      return context.previous.weights
    if adapters is not None and adapters.start is not None:
      return adapters.start
    if pretrain:
      return functions.init(key)
    return model.params if adapters is None else checkpoint.split_adapters(functions.init(key))[0]

  def fit(key, problem, context: Context):
    start_key, order_key = jax.random.split(key)
    rows, row_weight = flat(context.data)
    some = functools.partial(
      training.mean_loss,
      logits,
      tokens=held_out[0][:curve_rows],
      length=held_out[1][:curve_rows],
      batch_size=recipe.micro_batch_size or recipe.batch_size,
    )
    now = recipe._replace(learning_rate=problem["learning_rate"])
    return training.fit(
      order_key,
      logits,
      now,
      start(start_key, context),
      rows["tokens"],
      rows["length"],
      row_weight,
      some,
      curve_points,
      dtype,
      mesh,
    )

  def sample(key, problem, fitted, context: Context):
    params = whole(fitted.weights)

    def draw(keys, number, wanted):
      given: dict[str, Any] = {}
      if prompts is not None:
        used = number % len(prompts.length)
        given = {"prompts": jnp.asarray(prompts.tokens)[used], "prompt_length": jnp.asarray(prompts.length)[used]}
      chosen = rules._replace(**{name: problem[name] for name in ("temperature", *ruled)})
      options = given | {"slots": slots, "wanted": wanted}
      return sampling.generate(keys, functions, params, max_length, begin, end, chosen, **options)

    slots = min(size, -(-context.num // parts) * parts)
    # A round of several times as many keeps the slots full; over several devices rows stay in step.
    round_size = min(4 * slots, max(context.num, slots)) if mesh is None else slots
    drawn = sampling.sample(key, draw, wellformed, context.num, max_length, round_size, max_attempts, slots)
    tokens, length, filled = drawn.tokens, drawn.length, drawn.filled
    if context.used is not None:
      filled &= in_use(context) > 0
    num = jnp.sum(filled)
    metrics = {
      "rejection_rate": drawn.rejection_rate,
      "num_missing": (context.num if context.used is None else context.used) - num,
      "duplicate_rate": sampling.duplicate_rate(tokens, length, filled),
      "mean_length": jnp.sum(jnp.where(filled, length, 0)) / jnp.maximum(num, 1),
    }
    for order in (1, 2, 3):
      metrics[f"distinct_{order}"] = sampling.distinct_ngrams(tokens, length, filled, order)
    return batch({"tokens": tokens, "length": length}, filled.astype(jnp.float32)), metrics

  def evaluate(key, problem, fitted):
    loss = training.mean_loss(logits, fitted.weights, *held_out, recipe.micro_batch_size or recipe.batch_size)
    return {
      "test_loss": loss,
      "learning_curve": fitted.learning_curve,
      "train_loss": fitted.train_loss,
      "num_steps": fitted.num_steps,
      "num_tokens": fitted.num_tokens,
    }

  def next_token(problem, fitted, tokens):
    return jnp.pad(logits(fitted.weights, tokens)[:, :-1], ((0, 0), (1, 0), (0, 0)))

  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    None,
    lambda key, problem: real_rows(key),
    metrics=METRICS,
    next_token=next_token,
    cites=() if adapters is None else ("2106.09685",),
  )


def _wellformed(tokenizer, end: int, plain_text: bool, on_malformed: str, train: text.Rows) -> Any:
  if on_malformed == "keep":
    return lambda tokens, length: jnp.ones(length.shape, bool)
  if plain_text:
    return sampling.ended(end)
  user, assistant = text.encode(tokenizer, [text.USER, text.ASSISTANT])
  if len(user) == len(assistant) == 1:
    inside = np.arange(train.tokens.shape[1]) < np.asarray(train.length)[:, None]
    if (train.tokens[:, 1] == user[0]).all() and (((train.tokens == assistant[0]) & inside).sum(axis=1) == 1).all():
      return sampling.formatted_by_tokens(user[0], assistant[0], end)
  return sampling.formatted_by_text(tokenizer)
