"""Rules of decoding against transformers: what is kept, what is chosen, greedy and beam search token for token (extra `parity`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needed
from lm_configs import CONFIGS
from scipy import stats

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoding, sampling
from collapse_jax.refused import Refused

torch, transformers = needed("torch"), needed("transformers")
torch.set_num_threads(1)
VOCAB, END = 97, 2


def processed(logits, tokens, rules):
  """By transformers' own processors, in the order in which `generate` has them."""
  kinds = transformers.generation.logits_process
  found = []
  if rules.repetition_penalty != 1:
    found.append(kinds.RepetitionPenaltyLogitsProcessor(rules.repetition_penalty))
  if rules.no_repeat_ngram:
    found.append(kinds.NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram))
  if rules.temperature != 1:
    found.append(kinds.TemperatureLogitsWarper(rules.temperature))
  if rules.top_k:
    found.append(kinds.TopKLogitsWarper(rules.top_k))
  if rules.top_p < 1:
    found.append(kinds.TopPLogitsWarper(rules.top_p))
  if rules.min_p:
    found.append(kinds.MinPLogitsWarper(rules.min_p))
  return kinds.LogitsProcessorList(found)(torch.tensor(tokens), torch.tensor(logits)).numpy()


RULES = [
  decoding.Rules(top_k=5),
  decoding.Rules(top_p=0.7),
  decoding.Rules(min_p=0.1),
  decoding.Rules(0.6, 20, 0.9, 0.02),
  decoding.Rules(repetition_penalty=1.3),
  decoding.Rules(no_repeat_ngram=1),
  decoding.Rules(no_repeat_ngram=3),
  decoding.Rules(1.5, 30, 0.95, 0.01, 0.8, 2),
]


