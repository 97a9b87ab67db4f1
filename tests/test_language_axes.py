"""Language models over more axes than temperature; what is written and scored of their models; where they collapse."""

import json
import sys
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import needed, own_flags
from transformers import GPT2Config

from collapse_jax import lm, plotting
from collapse_jax.lm import checkpoint, decoder, families, harness, peft, text, tiny, training
from collapse_jax.refused import Refused
from collapse_jax.systems import language_model as loop
from collapse_jax.systems.exports import Exports, fitted_model
from collapse_jax.types import Context
from collapse_jax.workflows import mix
from experiments import flag_values, phase_diagram
from experiments import language_model as binary

LENGTH = 32


@pytest.fixture(scope="module")
def base():
  return tiny.untrained(text.load("pydocs", "base"))


@pytest.fixture(scope="module")
def setting(base):
  texts = loop.read_texts(base, text.splits("pydocs"), LENGTH, max_test_rows=8)
  recipe = training.Recipe(1e-2, "steps", 1, 8)
  return loop.Setting(base, texts, recipe, adapters=lm.Adapters(2, 4.0, ("query", "up")), measure="few")


AXES = {"learning_rate": [0.0, 0.1], "real_fraction": [0.5]}


@pytest.fixture(scope="module")
def found(setting, tmp_path_factory):
  """(results, directory): what is scored is the mean of a kernel, of which the fake harness knows nothing else."""
  directory = tmp_path_factory.mktemp("axes")
  seen = []

  def evaluate(model):
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(model.params))  # not copied to the host, and back
    seen.append(model)
    return {"task/mean": float(jnp.mean(model.params["layers"]["mlp"]["up"]["kernel"]))}

  results = loop.simulate(
    setting,
    {"mix": mix},
    [8],
    writing=loop.Writing(on_malformed="keep"),
    axes=AXES,
    export="peft",
    evaluate=evaluate,
    evaluate_every=2,
    num_generations=2,
    num_seeds=2,
    directory=directory,
  )
  assert len(seen) == 4
  return results, directory


def test_axes(found):
  """Nothing moves at rate 0, where all generations are the base; both cells see the same text, and are one program."""
  results, _ = found
  assert results.num_compilations == 5 + 1  # the beginning of the other cell
  loss = results.test_loss.squeeze(drop=True)
  assert loss.dims == ("learning_rate", "seed", "generation")
  still, moved = loss.sel(learning_rate=0.0), loss.sel(learning_rate=0.1)
  np.testing.assert_allclose(still, still.values[0, 0], rtol=1e-6)
  assert (abs(moved - still) > 1e-3).all()
  np.testing.assert_allclose(results.real_share.values.reshape(-1, 2), [[1.0, 0.5]] * 4)


def test_scores_are_of_the_generations_that_are_asked_for(found, base):
  results, directory = found
  scores = results["eval_task/mean"].squeeze(drop=True).transpose("learning_rate", "seed", "generation").values
  assert np.isnan(scores[..., 0]).all() and np.isfinite(scores[..., 1]).all()
  np.testing.assert_allclose(scores[0, :, 1], float(jnp.mean(base.params["layers"]["mlp"]["up"]["kernel"])), rtol=1e-4)
  assert len(set(scores[..., 1].ravel().tolist())) == 3
  assert len(list(directory.glob("evaluations/*/seed_*_generation_2.json"))) == 4


def test_exported_adapters_are_the_model_and_can_be_continued(found, setting, base):
  """Test loss of what is read back is that of the results; a fit at rate 0 that starts from it stays there."""
  results, directory = found
  (folder,) = [one for one in directory.glob("models/*") if "learning_rate=0.1" in one.name]
  assert sorted(one.name for one in folder.iterdir()) == [f"seed_{s}_generation_{t}" for s in (0, 1) for t in (1, 2)]
  about = json.loads((folder / "seed_1_generation_2" / "adapter_config.json").read_text())
  again = lm.load(about["base_model_name_or_path"])
  adapters = lm.load_adapters(folder / "seed_1_generation_2", again.config)
  assert adapters[:3] == setting.adapters[:3]
  whole = fitted_model(setting._replace(model=again, adapters=adapters), adapters.start)
  test = setting.texts.test
  loss = training.mean_loss(again.apply, whole.params, jnp.asarray(test.tokens), jnp.asarray(test.length), 8)
  expected = results.test_loss.sel(learning_rate=0.1, seed=1, generation=2).item()
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  recipe = setting.recipe._replace(learning_rate=0.0)
  task = setting._replace(adapters=adapters, recipe=recipe).task(base.params, 8, on_malformed="keep")
  _, real = task.init(jax.random.key(0))
  start = task.fit(jax.random.key(1), task.init(jax.random.key(0))[0], Context(1, 8, real, real))
  np.testing.assert_allclose(task.evaluate(None, None, start)["test_loss"], expected, rtol=1e-5)


