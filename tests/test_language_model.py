"""The language-model task in the loop: small, but every part of it."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from absl import flags
from helpers import by_steps
from transformers import PreTrainedTokenizerFast

import collapse_jax as cj
from collapse_jax import tasks, transforms
from collapse_jax.generation import start
from collapse_jax.lm import checkpoint, families, text, tiny, training
from collapse_jax.refused import Refused
from collapse_jax.sweeps import checkpoints
from collapse_jax.systems import language_setting, samples
from collapse_jax.types import Context
from collapse_jax.workflows import replace
from experiments import flag_values, language_flags, language_model, output, real_data_value

RECIPE = training.Recipe(1e-3, batch_size=8)
LENGTH = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  documents = text.load("pydocs", "base")
  return tiny.untrained(documents)


@pytest.fixture(scope="module")
def rows(base):
  return [
    text.to_rows(base.tokenizer, text.load("pydocs", split), LENGTH, tiny.VOCAB_SIZE) for split in ("train", "test")
  ]


def make(base, rows, num_samples=8, **options):
  options = {"recipe": RECIPE, "on_malformed": "keep", "curve_rows": 8, "curve_points": 2} | options
  train, test = rows
  return tasks.language_model(
    base, train, test._replace(tokens=test.tokens[:16], length=test.length[:16]), num_samples, **options
  )


def test_loop(base, rows):
  """All workflows share model 1; sizes, origins and the emitted rows are as they should be."""
  batches: dict = {}
  results = by_steps(
    lambda shared, num_samples: make(base._replace(params=shared), rows, num_samples),
    ["replace", "accumulate", "accumulate_subsample"],
    {"num_samples": [8]},
    num_generations=3,
    num_seeds=2,
    shared=base.params,
    on_batch=lambda cell, t, seeds, batch: batches.setdefault((cell["workflow"], t), batch),
  )
  assert results.finite.all()
  first = results.test_loss.sel(generation=1)
  assert (first == first.isel(workflow=0)).all() and first.std("seed").min() > 0
  sizes = results.train_size.mean("seed").squeeze("num_samples")
  np.testing.assert_array_equal(sizes, [[8, 8, 8], [8, 16, 24], [8, 8, 8]])
  np.testing.assert_array_equal(
    results.num_steps.mean("seed").squeeze("num_samples"), [[1, 1, 1], [1, 2, 3], [1, 1, 1]]
  )
  assert results.learning_curve.dims[-1] == "training_progress"
  np.testing.assert_allclose(
    results.real_share.sel(workflow="accumulate").mean("seed").squeeze(), [1, 1 / 2, 1 / 3], rtol=1e-6
  )
  for (_, t), batch in batches.items():
    assert batch.rows["tokens"].shape == (2, 1, 8, LENGTH) and (batch.origin == t).all() and batch.row_weight.all()
  second = [batches[name, 1].rows["tokens"] for name in ("replace", "accumulate")]
  np.testing.assert_array_equal(*second)


def test_tokens_are_edited(base, rows):
  """Only likely tokens of the prompt and response change, never padding, beginnings, or fixed tokens; sizes stay."""
  end = base.config.eos_token_id
  emitted: dict = {}
  results = by_steps(
    lambda shared, num_samples: transforms.edit_tokens(
      make(base._replace(params=shared), rows, num_samples), 0.002, 4, 1.0, fixed_tokens=(end,)
    ),
    ["replace"],
    {"num_samples": [8]},
    num_generations=2,
    num_seeds=2,
    shared=base.params,
    on_batch=lambda cell, t, seeds, batch: emitted.setdefault(t, batch),
  )
  assert results.finite.all()
  eligible, changed = (results[name].values.ravel() for name in ("eligible_share", "changed_share"))
  assert (changed > 0).all() and (changed <= eligible).all() and (eligible < 1).all()
  first, second = (jax.tree.map(np.asarray, emitted[t].rows) for t in (1, 2))
  np.testing.assert_array_equal(first["length"], second["length"])
  position = np.arange(LENGTH)
  outside = (position[None, None, None] >= first["length"][..., None]) | (position == 0)
  differs = first["tokens"] != second["tokens"]  # both were edited from the same real rows
  assert differs.any() and not differs[outside].any()
  assert ((first["tokens"] == end) == (second["tokens"] == end))[~outside].mean() > 0.95


def test_metrics_are_of_the_model_and_its_rows(base, rows):
  task = make(base, rows)
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  fitted = jax.jit(lambda key: task.fit(key, run.problem, context))(jax.random.key(1))
  test = rows[1]
  expected = training.mean_loss(
    base.apply, fitted.weights, jnp.asarray(test.tokens[:16]), jnp.asarray(test.length[:16]), 16
  )
  np.testing.assert_allclose(task.evaluate(None, run.problem, fitted)["test_loss"], expected, rtol=1e-5)
  real = {tuple(row) for row in rows[0].tokens.tolist()}
  assert {tuple(row) for row in np.asarray(run.real.rows["tokens"][0]).tolist()} <= real
  batch, metrics = jax.jit(lambda key: task.sample(key, run.problem, fitted, context))(jax.random.key(2))
  np.testing.assert_allclose(metrics["mean_length"], jnp.mean(batch.rows["length"]), rtol=1e-6)
  assert float(metrics["rejection_rate"]) == 0 and int(metrics["num_missing"]) == 0


def test_adapters(base, rows):
  """Only adapters are fitted; at rate 0 the model is the base; weights that are merged are the same model."""
  adapters = tasks.Adapters(2, 4.0, ("query", "down"))
  task = make(base, rows, adapters=adapters)
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  fit = jax.jit(lambda rate: task.fit(jax.random.key(1), run.problem | {"learning_rate": rate}, context))
  moved, still = fit(0.1), fit(0.0)
  names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(moved.weights)}
  assert len(names) == 4 and all("adapter" in name for name in names)
  plain = make(base, rows)
  expected = plain.evaluate(None, run.problem, still._replace(weights=base.params))["test_loss"]
  np.testing.assert_allclose(task.evaluate(None, run.problem, still)["test_loss"], expected, rtol=1e-6)
  found = task.evaluate(None, run.problem, moved)["test_loss"]
  assert abs(found - expected) > 1e-3
  arch = families.architecture(base.config)._replace(
    adapter_rank=2, adapter_alpha=4.0, adapter_targets=("query", "down")
  )
  merged = checkpoint.merge_adapters(arch, checkpoint.join(base.params, moved.weights))
  np.testing.assert_allclose(
    plain.evaluate(None, run.problem, still._replace(weights=merged))["test_loss"], found, rtol=1e-4
  )


def test_warm_start_goes_on(base, rows):
  task = make(base, rows)
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  fit = jax.jit(
    lambda rate, previous: task.fit(
      jax.random.key(1), run.problem | {"learning_rate": rate}, context._replace(previous=previous)
    )
  )
  first = fit(1e-2, None)
  for a, b in zip(jax.tree.leaves(fit(0.0, first).weights), jax.tree.leaves(first.weights)):
    np.testing.assert_array_equal(a, b)


def test_prompts_are_kept(base, rows):
  given = text.prompts(base.tokenizer, rows[1]._replace(tokens=rows[1].tokens[:5], length=rows[1].length[:5]))
  task = make(base, rows, prompts=given)
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  fitted = training.Fitted(base.params, jnp.zeros(2), 0.0, 1, 1)
  batch, _ = task.sample(jax.random.key(2), run.problem, fitted, context)
  texts = text.to_texts(base.tokenizer, batch.rows["tokens"][0], batch.rows["length"][0])
  assert [one.split(text.ASSISTANT)[0] for one in texts[:5]] == [
    one.split(text.ASSISTANT)[0] for one in text.to_texts(base.tokenizer, rows[1].tokens[:5], rows[1].length[:5])
  ]


def test_pretraining_starts_from_random_weights(base, rows):
  task = make(base, rows, pretrain=True)
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  one, two = (
    jax.jit(lambda key: task.fit(key, run.problem | {"learning_rate": 0.0}, context))(jax.random.key(i)) for i in (1, 2)
  )
  kernels = [fit.weights["layers"]["mlp"]["up"]["kernel"] for fit in (one, two)]
  assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 0.01
  np.testing.assert_allclose(kernels[0].std(), base.config.initializer_range, rtol=0.05)


@pytest.mark.parametrize(
  "options, match",
  [
    ({"num_samples": 10_000}, "more real rows than there are"),
    ({"num_samples": 1}, "num_samples"),
    ({"on_malformed": "drop"}, "on_malformed"),
    ({"recipe": RECIPE._replace(budget="days")}, "budget"),
  ],
)
def test_refused(base, rows, options, match):
  with pytest.raises(ValueError, match=match):
    make(base, rows, **options)


def test_plain_text_is_fitted_from_the_base(base, rows):
  task = make(base, rows, plain_text=True, on_malformed="reject")
  run = start(jax.random.key(0), task, replace(), 2)
  context = Context(1, 8, run.store, run.real)
  fitted = jax.jit(lambda key: task.fit(key, run.problem | {"learning_rate": 0.0}, context))(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, fitted.weights, base.params)


@pytest.fixture
def parsed(tmp_path):
  """Flags as a binary has them, for what `write` records."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test"])


