"""Diversity of text, and how much of it is known: on documents as strings or as lists of tokens. NumPy; no JAX.

Strings are split into words and marks. N-grams are numbered exactly, without hashes, so that all is counted by sorting.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.metrics.copies import share_of_copies
from collapse_jax.refused import Refused

__all__ = [
  "Corpus",
  "compare",
  "describe",
  "distinct",
  "distinct_adjusted",
  "distinct_per_document",
  "duplicate_documents",
  "known_ngrams",
  "near_duplicates",
  "ngrams",
  "read",
  "repeated_ngrams",
  "self_bleu",
  "token_entropy",
  "vocabulary",
  "zipf_slope",
]

_MOST_DOCUMENTS = 2000  # that are compared with each other
_KNOWN = 8  # tokens of a run that counts as copied from the training text


class Corpus(NamedTuple):
  """Documents as numbers of tokens.

  Attributes:
    tokens: [N] int64, all documents one after another.
    lengths: [documents] int64.
  """

  tokens: np.ndarray
  lengths: np.ndarray

  def first(self, num_documents: int) -> "Corpus":
    """The first documents."""
    return Corpus(self.tokens[: self.lengths[:num_documents].sum()], self.lengths[:num_documents])


def read(*texts: Sequence[Any]) -> list[Corpus]:
  """Corpora whose equal tokens have equal numbers, in all of them.

  Args:
    texts: each a sequence of documents: strings, or sequences of tokens (integers or strings), or of messages with "content".
  Raises:
    Refused: a document is none of these.
  """
  numbers: dict[Any, int] = {}
  found = []
  for documents in texts:
    told = [[numbers.setdefault(token, len(numbers)) for token in _tokens(one)] for one in documents]
    flat = np.fromiter((token for one in told for token in one), np.int64)
    found.append(Corpus(flat, np.array([len(one) for one in told], np.int64)))
  return found


def _tokens(document) -> list:
  if isinstance(document, str):
    return re.findall(r"\w+|[^\w\s]", document)
  if isinstance(document, Sequence | np.ndarray):
    if len(document) and all(isinstance(one, dict) and "content" in one for one in document):
      return [token for one in document for token in _tokens(str(one["content"]))]
    tokens = document.tolist() if isinstance(document, np.ndarray) else list(document)
    if all(isinstance(one, int | str | np.integer) for one in tokens):
      return tokens
  raise Refused(f"a document must be a string, tokens or messages, got {type(document).__name__}.", argument="text")


def ngrams(corpus: Corpus, n: int) -> tuple[np.ndarray, np.ndarray]:
  """All runs of n tokens that lie in one document: numbers, equal for equal runs of this corpus, and their documents.

  Args:
    corpus: of N tokens.
    n: from 1.
  """
  if n < 1:
    raise Refused.must_be("n", "at least 1", n)
  return next(itertools.islice(_runs(corpus), n - 1, None))


def _runs(corpus) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """`ngrams` of 1, 2, 3, ... tokens, each numbered by those before."""
  document = np.repeat(np.arange(len(corpus.lengths)), corpus.lengths)
  _, tokens = np.unique(corpus.tokens, return_inverse=True)
  base, codes = int(tokens.max(initial=0)) + 1, tokens
  while True:
    starts = document[: len(codes)]
    within = starts == document[len(document) - len(codes) :]
    yield codes[within], starts[within]
    _, codes = np.unique(codes[:-1] * base + tokens[len(tokens) - len(codes) + 1 :], return_inverse=True)


def _counted(codes, document) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Documents, distinct n-grams of each, and how often they occur in it; sorted by the first two."""
  base = int(codes.max(initial=0)) + 1
  pairs, count = np.unique(document * base + codes, return_counts=True)
  return pairs // base, pairs % base, count


# ---------------------------------------------------------------------------------------------------- diversity
def distinct(corpus: Corpus, n: int) -> float:
  """Distinct n-grams over n-grams, of all documents together (Li et al. 1510.03055); falls with their number. 0 without n-grams."""
  return _distinct(*ngrams(corpus, n))


