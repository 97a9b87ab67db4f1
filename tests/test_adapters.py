"""Adapters: each with the program, server or library that it is for, or what speaks as these do."""

import inspect
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_servers import Engine, serving
from helpers import needed
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from collapse_jax import pipelines
from collapse_jax.pipelines.adapters import _freshness, _parts, _processes
from collapse_jax.refused import Refused

TABLE = pd.DataFrame({"x": [1.0, 2.0, 4.0, 7.0, 5.0, 3.0], "y": [0.5, 0.1, 0.9, 0.3, 0.2, 0.7]})


# Rows and seeds.


@pytest.mark.parametrize("estimator", [KernelDensity(bandwidth=0.3), GaussianMixture(2, n_init=2)])
def test_sklearn_draws_by_the_seed_alone(estimator, tmp_path):
  pipeline = pipelines.sklearn(estimator)
  draw = lambda fit, sample: pipeline.sample(
    pipeline.fit(TABLE, seed=fit, workdir=tmp_path), 50, seed=sample, workdir=tmp_path
  )
  first = draw(1, 2)
  pd.testing.assert_frame_equal(first, draw(1, 2))
  assert not np.allclose(first, draw(1, 3))
  assert estimator.get_params() == pipeline.identity("fit")[1].get_params() and not hasattr(estimator, "n_features_in_")
  if isinstance(estimator, GaussianMixture):  # whose own order is by component, here of the two halves
    labels = pipeline.fit(TABLE, seed=1, workdir=tmp_path).estimator.predict(first.to_numpy())
    assert np.count_nonzero(np.diff(labels)) > 1
  found = pipeline.evaluate(pipeline.fit(TABLE, seed=1, workdir=tmp_path), first, TABLE, seed=0)
  assert found["test_nll"] == pytest.approx(
    -pipeline.fit(TABLE, seed=1, workdir=tmp_path).estimator.score_samples(TABLE.to_numpy()).mean()
  )


def test_sklearn_weighs_rows_where_the_estimator_does(tmp_path):
  pipeline = pipelines.sklearn(KernelDensity(bandwidth=0.01))
  weight = np.array([0, 0, 0, 3, 0, 1], np.float32)
  rows = pipeline.sample(pipeline.fit(TABLE, seed=0, workdir=tmp_path, weight=weight), 2000, seed=1, workdir=tmp_path)
  near = {name: np.mean(np.abs(rows["x"] - name) < 0.1) for name in TABLE["x"]}
  assert near[7.0] + near[3.0] == 1 and abs(near[7.0] - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 2000)
  assert "weight" not in inspect.signature(pipelines.sklearn(GaussianMixture()).fit).parameters


def test_sklearn_undoes_the_steps_before_a_model(tmp_path):
  table = TABLE * 1000 + 5000
  pipeline = pipelines.sklearn(make_pipeline(StandardScaler(), GaussianMixture(1)))
  rows = pipeline.sample(pipeline.fit(table, seed=0, workdir=tmp_path), 4000, seed=0, workdir=tmp_path)
  z = (rows.mean() - table.mean()) / (table.std() / np.sqrt(4000))
  assert np.all(np.abs(z) < 5) and pipeline.evaluate is None


def test_arrays_of_any_shape_come_back(tmp_path):
  data = {"image": np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32), "label": np.arange(9)}
  pipeline = pipelines.sklearn(KernelDensity())
  rows = pipeline.sample(pipeline.fit(data, seed=0, workdir=tmp_path), 4, seed=0, workdir=tmp_path)
  assert {name: (value.shape, value.dtype) for name, value in rows.items()} == {
    "image": ((4, 2, 3), np.float32),
    "label": ((4,), np.float64),
  }
  again = _parts.rows_of_numbers(_parts.numbers(data, "it"), {name: value[:0] for name, value in data.items()})
  assert all(np.array_equal(again[name], data[name]) for name in data)