def saved_base(base, tmp_path):
  from collapse_jax import lm

  lm.save(base, tmp_path / "base")
  return str(tmp_path / "base")


@pytest.mark.parametrize(
  "options, match",
  [
    ({"model": "none"}, "--model=none: none: no such directory"),
    ({"num_samples": [5000]}, "num_samples 5000 asks for more real rows than"),
    ({"dataset": "none.parquet"}, "no such file"),
    ({"max_seq_len": 4}, "gives no train rows: all .* longer than max_seq_len=4"),
    ({"max_seq_len": 500}, "beyond the 256 positions"),
  ],
)
def test_usage_errors_write_nothing(base, tmp_path, parsed, options, match):
  given = {"workflows": ["replace"], "model": options.get("model") or saved_base(base, tmp_path)} | options
  with pytest.raises(Refused, match=match):
    language_model.simulate(**given, directory=tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "options, match",
  [
    ({"num_real": [5000]}, "num_real=5000 asks for more real rows than"),
    ({"num_real": [0]}, "num_generator must be at least 2"),
  ],
)
def test_usage_errors_of_the_value_of_real_data(base, tmp_path, parsed, options, match):
  with pytest.raises(Refused, match=match):
    real_data_value.simulate(num_synthetic=[0], model=saved_base(base, tmp_path), max_seq_len=LENGTH, **options)