def _distinct(codes, _) -> float:
  return int(np.count_nonzero(np.bincount(codes))) / max(len(codes), 1)


def distinct_per_document(corpus: Corpus, n: int) -> float:
  """Mean over documents that have n-grams of distinct n-grams over n-grams; 0 if none has."""
  return _distinct_per_document(*ngrams(corpus, n))


def _distinct_per_document(codes, document) -> float:
  num, distinct_ones = np.bincount(document), np.bincount(_counted(codes, document)[0])
  return float(np.mean(distinct_ones[num > 0] / num[num > 0])) if len(codes) else 0.0


def repeated_ngrams(corpus: Corpus, n: int = 4) -> float:
  """Mean over documents of the share of n-grams that the same document has had before (Welleck et al. 1908.04319)."""
  return _repeated(*ngrams(corpus, n))


def _repeated(codes, document) -> float:
  return 1 - _distinct_per_document(codes, document) if len(codes) else 0.0


def distinct_adjusted(corpus: Corpus, vocabulary_size: int) -> float:
  """Distinct tokens over those that as many uniform draws of the vocabulary have, V (1 - (1 - 1/V)^N) (Liu et al. 2202.13587).

  Args:
    corpus: of N tokens.
    vocabulary_size: V, such as the number of distinct tokens of the real text.
  """
  if vocabulary_size < 1:
    raise Refused.must_be("vocabulary_size", "at least 1", vocabulary_size)
  num = len(corpus.tokens)
  share = -np.expm1(num * np.log1p(-1 / vocabulary_size)) if vocabulary_size > 1 else float(num > 0)
  return len(np.unique(corpus.tokens)) / (vocabulary_size * share) if num else 0.0


def token_entropy(corpus: Corpus) -> float:
  """Entropy of the frequencies of tokens, nats, with the first-order correction (V - 1) / (2 N) of its bias (Miller 1955)."""
  counts = np.unique(corpus.tokens, return_counts=True)[1]
  num = counts.sum()
  return float(-np.sum(counts / num * np.log(counts / num)) + (len(counts) - 1) / (2 * num)) if num else 0.0


def vocabulary(corpus: Corpus, num_tokens: int) -> float:
  """Expected number of distinct tokens among num_tokens of the corpus, drawn without replacement: comparable at any size.

  Args:
    corpus: of N tokens.
    num_tokens: from 0 to N.
  """
  from scipy.special import gammaln

  counts = np.unique(corpus.tokens, return_counts=True)[1]
  total = len(corpus.tokens)
  if not 0 <= num_tokens <= total:
    raise Refused.must_be("num_tokens", f"from 0 to {total}", num_tokens)
  left = total - counts - num_tokens  # tokens that are neither of the kind nor drawn
  log_missed = (
    gammaln(total - counts + 1)
    - gammaln(np.maximum(left, 0) + 1)
    + gammaln(total - num_tokens + 1)
    - gammaln(total + 1)
  )
  return float(np.sum(np.where(left < 0, 1.0, -np.expm1(np.minimum(log_missed, 0.0)))))


def zipf_slope(corpus: Corpus, num_ranks: int = 1000) -> float:
  """Least squares slope of log frequency by log rank, of the most frequent tokens that occur at least twice; about -1 for real
  text.

  Args:
    corpus: of N tokens.
    num_ranks: most ranks that are used.
  Returns:
    the slope; 0 where fewer than two tokens occur twice.
  """
  counts = np.sort(np.unique(corpus.tokens, return_counts=True)[1])[::-1]
  counts = counts[counts > 1][:num_ranks]
  if len(counts) < 2:
    return 0.0
  x, y = np.log(np.arange(1, len(counts) + 1)), np.log(counts)
  return float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))


