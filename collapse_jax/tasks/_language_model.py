"""Language models that are fitted to, and then write, the next generation's text (Kazdan et al. 2410.16713, section 2)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from collapse_jax._citation import citing
from collapse_jax.lm import (
  checkpoint,
  decoder,
  decoding,
  families,
  measures,
  quantisation,
  sampling,
  sharding,
  text,
  training,
)
from collapse_jax.lm.checkpoint import LanguageModel
from collapse_jax.lm.peft import Adapters as Adapters
from collapse_jax.lm.peft import adapted
from collapse_jax.lm.training import Recipe
from collapse_jax.refused import Refused
from collapse_jax.store import batch, flat, in_use
from collapse_jax.tasks.parts import check_integer
from collapse_jax.types import Array, Context, MetricInfo, TaskSetting

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
  endless: bool = False,
  prompts: text.Rows | None = None,
  keep_prefix: bool = True,
  num_beams: int = 0,
  rules: decoding.Rules = decoding.PLAIN,
  on_malformed: str = "reject",
  max_attempts: float = 8.0,
  sample_batch_size: int | None = None,
  measure: str = "few",
  on_host: bool = False,
  judged: bool = True,
  reference: measures.Reference | None = None,
  embed: Callable[[Array, Array], Array] | None = None,
  curve_points: int = 4,
  curve_rows: int = 64,
  remat: bool = False,
  mesh: Mesh | None = None,
) -> TaskSetting:
  """A causal language model.

  Rows are {"tokens": [n, L] int32, "length": [n] int32}, and where `train` has them "given" [n] and "learned" [n, L]: then each
  sample continues the first `given` tokens of one of the run's real rows, and only tokens that are learned count in losses.
  Every generation starts from `model` (or, warm-started, from the last one), and its parameters are closed over: inside a jit,
  hand them in as an argument (`model._replace(params=...)`).

  Args:
    model: the base; one that is quantised (`lm.quantise`) needs adapters.
    train: real rows; each run draws its num_samples of them without replacement.
    test: held-out real rows.
    num_samples: rows per batch.
    recipe: of training.
    learning_rate, temperature: may be traced; learning_rate overrides that of the recipe.
    adapters: train low-rank adapters over the base; None: all parameters.
    pretrain: start from random weights, with plain text.
    plain_text: ask of samples only that they hold text and end, not the format of prompt and response.
    endless: rows are blocks of running text (`lm.formats.blocks`): an end token is one like any other, and samples fill their row.
    prompts: what samples begin with (`lm.text.prompts`), used in turn; None: the beginnings of real rows that `train` gives, or
      nothing but the begin token, as in the paper.
    keep_prefix: of an endless sample that continues a real row: its text is the row's beginning and what was written, together as
      long as a row; False: what was written alone, as long as a row.
    num_beams: beams of a search for the likeliest continuation, instead of drawing tokens; 0: none. Of endless rows with a prefix.
    rules: by which tokens are chosen, but for the temperature.
    on_malformed: "reject" draws until num_samples well-formed rows are there (at most max_attempts * num_samples candidates;
      rows that are then missing get weight 0 and are counted in `num_missing`); "keep" takes samples as they come.
    sample_batch_size: candidates at once. Results do not depend on it.
    measure: "all": also what all definitions of collapse read, and more of the samples' text (`lm.measures`); "few": not.
    on_host: leave what NumPy counts in samples to the driver, as a `types.OnHost` among the metrics of sampling; False: the program
      calls the host, and so is compiled anew in every process, for JAX keeps no such program on disk.
    judged: of these also what the base sees in samples, as generation 0 (perplexity, modes, MAUVE, Vendi); False for a base of
      random weights.
    reference: what the base sees in held-out text, as an earlier `init` made it; None: each run's `init` looks.
    embed: (tokens [n, L], counted [n, L] bool) -> [n, d] features of samples, traced; None: the base's hidden states.
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
  if measure not in ("few", "all"):
    raise Refused.must_be("measure", "few or all", measure)
  if on_malformed not in ("reject", "keep"):
    raise Refused.must_be("on_malformed", "reject or keep", on_malformed)
  arch = families.architecture(model.config)
  begin, end = text.special_ids(model.tokenizer)
  row_length = train.tokens.shape[1]
  prefix = int(train.given.max()) if endless and train.given is not None else 0
  dropped = 0 if keep_prefix else prefix
  max_length = row_length + dropped  # of a sample, before its prefix goes
  which = "block_size" if endless else "max_seq_len"
  if max_length > arch.max_length:
    more = f" with a prefix of {dropped} before it" if dropped else ""
    raise Refused(
      f"{which} {row_length}{more} is beyond the {arch.max_length} positions of the model.",
      argument=which,
      value=row_length,
    )
  if prefix >= max_length:
    raise Refused(
      f"prefix_tokens must be below block_size {row_length}, got {prefix}.", argument="prefix_tokens", value=prefix
    )
  if num_beams and not prefix:
    raise Refused("num_beams searches for what continues a prefix: it needs prefix_tokens.", argument="num_beams")
  if num_samples > len(train.length):
    raise Refused(
      f"num_samples {num_samples} asks for more real rows than there are: {len(train.length)} of at most "
      f"{train.tokens.shape[1]} tokens."
    )
  if not len(test.length):
    raise Refused(f"there are no test rows of at most {test.tokens.shape[1]} tokens.")
  continuing = prompts is not None or train.given is not None
  if train.learned is not None and not continuing:
    raise Refused("loss=answers needs samples that are answers: use --prompts.", argument="loss", value="answers")
  stop = -1 if endless else end  # -1: no token ends a sample
  base_arch = arch
  if adapters is not None:
    arch = adapted(arch, adapters)
  dtype = jnp.dtype(model.params["embedding"].dtype)
  quantised = quantisation.is_quantised(model.params)
  if quantised and (adapters is None or pretrain):
    raise Refused("quantized weights are not trained: they need adapters (lora_rank).", argument="lora_rank")
  functions = decoder.functions(arch, dtype, remat, mesh, quantised)
  rate = recipe.learning_rate if learning_rate is None else learning_rate
  parts = sharding.num_parts(mesh)
  at_once = recipe.micro_batch_size or recipe.batch_size
  if at_once % parts:
    which = "micro_batch_size" if recipe.micro_batch_size else "batch_size"
    raise Refused(
      f"{which} must be a multiple of the {parts} devices that split rows, got {at_once}.",
      argument=which,
      value=at_once,
    )
  size = sample_batch_size or max(min(num_samples, 32), -(-num_samples // 4))
  size = -(-size // parts) * parts
  wellformed = _wellformed(
    model.tokenizer, end, pretrain or plain_text, "keep" if endless else on_malformed, train, mesh
  )
  whole = (
    (lambda weights: checkpoint.join(model.params, weights)) if adapters is not None else (lambda weights: weights)
  )
  logits = training.Scores(
    lambda weights, tokens: functions.hidden(whole(weights), tokens),
    lambda weights: functions.output(whole(weights)),
    functions.head,
  )
  held_out = _arrays(test, given=False)
  ruled = [name for name in decoding.NUMBERS if not decoding.is_default(rules, name)]
  loss_of = functools.partial(training.mean_loss, logits, batch_size=at_once)
  known: Any = None
  count: Any = None
  judge: Any = None
  compared: Any = None
  if measure == "all":
    # Where a prefix goes, what was written is text by itself, and so are real rows.
    compared = [side._replace(given=None) if dropped else side for side in (train, test)]
    known = measures.Tokens.of(compared[0], compared[1], arch.vocab_size)
    count = measures.counting(known, stop)
    if judged:
      judge = measures.judge(decoder.functions(base_arch, dtype, remat, mesh), model.params, at_once, embed)

  def real_rows(key):
    chosen = jax.random.permutation(key, len(train.length))[:num_samples]
    return batch({name: part[chosen] for name, part in _arrays(train).items()}, jnp.ones(num_samples))

  def init(key):
    # What differs between cells of a sweep is no constant of the costly programs: they are compiled once.
    numbers = {"learning_rate": rate, "temperature": temperature} | {name: getattr(rules, name) for name in ruled}
    problem: dict[str, Any] = {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}
    if judge is not None:  # the same in all generations, and for all runs: computed once, however many are mapped over
      problem["reference"] = measures.reference(judge, compared[1]) if reference is None else reference
    return problem, real_rows(key)

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
    some = functools.partial(loss_of, **{name: part[:curve_rows] for name, part in held_out.items()})
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
      rows.get("learned"),
    )

  def beginnings(context: Context, number):
    """Tokens [B, P] that samples of these numbers begin with, and how many of each; of rows that are long enough, in turn."""
    if prompts is not None:
      used = number % len(prompts.length)
      return jnp.asarray(prompts.tokens)[used], jnp.asarray(prompts.length)[used]
    real = {name: context.real.rows[name][0] for name in ("tokens", "length", "given")}
    enough = real["length"] >= real["given"]
    which = jnp.argsort(~enough, stable=True)[number % jnp.maximum(jnp.sum(enough), 1)]
    return real["tokens"][:, : prefix or row_length - 1][which], jnp.minimum(real["given"], real["length"])[which]

  def sample(key, problem, fitted, context: Context):
    params = whole(fitted.weights)

    def draw(keys, number, wanted):
      chosen = rules._replace(**{name: problem[name] for name in ("temperature", *ruled)})
      given: dict[str, Any] = {}
      if continuing:
        given = dict(zip(("prompts", "prompt_length"), beginnings(context, number)))
      if num_beams:
        loss = []
        tokens, length, _ = decoding.beam_search(
          functions, params, given["prompts"], max_length, stop, num_beams, rules=chosen
        )
      else:
        options = given | {"slots": slots, "wanted": wanted, "scored": scored}
        tokens, length, *loss = sampling.generate(keys, functions, params, max_length, begin, stop, chosen, **options)
      return tokens, length, *((given["prompt_length"],) if continuing else ()), *loss

    slots = min(size, -(-context.num // parts) * parts)
    # A round of several times as many keeps the slots full; over several devices rows stay in step.
    round_size = min(4 * slots, max(context.num, slots)) if mesh is None and not num_beams else slots
    # What a search finds, or what is read without what came before it, is read once more to be scored.
    scored = measure == "all" and not num_beams and not dropped
    drawn = sampling.sample(key, draw, wellformed, context.num, max_length, round_size, max_attempts, slots)
    tokens, length, filled = drawn.tokens, drawn.length, drawn.filled
    if context.used is not None:
      filled &= in_use(context) > 0
    rows, given = {"tokens": tokens, "length": length}, jnp.ones_like(length)
    if continuing:
      given = drawn.more[0]
      rows = {"tokens": tokens[:, dropped:], "length": length - dropped, "given": given - dropped}
      if train.learned is not None:
        rows["learned"] = jnp.arange(row_length)[None] >= rows["given"][:, None]
      rows = {name: rows[name] for name in context.real.rows if name in rows}
    text_of = tokens[:, dropped:], length - dropped, jnp.maximum(given - dropped, 1)
    own = drawn.more[-1] / jnp.maximum(length - given, 1) if scored else None
    metrics = looked_at(fitted, text_of, own, filled, context, problem.get("reference")) if measure == "all" else {}
    if continuing:
      tokens, length = sampling.written(tokens, length, given)
    num = jnp.sum(filled)
    metrics |= {
      "rejection_rate": drawn.rejection_rate,
      "num_missing": (context.num if context.used is None else context.used) - num,
      "duplicate_rate": sampling.duplicate_rate(tokens, length, filled),
      "mean_length": jnp.sum(jnp.where(filled, length, 0)) / jnp.maximum(num, 1),
    }
    for order in (1, 2, 3):
      metrics[f"distinct_{order}"] = sampling.distinct_ngrams(tokens, length, filled, order)
    return batch(rows, filled.astype(jnp.float32)), metrics

  def looked_at(fitted, rows, own, filled, context: Context, reference):
    """Metrics of samples (tokens, length, given) and their own losses, if known, and of what the model was fitted to."""
    most = measures.MOST_ROWS
    tokens, length, given, filled = (part[:most] for part in (*rows, filled))
    if own is None:
      counted = jnp.arange(tokens.shape[1])[None] >= given[:, None]
      own = measures.row_losses(*training.losses(logits, fitted.weights, tokens, length, at_once, counted))
    fitted_to, weight = flat(context.data)
    trained = fitted_to["tokens"][:most], fitted_to["length"][:most], weight[:most]
    found = measures.of_samples(known, (tokens, length, given), filled, trained, count)
    if not on_host:
      found |= found.pop("counted").in_program()
    found["sample_loss_self"] = jnp.sum(jnp.where(filled, own[:most], 0.0)) / jnp.maximum(jnp.sum(filled), 1)
    if judge is None:
      return found
    return found | measures.of_reading(reference, judge.read(tokens, length, given), filled)

  def evaluate(key, problem, fitted):
    losses, counts = training.losses(logits, fitted.weights, batch_size=at_once, **held_out)
    found = measures.of_fit(known, held_out["tokens"], losses, counts) if measure == "all" else {}
    return found | {
      "test_loss": jnp.sum(jnp.where(counts, losses, 0.0)) / jnp.sum(counts),
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
    metrics=METRICS
    | (measures.OF_FIT | measures.OF_SAMPLES if measure == "all" else {})
    | (measures.JUDGED if judge is not None else {}),
    next_token=next_token,
    cites=() if adapters is None else ("2106.09685",),
  )


def _arrays(rows: text.Rows, given: bool = True) -> dict[str, Any]:
  """The parts of rows that there are."""
  names = ("tokens", "length", "given", "learned") if given else ("tokens", "length", "learned")
  return {name: jnp.asarray(part) for name in names if (part := getattr(rows, name)) is not None}


def _wellformed(tokenizer, end: int, plain_text: bool, on_malformed: str, train: text.Rows, mesh: Mesh | None) -> Any:
  if on_malformed == "keep":
    return lambda tokens, length: jnp.ones(length.shape, bool)
  if plain_text:
    return sampling.ended(end)
  user, assistant = text.encode(tokenizer, [text.USER, text.ASSISTANT])
  if len(user) == len(assistant) == 1:
    inside = np.arange(train.tokens.shape[1]) < np.asarray(train.length)[:, None]
    if (train.tokens[:, 1] == user[0]).all() and (((train.tokens == assistant[0]) & inside).sum(axis=1) == 1).all():
      return sampling.formatted_by_tokens(user[0], assistant[0], end)
  if mesh is not None and mesh.is_multi_process:
    raise Refused(
      "on_malformed=reject needs role markers that are tokens of their own, where a model is split over processes.",
      argument="on_malformed",
      value=on_malformed,
      allowed="keep",
    )
  return sampling.formatted_by_text(tokenizer)