def test_lost_format_is_a_finding(base, tmp_path, parsed):
  """A model that never produces the format ends its cell; what was measured stays, and the reason is recorded."""
  options = {
    "num_samples": [8],
    "num_generations": 3,
    "num_seeds": 1,
    "model": saved_base(base, tmp_path),
    "max_seq_len": LENGTH,
    "recipe": RECIPE._asdict(),
    "max_test_rows": 8,
    "max_attempts": 2.0,
    "measure": "few",
    "sample_batch_size": 8,
  }
  loop = cj.systems.language_model  # without flags
  texts = loop.read_texts(base, text.splits("pydocs"), LENGTH, max_test_rows=8)
  setting = loop.Setting(base, texts, RECIPE, sample_batch_size=8, measure="few")
  writing = loop.Writing(max_attempts=2.0)
  results = loop.simulate(setting, ["replace"], [8], num_generations=3, num_seeds=1, writing=writing)
  assert (
    "no longer produces the format: 8 samples are missing" in results.stopped and results.stopped in results.finding
  )
  np.testing.assert_array_equal(np.isfinite(results.test_loss.values.ravel()), [True, False, False])
  kept = language_model.simulate(["replace"], on_malformed="keep", directory=tmp_path / "out", **options)
  assert kept.stopped == "" and kept.finite.all()
  files = sorted((tmp_path / "out" / "samples").glob("*/*.jsonl"))
  assert len(files) == 3 and all(len(file.read_text().splitlines()) == 8 for file in files)
  shown = json.loads(kept.attrs["samples"])
  assert list(next(iter(shown.values()))) == ["1", "2", "3"]


