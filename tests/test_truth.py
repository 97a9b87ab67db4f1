"""--resume tells the truth: what a file is it says itself, what differs is refused by name, what is lost is computed again."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_steps, compile_quickly, resampled, small

import collapse_jax as cj
from collapse_jax import store, tasks
from collapse_jax.sweeps import devices, fingerprint

CELL = "cell_0-0,seeds_0-3.chunk", "cell_0-0,seeds_4-7.chunk", "cell_0-1,seeds_0-3.chunk"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  compile_quickly(True)  # as tests are
  folder = tmp_path_factory.mktemp("finished")
  return folder, small(directory=folder)


@pytest.fixture
def copy(finished, tmp_path):
  """(a directory with all chunks of a sweep, its results)."""
  shutil.copytree(finished[0], tmp_path / "out")
  return tmp_path / "out", finished[1]


def forged(file, change):
  """Changes the description and content of a chunk, and gives it a checksum that is right."""
  content = file.read_bytes()[32:]
  length = int.from_bytes(content[:8], "little")
  text, rest = change(json.loads(content[8 : 8 + length]), content[8 + length :])
  text = text if isinstance(text, bytes) else json.dumps(text).encode()
  content = len(text).to_bytes(8, "little") + text + rest
  file.write_bytes(hashlib.sha256(content).digest() + content)


@pytest.mark.parametrize("at", [1, 2])
def test_a_chunk_in_the_place_of_another(copy, calls, caplog, at):
  """Of other seeds, or of another cell: computed again, with one warning. The twin, a copy over itself, counts."""
  out, whole = copy
  folder = out / "process_0"
  calls.clear()
  shutil.copy(folder / CELL[0], folder / "copy")
  shutil.move(folder / "copy", folder / CELL[0])
  again = small(directory=out, resume=True)
  assert not calls and not caplog.text
  shutil.copy(folder / CELL[0], folder / CELL[at])
  again = small(directory=out, resume=True)
  np.testing.assert_array_equal(again.error, whole.error)
  assert len(calls) == 1 and caplog.text.count("is damaged (it belongs elsewhere) and is computed again") == 1


def test_a_chunk_of_another_sweep(copy, calls, tmp_path):
  out, whole = copy
  small(directory=tmp_path / "other", seed=1)
  shutil.copy(tmp_path / "other" / "process_0" / CELL[1], out / "process_0" / CELL[1])
  calls.clear()
  np.testing.assert_array_equal(small(directory=out, resume=True).error, whole.error)
  assert calls == [(4, 4)]


CRAFTED = {
  "no description": lambda about, rest: (b"", rest),
  "a list": lambda about, rest: ([1, 2], rest),
  "deep": lambda about, rest: (b"[" * 100_000, rest),
  "no metrics": lambda about, rest: (about | {"arrays": []}, rest),
  "other names": lambda about, rest: (about | {"arrays": [["x", *one[1:]] for one in about["arrays"]]}, rest),
  "objects": lambda about, rest: (about | {"arrays": [[one[0], "object", one[2]] for one in about["arrays"]]}, rest),
  "text": lambda about, rest: (about | {"arrays": [[one[0], "<U1", one[2]] for one in about["arrays"]]}, rest),
  "no such type": lambda about, rest: (
    about | {"arrays": [[one[0], "float33", one[2]] for one in about["arrays"]]},
    rest,
  ),
  "other type": lambda about, rest: (about | {"arrays": [[one[0], "int8", one[2]] for one in about["arrays"]]}, rest),
  "huge": lambda about, rest: (about | {"arrays": [[one[0], one[1], [2**40, 2**40]] for one in about["arrays"]]}, rest),
  "negative": lambda about, rest: (about | {"arrays": [[one[0], one[1], [-1]] for one in about["arrays"]]}, rest),
  "fewer generations": lambda about, rest: (
    about | {"arrays": [[one[0], one[1], [4, 2]] for one in about["arrays"]]},
    rest,
  ),
  "a scalar": lambda about, rest: (about | {"arrays": [[one[0], one[1], []] for one in about["arrays"]]}, rest),
  "shorter": lambda about, rest: (about, rest[:-8]),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_chunks(copy, calls, caplog, kind):
  """Whatever is written under a checksum that is right: one warning, and it is computed again."""
  out, whole = copy
  forged(out / "process_0" / CELL[1], CRAFTED[kind])
  calls.clear()
  np.testing.assert_array_equal(small(directory=out, resume=True).error, whole.error)
  assert calls == [(4, 4)] and caplog.text.count("is damaged") == 1


def test_names_that_are_no_chunks_of_this_sweep(copy, calls, caplog):
  """What is called otherwise is left alone; a cell, or seeds, that there are not do not count."""
  out, whole = copy
  folder = out / "process_0"
  (folder / "mine.chunk").write_text("notes")
  for name in ("cell_0-9,seeds_0-3.chunk", "cell_0-0-0,seeds_0-3.chunk", "cell_0-0,seeds_90-93.chunk"):
    shutil.copy(folder / CELL[0], folder / name)
  forged(folder / "cell_0-9,seeds_0-3.chunk", lambda about, rest: (about | {"cell": [0, 9]}, rest))
  calls.clear()
  np.testing.assert_array_equal(small(directory=out, resume=True).error, whole.error)
  assert not calls and caplog.text.count("is damaged") == 3 and (folder / "mine.chunk").read_text() == "notes"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_the_manifest_is_lost(copy, calls, content):
  """Chunks say themselves of which sweep they are: nothing is computed again, and another sweep is refused by name."""
  out, whole = copy
  named = out / "process_0" / "sweep.json"
  before = named.read_bytes()
  named.unlink() if content is None else named.write_bytes(content)
  with pytest.raises(ValueError, match="with seed=0, not 3"):
    small(directory=out, resume=True, seed=3)
  assert len(list(out.rglob("*.chunk"))) == 6
  calls.clear()
  np.testing.assert_array_equal(small(directory=out, resume=True).error, whole.error)
  assert not calls and named.read_bytes() == before


def test_chunks_of_an_older_format(copy):
  """Refused by name, and left alone."""
  out, _ = copy
  named = out / "process_0" / "sweep.json"
  about = json.loads(named.read_text())
  del about["chunk_format"]
  named.write_text(json.dumps(about))
  with pytest.raises(ValueError, match="with chunk_format=None, not 2"):
    small(directory=out, resume=True)
  assert len(list(out.rglob("*.chunk"))) == 6


def test_a_fresh_start_says_what_it_deletes(copy, caplog, calls):
  """Also manifests of processes that there are no more, which would have refused a later resume."""
  out, _ = copy
  shutil.copytree(out / "process_0", out / "process_1")
  assert not caplog.text
  small(directory=out, seed=1, shifts=(1.0,))
  assert "12 chunks of an earlier sweep in" in caplog.text
  calls.clear()
  small(directory=out, seed=1, shifts=(1.0,), resume=True)
  assert not calls


SETTINGS = [
  ("jax_threefry_partitionable", False, "jax_threefry_partitionable=1, not 0"),
  ("jax_default_matmul_precision", "highest", "jax_default_matmul_precision=default, not highest"),
  ("jax_random_seed_offset", 7, "jax_random_seed_offset=0, not 7"),
]


@pytest.fixture
def setting():
  """Changes one of JAX's, for all threads."""
  before = {}

  def change(name, value):
    before.setdefault(name, getattr(jax.config, name))
    jax.config.update(name, value)

  yield change
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.mark.parametrize(("name", "value", "said"), SETTINGS)
def test_other_settings_are_refused_by_name(copy, setting, tmp_path, name, value, said):
  """Those of JAX that fix numbers, of sweeps of both kinds; and results record them."""
  out, whole = copy
  options = {"num_generations": 1, "num_seeds": 1, "directory": tmp_path / "language"}
  first = by_steps(tasks.sample_median, ["replace"], {"num_samples": [5]}, **options)
  for one in (whole, first):
    assert one.attrs["prng"] == "threefry2x32" and one.attrs[name] == fingerprint.settings()[name]
  setting(name, value)
  with pytest.raises(ValueError, match=f"with {said}"):
    small(directory=out, resume=True)
  with pytest.raises(ValueError, match=f"with {said}"):
    by_steps(tasks.sample_median, ["replace"], {"num_samples": [5]}, resume=True, **options)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_keys_are_threefry_whatever_the_default(setting, kind):
  """Draws of other kinds change under vmap, and so with the chunk; a key of such a kind is refused."""
  expected = small(chunk_size=12)
  hosted = by_steps(tasks.sample_median, ["replace"], {"num_samples": [5]}, num_generations=2, num_seeds=3)
  task, workflow = resampled(), cj.workflows.replace()
  one = cj.run(jax.random.key(3), task, workflow, 2)
  setting("jax_default_prng_impl", kind)
  for size in (1, 5):
    np.testing.assert_allclose(small(chunk_size=size).error, expected.error, rtol=1e-5)
  found = by_steps(tasks.sample_median, ["replace"], {"num_samples": [5]}, num_generations=2, num_seeds=3, chunk_size=1)
  np.testing.assert_allclose(found.fitted_mean, hosted.fitted_mean, rtol=1e-5)
  for key in (jax.random.key(3), jax.random.PRNGKey(3)):
    with pytest.raises(ValueError, match="key must be a threefry key"):
      cj.run(key, task, workflow, 2)
  for key in (jax.random.key(3, impl="threefry2x32"), jax.random.PRNGKey(3, impl="threefry2x32")):
    np.testing.assert_array_equal(cj.run(key, task, workflow, 2)["error"], one["error"])


