"""What is measured of language models: brute-force twins, and the eight definitions on text that is damaged on purpose."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from transformers import LlamaConfig

import collapse_jax as cj
from collapse_jax import generation, tasks
from collapse_jax.generation import start
from collapse_jax.lm import checkpoint, measures, text, tiny, training
from collapse_jax.metrics import features
from collapse_jax.metrics import text as corpora
from collapse_jax.tasks import _language_model
from collapse_jax.types import Context
from collapse_jax.workflows import replace

RANDOM = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------------- embedded rows
def blobs(n, centres, spread=1.0, random=RANDOM):
  return jnp.asarray(random.normal(centres[random.integers(len(centres), size=n)], spread), jnp.float32)


def test_embedded_rows():
  """Twins by loops; copies of one row have no separation and one kind."""
  centres = 10 * RANDOM.normal(size=(3, 4))
  rows, weight = blobs(60, centres), jnp.asarray(RANDOM.integers(0, 2, 60), jnp.float32)
  kept = np.asarray(rows)[np.asarray(weight) > 0].astype(float)
  found = np.asarray(features.clusters(rows, 3, weight))
  nearest = ((kept[:, None] - found[None]) ** 2).sum(-1).argmin(1)
  for k in range(3):  # at rest, each near a centre of the truth
    np.testing.assert_allclose(found[k], kept[nearest == k].mean(axis=0), rtol=1e-4)
    assert np.linalg.norm(centres - found[k], axis=1).min() < 2
  means = [kept[nearest == k].mean(axis=0) for k in range(3)]
  within = np.mean([((row - means[k]) ** 2).sum() for row, k in zip(kept, nearest)])
  between = np.mean([((means[k] - kept.mean(axis=0)) ** 2).sum() for k in nearest])
  np.testing.assert_allclose(features.separation(rows, jnp.asarray(found), weight), between / within, rtol=1e-4)
  same = jnp.broadcast_to(rows[:1], rows.shape)
  assert float(features.separation(same, jnp.asarray(found))) < 1e-6

  unit = kept / np.linalg.norm(kept, axis=1, keepdims=True)
  values = np.maximum(np.linalg.eigvalsh(unit @ unit.T / len(unit)), 1e-300)
  np.testing.assert_allclose(features.vendi(rows, weight), np.exp(-np.sum(values * np.log(values))), rtol=1e-4)
  np.testing.assert_allclose([features.vendi(same), features.vendi(jnp.eye(5))], [1, 5], rtol=1e-4)


def test_mauve():
  """The area of a curve beside a loop; 1 for the same rows, lower the farther a sample is, near 0 with nothing in common."""
  p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.3, 0.1, 0.5])
  kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b) if x > 0)
  mixed = [w * p + (1 - w) * q for w in np.linspace(1e-6, 1 - 1e-6, 25)]
  curve = [(1, 0), *((math.exp(-5 * kl(q, r)), math.exp(-5 * kl(p, r))) for r in mixed), (0, 1)]
  area = lambda points: sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
  flipped = sorted((y, x) for x, y in curve)
  np.testing.assert_allclose(
    features._area(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32)),
    (area(sorted(curve)) + area(flipped)) / 2,
    rtol=1e-4,
  )
  centres = 10 * RANDOM.normal(size=(4, 3))
  real = blobs(200, centres)
  score = functools.partial(jax.jit(features.mauve), real)
  found = [score(one) for one in (real, blobs(200, centres), blobs(200, centres[:2]), blobs(200, centres[:1] + 100))]
  assert found[0] > 0.999 and found[0] > found[1] > found[2] + 0.1 > found[3] + 0.2 and found[3] < 0.05


# ---------------------------------------------------------------------------------------------------- in the loop
@pytest.fixture(scope="module")
def model():
  tokenizer = text.train_tokenizer([one.text for one in text.load("pydocs", "base")[:300]], 300)
  shape = tiny.SHAPE | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
  return checkpoint.random(LlamaConfig(vocab_size=300, **shape), jax.random.key(0), tokenizer=tokenizer)


def test_samples_of_a_model(model):
  """All of it by loops over the rows that a model wrote, beside what the task says of them."""
  sides = [text.to_rows(model.tokenizer, text.load("pydocs", side), 64, 300) for side in ("train", "test")]
  train, test = sides[0].first(80), sides[1].first(40)
  recipe = training.Recipe(1e-3, batch_size=8)
  num = 12
  options = {"recipe": recipe, "measure": "all", "plain_text": True, "on_malformed": "keep", "curve_points": 1}
  task, calling = (tasks.language_model(model, train, test, num, **options, on_host=one) for one in (True, False))
  run = start(jax.random.key(0), task, replace(), 1)
  weights = checkpoint.random(model.config, jax.random.key(4)).params
  fitted = training.Fitted(weights, jnp.zeros(1), 0.0, 1, 1)
  context = Context(1, num, run.store, run.real)
  program = jax.jit(lambda key: task.sample(key, run.problem, fitted, context)).trace(jax.random.key(2))
  with_call = jax.make_jaxpr(lambda key: calling.sample(key, run.problem, fitted, context))(jax.random.key(2))
  assert "pure_callback" not in str(program.jaxpr) and "pure_callback" in str(
    with_call
  )  # JAX would not keep it on disk
  batch, found = program.lower().compile()(jax.random.key(2))
  found = {name: x[0] for name, x in generation.settled(jax.tree.map(lambda x: x[None], found)).items()}
  found |= task.evaluate(jax.random.key(3), run.problem, fitted)
  assert set(found) == set(task.metrics)
  rows = [row[1:n].tolist() for row, n in zip(*(np.asarray(batch.rows[name][0]) for name in ("tokens", "length")))]

  def read(params, rows):
    """Mean losses, hidden states, and losses of each token, a row at a time."""
    functions = checkpoint.functions_of(model.config, params)
    tokens, length = jnp.asarray(rows[0]), np.asarray(rows[1])
    log_p, hidden = jax.nn.log_softmax(functions.apply(params, tokens)), functions.hidden(params, tokens)
    each = [[-float(log_p[i, at - 1, tokens[i, at]]) for at in range(1, n)] for i, n in enumerate(length)]
    return [np.mean(one) for one in each], [np.mean(hidden[i, 1:n], axis=0) for i, n in enumerate(length)], each

  ours = batch.rows["tokens"][0], batch.rows["length"][0]
  held_out = test.tokens, test.length
  (base, states, _), (own, _, _), (real, real_states, _) = (
    read(model.params, ours),
    read(weights, ours),
    read(model.params, held_out),
  )
  close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5)
  close([found["sample_loss"], found["sample_loss_self"]], [np.mean(base), np.mean(own)])
  far = np.quantile(real, 0.99)
  close(found["share_beyond_real"], np.mean(np.array(base) > far))
  close(found["sample_loss_histogram"], np.histogram(base, [*measures.BINS, np.inf])[0] / num)
  center = np.mean(real_states, axis=0)
  generation_0 = measures.judge(checkpoint.functions_of(model.config, model.params), model.params, 8)
  reference = jax.jit(lambda: measures.reference(generation_0, test))()
  close(reference.center, center)
  states, real_states = (jnp.asarray(np.array(one) - center, jnp.float32) for one in (states, real_states))
  close(found["mode_separation"], features.separation(states, reference.centres))
  close(found["mauve"], features.mauve(real_states, states))
  close(found["vendi"], features.vendi(states))

  counts = np.bincount([token for row, n in zip(train.tokens, train.length) for token in row[1:n]], minlength=300)
  order = sorted(range(300), key=lambda token: counts[token])
  group, below = {}, 0
  for token in order:
    group[token] = min(int(10 * (below + counts[token] / 2) / counts.sum()), 9)
    below += counts[token]
  said = {token for row in rows for token in row}
  rare = [token for row, n in zip(test.tokens, test.length) for token in row[1:n] if group[token] == 0]
  assert len(rare) > 10
  close(found["rare_token_recall"], np.mean([token in said for token in rare]))
  documents, _, each = read(weights, held_out)
  flat = [(group[token], loss) for row, losses in zip(test.tokens, each) for token, loss in zip(row[1:], losses)]
  by_group = [np.mean([loss for g, loss in flat if g == one]) for one in range(10)]
  close(found["loss_by_frequency"], by_group)
  close([found["rare_token_loss"], found["document_loss_std"]], [by_group[0], np.std(documents)])
  close(found["test_perplexity"], np.exp(np.mean([loss for _, loss in flat])))
  close(found["test_perplexity"], np.exp(found["test_loss"]))

  real_rows = [
    row[1:n].tolist() for row, n in zip(*(np.asarray(run.real.rows[name][0]) for name in ("tokens", "length")))
  ]
  drop = lambda row: row[:-1] if row and row[-1] == model.tokenizer.eos_token_id else row
  corpus, fitted_to = corpora.read([drop(row) for row in rows], [drop(row) for row in real_rows])
  close(found["self_bleu"], corpora.self_bleu(corpus))
  close(found["known_8grams"], corpora.known_ngrams(corpus, fitted_to))
  close(found["token_entropy"], corpora.token_entropy(corpus))
  close(found["distinct_2_per_document"], corpora.distinct_per_document(corpus, 2))
  close(found["vocabulary"], corpora.vocabulary(corpus, math.ceil(num * counts.sum() / 80 / 4)))


def test_an_embedding_of_the_users_own(model):
  rows = text.to_rows(model.tokenizer, text.load("pydocs", "test"), 64, 300).first(20)
  functions = checkpoint.functions_of(model.config, model.params)
  embed = lambda tokens, counted: jnp.stack([jnp.sum(counted, axis=1), tokens[:, 1]], axis=1)
  judge = measures.judge(functions, model.params, 8, embed)
  given = np.full(20, 3, np.int32)
  found = judge.read(jnp.asarray(rows.tokens), jnp.asarray(rows.length), jnp.asarray(given))
  np.testing.assert_array_equal(found.features, np.stack([rows.length - 3, rows.tokens[:, 1]], axis=1))


# ---------------------------------------------------------------------------------------------------- definitions
VOCAB, TOPICS, WORDS, LENGTH = 48, 3, 30, 4
P = np.arange(1, VOCAB // TOPICS + 1.0) ** -1.2  # of the words of a topic; 3 in 4 words of a document are of its topic
TRUTH = np.stack(
  [
    np.roll(np.r_[0.75 * P / P.sum(), np.full(VOCAB - len(P), 0.25 / (VOCAB - len(P)))], k * len(P))
    for k in range(TOPICS)
  ]
)
MARGINAL = TRUTH.mean(axis=0)


def documents(random, num, damage="", strength=0.0):
  """Tokens [num, WORDS + 1] behind a first one, damaged with a strength from 0 to 1."""
  topics = random.integers(TOPICS, size=num)
  p = TRUTH[topics]
  if damage == "entropy":
    p = p ** (1 / (1.05 - strength))
  elif damage == "tail":
    p = np.where(MARGINAL[None] < np.quantile(MARGINAL, 0.6), (1 - strength) * p, p)
  elif damage == "modes":
    p = (1 - strength) * p + strength * MARGINAL[None]
  p = p / p.sum(axis=1, keepdims=True)
  words = (random.random((num, WORDS, 1)) > np.cumsum(p, axis=1)[:, None]).sum(axis=2).clip(0, VOCAB - 1)
  if damage == "tokens":  # whole documents of the least likely words
    wrong = random.random(num) < strength
    words[wrong] = np.argsort(MARGINAL)[random.integers(4, size=(wrong.sum(), WORDS))]
  return np.concatenate([np.zeros((num, 1), int), words], axis=1).astype(np.int32)


def counted(tokens):
  """A judge that knows the truth: losses by the frequencies of words, and the shares of the topics' words as features."""

  def read(tokens, length, given):
    losses = jnp.mean(-jnp.log(jnp.asarray(MARGINAL, jnp.float32))[tokens[:, 1:]], axis=1)
    return measures.Reading(losses, jnp.mean(jax.nn.one_hot(tokens[:, 1:] // len(P), TOPICS), axis=1))

  return measures.Judge(read, TOPICS)


def rows_of(tokens):
  return text.Rows(tokens, np.full(len(tokens), WORDS + 1, np.int32))


@functools.cache
def program():
  random = np.random.default_rng(9)
  train, test = documents(random, 400), documents(random, 200)
  known = measures.Tokens.of(rows_of(train), rows_of(test), VOCAB)
  count = measures.counting(known, -1)
  judge = counted(None)
  real = measures.reference(judge, rows_of(test))

  def one(tokens):
    n = len(tokens)
    rows = tokens, jnp.full(n, WORDS + 1), jnp.ones(n, int)
    filled = jnp.ones(n, bool)
    # The model of this stream: frequencies of its words, where each counts a tenth more than it occurs.
    counts = jnp.zeros(VOCAB).at[tokens[:, 1:]].add(1.0) + 0.1
    loss = -jnp.log(counts / jnp.sum(counts))[jnp.asarray(test)[:, 1:]]
    return (
      generation.in_program(measures.of_samples(known, rows, filled, (rows[0], rows[1], filled), count))
      | measures.of_reading(real, judge.read(*rows), filled)
      | measures.of_fit(known, jnp.asarray(test), loss, jnp.ones(loss.shape, bool))
      | {"test_loss": jnp.mean(loss)}
    )

  return jax.jit(jax.vmap(one))


INFO = measures.OF_FIT | measures.OF_SAMPLES | measures.JUDGED | {"test_loss": _language_model.METRICS["test_loss"]}


def results(damage, num_seeds, sizes=(12,), generations=4):
  """A Dataset of streams whose damage grows from generation to generation, as a sweep would give it."""
  found: dict = {}
  for i, size in enumerate(sizes):
    for t in range(generations):
      random = np.random.default_rng([i, t, len(damage)])
      strength = t / (generations - 1)
      tokens = np.stack([documents(random, size, damage, strength) for _ in range(num_seeds)])
      for name, values in jax.device_get(program()(tokens)).items():
        if values.ndim == 1:
          found.setdefault(name, np.zeros((1, len(sizes), num_seeds, generations)))[0, i, :, t] = values
  dims = ("workflow", "num_samples", "seed", "generation")
  about = lambda one: {
    "long_name": one.long_name,
    "units": one.units,
    "worse": one.worse,
    "measures": one.measures,
    "log_scale": int(one.log_scale),
  }
  return xarray.Dataset(
    {name: (dims, values, about(INFO[name])) for name, values in found.items()}
    | {"cell_status": (dims[:2], [["ok"] * len(sizes)])},
    {
      "workflow": ["replace"],
      "num_samples": list(sizes),
      "seed": np.arange(num_seeds),
      "generation": np.arange(1, generations + 1),
    },
  )


FIRES = {
  "tail": {"disappearance of real tail", "any increase of population risk"},
  "entropy": {"collapsing variance", "any increase of population risk", "asymptotically diverging population risk"},
  "modes": {"entanglement of real modes"},
  "tokens": {
    "appearance of hallucinated data",
    "catastrophic increase of population risk",
    "any increase of population risk",
    "asymptotically diverging population risk",
    "change in scaling law",
  },
}


@pytest.mark.parametrize("damage", FIRES)
def test_definitions_fire(damage):
  found = cj.diagnose(results(damage, 10, (8, 16, 32) if damage == "tokens" else (12,), 6))
  assert all(row["applies"] for row in found if row["definition"] != "change in scaling law")
  fired = {row["definition"] for row in found if row["fires"]}
  assert fired >= FIRES[damage], {row["definition"]: row["statement"] for row in found}
  assert set().union(*FIRES.values()) == set(cj.diagnostics.definitions.DEFINITIONS)


def test_definitions_are_silent_on_fresh_text():
  """At level 5%: of 20 sweeps, 10 runs each."""
  every, fired = results("", 200, (8, 12, 16)), {}
  for i in range(20):
    for row in cj.diagnose(every.isel(seed=slice(10 * i, 10 * i + 10))):
      assert row["applies"]
      fired.setdefault((row["definition"], row["metric"]), []).append(row["fires"])
  shares = {name: np.mean(one) for name, one in fired.items()}
  assert (
    len({name for name, _ in shares}) == 8 and max(shares.values()) < 0.2 and np.mean(list(shares.values())) < 0.06
  ), shares


def test_histograms_are_drawn():
  """A panel a workflow, a curve a generation, over the perplexities that there are."""
  shares = np.zeros((2, 3, 4, len(measures.BINS)))
  for t in range(4):
    shares[:, :, t, 8 + t] = 1
  dims = ("workflow", "seed", "generation", "loss_bin")
  about = {"long_name": "share", "units": "1"}
  found = xarray.Dataset(
    {"sample_loss_histogram": (dims, shares, about), "test_loss": (dims[:3], shares[..., 0], about)},
    {
      "workflow": ["replace", "accumulate"],
      "loss_bin": list(measures.BINS),
      "generation": [1, 2, 3, 4],
      "seed": [0, 1, 2],
    },
  )
  figure = cj.plotting.loss_histograms(found)
  axes = [axis for axis in figure.axes if axis.get_title() in ("replace", "accumulate")]
  assert len(axes) == 2
  for axis in axes:
    curves = [patch for patch in axis.patches]
    assert len(curves) == 4
    for t, curve in enumerate(curves):
      values, edges, _ = curve.get_data()
      np.testing.assert_allclose(np.log(edges[np.argmax(values)]), 0.25 * (8 + t), atol=1e-6)
    np.testing.assert_allclose(np.log(axis.get_xlim()), [2, 3], atol=1e-6)
