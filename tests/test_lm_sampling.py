"""Sampling against exact laws: the model is a table of bigram logits, so that every probability is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm_configs import CONFIGS
from scipy import stats

from collapse_jax.lm import decoder, decoding, families, sampling, training

VOCAB, BEGIN, END, LENGTH = 7, 0, 1, 9
TABLE = np.random.default_rng(0).normal(size=(VOCAB, VOCAB)).astype(np.float32)


def bigram():
  step = lambda table: lambda tokens, cache: (table[tokens], cache)
  empty = lambda batch, capacity: decoder.Cache((), jnp.zeros((), jnp.int32))
  return decoder.Functions(*[None] * 4, step, empty, None)  # type: ignore[arg-type]


def generate(keys, **options):
  return jax.jit(
    functools.partial(
      sampling.generate,
      functions=bigram(),
      params=jnp.asarray(TABLE),
      max_length=LENGTH,
      begin=BEGIN,
      end=END,
      **options,
    )
  )(keys)


def frequency_test(counts, probability):
  expected = probability * counts.sum()
  return stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue


@pytest.mark.parametrize("vocab", [2, 7, 1000])
def test_categorical(vocab):
  """Counts follow the softmax; outcomes without mass never come."""
  logits = jnp.asarray(np.random.default_rng(1).normal(size=vocab), jnp.float32).at[0].set(-jnp.inf)
  num = 200_000
  drawn = jax.jit(sampling.categorical)(
    jax.random.bits(jax.random.key(0), (num, 4)), jnp.broadcast_to(logits, (num, vocab))
  )
  counts = np.bincount(drawn, minlength=vocab)
  assert counts[0] == 0
  probability = np.asarray(jax.nn.softmax(logits), np.float64)
  if vocab > 2:
    assert frequency_test(counts, probability / probability.sum()) > 1e-4
    assert frequency_test(counts[1:], np.roll(probability[1:], 1) / probability[1:].sum()) < 1e-6


def test_rare_tokens_of_a_large_vocabulary():
  """Half of a vocabulary of 256,000 has 1e-9 together; given words put the draw there, token by token."""
  vocab, num = 256_000, 64
  logits = jnp.where(jnp.arange(vocab) % 2 == 1, jnp.log(1e-9), 0.0).at[-1].set(-jnp.inf)
  rng = np.random.default_rng(0)
  drawn = sampling.categorical(jnp.asarray(rng.integers(2**32, size=(num, 4)), jnp.uint32), jnp.tile(logits, (num, 1)))
  assert (np.asarray(drawn) % 2 == 0).all() and len(np.unique(drawn)) > 60
  # Within a block of 512: the position just below the cumulative weight of its first three tokens is the rare second one.
  share = 1e-9 / (256 * (1 + 1e-9))
  position = int((1 / 256 - 2 * share + 1.5 * share) * 2**64)
  words = jnp.asarray([[7, 7, position >> 32, position & 0xFFFFFFFF]], jnp.uint32)
  assert sampling.categorical(words, logits[None])[0] == 1


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_temperatures_at_the_ends(temperature):
  """Nearly greedy, and nearly uniform over what is possible."""
  logits = jnp.asarray([1000.0, 999.99, -jnp.inf, 1000.0, -1000.0])
  table = jnp.tile(logits.at[END].set(-jnp.inf), (VOCAB, 1))[:, :5]
  functions = bigram()._replace(decoder=lambda table: lambda tokens, cache: (table[tokens], cache))
  tokens = np.asarray(
    sampling.generate(
      jax.random.split(jax.random.key(0), 500), functions, table, 9, BEGIN, END, decoding.Rules(temperature)
    )[0]
  )
  counts = np.bincount(tokens[:, 1:].ravel(), minlength=5)
  assert counts[1] == counts[2] == 0 and (counts[4] == 0) == (temperature < 1)
  assert np.abs(counts[[0, 3]] / counts.sum() - (0.5 if temperature < 1 else 1 / 3)).max() < 0.05


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_transitions(temperature):
  """Every step follows the row of the table that belongs to its token, until the end token."""
  tokens, length = generate(jax.random.split(jax.random.key(0), 20_000), rules=decoding.Rules(temperature))
  tokens, length = np.asarray(tokens), np.asarray(length)
  assert (tokens[:, 0] == BEGIN).all()
  counts = np.zeros((VOCAB, VOCAB))
  for i in range(1, LENGTH):
    live = length > i
    np.add.at(counts, (tokens[live, i - 1], tokens[live, i]), 1)
  expected = np.asarray(jax.nn.softmax(jnp.asarray(TABLE, jnp.float32) / temperature, axis=-1), np.float64)
  for token in range(VOCAB):
    if token != END:
      assert frequency_test(counts[token], expected[token] / expected[token].sum()) > 1e-4
  assert counts[END].sum() == 0
  at_end = tokens[np.arange(len(tokens)), length - 1] == END
  assert (at_end | (length == LENGTH)).all()
  for row, size in zip(tokens[:200], length[:200]):
    assert (row[size:] == END).all() and (row[1 : size - 1] != END).all()


def test_greedy_and_prompts():
  prompts = jnp.asarray([[BEGIN, 3, 5], [BEGIN, 4, 4]])
  tokens, _ = generate(
    jax.random.split(jax.random.key(0), 2),
    rules=decoding.Rules(0.0),
    prompts=prompts,
    prompt_length=jnp.asarray([3, 2]),
  )
  for row, given in zip(np.asarray(tokens), ([BEGIN, 3, 5], [BEGIN, 4])):
    expected = list(given)
    while len(expected) < LENGTH:
      expected.append(END if END in expected else int(np.argmax(TABLE[expected[-1]])))
    assert row.tolist() == expected


def test_a_sequence_depends_on_its_own_key():
  keys = jax.random.split(jax.random.key(1), 12)
  together, _ = generate(keys)
  for i in (0, 5):
    np.testing.assert_array_equal(generate(keys[i : i + 1])[0][0], together[i])
  assert len({tuple(row) for row in np.asarray(together).tolist()}) > 6


def draw(keys, number, wanted, slots=None):
  return sampling.generate(keys, bigram(), jnp.asarray(TABLE), LENGTH, BEGIN, END, wanted=wanted, slots=slots)


def second_is_even(tokens, length):
  return tokens[:, 1] % 2 == 0


@pytest.mark.parametrize(("slots", "wanted"), [(1, 12), (5, 12), (5, 7), (None, 3)])
def test_slots(slots, wanted):
  """Where a sequence ends, the next takes its place, and becomes what it is among all at once; those that are not wanted stay out."""
  keys, prompts = jax.random.split(jax.random.key(1), 12), jnp.tile(jnp.asarray([[BEGIN, 3, 5]]), (12, 1))
  for given in ({}, {"prompts": prompts, "prompt_length": jnp.arange(12) % 3 + 1}):
    expected, expected_length = (np.array(one) for one in generate(keys, **given))
    expected[wanted:, 1:], expected_length[wanted:] = END, 0
    tokens, length = generate(keys, **given, slots=slots, wanted=wanted)
    kept = np.arange(12) < wanted
    np.testing.assert_array_equal(np.asarray(tokens)[kept], expected[kept])
    np.testing.assert_array_equal(length, expected_length)


def small_decoder(loop=False):
  """Its functions, parameters whose end token comes now and then, prompts, and their lengths."""
  arch = families.architecture(CONFIGS["llama"]())
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
  params, functions = jax.tree.map(draw, decoder.abstract_params(arch)), decoder.functions(arch, loop=loop)
  params["head"] = params["head"].at[:, END].add(0.5 * jnp.sign(params["head"][:, END]))
  return functions, params, jnp.asarray(rng.integers(3, 97, (5, 6)), jnp.int32), jnp.asarray([6, 2, 1, 4, 6])


def test_losses_while_drawing():
  """What is scored on the way is the cross entropy of the whole text, before the rules by which its tokens were chosen."""
  functions, params, prompts, sizes = small_decoder()
  rules = decoding.Rules(0.7, top_k=20, repetition_penalty=1.2)

  @jax.jit
  def write(keys):
    tokens, length, total = sampling.generate(
      keys, functions, params, 24, BEGIN, END, rules, prompts, sizes, slots=2, wanted=jnp.int32(4), scored=True
    )
    written = jnp.arange(24)[None] >= sizes[:, None]
    each = []
    for temperature in (1.0, rules.temperature):
      logits = lambda params, tokens: functions.apply(params, tokens) / temperature  # noqa: B023
      losses, counts = training.token_losses(logits, params, tokens, length, written)
      each.append(jnp.sum(jnp.where(counts, losses, 0.0), axis=1))
    return length, total, each

  length, total, (plain, tempered) = write(jax.random.split(jax.random.key(0), 5))
  assert len(set(np.asarray(length[:4]).tolist())) > 1
  np.testing.assert_allclose(total, plain, rtol=1e-5, atol=1e-5)
  assert total[4] == 0 and np.abs(total - tempered)[:4].max() > 0.1


@pytest.mark.parametrize("loop", [False, True])
def test_slots_of_a_decoder(loop):
  """Rows of other lengths, in places where others were: each is what it is alone, with keys and values of its own."""
  functions, params, prompts, sizes = small_decoder(loop)
  keys = jax.random.split(jax.random.key(0), 5)

  @functools.partial(jax.jit, static_argnames="slots")
  def write(keys, prompts, sizes, slots=None):
    return sampling.generate(keys, functions, params, 24, BEGIN, END, decoding.PLAIN, prompts, sizes, slots)

  tokens, length = write(keys, prompts, sizes, slots=2)
  assert len(set(np.asarray(length).tolist())) > 1
  for i in range(5):
    alone, size = write(keys[i : i + 1], prompts[i : i + 1], sizes[i : i + 1])
    np.testing.assert_array_equal(alone[0], tokens[i])
    assert size[0] == length[i]
  # The likeliest token of every step is that of the whole text.
  greedy = sampling.generate(keys, functions, params, 24, BEGIN, END, decoding.Rules(0.0), prompts, sizes, 2)[0]
  likeliest = np.asarray(jnp.argmax(functions.apply(params, greedy), -1))
  for row, best, size in zip(np.asarray(greedy), likeliest, np.asarray(sizes)):
    stop = size + np.argmax(np.append(row[size:], END) == END)
    np.testing.assert_array_equal(row[size:stop], best[size - 1 : stop - 1])


@pytest.mark.parametrize(("batch_size", "slots"), [(7, None), (64, 5), (500, None)])
def test_rejection(batch_size, slots):
  """Kept rows are the well-formed candidates in their order, whatever the batch; the rate counts no candidate too many."""
  num, key = 100, jax.random.key(2)
  writing = functools.partial(draw, slots=slots)
  found = jax.jit(lambda k: sampling.sample(k, writing, second_is_even, num, LENGTH, batch_size, 20.0, slots or 1))(key)
  candidates = np.asarray(generate(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(1000)))[0])
  good = np.flatnonzero(candidates[:, 1] % 2 == 0)
  np.testing.assert_array_equal(found.tokens, candidates[good[:num]])
  assert found.filled.all()
  np.testing.assert_allclose(found.rejection_rate, 1 - num / (good[num - 1] + 1), rtol=1e-6)


def test_rejection_under_vmap():
  keys = jax.random.split(jax.random.key(3), 3)
  one = lambda k: sampling.sample(k, draw, second_is_even, 20, LENGTH, 8, 20.0)
  together = jax.jit(jax.vmap(one))(keys)
  for i in range(3):
    for a, b in zip(jax.tree.leaves(one(keys[i])), jax.tree.leaves(jax.tree.map(lambda x: x[i], together))):  # noqa: B023
      np.testing.assert_array_equal(a, b)


def test_rejection_is_bounded():
  found = sampling.sample(jax.random.key(0), draw, lambda tokens, length: tokens[:, 1] == 99, 10, LENGTH, 4, 3.0)
  assert not found.filled.any() and float(found.rejection_rate) == 1.0


def test_duplicates_and_ngrams():
  rng = np.random.default_rng(0)
  tokens, length = rng.integers(1, 3, (60, 6)), rng.integers(2, 7, 60)
  filled = rng.random(60) < 0.8
  texts = [tuple(row[:size]) for row, size, good in zip(tokens, length, filled) if good]
  found = sampling.duplicate_rate(jnp.asarray(tokens), jnp.asarray(length), jnp.asarray(filled))
  np.testing.assert_allclose(found, 1 - len(set(texts)) / len(texts), rtol=1e-6)
  for order in (1, 2, 3):
    grams = [text[i : i + order] for text in texts for i in range(1, len(text) - order + 1)]
    found = sampling.distinct_ngrams(jnp.asarray(tokens), jnp.asarray(length), jnp.asarray(filled), order)
    np.testing.assert_allclose(found, len(set(grams)) / len(grams), rtol=1e-6)
  assert float(sampling.duplicate_rate(jnp.asarray(tokens), jnp.asarray(length), jnp.zeros(60, bool))) == 0