def trained(scale=2.0, num=6):
  """A task for the host loop, with a number in its code."""
  draw = lambda key, mean: store.batch(mean + scale * jax.random.normal(key, (num,)))
  return lambda shared, num_samples: cj.TaskSetting(
    init=lambda key: (jnp.zeros(()), store.batch(shared["base"] + jax.random.normal(key, (num,)))),
    fit=lambda key, problem, context: (
      jnp.sum(jnp.multiply(*store.flat(context.data))) / jnp.sum(store.flat(context.data)[1])
    ),
    sample=lambda key, problem, mean, context: (draw(key, mean), {}),
    evaluate=lambda key, problem, mean: {"error": (mean - problem) ** 2},
    num_samples=num,
  )


def language(folder, task=None, base=1.0, computed=None, **options):
  """A sweep of the host loop, that stops after generation 3 of the second of three cells where `computed` is None."""
  seen = []

  def on_metrics(cell, t, seeds, metrics):
    seen.append(t)
    if computed is None and len(seen) == 7:
      raise KeyboardInterrupt

  on_batch = None if computed is None else lambda cell, t, seeds, batch: computed.append((cell["workflow"], t))
  return by_steps(
    task or trained(),
    ["replace", "accumulate", "mix(0.5)"],
    {"num_samples": [6]},
    **{
      "num_generations": 4,
      "num_seeds": 2,
      "shared": {"base": jnp.full(6, base)},
      "directory": folder,
      "on_metrics": on_metrics,
      "on_batch": on_batch,
      "resume": True,
    }
    | options,
  )