@pytest.mark.parametrize(
  "factory",
  [
    lambda: pipelines.sklearn(StandardScaler()),
    lambda: pipelines.sklearn(object()),
    lambda: pipelines.command("train {data}", "draw {model} {out}"),
    lambda: pipelines.command("train {data} {model} {num}", "draw {model} {out}"),
    lambda: pipelines.command("train {data} {modle} {model}", "draw {model} {out}"),
    lambda: pipelines.command("train {data} {model}", "draw {model} {out}", format="xlsx"),
    lambda: pipelines.ctgan("gan"),
    lambda: pipelines.openai("http://localhost/v1", "m", []),
    lambda: pipelines.openai("http://localhost/v1", "m", ["a"], concurrency=0),
    lambda: pipelines.openai("http://localhost/v1", "m", ["a"], chat=True, batch_size=2),
    lambda: pipelines.openai("http://localhost:80/v1", "m", ["a"], serve="serve {model} {port}"),
    lambda: pipelines.openai("http://localhost/v1", "m", ["a"], fit="train.py"),
    lambda: pipelines.sklearn(GaussianMixture()).fit(pd.DataFrame({"a": ["x"]}), seed=0, workdir=None),
    lambda: pipelines.sdgym(lambda data, metadata: 1, lambda model, num: 2).fit(
      {"a": np.zeros((3, 2))}, seed=0, workdir=None
    ),
  ],
)
def test_what_cannot_be_had_is_said_in_one_line(factory):
  with pytest.raises(Refused) as error:
    factory()
  assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
  ("package", "factory"),
  [
    ("ctgan", lambda: pipelines.ctgan()),
    ("sdv", lambda: pipelines.sdv(lambda metadata: None)),
    ("torch", lambda: pipelines.huggingface(lambda dataset, **options: None, ["a"])),
  ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(package, factory, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(Refused, match=rf"^{package} is not installed: pip install 'collapse-jax\[\w+\]'\.$") as error:
    factory()
  extra = str(error.value).split("[")[1].split("]")[0]
  assert f"\n{extra} = [" in (Path(__file__).parent.parent / "pyproject.toml").read_text()


def test_synthcity_is_named_with_what_keeps_it_out(monkeypatch):
  monkeypatch.setitem(sys.modules, "synthcity", None)
  with pytest.raises(
    Refused, match=r"^synthcity is not installed: until 0\.2\.12 it needs NumPy below 2 and an environment"
  ):
    pipelines.synthcity("ddpm")


def test_code_without_seeds_is_given_them():
  before = np.random.get_state()[1][:3].tolist()  # noqa: NPY002
  draws = []
  for seed in (1, 1, 2):
    with _parts.seeded(seed):
      draws.append(float(np.random.rand()))  # noqa: NPY002
  assert draws[0] == draws[1] != draws[2] and np.random.get_state()[1][:3].tolist() == before  # noqa: NPY002


# Synthesizers of tables.

MIXED = pd.DataFrame(
  {"amount": np.arange(8.0), "count": np.arange(8), "kind": list("aabbaabb"), "ok": [True, False] * 4}
)
SDTYPES = {"amount": "numerical", "count": "numerical", "kind": "categorical", "ok": "boolean"}


def drawn(table, num):
  """Rows by NumPy's own draws, as such packages do it."""
  return table.iloc[np.random.randint(0, len(table), num)].reset_index(drop=True)  # noqa: NPY002


def keeps_to_seeds(pipeline, tmp_path):
  """Rows of a pipeline of `MIXED`, drawn with two seeds."""
  model = pipeline.fit(MIXED, seed=1, workdir=tmp_path)
  one, again, other = (pipeline.sample(model, 30, seed=seed, workdir=tmp_path) for seed in (5, 5, 6))
  pd.testing.assert_frame_equal(one, again)
  assert not one.equals(other) and one.dtypes.equals(MIXED.dtypes)
  return model


def test_sdgym_functions_run_as_they_are(tmp_path):
  seen = []
  train = lambda data, metadata: seen.append(metadata) or data
  model = keeps_to_seeds(pipelines.sdgym(train, drawn), tmp_path)
  assert {name: one["sdtype"] for name, one in seen[0]["columns"].items()} == SDTYPES
  arrays = {"a": np.arange(5.0)}
  pipeline = pipelines.sdgym(train, drawn)
  found = pipeline.sample(pipeline.fit(arrays, seed=0, workdir=tmp_path), 3, seed=0, workdir=tmp_path)
  assert list(found) == ["a"] and found["a"].shape == (3,) and model.like.empty


class Copula:
  """Looks at SDV's metadata, and draws its first rows by a seed that is fixed unless another one is set."""

  def __init__(self, metadata):
    self.metadata, self._model, self._random_state_set = metadata, None, False

  def fit(self, table):
    self._model = table

  def reset_sampling(self):
    self._random_state_set = False

  def _set_random_state(self, seed):
    self._random_state_set, self.seed = True, seed

  def sample(self, num_rows):
    rng = np.random.RandomState(self.seed if self._random_state_set else 73251)
    return self._model.iloc[rng.randint(0, len(self._model), num_rows)].reset_index(drop=True)


def test_sdv_draws_other_rows_of_each_model(tmp_path, monkeypatch):
  load = types.SimpleNamespace(load_from_dict=lambda told: told)
  monkeypatch.setitem(sys.modules, "sdv", types.ModuleType("sdv"))
  monkeypatch.setitem(sys.modules, "sdv.metadata", types.SimpleNamespace(Metadata=load))
  model = keeps_to_seeds(pipelines.sdv(Copula), tmp_path)
  (table,) = model.synthesizer.metadata["tables"].values()
  assert {name: one["sdtype"] for name, one in table["columns"].items()} == SDTYPES
  with pytest.raises(AssertionError):  # as it is where nothing sets the state
    monkeypatch.delattr(Copula, "_set_random_state")
    keeps_to_seeds(pipelines.sdv(Copula), tmp_path)


class ByName(Copula):
  """As from version 2 on: tables go in and out by their names."""

  def fit(self, tables):
    ((self.name, table),) = tables.items()
    super().fit(table)

  def sample(self, num_rows):
    return {self.name: super().sample(num_rows)}


def test_sdv_hands_tables_over_as_its_version_takes_them(tmp_path, monkeypatch):
  load = types.SimpleNamespace(load_from_dict=lambda told: types.SimpleNamespace(**told))
  monkeypatch.setitem(sys.modules, "sdv", types.ModuleType("sdv"))
  monkeypatch.setitem(sys.modules, "sdv.metadata", types.SimpleNamespace(Metadata=load))
  monkeypatch.setattr("collapse_jax.pipelines.adapters._tables._version", lambda package: "2.0.0")
  model = keeps_to_seeds(pipelines.sdv(ByName), tmp_path)
  assert [model.synthesizer.name] == list(model.synthesizer.metadata.tables) and pipelines.sdv(
    ByName
  ).name == "sdv ByName"


def test_synthcity_is_asked_in_its_own_terms(tmp_path, monkeypatch):
  asked = []

  class Plugin:
    def fit(self, loader):
      self.table = loader

    def generate(self, count, random_state):
      rows = self.table.iloc[np.random.RandomState(random_state).randint(0, len(self.table), count)]
      return types.SimpleNamespace(dataframe=lambda: rows.reset_index(drop=True))

  plugins = types.SimpleNamespace(get=lambda name, **settings: asked.append((name, settings)) or Plugin())
  for name, module in (
    ("synthcity", types.ModuleType("synthcity")),
    ("synthcity.plugins", types.SimpleNamespace(Plugins=lambda: plugins)),
    ("synthcity.plugins.core.dataloader", types.SimpleNamespace(GenericDataLoader=lambda table: table)),
  ):
    monkeypatch.setitem(sys.modules, name, module)
  keeps_to_seeds(pipelines.synthcity("nflow", n_iter=7), tmp_path)
  assert asked == [("nflow", {"random_state": 1, "n_iter": 7})]


# Programs.

FIT = "cat {data} > {model}"
DRAW = "head -n $(({num} + 1)) {model} > {out}"


def test_a_command_gets_and_gives_rows_of_any_kind(tmp_path):
  folder = tmp_path / "it's a folder with $blanks"
  folder.mkdir()
  datasets = needed("datasets")
  text = [{"text": 'a "quoted"\nline', "n": 1}, {"text": "b", "n": 2}]
  for data, format, draw in (
    (TABLE, None, DRAW),
    (TABLE, "jsonl", "head -n {num} {model} > {out}"),
    (TABLE, "parquet", "cat {model} > {out}; : {num}"),
    (MIXED, None, DRAW),
    (text, None, "head -n {num} {model} > {out}"),
    ({"x": np.arange(2.0), "y": np.array([1.5, 2.5])}, None, DRAW),
    ({"image": np.ones((2, 3, 3), np.float32)}, None, "cat {model} > {out}; : {num}"),
    (datasets.Dataset.from_list(text), None, "cat {model} > {out}; : {num}"),
  ):
    pipeline = pipelines.command(FIT, draw, format=format)
    num = 2 if "head" in draw else pipelines.kinds.num_rows(data)
    (folder / "model").unlink(missing_ok=True)
    model = pipeline.fit(data, seed=0, workdir=folder)
    pipeline.save(model, folder)
    found = pipeline.sample(pipeline.load(folder), num, seed=0, workdir=folder)
    expected = pipelines.kinds.take(data, np.arange(num))
    assert pipelines.kinds.kind_of(found) == pipelines.kinds.kind_of(data)
    assert pipelines.kinds.digest(found) == pipelines.kinds.digest(expected), (format, found, expected)
  assert not list(folder.glob("data.*")) and not list(folder.glob("weights*"))


def test_names_are_filled_and_other_braces_stay(tmp_path):
  fit = "printf '%s,' {seed} {generation} {previous} > {model}; paste -s -d+ {weights} >> {model}; awk '{print}' {data} > /dev/null"
  pipeline = pipelines.command(fit, 'awk -v s={seed} -v n={num} \'BEGIN {print "x,y"; print s "," n}\' {model} > {out}')
  one, two = tmp_path / "1", tmp_path / "2"
  one.mkdir()
  two.mkdir()
  first = pipeline.fit(TABLE[:2], seed=3, workdir=one, generation=1)
  second = pipeline.fit(
    TABLE[:2], seed=4, workdir=two, generation=2, previous=first, weight=np.array([0.25, 2], np.float32)
  )
  assert first.path.read_text() == "3,1,,1+1\n"
  assert second.path.read_text() == f"4,2,{one / 'model'},0.25+2\n"
  assert pipeline.sample(second, 1, seed=9, workdir=two).values.tolist() == [[9, 1]]
  assert "weight" not in inspect.signature(pipelines.command(FIT, DRAW).fit).parameters


def test_a_command_evaluates(tmp_path):
  judge = "printf '{\"lines\": %d}' $(cat {data} {test} | wc -l) > {out}"
  pipeline = pipelines.command(FIT, DRAW, judge)
  model = pipeline.fit(TABLE, seed=0, workdir=tmp_path)
  assert pipeline.evaluate(model, TABLE[:3], TABLE, seed=0) == {"lines": 4 + 7}
  for wrong in ("echo nothing > {out}", ": {out}"):
    with pytest.raises(RuntimeError, match=r"metrics\.json"):
      pipelines.command(FIT, DRAW, wrong).evaluate(model, TABLE, TABLE, seed=0)


def test_a_failed_command_says_its_last_line_and_all_goes_to_the_log(tmp_path, capsys):
  script = "echo one; echo two >&2; echo 'no such thing' >&2; echo >&2; exit 3; : {data} {model}"
  with pytest.raises(RuntimeError, match=r"^the command ended with status 3: no such thing$"):
    pipelines.command(script, DRAW).fit(TABLE, seed=0, workdir=tmp_path)
  said = capsys.readouterr()
  assert "one\n" in said.out and script.split(";")[0] in said.out and "two\nno such thing\n" in said.err
  with pytest.raises(RuntimeError, match=r"^the command was ended by signal 9: it said nothing on stderr$"):
    pipelines.command("kill -9 $$; : {data} {model}", DRAW).fit(TABLE, seed=0, workdir=tmp_path)
  with pytest.raises(RuntimeError, match="wrote no model"):
    pipelines.command(": {data} {model}", DRAW).fit(TABLE, seed=0, workdir=tmp_path)


def gone(pid, seconds=10.0):
  """Whether a process has ended, or does within some seconds."""
  end = time.monotonic() + seconds
  while True:
    try:
      with open(f"/proc/{pid}/stat") as file:
        if file.read().rsplit(")", 1)[1].split()[0] == "Z":
          return True
    except FileNotFoundError:
      return True
    if time.monotonic() >= end:
      return False
    time.sleep(0.02)


STUBBORN = "trap '' TERM; sleep 600 & echo $! > {pid}; echo $$ >> {pid}; sleep 600; wait"


def pids(path):
  while not (path.exists() and len(path.read_text().split()) == 2):
    time.sleep(0.01)
  return [int(pid) for pid in path.read_text().split()]


def test_a_late_command_ends_with_all_that_it_started(tmp_path, monkeypatch):
  monkeypatch.setattr(_processes, "_GRACE", 0.1)
  path = tmp_path / "pids"
  with pytest.raises(TimeoutError, match=r"^the command was ended after 0\.5 s$"):
    pipelines.command(_processes.fill(STUBBORN, {"pid": path}) + "; : {data} {model}", DRAW, timeout=0.5).fit(
      TABLE, seed=0, workdir=tmp_path
    )
  assert all(gone(pid) for pid in pids(path))


def test_a_command_ends_with_the_process_that_began_it(tmp_path):
  path = tmp_path / "pids"
  code = f"from collapse_jax.pipelines.adapters import _processes; _processes.run({_processes.fill(STUBBORN, {'pid': path})!r})"
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as process:
    started = pids(path)
    assert not any(gone(pid, 0) for pid in started)
    process.send_signal(signal.SIGKILL)
  assert all(gone(pid) for pid in started)


def test_a_changed_script_is_another_step(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "train.py").write_text("print(1)")
  told = lambda role, **options: pipelines.command("python train.py {data} {model}", DRAW, **options).identity(role)
  before = told("fit")
  assert told("fit") == before == told("fit", timeout=3) and told("sample") != before
  (tmp_path / "train.py").write_text("print(2)")
  assert told("fit") != before


# Servers.


def weights(data, *, seed, workdir, previous=None):
  """A "fit": the weights are the rows' texts."""
  path = workdir / "model.bin"
  path.write_text("".join(row["text"] for row in data))
  return path


def generations(pipeline, tmp_path, texts=("a", "b"), num=5):
  """Rows of a model for each text."""
  found = []
  for i, text in enumerate(texts):
    folder = tmp_path / str(i) / "model"
    folder.mkdir(parents=True)
    model = pipeline.fit([{"text": text}], seed=1, workdir=folder)
    found.append(pipeline.sample(model, num, seed=2, workdir=folder))
  return found


@pytest.mark.parametrize("prompts", [["x", "y"], [[{"role": "user", "content": "x"}]]])
@pytest.mark.parametrize("logprobs", [True, False])
def test_a_server_writes_a_row_a_request(tmp_path, prompts, logprobs):
  engine = Engine(logprobs=logprobs)
  with serving(engine) as url:
    pipeline = pipelines.openai(url, "{model}", prompts, fit=weights, max_tokens=8, concurrency=3)
    one, two = generations(pipeline, tmp_path)
  assert len({row["text"] for row in one + two}) == 10 and all(list(row) == ["text"] for row in one)
  wanted = [body for _, body in engine.seen if body.get("max_tokens") == 8]
  assert len(wanted) == 10 and len({body["seed"] for body in wanted}) == 5  # the same of both models
  assert all(0 <= body["seed"] < 2**31 for body in wanted) and 1 < engine.most <= 3
  ends = {url.split("/v1")[1] for url, _ in engine.seen}
  assert ends == {"/completions" if isinstance(prompts[0], str) else "/chat/completions"}
  assert len(engine.seen) == 10 + 2 * _freshness.NUM_ASKED


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("logprobs", [True, False])
def test_stale_weights_are_caught(tmp_path, noise, logprobs):
  for engine, said in (
    (Engine(stale=True, logprobs=logprobs, noise=noise), "stale weights"),
    (Engine(logprobs=logprobs, noise=noise), None),
  ):
    folder = tmp_path / str(engine.stale)
    with serving(engine) as url:
      pipeline = pipelines.openai(url, "{model}", ["x"], fit=weights)
      if said is None:
        generations(pipeline, folder, ("a", "b", "a"))  # the same weights answer the same
        continue
      with pytest.raises(RuntimeError, match=said):
        generations(pipeline, folder)
      unseen = pipelines.openai(url, "{model}", ["x"], fit=weights, fresh=False)
      generations(unseen, folder / "unseen")


def test_what_cannot_be_told_is_no_proof(tmp_path):
  engine = Engine(logprobs=False)
  engine.answer = lambda url, body: {"choices": [{"text": f"{time.perf_counter()}"}]}
  with serving(engine) as url, pytest.raises(RuntimeError, match="cannot be told"):
    generations(pipelines.openai(url, "{model}", ["x"], fit=weights), tmp_path)


def test_only_weights_count(tmp_path):
  (tmp_path / "model.safetensors").write_bytes(b"1")
  before = _freshness.digest(tmp_path)
  (tmp_path / "training_args.bin").write_bytes(b"time")
  (tmp_path / "README.md").write_text("new")
  assert _freshness.digest(tmp_path) == before
  (tmp_path / "model.safetensors").write_bytes(b"2")
  assert _freshness.digest(tmp_path) != before


def test_requests_with_one_text_are_warned_of(tmp_path):
  with serving(Engine(seeds=False)) as url:
    pipeline = pipelines.openai(url, "m", ["x", "y"])
    with pytest.warns(RuntimeWarning, match=r"^3 of 5 requests returned a text that another one returned"):
      generations(pipeline, tmp_path, ("a",))


def test_busy_servers_are_asked_again(tmp_path):
  for status in (429, 503):
    engine = Engine(busy=2, status=status)
    with serving(engine) as url:
      (rows,) = generations(pipelines.openai(url, "m", ["x"], backoff=0.01), tmp_path / str(status), ("a",))
      assert len(rows) == 5 and set(engine.tries.values()) == {3}
      with pytest.raises(RuntimeError, match=rf"answered {status}: .*slow down.*\(2 tries\)$"):
        engine.tries.clear()
        generations(pipelines.openai(url, "m", ["x"], retries=1, backoff=0.01), tmp_path / f"few{status}", ("a",))
  engine = Engine(busy=9, status=400)
  with serving(engine) as url, pytest.raises(RuntimeError, match="answered 400"):
    generations(pipelines.openai(url, "m", ["x"]), tmp_path / "400", ("a",))
  assert set(engine.tries.values()) == {1}
  with pytest.raises(RuntimeError, match=r"cannot be reached: .*refused.*\(2 tries\)"):
    generations(pipelines.openai(url, "m", ["x"], retries=1, backoff=0.01), tmp_path / "none", ("a",))


def test_prompts_of_the_data_and_rows_with_prompts(tmp_path):
  with serving(Engine()) as url:
    shown = lambda data, *, seed: [f"{data[0]['text']} {seed} {i} " for i in range(3)]
    pipeline = pipelines.openai(url, "m", shown, keep_prompt=True, batch_size=2, column="story")
    (rows,) = generations(pipeline, tmp_path, ("a",), num=4)
    alone = pipelines.openai(url, "m", shown, keep_prompt=True, column="story")
    (each,) = generations(alone, tmp_path / "alone", ("a",), num=4)
    chat = pipelines.openai(url, "m", ["hi"], chat=True, keep_prompt=True, column="messages")
    ((told,),) = generations(chat, tmp_path / "chat", ("a",), num=1)
  assert [row["story"][:6] for row in rows] == ["a 1 0 ", "a 1 1 ", "a 1 2 ", "a 1 0 "]
  same = [one == two for one, two in zip(rows, each)]
  assert same == [True, False, True, False]  # the first prompt of a request has its own seed
  assert [one["role"] for one in told["messages"]] == ["user", "assistant"]


def test_no_key_is_kept(tmp_path, monkeypatch):
  monkeypatch.setenv("SOME_KEY", "secret")
  pipeline = pipelines.openai("http://localhost/v1", "m", ["x"], key_variable="SOME_KEY")
  assert "secret" not in repr((pipeline, pipeline.identity("sample")))


SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
  def answer(self, what):
    self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(what).encode())
  def do_GET(self): self.answer({})
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    self.answer({"choices": [{"text": f"{open(sys.argv[1]).read()} {body['seed']}"}]})
  def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


def test_a_server_is_started_for_each_generation_and_ended(tmp_path):
  (tmp_path / "serve.py").write_text(SERVER)
  serve = f"echo $$ >> {tmp_path}/pids; exec {sys.executable} {tmp_path}/serve.py {{model}} {{port}}"
  pipeline = pipelines.openai("http://127.0.0.1:{port}/v1", "any", ["x"], fit=weights, serve=serve)
  one, two = generations(pipeline, tmp_path, num=2)
  assert [row["text"][0] for row in one + two] == ["a", "a", "b", "b"]
  assert all(gone(int(pid), 0) for pid in (tmp_path / "pids").read_text().split())
  broken = pipelines.openai(
    "http://127.0.0.1:{port}/v1", "any", ["x"], fit=weights, serve="echo no GPU >&2; exit 2; : {model} {port}"
  )
  with pytest.raises(RuntimeError, match=r"^the command ended with status 2: no GPU$"):
    generations(broken, tmp_path / "broken")
  silent = pipelines.openai(
    "http://127.0.0.1:{port}/v1", "any", ["x"], fit=weights, serve="sleep 60; : {model} {port}", start_timeout=0.2
  )
  with pytest.raises(TimeoutError, match=r"^sleep did not answer at .* in 0\.2 s$"):
    generations(silent, tmp_path / "silent")


def test_vllm_runs_by_itself_from_a_batch_file(tmp_path):
  def made(name, **options):
    path = tmp_path / name
    path.write_text(
      f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{os.path.dirname(__file__)!r}]\n"
      f"import fake_servers\nfake_servers.run_batch(sys.argv[1:], **{options!r})\n"
    )
    path.chmod(0o755)
    return pipelines.vllm_batch(str(path), ["x"], fit=weights, max_tokens=8, arguments=["--dtype", "float32"])

  one, two = generations(made("vllm"), tmp_path / "1")
  assert len({row["text"] for row in one + two}) == 10
  with pytest.raises(RuntimeError, match="stale weights"):
    generations(made("stale", kept=str(tmp_path / "kept")), tmp_path / "2")
  with pytest.raises(RuntimeError, match=r"^request 50 failed: .*too long"):
    generations(made("failing", failing="50"), tmp_path / "3", ("a",))