def test_exported_models(setting, tmp_path):
  """A whole model, adapters added to it; an earlier attempt that was cut off is replaced."""
  arch = peft.adapted(families.architecture(setting.model.config), setting.adapters)
  like = checkpoint.split_adapters(decoder.abstract_params(arch))[0]
  weights = jax.tree.map(lambda x: jnp.full((1, *x.shape), 0.1), like)
  place = tmp_path / "models" / "workflow=replace" / "seed_3_generation_1"
  place.with_name(f"{place.name}.part").mkdir(parents=True)
  exports = Exports(lambda cell: setting, "hf", tmp_path)
  for _ in range(2):
    exports.write({"workflow": "replace"}, 1, range(3, 4), SimpleNamespace(weights=weights))
  assert [one.name for one in place.parent.iterdir()] == [place.name]
  again = lm.load(place)
  assert again.tokenizer.get_vocab() == setting.model.tokenizer.get_vocab()
  tokens = np.asarray(setting.texts.test.tokens[:2])
  expected = decoder.functions(arch).apply(
    checkpoint.join(setting.model.params, jax.tree.map(lambda x: x[0], weights)), tokens
  )
  np.testing.assert_allclose(again.apply(again.params, tokens), expected, atol=1e-4)
  for kind, directory, match in (("onnx", tmp_path, "hf or peft"), ("hf", None, "needs a directory")):
    with pytest.raises(Refused, match=match):
      Exports(lambda cell: setting, kind, directory)
  with pytest.raises(Refused, match="needs adapters"):
    Exports(lambda cell: setting._replace(adapters=None), "peft", tmp_path)
  with pytest.raises(Refused, match="needs adapters"):
    loop.simulate(setting, ["replace"], [8], axes={"lora_rank": [2, 0]}, export="peft", directory=tmp_path)


def parsed(module, *arguments):
  with own_flags():
    module.define()
    flag_values.read(["x", *arguments])
    return binary.read()


def test_flags():
  """A list makes an axis, a single value none."""
  options = parsed(binary, "--learning_rate=0.001,0.01", "--lora_rank=0,4", "--top_p=0.8,1", "--budget_amount=2")
  assert options["axes"] == {"learning_rate": [0.001, 0.01], "lora_rank": [0, 4], "top_p": [0.8, 1.0]}
  assert (options["lora_rank"], options["recipe"]["amount"], options["rules"]["top_p"]) == (4, 2.0, 0.8)
  assert parsed(binary)["axes"] == {}
  assert parsed(binary, "--export=peft", "--lora_start=x")["export"] == "peft"
  options = parsed(phase_diagram, "--temperatures=0.5,1")
  assert options["axes"] == {"real_fraction": [0.0, 0.2, 0.5, 1.0]} and options["temperatures"] == [0.5, 1.0]
  for wrong, match in (
    (("--real_fractions=0.1", "--workflows=replace"), "in the place of --workflows"),
    (("--export=peft",), "needs --lora_rank"),
    (("--export=peft", "--lora_rank=0,4"), "above 0 in every cell"),
    (("--lora_start=x", "--lora_rank=2"), "leave --lora_rank out"),
    (("--span_processes",), "needs --distributed"),
    (("--dry_run", "--num_processes=4"), "needs --devices"),
    (("--tensor_parallel=0",), "tensor_parallel"),
    (("--device_gib=-1",), "device_gib"),
  ):
    with pytest.raises(Refused, match=match):
      parsed(binary, *wrong)


def planted():
  """A loss that stays within a tenth from a share of 0.25 on at temperature 1, and nowhere at 2."""
  shares, temperatures = [0.0, 0.25, 0.5, 1.0], [1.0, 2.0]
  rise = np.asarray([[1.2, 1.1, 1.02, 1.0], [1.9, 1.8, 1.7, 1.6]])
  noise = 1e-4 * np.random.default_rng(0).normal(size=(1, 2, 4, 1, 8, 3))
  curve = np.stack([np.ones_like(rise), 0.5 + 0.5 * rise, rise], -1)[None, :, :, None, None]
  dims = ("workflow", "temperature", "real_fraction", "num_samples")
  return xarray.Dataset(
    {
      "test_loss": ((*dims, "seed", "generation"), 4 * curve + noise, {"worse": "higher", "units": "nats per token"}),
      "cell_status": (dims, np.full((1, 2, 4, 1), "ok")),
    },
    {"workflow": ["mix"], "temperature": temperatures, "real_fraction": shares, "num_samples": [8], "seed": range(8), "generation": [1, 2, 3]},
    {"primary_metric": "test_loss", "tolerance": 0.1},
  )  # fmt: skip


def test_contour_of_the_phase_diagram(capsys):
  results = planted()
  phase_diagram.judge(results)
  enough = results.required_real_fraction.squeeze()
  assert abs(enough.sel(temperature=1.0).item() - 0.25) < 0.05 and np.isnan(enough.sel(temperature=2.0).item())
  assert "temperature=2.0: Whether there is a real share" in capsys.readouterr().out
  figure = plotting.phase_diagram(results, "test_loss")
  axis = figure.axes[0]
  np.testing.assert_allclose(
    axis.images[0].get_array(),
    (results.test_loss[..., -1] - results.test_loss[..., 0]).mean("seed").squeeze().T,
    atol=1e-6,
  )
  place = axis.lines[0].get_ydata()
  assert abs(place[0] - 1) < 0.2 and np.isnan(place[1])  # rows of the image are shares
  assert [one.get_text() for one in axis.get_yticklabels()] == ["0", "0.25", "0.5", "1"]
  assert axis.get_xlabel() == "temperature" and "nats per token" in figure.axes[-1].get_ylabel()
  assert "phase_diagram" in plotting.figures_for(results)


