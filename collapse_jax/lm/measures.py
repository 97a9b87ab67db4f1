"""What is measured of a language model and its samples, so that all definitions of collapse apply to it. JAX."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.lm import text, training
from collapse_jax.lm.decoder import Functions
from collapse_jax.metrics import features as embedded
from collapse_jax.metrics import text as corpora
from collapse_jax.types import Array, MetricInfo, OnHost

__all__ = [
  "BINS",
  "JUDGED",
  "MOST_ROWS",
  "OF_FIT",
  "OF_SAMPLES",
  "Judge",
  "Reading",
  "Reference",
  "Tokens",
  "counting",
  "judge",
  "of_fit",
  "of_reading",
  "of_samples",
  "reference",
  "row_losses",
]

MOST_ROWS = 10_000  # samples, and rows that a model was fitted to, that are looked at: the first ones
_GROUPS = 10
_CLUSTERS = 8
_FAR = 0.99  # quantile of real text
BINS = tuple(0.25 * i for i in range(49))  # edges of the histogram of losses, nats per token; the last bin is open

OF_FIT = {
  "test_perplexity": MetricInfo("perplexity of held-out real text"),
  "document_loss_std": MetricInfo("standard deviation of held-out documents' losses", "nats per token"),
  "loss_by_frequency": MetricInfo(
    "test loss of tokens by how often they occur in real text, rarest tenth first",
    "nats per token",
    ("frequency_decile",),
  ),
  "rare_token_loss": MetricInfo("test loss of the rarest tenth of real tokens", "nats per token", worse="higher"),
}
OF_SAMPLES = {
  "token_entropy": MetricInfo("entropy of the samples' tokens", "nats", worse="lower", measures="variance"),
  "vocabulary": MetricInfo(
    "distinct tokens at an equal number of tokens", "tokens", worse="lower", log_scale=True, measures="variance"
  ),
  "rare_token_recall": MetricInfo(
    "share of the rarest tenth of held-out tokens that samples have", worse="lower", log_scale=True, measures="tail"
  ),
  "sample_loss_self": MetricInfo("loss of samples under the model itself", "nats per token"),
  "distinct_2_per_document": MetricInfo("distinct 2-grams of a sample as a share of its own", worse="lower"),
  "distinct_adjusted": MetricInfo("distinct tokens over those of as many uniform draws", worse="lower"),
  "self_bleu": MetricInfo("BLEU of a sample beside all others", worse="higher"),
  "repeated_4grams": MetricInfo("share of 4-grams that their sample has had before", worse="higher"),
  "near_duplicates": MetricInfo("share of samples with a near copy", worse="higher"),
  "zipf_slope": MetricInfo("slope of log frequency by log rank"),
  "known_8grams": MetricInfo("share of 8-grams that the training text has", worse="higher"),
}
JUDGED = {  # by generation 0
  "sample_loss": MetricInfo("loss of samples under generation 0", "nats per token"),
  "sample_loss_histogram": MetricInfo("share of samples by their loss under generation 0", "1", ("loss_bin",)),
  "share_beyond_real": MetricInfo(
    "share of samples less likely under generation 0 than 99% of real text", worse="higher", measures="hallucination"
  ),
  "mode_separation": MetricInfo(
    "variance between over within clusters, in hidden states of generation 0",
    worse="lower",
    log_scale=True,
    measures="modes",
  ),
  "mauve": MetricInfo("MAUVE of samples, in hidden states of generation 0", worse="lower"),
  "vendi": MetricInfo("effective number of kinds of samples, in hidden states of generation 0", "1", worse="lower"),
}
_COUNTED = (  # of n-grams and whole documents, on the host
  "token_entropy",
  "vocabulary",
  "distinct_2_per_document",
  "distinct_adjusted",
  "self_bleu",
  "repeated_4grams",
  "near_duplicates",
  "zipf_slope",
  "known_8grams",
)


class Tokens(NamedTuple):
  """What is known of the tokens of real text; NumPy.

  Attributes:
    group: [V] int32, the tenth of all occurrences that a token belongs to, the rarest first.
    num_distinct: tokens that occur.
    mean_length: of a row's text.
    held_out: [V] float32, how often each occurs in held-out text.
  """

  group: np.ndarray
  num_distinct: int
  mean_length: float
  held_out: np.ndarray

  @classmethod
  def of(cls, train: text.Rows, test: text.Rows, vocab_size: int) -> "Tokens":
    """Of the first tokens' followers in training rows, and in held-out ones."""
    counts, held_out = (np.bincount(one.tokens[:, 1:][_scored(one)], minlength=vocab_size) for one in (train, test))
    order = np.argsort(counts, kind="stable")
    below = np.cumsum(counts[order]) - counts[order] / 2
    group = np.empty(vocab_size, np.int32)
    group[order] = np.minimum(_GROUPS * below / max(counts.sum(), 1), _GROUPS - 1)
    mean = counts.sum() / max(len(train.length), 1)
    return cls(group, int(np.count_nonzero(counts)), float(mean), held_out.astype(np.float32))


