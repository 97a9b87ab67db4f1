"""Metrics of text beside brute-force twins, on random corpora and on corpora that are made to fail."""

import collections
import itertools
import math

import numpy as np
import pytest

from collapse_jax import metrics
from collapse_jax.metrics import text
from collapse_jax.refused import Refused

RANDOM = np.random.default_rng(0)
DOCUMENTS = [RANDOM.integers(0, 6, size).tolist() for size in (12, 1, 7, 7, 0, 9, 12)] + [[1, 2, 1, 2, 1, 2]] * 2


def runs(document, n):
  return [tuple(document[i : i + n]) for i in range(len(document) - n + 1)]


def bleu(document, references, max_n=4):
  """As nltk's sentence_bleu of the longest n-grams max_n, where what does not match counts 0.1."""
  logs = []
  for n in range(1, max_n + 1):
    own = collections.Counter(runs(document, n))
    theirs = [collections.Counter(runs(one, n)) for one in references]
    matched = sum(min(count, max(one[run] for one in theirs)) for run, count in own.items())
    logs.append(math.log(max(matched, 0.1) / sum(own.values())))
  closest = min((len(one) for one in references), key=lambda size: (abs(size - len(document)), size))
  return math.exp(sum(logs) / max_n + min(1 - closest / len(document), 0))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_ngrams(n):
  (corpus,) = text.read(DOCUMENTS)
  codes, document = text.ngrams(corpus, n)
  plain = [(i, run) for i, one in enumerate(DOCUMENTS) for run in runs(one, n)]
  assert document.tolist() == [i for i, _ in plain]
  assert (
    len(set(zip(codes.tolist(), [run for _, run in plain]))) == len(set(codes.tolist())) == len({r for _, r in plain})
  )
  each = [len(set(runs(one, n))) / len(runs(one, n)) for one in DOCUMENTS if runs(one, n)]
  assert text.distinct(corpus, n) == pytest.approx(len({run for _, run in plain}) / len(plain))
  assert text.distinct_per_document(corpus, n) == pytest.approx(np.mean(each))
  assert text.repeated_ngrams(corpus, n) == pytest.approx(1 - np.mean(each))


def test_twins():
  corpus, train = text.read(DOCUMENTS, [*DOCUMENTS[2:4], [9, 9, 9]])
  long = [one for one in DOCUMENTS if len(one) >= 4]
  each = [bleu(one, long[:i] + long[i + 1 :]) for i, one in enumerate(long)]
  assert text.self_bleu(corpus) == pytest.approx(np.mean(each), rel=1e-12)

  sets = [set(runs(one, 3)) for one in DOCUMENTS]
  near = lambda a, b, least: bool(a & b) and len(a & b) >= least * len(a | b)
  for least in (0.1, 0.3, 1.0):
    told = [any(near(a, b, least) for j, b in enumerate(sets) if j != i) for i, a in enumerate(sets)]
    assert text.near_duplicates(corpus, least) == np.mean(told)

  known = {run for one in [*DOCUMENTS[2:4], [9, 9, 9]] for run in runs(one, 3)}
  own = [run in known for one in DOCUMENTS for run in runs(one, 3)]
  assert 0 < text.known_ngrams(corpus, train, 3) == np.mean(own) < 1
  assert text.duplicate_documents(corpus) == 2 / 9 and text.duplicate_documents(corpus, train) == 2 / 9


def test_frequencies():
  counts = np.array([50, 20, 10, 5, 2, 1, 1])
  tokens = np.repeat(np.arange(7), counts)
  (corpus,) = text.read([RANDOM.permutation(tokens).tolist()])
  some = [len(set(RANDOM.permutation(tokens)[:30])) for _ in range(2000)]
  assert abs(text.vocabulary(corpus, 30) - np.mean(some)) < 5 * np.std(some) / math.sqrt(2000)
  assert text.vocabulary(corpus, len(tokens)) == pytest.approx(7)
  share = counts / counts.sum()
  assert text.token_entropy(corpus) == pytest.approx(-np.sum(share * np.log(share)) + 6 / (2 * counts.sum()))
  assert text.zipf_slope(corpus) == pytest.approx(np.polyfit(np.log([1, 2, 3, 4, 5]), np.log(counts[:5]), 1)[0])
  draws = [len(set(RANDOM.integers(0, 40, 60))) for _ in range(2000)]  # what distinct_adjusted holds against
  uniform = text.read([list(range(7)) * 10])[0].first(1)._replace(tokens=np.arange(60) % 30)
  assert text.distinct_adjusted(uniform, 40) == pytest.approx(30 / np.mean(draws), rel=0.01)


def test_a_corpus_that_repeats_itself_is_told():
  """Of one law the values are near their nulls; of a damaged sample they are far, each in its direction."""
  word = lambda num: " ".join(f"w{i}" for i in RANDOM.zipf(1.4, num) % 500)
  real, fresh, train = ([word(40) for _ in range(150)] for _ in range(3))
  found = metrics.score(real, fresh, train=train)
  for name in (
    "distinct_1",
    "distinct_2",
    "self_bleu",
    "token_entropy",
    "zipf_slope",
    "vocabulary",
    "distinct_adjusted",
  ):
    assert found[name].value == pytest.approx(found[name].null, rel=0.12), name
  damaged = metrics.score(real, fresh[:30] * 4 + train[:30], train=train)
  for name in ("self_bleu", "near_duplicates", "duplicate_documents", "copied_documents", "known_8grams"):
    assert damaged[name].value > damaged[name].null + 0.15, name
  for name in ("distinct_2", "distinct_1"):
    assert damaged[name].value < 0.85 * damaged[name].null, name


def test_kinds_of_documents():
  told = ["a b, a b", "c d e f g a b c d"]
  messages = [[{"role": "user", "content": one}] for one in told]
  plain = metrics.score(told, told)
  for other in ([{"text": one} for one in told], [{"messages": one} for one in messages]):
    assert metrics.score(other, other) == plain
  assert {"known_8grams", "copied_documents"} <= set(metrics.score(told, told, train=told))
  assert all(np.isfinite(one).all() for one in metrics.score(["a"], ["b"], train=["c"]).values())
  for wrong, message in (
    (["", " "], "sample has no tokens"),
    ([[1.5, 2.5]], "a document must be"),
    ([], "sample"),
    (np.zeros((4, 2)), "one kind"),
  ):
    with pytest.raises(Refused, match=message):
      metrics.score(told, wrong)
  for call in (
    lambda c: text.ngrams(c, 0),
    lambda c: text.vocabulary(c, 10**6),
    lambda c: text.distinct_adjusted(c, 0),
  ):
    with pytest.raises(Refused):
      call(text.read(told)[0])


def test_no_document_is_left_over():
  """Cuts to equal length end between documents, and keep one at least."""
  a, b = text.read([[1] * 50, [2] * 50], [[3] * 30, [4] * 5])
  cut = text._as_long(a, b)
  assert [len(one.tokens) for one in cut] == [50, 35]
  assert list(itertools.chain(*(one.lengths for one in cut))) == [50, 30, 5]