def test_edited_text(base, tmp_path, parsed):
  """From the command line's options: nothing is generated, whatever the format. What is costly is one program for all workflows."""
  edit = {"threshold": 0.002, "top_k": 4, "beta": 1.0, "base": "chain", "mask": "fresh"}
  options = {
    "num_samples": [8],
    "num_generations": 2,
    "num_seeds": 1,
    "model": saved_base(base, tmp_path),
    "max_seq_len": LENGTH,
    "recipe": RECIPE._asdict(),
    "max_test_rows": 8,
    "edit": edit,
    "measure": "few",
  }
  results = language_model.simulate(["replace", "accumulate_subsample"], **options)
  assert results.attrs["num_compilations"] == 3 * 2 + 2  # begin, choose and update of each; fit, and evaluate with emit
  assert (
    results.finite.all()
    and (results.eligible_share > 0).all()
    and "num_missing" not in results
    and results.stopped == ""
  )


def test_value_of_real_data(base, tmp_path, parsed):
  """Dims, and the base itself where there is nothing to train on."""
  flag_values.FLAGS(["test"])
  options = {
    "model": saved_base(base, tmp_path),
    "max_seq_len": LENGTH,
    "max_test_rows": 16,
    "num_seeds": 2,
    "mode": "pretrain",
  }
  # Random weights do not write the format, so that this goes through the mode which does not ask for it.
  results = real_data_value.simulate(
    [0, 16], [0, 8], recipe=RECIPE._replace(learning_rate=1e-2)._asdict(), sample_batch_size=32, **options
  )
  assert results.test_loss.dims == ("num_real", "num_synthetic", "seed") and np.isfinite(results.test_loss).all()
  np.testing.assert_array_equal(results.num_steps.mean("seed"), [[1, 1], [2, 3]])
  assert float(results.test_loss.sel(num_real=16).max()) < float(
    results.test_loss.sel(num_real=0, num_synthetic=0).min()
  )
  output.write(results, tmp_path / "value")
  assert "test_loss_map" in (tmp_path / "value" / "report.html").read_text()