def self_bleu(corpus: Corpus, max_n: int = 4) -> float:
  """Mean BLEU of each document beside all others as references (Zhu et al. 1802.01886): near 1 for a sample that repeats itself.

  N-grams count up to their largest count in one other document; where none matches, 0.1 does; brevity beside the reference of the
  closest length. 0 where there are fewer than two documents of max_n tokens.

  Args:
    corpus: documents, of which those with fewer than max_n tokens are left out.
    max_n: longest n-grams.
  """
  kept = np.flatnonzero(corpus.lengths >= max_n)[:_MOST_DOCUMENTS]
  if len(kept) < 2:
    return 0.0
  corpus = _take(corpus, kept)
  log_precision = np.zeros(len(kept))
  for codes, document in itertools.islice(_runs(corpus), max_n):
    where, code, count = _counted(codes, document)
    # The largest count of each n-gram in one document, and the second largest, which is that of the others for the first.
    order = np.lexsort((-count, code))
    first = np.r_[True, code[order][1:] != code[order][:-1]]
    most, second, owner = (np.zeros(code.max() + 1, np.int64) for _ in range(3))
    most[code[order][first]], owner[code[order][first]] = count[order][first], where[order][first]
    after = np.r_[False, first[:-1]] & ~first
    second[code[order][after]] = count[order][after]
    elsewhere = np.where(owner[code] == where, second[code], most[code])
    matched = np.bincount(where, np.minimum(count, elsewhere), minlength=len(kept))
    log_precision += np.log(np.maximum(matched, 0.1) / np.bincount(where, count, minlength=len(kept))) / max_n
  lengths = np.sort(corpus.lengths)
  closest = np.array([_closest_other(lengths, one) for one in corpus.lengths])
  brevity = np.minimum(1 - closest / corpus.lengths, 0.0)
  return float(np.mean(np.exp(log_precision + brevity)))


def _closest_other(lengths, length) -> int:
  """Of sorted lengths the nearest but for one occurrence of `length` itself; of two the shorter."""
  at = np.searchsorted(lengths, length)
  others = [lengths[i] for i in (at - 1, at + 1) if 0 <= i < len(lengths)]
  return min(others, key=lambda one: (abs(one - length), one))


def _take(corpus, index) -> Corpus:
  ends = np.cumsum(corpus.lengths)
  parts = [corpus.tokens[ends[i] - corpus.lengths[i] : ends[i]] for i in index]
  return Corpus(np.concatenate(parts) if parts else corpus.tokens[:0], corpus.lengths[index])


# ---------------------------------------------------------------------------------------------------- copies
def duplicate_documents(corpus: Corpus, known: Corpus | None = None) -> float:
  """Share of documents that are, token by token, one of `known`; without it, of which the corpus has another."""
  return share_of_copies(_keys(corpus), None if known is None else _keys(known))


def _keys(corpus) -> list[bytes]:
  ends = np.cumsum(corpus.lengths)
  return [corpus.tokens[end - length : end].tobytes() for end, length in zip(ends, corpus.lengths)]


def near_duplicates(corpus: Corpus, threshold: float = 0.7, n: int = 3) -> float:
  """Share of documents with another whose n-grams overlap: Jaccard index of the two sets of at least `threshold`.

  Exact, among the first 2,000 documents; those without n-grams have no others.

  Args:
    corpus: documents.
    threshold: in (0, 1].
    n: tokens of a run.
  """
  from scipy import sparse

  corpus = corpus.first(_MOST_DOCUMENTS)
  num = len(corpus.lengths)
  codes, document = ngrams(corpus, n)
  if not len(codes):
    return 0.0
  where, code, _ = _counted(codes, document)
  sets = sparse.csr_matrix((np.ones(len(code), np.int32), (where, code)), shape=(num, code.max() + 1))
  size = np.bincount(where, minlength=num)
  near = np.zeros(num, bool)
  for start in range(0, num, 256):
    shared = (sets[start : start + 256] @ sets.T).toarray()
    either = size[start : start + 256, None] + size[None] - shared
    close = (shared > 0) & (shared >= threshold * either)
    close[np.arange(len(close)), start + np.arange(len(close))] = False
    near[start : start + 256] = close.any(axis=1)
  return float(near.mean())