def _scored(rows: text.Rows) -> np.ndarray:
  """[n, L - 1] bool, tokens after the first that are in use, and are not what samples are given."""
  place = np.arange(1, rows.tokens.shape[1])[None]
  given = 1 if rows.given is None else rows.given[:, None]
  return (place < rows.length[:, None]) & (place >= given)


class Reading(NamedTuple):
  """Of rows [n, L] that a model has read.

  Attributes:
    losses: [n] mean loss of a row's tokens, nats.
    features: [n, d], mean of the final hidden states of these tokens, or what a user's `embed` makes of them.
  """

  losses: Array
  features: Array


class Judge(NamedTuple):
  """Generation 0: what stays the same for all generations.

  Attributes:
    read: (tokens [n, L], length [n], given [n]) -> Reading of what comes after the given tokens.
    num_clusters: of real text.
  """

  read: Callable[[Array, Array, Array], Reading]
  num_clusters: int = _CLUSTERS


def judge(functions: Functions, params, batch_size: int, embed: Callable | None = None) -> Judge:
  """A model as `Judge`.

  Args:
    functions: of the decoder, without adapters.
    params: its parameters.
    batch_size: rows at a time.
    embed: (tokens [n, L], counted [n, L] bool) -> [n, d], traced; None: the model's final hidden states, mean over counted tokens.
  """

  def one(rows):
    tokens, length, given = rows
    place = jnp.arange(tokens.shape[1])[None]
    counted = (place < length[:, None]) & (place >= given[:, None])
    hidden = functions.hidden(params, tokens)
    logits = training.Scores(lambda *_: hidden, functions.output, functions.head)
    losses, counts = training.token_losses(logits, params, tokens, length, counted)
    mean = row_losses(losses, counts)
    if embed is not None:
      return Reading(mean, embed(tokens, counted).astype(jnp.float32))
    states = jnp.where(counted[..., None], hidden.astype(jnp.float32), 0.0)
    return Reading(mean, jnp.sum(states, axis=1) / jnp.maximum(jnp.sum(counted, axis=1), 1)[:, None])

  return Judge(lambda tokens, length, given: training.by_batches(one, (tokens, length, given), batch_size))


class Reference(NamedTuple):
  """Held-out real text as generation 0 sees it.

  Attributes:
    far: [] the 99% quantile of its rows' losses.
    center: [d] mean of its features.
    features: [m, d], centered.
    centres: [k, d] of their clusters.
  """

  far: Array
  center: Array
  features: Array
  centres: Array


def row_losses(losses: Array, counts: Array) -> Array:
  """[n] mean over the tokens that count of losses [n, L - 1]; 0 where none does.

  Args:
    losses, counts: by `training.token_losses`.
  """
  return jnp.sum(jnp.where(counts, losses, 0.0), axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1)