def dump(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def read_rows(base, dataset, tokenizer=None, **options):
  model = (
    base if tokenizer is None else base._replace(tokenizer=tokenizer, config=SimpleNamespace(vocab_size=len(tokenizer)))
  )
  documents = language_flags.load_documents(dataset)
  return language_setting.read_texts(model, documents, LENGTH, max_test_rows=16, **options)


def test_rows_that_cannot_be_represented_are_refused_before_fitting(base, tmp_path):
  """And not the model blamed for it; a few are left out, and counted."""
  pairs = [{"prompt": f"item {i}", "response": "is here" if i % 2 else "a\n\nb"} for i in range(60)]
  dataset = dump(tmp_path / "pairs.jsonl", pairs)
  unmarked = text_tokenizer(["user: item is here a b assistant:"], tokenizers.normalizers.Replace("\n", " "))
  with pytest.raises(
    Refused,
    match=r"gives no train rows: all 5. of them have lost their format.*'user: item .*nassistant: .* becomes ",
  ):
    read_rows(base, dataset, unmarked)
  train, test, about, remarks = read_rows(base, dataset, unmarked, lossy=True)
  assert len(train.length) + len(test.length) == 60 and about["num_changed_rows"] == 60 and about["num_lost_rows"] == 0
  bad = [{"prompt": "p", "response": ""}, {"prompt": "p", "response": "x\nassistant: y"}]
  train, test, about, remarks = read_rows(base, dump(tmp_path / "some.jsonl", pairs + bad))
  assert (len(train.length) + len(test.length), about["num_malformed_rows"], about["split_by"]) == (60, 2, "prompt")
  assert "2 of 62 rows have no prompt, no response, or a role marker inside, and are left out." in remarks
  train, test, about, remarks = read_rows(base, dataset)
  assert remarks == () and about["num_changed_rows"] == about["num_malformed_rows"] == 0


def text_tokenizer(texts, normalizer):
  """Whose markers are no tokens, so that what a normaliser does reaches them."""
  one = tokenizers.Tokenizer(tokenizers.models.BPE())
  one.pre_tokenizer, one.decoder = (
    tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    tokenizers.decoders.ByteLevel(),
  )
  one.normalizer = normalizer
  one.train_from_iterator(
    texts,
    tokenizers.trainers.BpeTrainer(
      vocab_size=300,
      special_tokens=["</s>"],
      show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  return PreTrainedTokenizerFast(tokenizer_object=one, eos_token="</s>", clean_up_tokenization_spaces=False)


def test_what_becomes_of_the_rows_is_said(base, tmp_path):
  same = [{"prompt": "Write a short story.", "response": f"Story {i}."} for i in range(60)]
  train, test, about, remarks = read_rows(base, dump(tmp_path / "same.jsonl", same))
  assert about["split_by"] == "row" and len(test.length) == 6 and "split by row" in remarks[0]
  with pytest.raises(Refused, match="gives no test rows: a split needs two different rows"):
    read_rows(base, dump(tmp_path / "one.jsonl", same[:1] * 5))
  plain = dump(tmp_path / "plain.jsonl", [{"text": f"Plain text {i}."} for i in range(60)])
  train, test, about, remarks = read_rows(base, plain)
  assert about["format"] == language_setting.PLAIN and len(train.length) + len(test.length) == 60
  assert "fitted to, and sampled, as plain text" in remarks[0]
  with pytest.raises(Refused, match="prompts: no row of prompt and response") as refusal:
    text.prompts(base.tokenizer, test)
  assert refusal.value.argument == "prompts"
  with pytest.raises(Refused, match=r"gives no train rows: all .* of them have no prompt, no response"):
    read_rows(base, dump(tmp_path / "bad.jsonl", [{"prompt": f"p{i}", "response": ""} for i in range(60)]))


def test_plain_text_from_the_command_line(base, tmp_path, parsed, monkeypatch):
  """The weights of a base go on with plain text in both experiments: `test_plain_text_is_fitted_from_the_base` is what they ask for."""
  asked = []

  def ask(model, train, test, num_samples, **options):
    asked.append((options["pretrain"], options["plain_text"], len(train.length) + len(test.length)))
    raise Refused("asked")

  monkeypatch.setattr(tasks, "language_model", ask)
  options = {"model": saved_base(base, tmp_path), "max_seq_len": LENGTH, "num_seeds": 1, "recipe": RECIPE._asdict()}
  plain = dump(tmp_path / "plain.jsonl", [{"text": f"Plain text {i}."} for i in range(60)])
  pairs = dump(tmp_path / "pairs.jsonl", [{"prompt": f"p{i}", "response": "r"} for i in range(60)])
  for dataset in (plain, pairs):
    with pytest.raises(ValueError, match="asked"):
      language_model.simulate(["replace"], num_samples=[8], num_generations=1, dataset=dataset, **options)
    with pytest.raises(Refused, match="asked"):
      real_data_value.simulate([8], [0], dataset=dataset, **options)
  assert asked == [(False, True, 60)] * 2 + [(False, False, 60)] * 2


def test_torn_text_is_computed_again(base, tmp_path, parsed, monkeypatch, caplog):
  """A sweep that goes on ends with the texts and numbers of one that was not interrupted."""
  options = {
    "num_samples": [4],
    "num_generations": 2,
    "num_seeds": 2,
    "model": saved_base(base, tmp_path),
    "max_seq_len": LENGTH,
    "recipe": RECIPE._asdict(),
    "max_test_rows": 8,
    "on_malformed": "keep",
    "keep_checkpoints": True,
    "directory": tmp_path / "out",
  }
  first = language_model.simulate(["replace"], **options)
  files = {file: file.read_bytes() for file in (tmp_path / "out" / "samples").glob("*/*")}
  assert len(files) == 6
  monkeypatch.setattr(flag_values, "flag", lambda name, otherwise: True if name == "resume" else otherwise)
  torn = next(file for file in files if file.name == "seed_0_generation_2.jsonl")
  torn.write_bytes(files[torn][:30])
  with caplog.at_level("WARNING"):
    again = language_model.simulate(["replace"], **options)
  assert "the text of generation 2 is damaged" in caplog.text
  assert {file: file.read_bytes() for file in (tmp_path / "out" / "samples").glob("*/*")} == files
  assert again.attrs["samples"] == first.attrs["samples"]
  np.testing.assert_array_equal(again.test_loss, first.test_loss)


def test_what_counts_as_torn(base, tmp_path, monkeypatch):
  """Whatever happens to a file: its generation and those after it are computed again, and nothing else is."""
  cell, seeds = {"workflow": "replace", "num_samples": 2}, range(2)
  tokens, length = np.full((2, 1, 2, 6), base.config.eos_token_id), np.full((2, 1, 2), 6)
  tokens[..., 1:5] = base.tokenizer("river")["input_ids"][0]
  batch = SimpleNamespace(rows={"tokens": tokens, "length": length}, row_weight=np.ones((2, 1, 2)))
  folder = tmp_path / "checkpoints" / checkpoints.folder_name(cell, seeds)

  def whole():
    folder.mkdir(parents=True, exist_ok=True)
    saved = samples.Samples(base.tokenizer, tmp_path)
    for t in (1, 2, 3):
      saved.write(cell, t, seeds, batch)
      (folder / f"{t}.npz").write_bytes(b"")
    return saved

  left = lambda saved: saved.check(cell, seeds) or sorted(file.name for file in folder.iterdir())
  assert left(whole()) == ["1.npz", "2.npz", "3.npz"]
  for how in (
    lambda file: file.unlink(),
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(file.read_bytes()[:9]),
    lambda file: file.write_bytes(file.read_bytes().splitlines(keepends=True)[0]),
    lambda file: file.write_bytes(file.read_bytes() + b"\n"),
  ):
    for name in ("seed_0_generation_2.jsonl", "seed_1_generation_2.jsonl", "seeds_0-1_generation_2.sha256"):
      saved = whole()
      content = (file := tmp_path / "samples" / samples.name_of(cell) / name).read_bytes()
      how(file)
      if file.exists() and file.read_bytes() == content:
        continue  # a file of one line has no shorter one
      assert left(saved) == ["1.npz"]
  saved = samples.Samples(
    base.tokenizer, tmp_path
  )  # as of a process that goes on, and finds a file torn after the check
  whole()
  next((tmp_path / "samples").rglob("seed_0_generation_2.jsonl")).write_text('{"prompt": "a')
  assert set(saved.shown()[samples.name_of(cell)]) == {1, 3}


def test_names_of_folders_are_short(base):
  table = [[1 / t if i < t else 0.0 for i in range(12)] for t in range(1, 13)]
  names = {samples.name_of({"workflow": f"weights({table})", "num_samples": n}) for n in (8, 9)}
  assert len(names) == 2 and all(len(name.encode()) <= 100 for name in names)