def known_ngrams(corpus: Corpus, train: Corpus, n: int = _KNOWN) -> float:
  """Share of the n-grams of the corpus that `train` has as well: what is memorised, or common. 0 without n-grams.

  Args:
    corpus: documents of a model.
    train: what it was fitted to; both from one `read`.
    n: tokens of a run.
  """
  both = Corpus(np.concatenate([corpus.tokens, train.tokens]), np.concatenate([corpus.lengths, train.lengths]))
  codes, document = ngrams(both, n)
  own = document < len(corpus.lengths)
  return float(np.mean(np.isin(codes[own], codes[~own]))) if own.any() else 0.0


# ---------------------------------------------------------------------------------------------------- all of them
def compare(real, sample, *, train=None, seed: int = 0) -> dict[str, tuple[float, float]]:
  """Metrics of sampled text, each with that of real text, which is its null: at an equal number of documents, and about of tokens.

  distinct_1 to distinct_4 and their means per document, distinct_adjusted, self_bleu, repeated_4grams, near_duplicates,
  duplicate_documents, zipf_slope, vocabulary (at the same number of tokens), token_entropy; with `train` known_8grams and
  copied_documents.

  Args:
    real: documents that the model was not fitted to, see `read`.
    sample: documents of the model.
    train: documents that the model was fitted to.
    seed: of the order in which documents are used.
  Returns:
    name -> (value, null).
  Raises:
    Refused: no documents, or no tokens.
  """
  corpora = read(real, sample, *([] if train is None else [train]))
  for name, corpus in zip(("real", "sample", "train"), corpora):
    if not len(corpus.tokens):
      raise Refused(f"{name} has no tokens.", argument=name)
  random = np.random.default_rng(seed)
  corpora[:2] = [_take(one, random.permutation(len(one.lengths))) for one in corpora[:2]]
  truth, told = _as_long(*corpora[:2])
  most = min(len(truth.tokens), len(told.tokens))
  vocabulary_size = len(np.unique(corpora[0].tokens))
  pairs = [describe(one, vocabulary_size, most, *corpora[2:]) for one in (told, truth)]
  return {name: (pairs[0][name], pairs[1][name]) for name in pairs[0]}


def describe(corpus: Corpus, vocabulary_size: int, num_tokens: int, train: Corpus | None = None) -> dict[str, float]:
  """All metrics of a corpus, as in `compare`, whose n-grams are numbered once.

  Args:
    corpus: of N tokens, at least one.
    vocabulary_size: as of `distinct_adjusted`.
    num_tokens: as of `vocabulary`.
    train: what the model was fitted to, numbered as the corpus is; None: nothing is said of copies.
  """
  runs = dict(enumerate(itertools.islice(_runs(corpus), 4), 1))
  found = {f"distinct_{n}": _distinct(*one) for n, one in runs.items()}
  found |= {f"distinct_{n}_per_document": _distinct_per_document(*one) for n, one in runs.items()}
  found |= {
    "distinct_adjusted": distinct_adjusted(corpus, vocabulary_size),
    "self_bleu": self_bleu(corpus),
    "repeated_4grams": _repeated(*runs[4]),
    "near_duplicates": near_duplicates(corpus),
    "duplicate_documents": duplicate_documents(corpus),
    "zipf_slope": zipf_slope(corpus),
    "vocabulary": vocabulary(corpus, num_tokens),
    "token_entropy": token_entropy(corpus),
  }
  if train is not None:
    found[f"known_{_KNOWN}grams"] = known_ngrams(corpus, train)
    found["copied_documents"] = duplicate_documents(corpus, train)
  return found


def _as_long(a: Corpus, b: Corpus) -> tuple[Corpus, Corpus]:
  """The first documents of both, up to the tokens that the shorter has: at least one document."""
  most = min(len(a.tokens), len(b.tokens))
  cut = lambda one: one.first(max(int(np.searchsorted(np.cumsum(one.lengths), most, side="right")), 1))
  return cut(a), cut(b)