LEFT = [("accumulate", 4), *(("mix(0.5)", t) for t in (1, 2, 3, 4))]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
  compile_quickly(True)
  folder = tmp_path_factory.mktemp("half")
  with pytest.raises(KeyboardInterrupt):
    language(folder)
  return folder, language(folder / "whole", computed=[])


@pytest.fixture
def begun(half, tmp_path):
  """(a directory with a sweep of the host loop that was interrupted, results of one that was not)."""
  shutil.copytree(half[0], tmp_path / "out", ignore=shutil.ignore_patterns("whole"))
  return tmp_path / "out", half[1]


def goes_on(begun, left, **options):
  computed = []
  results = language(begun[0], computed=computed, **options)
  assert computed == left
  np.testing.assert_array_equal(results.error, begun[1].error)


def test_the_same_language_model_goes_on(begun):
  """Made anew, of equal code and data."""
  goes_on(begun, LEFT, task=trained(2.0))


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"task": trained(2.1)}, "made by another task or workflow, or from other data"),
    ({"base": 1.0001}, "with shared="),
  ],
)
def test_other_code_and_other_weights_are_refused(begun, change, said):
  """A number in the code of a task, and one in what all runs share."""
  with pytest.raises(ValueError, match=said):
    language(begun[0], computed=[], **change)
  goes_on(begun, LEFT)