@pytest.mark.parametrize("traced", [False, True])
def test_rules(traced):
  """The same tokens are kept, with the same logits up to a constant; bounds that differ a little keep others."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(40, 50)).astype(np.float32) * 3
  tokens = rng.integers(0, 4, (40, 12))
  tokens[:, 6:] = rng.integers(0, 50, (40, 6))
  tokens[:, -3:] = tokens[:, :3]
  padded = jnp.asarray(np.pad(tokens, ((0, 0), (0, 5)), constant_values=49))
  used = jnp.full(40, 12)

  def ours(rules):
    apply = lambda rules: decoding.warped(rules, decoding.penalised(rules, jnp.asarray(logits), padded, used))
    if not traced:
      return np.asarray(apply(rules))
    numbers = [jnp.float32(one) for one in rules[:5]]
    return np.asarray(jitted(*numbers, ngram=rules.no_repeat_ngram))

  jitted = jax.jit(
    lambda *numbers, ngram: decoding.warped(
      decoding.Rules(*numbers, ngram),
      decoding.penalised(decoding.Rules(*numbers, ngram), jnp.asarray(logits), padded, used),
    ),
    static_argnames="ngram",
  )
  removed = 0
  for rules in RULES:
    found, expected = ours(rules), processed(logits, tokens, rules)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected), err_msg=str(rules))
    kept = ~np.isneginf(expected)
    expected = expected - expected.max(axis=1, keepdims=True)
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-5, rtol=0, err_msg=str(rules))
    removed += (~kept).sum()
  assert removed > 1000
  for twin in (decoding.Rules(top_k=6), decoding.Rules(top_p=0.72), decoding.Rules(min_p=0.11)):
    near = decoding.Rules(top_k=twin.top_k and 5, top_p=0.7 if twin.top_p < 1 else 1.0, min_p=twin.min_p and 0.1)
    assert (np.isneginf(ours(twin)) != np.isneginf(processed(logits, tokens, near))).any()


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("temperature", -1.0),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("min_p", 2.0),
    ("repetition_penalty", 0),
    ("top_p", float("nan")),
  ],
)
def test_rules_out_of_range_are_refused(name, value):
  with pytest.raises(Refused, match=name):
    decoding.check(decoding.PLAIN._replace(**{name: value}))
  decoding.check(decoding.Rules(0.0, 5, 1.0, 0.0, 1.2, 3))


def test_drawn_tokens_have_the_probabilities_of_transformers():
  """Chi-square of first tokens; those of another nucleus are told apart."""
  logits = np.random.default_rng(1).normal(size=(1, 40)).astype(np.float32) * 2
  rules, num = decoding.Rules(0.8, 25, 0.9, 0.01), 100_000
  kept = decoding.warped(rules, jnp.asarray(logits))
  words = jax.random.bits(jax.random.key(0), (num, 4))
  counts = np.bincount(sampling.categorical(words, jnp.broadcast_to(kept, (num, 40))), minlength=40)

  def p_value(rules):
    probability = torch.softmax(torch.tensor(processed(logits, np.zeros((1, 1), int), rules)).double(), -1).numpy()[0]
    possible = probability > 0
    if counts[~possible].any():
      return 0.0
    return stats.chisquare(counts[possible], probability[possible] / probability[possible].sum() * num).pvalue

  assert p_value(rules) > 1e-4
  assert p_value(rules._replace(top_p=0.95)) < 1e-9 and p_value(rules._replace(temperature=0.83)) < 1e-4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """(ours, theirs), whose sequences end and repeat themselves."""
  torch.manual_seed(3)
  theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  directory = tmp_path_factory.mktemp("model")
  theirs.save_pretrained(directory)
  return lm.load(directory), theirs


def prompts(num=3, length=7):
  return np.random.default_rng(2).integers(3, VOCAB, (num, length)).astype(np.int32)


def expected_rows(theirs, given, **options):
  with torch.no_grad():
    found = theirs.generate(
      torch.tensor(given).long(),
      attention_mask=torch.ones(given.shape, dtype=int),
      max_new_tokens=64,
      do_sample=False,
      eos_token_id=END,
      pad_token_id=END,
      **options,
    ).numpy()
  return np.pad(found, ((0, 0), (0, given.shape[1] + 64 - found.shape[1])), constant_values=END)


@pytest.mark.parametrize("rules", [decoding.Rules(0.0), decoding.Rules(0.0, repetition_penalty=1.4, no_repeat_ngram=2)])
def test_greedy(pair, rules):
  ours, theirs = pair
  functions, given = checkpoint.functions_of(ours.config, ours.params), prompts()
  generate = functools.partial(sampling.generate, functions=functions, max_length=71, begin=1, end=END, rules=rules)
  found, _ = jax.jit(lambda params, keys: generate(keys, params=params, prompts=jnp.asarray(given)))(
    ours.params, jax.random.split(jax.random.key(0), 3)
  )
  options = {"repetition_penalty": float(rules.repetition_penalty), "no_repeat_ngram_size": rules.no_repeat_ngram}
  np.testing.assert_array_equal(found, expected_rows(theirs, given, **options))


@pytest.mark.parametrize(
  ("num_beams", "length_penalty", "early_stopping", "rules"),
  [
    (4, 1.0, False, decoding.PLAIN),
    (3, 2.0, True, decoding.Rules(repetition_penalty=1.3, no_repeat_ngram=2)),
    (3, 0.5, "never", decoding.PLAIN),
  ],
)
def test_beams(pair, num_beams, length_penalty, early_stopping, rules):
  ours, theirs = pair
  functions, given = checkpoint.functions_of(ours.config, ours.params), prompts()
  search = lambda params: decoding.beam_search(
    functions, params, jnp.asarray(given), 71, END, num_beams, length_penalty, early_stopping, rules
  )
  found, length, score = jax.jit(search)(ours.params)
  expected = expected_rows(
    theirs,
    given,
    num_beams=num_beams,
    length_penalty=length_penalty,
    early_stopping=early_stopping,
    repetition_penalty=float(rules.repetition_penalty),
    no_repeat_ngram_size=rules.no_repeat_ngram,
  )
  np.testing.assert_array_equal(found, expected)
  if rules == decoding.PLAIN:
    logits = np.asarray(jax.nn.log_softmax(ours.apply(ours.params, found)[:, :-1]), np.float64)
    each = np.take_along_axis(logits, np.asarray(found)[:, 1:, None], 2)[..., 0]
    for row, end, value in zip(each, np.asarray(length), np.asarray(score)):
      assert abs(row[6 : end - 1].sum() / (end - 7) ** length_penalty - value) < 1e-3