def test_harness(base, tmp_path):
  """Scores of a task in a file are those that logits give, whatever the batch; greedy text is the likeliest, token by token."""
  lm_eval = needed("lm_eval")
  (tmp_path / "rows.jsonl").write_text(
    "".join(json.dumps({"question": f"x = {i}", "answer": i % 2}) + "\n" for i in range(5))
  )
  (tmp_path / "mine.yaml").write_text(
    f"""task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: [" return", " def f(x):"]
metric_list: [{{metric: acc}}]
"""
  )
  scores = harness.evaluate(base, [str(tmp_path / "mine.yaml")])
  begin, end = text.special_ids(base.tokenizer)
  encode = lambda one: base.tokenizer.encode(one, add_special_tokens=False)

  apply = jax.jit(base.apply)
  logits = lambda tokens: apply(base.params, jnp.asarray([tokens + [end] * (32 - len(tokens))]))[0]  # causal

  def expected(context, continuation):
    whole, first = [begin, *encode(context + continuation)], 1 + len(encode(context))
    logp = np.asarray(jax.nn.log_softmax(logits(whole)))
    return float(sum(logp[i - 1, whole[i]] for i in range(first, len(whole))))

  right = [np.argmax([expected(f"x = {i}", one) for one in (" return", " def f(x):")]) == i % 2 for i in range(5)]
  assert scores == {"mine/acc": np.mean(right)}
  ours = harness.harness_model(base, batch_size=2, max_length=64)
  pairs = [("x = 1", " return"), ("", "def f(x):"), ("a longer context, of several words", " def f(x):")]
  requests = [lm_eval.api.instance.Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
  for (value, _), (context, continuation) in zip(ours.loglikelihood(requests, disable_tqdm=True), pairs):
    np.testing.assert_allclose(value, expected(context, continuation), rtol=1e-5)
  request = lm_eval.api.instance.Instance("generate_until", {}, ("x =", {"until": ["\x00"], "max_gen_toks": 4}), 0)
  tokens = [begin, *encode("x =")]
  for _ in range(4):
    tokens.append(int(jnp.argmax(logits(tokens)[len(tokens) - 1])))
  new = tokens[-4:]
  new = new[: new.index(end)] if end in new else new
  assert ours.generate_until([request]) == [base.tokenizer.decode(new)]
  rolling = lm_eval.api.instance.Instance("loglikelihood_rolling", {}, ("def f(x): return x",), 0)
  np.testing.assert_allclose(ours.loglikelihood_rolling([rolling]), [expected("", "def f(x): return x")], rtol=1e-5)


def test_harness_within_the_positions(base, monkeypatch):
  """Of long texts the last tokens count, as many as a model has positions; the next generation's model compiles nothing."""
  parts = {
    "lm_eval": {},
    "lm_eval.api": {},
    "lm_eval.api.model": {"TemplateLM": object},
    "lm_eval.utils": {"get_rolling_token_windows": None, "make_disjoint_window": None},
  }
  for name, values in parts.items():
    monkeypatch.setitem(sys.modules, name, module := ModuleType(name))
    vars(module).update(values)
  begin, end = text.special_ids(base.tokenizer)
  config = GPT2Config(vocab_size=tiny.VOCAB_SIZE, n_embd=8, n_layer=1, n_head=1, n_positions=16)
  traced = []
  for seed in range(2):
    model = checkpoint.random(config, jax.random.key(seed), tokenizer=base.tokenizer)
    ours = harness.harness_model(model._replace(params=jax.tree.map(np.asarray, model.params)), batch_size=2)
    tokens = np.random.default_rng(seed).integers(3, tiny.VOCAB_SIZE, 40).tolist()
    ((value, _),) = ours._loglikelihood_tokens([(("", ""), tokens[:-3], tokens[-3:])])
    logits = lambda row, model=model: model.apply(model.params, jnp.asarray([row]))[0]
    log_p = jax.nn.log_softmax(logits(tokens[-16:]))
    np.testing.assert_allclose(value, sum(float(log_p[12 + i, tokens[-3 + i]]) for i in range(3)), rtol=1e-5)
    context = "x = 1, and y = 2, and z = 3, and then all of them once more"
    row = [begin, *base.tokenizer.encode(context, add_special_tokens=False)][-12:]
    for _ in range(4):
      row.append(int(jnp.argmax(logits(row)[-1])))
    new = row[-4:]
    new = new[: new.index(end)] if end in new else new
    request = SimpleNamespace(args=(context, {"until": [], "max_gen_toks": 4}))
    assert ours.generate_until([request]) == [base.tokenizer.decode(new)]
    traced.append((harness._scored._cache_size(), harness._written._cache_size()))
  assert traced[0] == traced[1]