def test_other_code_over_other_devices_cannot_be_told(begun, monkeypatch, caplog):
  """Programs that are split otherwise differ: it goes on, and says what it could not check."""
  monkeypatch.setattr(devices, "size", lambda mesh: 2)
  computed = []
  language(begun[0], task=trained(2.1), computed=computed)
  assert computed == LEFT and "whether code is the same cannot be told" in caplog.text


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_run_json_is_lost(begun, content):
  """Checkpoints say themselves of which sweep they are."""
  for named in begun[0].glob("*/run.json"):
    named.unlink() if content is None else named.write_bytes(content)
  with pytest.raises(ValueError, match="with seed=0, not 1"):
    language(begun[0], computed=[], seed=1)
  goes_on(begun, LEFT)
  assert all(json.loads(named.read_bytes())["seed"] == 0 for named in begun[0].glob("*/run.json"))


def test_checkpoints_that_are_none(begun, caplog):
  """A renamed one, that of another cell, and a copy of an older one do not count; other people's files are left alone."""
  first, second = (begun[0] / f"workflow={name},num_samples=6,seeds=0-1" for name in ("replace", "accumulate"))
  for name in ("x.npz", "0.npz", "-1.npz", "notes.txt"):
    (second / name).write_text("mine")
  shutil.copy(first / "4.npz", second / "4.npz")
  shutil.copy(second / "2.npz", second / "9.npz")
  goes_on(begun, LEFT)
  assert caplog.text.count("is damaged (it belongs elsewhere)") == 2
  with pytest.raises(KeyboardInterrupt):
    language(begun[0], resume=False)
  assert "checkpoints of an earlier sweep in" in caplog.text
  assert {file.name for file in second.iterdir()} == {
    "x.npz",
    "0.npz",
    "-1.npz",
    "notes.txt",
    "2.npz",
    "3.npz",
    "run.json",
  }


def test_checkpoints_of_an_older_format(begun):
  for named in begun[0].glob("*/run.json"):
    about = json.loads(named.read_bytes())
    del about["checkpoint_format"]
    named.write_text(json.dumps(about))
  with pytest.raises(ValueError, match="with checkpoint_format=None, not 2"):
    language(begun[0], computed=[])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_lost():
  """Python drops what is raised in a callback of its garbage collector, and JAX has one: the sweep ends all the same."""
  import gc
  import signal

  def callback(phase, info):
    signal.raise_signal(signal.SIGINT)

  def collect(cell, metrics):
    gc.callbacks.append(callback)
    try:
      gc.collect()
    finally:
      gc.callbacks.remove(callback)

  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  with pytest.raises(KeyboardInterrupt):
    small(on_cell=collect)
  with pytest.raises(KeyboardInterrupt):
    by_steps(
      tasks.sample_median,
      ["replace"],
      {"num_samples": [5]},
      num_generations=3,
      num_seeds=1,
      on_metrics=lambda cell, t, seeds, metrics: collect(cell, metrics),
    )
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