def reference(judge: Judge, test: text.Rows) -> Reference:
  """What the judge sees in held-out rows."""
  given = np.ones_like(test.length) if test.given is None else test.given
  losses, features = judge.read(jnp.asarray(test.tokens), jnp.asarray(test.length), jnp.asarray(given))
  center = jnp.mean(features, axis=0)
  features = features - center[None]
  num = max(min(judge.num_clusters, len(test.length) // 2), 1)
  return Reference(jnp.quantile(losses, _FAR), center, features, embedded.clusters(features, num))


def of_fit(known: Tokens, tokens: Array, losses: Array, counts: Array) -> dict[str, Array]:
  """`OF_FIT` of held-out rows.

  Args:
    known: of real text.
    tokens: [n, L] int32.
    losses, counts: [n, L - 1], by `training.token_losses`.
  """
  losses = jnp.where(counts, losses, 0.0)
  num = jnp.sum(counts, axis=1)
  documents = row_losses(losses, counts)
  mean = jnp.sum(jnp.where(num > 0, documents, 0.0)) / jnp.maximum(jnp.sum(num > 0), 1)
  spread = jnp.sqrt(jnp.sum(jnp.where(num > 0, (documents - mean) ** 2, 0.0)) / jnp.maximum(jnp.sum(num > 0), 1))
  share = jax.nn.one_hot(jnp.asarray(known.group)[tokens[:, 1:]], _GROUPS) * counts[..., None]
  size, total = jnp.sum(share, axis=(0, 1)), jnp.sum(share * losses[..., None], axis=(0, 1))
  # A tenth may have no token of its own, where one token makes up more than that.
  by_group = jnp.where(size > 0, total / jnp.maximum(size, 1), jnp.sum(total) / jnp.maximum(jnp.sum(size), 1))
  return {
    "test_perplexity": jnp.exp(jnp.sum(total) / jnp.maximum(jnp.sum(size), 1)),
    "document_loss_std": spread,
    "loss_by_frequency": by_group,
    "rare_token_loss": by_group[0],
  }


def of_samples(
  known: Tokens,
  rows: tuple[Array, Array, Array],
  filled: Array,
  trained: tuple[Array, Array, Array],
  count: Callable[..., dict[str, np.ndarray]],
) -> dict[str, Any]:
  """Those of `OF_SAMPLES` that need no model, of rows that one wrote.

  Args:
    known: of the tokens of real text.
    rows: tokens [n, L] int32, length [n] and how many of these were given [n], from 1.
    filled: [n] bool, rows that there are.
    trained: tokens [N, L'], length [N] and weight [N] of what the model was fitted to.
    count: of the same real text, by `counting`.
  Returns:
    name -> []; those that are counted on the host as one `OnHost`.
  """
  tokens, length, given = rows
  place = jnp.arange(tokens.shape[1])[None]
  said = (place >= given[:, None]) & (place < length[:, None]) & filled[:, None]
  there = jnp.zeros(len(known.group), bool).at[jnp.where(said, tokens, len(known.group))].set(True, mode="drop")
  rare = jnp.asarray(np.where(known.group == 0, known.held_out, 0).astype(np.float32))
  return {
    "counted": OnHost(count, _COUNTED, (tokens, jnp.where(filled, length, 0), given, *trained)),
    "rare_token_recall": jnp.sum(jnp.where(there, rare, 0.0)) / jnp.maximum(jnp.sum(rare), 1),
  }


def of_reading(real: Reference, seen: Reading, filled: Array) -> dict[str, Array]:
  """`JUDGED`: what generation 0 sees in samples.

  Args:
    real: what it sees in held-out text.
    seen: what it sees in n samples.
    filled: [n] bool, samples that there are.
  """
  weight = filled.astype(jnp.float32)
  num = jnp.maximum(jnp.sum(weight), 1)
  mean = lambda values: jnp.sum(jnp.where(filled, values, 0.0)) / num
  features = jnp.where(filled[:, None], seen.features - real.center[None], 0.0)
  bins = jnp.clip(jnp.searchsorted(jnp.asarray(BINS), seen.losses, side="right") - 1, 0, len(BINS) - 1)
  return {
    "sample_loss": mean(seen.losses),
    "sample_loss_histogram": jnp.sum(jax.nn.one_hot(bins, len(BINS)) * weight[:, None], axis=0) / num,
    "share_beyond_real": mean((seen.losses > real.far).astype(jnp.float32)),
    "mode_separation": embedded.separation(features, real.centres, weight),
    "mauve": embedded.mauve(real.features, features, weight),
    "vendi": embedded.vendi(features, weight),
  }


def counting(known: Tokens, end: int) -> Callable[..., dict[str, np.ndarray]]:
  """What is counted of n-grams and whole documents, by NumPy: the function of an `OnHost`.

  Args:
    known: of the tokens of real text.
    end: token that is not counted at the end of a row; -1: none.
  """

  def corpus(tokens, length, given):
    tokens, length, given = (np.asarray(x).astype(np.int64) for x in (tokens, length, given))
    last = tokens[np.arange(len(length)), np.maximum(length - 1, 0)]
    length = np.maximum(length - (last == end), 0)
    place = np.arange(tokens.shape[1])[None]
    kept = (place >= given[:, None]) & (place < length[:, None])
    return corpora.Corpus(tokens[kept], kept.sum(axis=1))

  def measured(tokens, length, given, known_tokens, known_length, known_weight):
    if np.isnan(known_weight).any():  # there is no model
      return dict.fromkeys(_COUNTED, np.float32(np.nan))
    said = corpus(tokens, length, given)
    if not len(said.tokens):
      return dict.fromkeys(_COUNTED, np.float32(0))
    used = np.asarray(known_weight) > 0
    train = corpus(np.asarray(known_tokens)[used], np.asarray(known_length)[used], np.ones(int(used.sum())))
    num = min(len(said.tokens), math.ceil(len(length) * known.mean_length / 4))
    found = corpora.describe(said, known.num_distinct, num, train)
    return {name: np.float32(found[name]) for name in _COUNTED}

  return measured
