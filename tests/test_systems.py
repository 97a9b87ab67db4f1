"""The examples of docs/systems.md run, transforms chain and serve a stranger's task, and bad input is refused."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ENVIRONMENT

import collapse_jax as cj
from collapse_jax import plotting, store, tasks, theory, transforms, workflows
from collapse_jax.systems import page
from collapse_jax.systems.table import SYSTEMS
from collapse_jax.transforms import rewards, verifiers
from experiments import reproduce

PAGE_FILE = Path(__file__).parent.parent / "docs" / "systems.md"
PAGE = PAGE_FILE.read_text(encoding="utf-8")
HEADER, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_every_system_has_an_example():
  for name, system in SYSTEMS.items():
    sections = re.findall(r"^## ", system.text, re.M)
    assert sections and len(re.findall(r"^```python$", system.text, re.M)) == len(sections), name
    assert len(page.summaries(system.text)) == len(sections) and f"python -m experiments.{name}" in system.text, name
  assert len(EXAMPLES) >= 15 and all(len(example.splitlines()) <= 10 for example in EXAMPLES)


def test_page_is_generated():
  """`make docs` writes it."""
  assert page.page(SYSTEMS) == PAGE
  numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", PAGE, re.M)]
  assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 13
  for image in re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE):
    assert (PAGE_FILE.parent / image).is_file(), image


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number):
  found: dict = {}
  exec(HEADER, found)
  exec(EXAMPLES[number], found)
  metrics = found["runs"](found["task"], found["workflow"], 3, 4)
  assert all(value.shape[:2] == (4, 3) for value in metrics.values())
  assert metrics["finite"].all(), [name for name, value in metrics.items() if not jnp.isfinite(value).all()]


@pytest.mark.parametrize(
  "make, axis",
  [
    (lambda x: transforms.edit_tokens(tasks.ngram(10, 6, length=8), x, 3), [0.2, 0.5, 0.9]),
    (lambda x: transforms.curate(tasks.gaussian(1, 10), 2, lambda rows: rows[:, 0], flip_share=x), [0.0, 0.3, 0.5]),
    (lambda x: transforms.verify(tasks.classification(3, 20), verifiers.noisy(0.9, x)), [0.1, 0.2, 0.3]),
    (lambda x: tasks.discrete(5, 20, temperature=x, draws="rows"), [0.5, 1.0, 2.0]),
    (lambda x: tasks.gaussian_mixture("ring", 20, 2, temperature=x, num_steps=3), [0.5, 1.0, 2.0]),
    (lambda x: transforms.edit_labels(tasks.linear_regression(2, 20), x, base="chain"), [0.1, 0.3, 0.5]),
    (lambda x: transforms.select_nearest(tasks.unrealistic(20, x, 3.0), 0.5, lambda rows: rows["x"]), [0.3, 0.5, 0.7]),
    (
      lambda x: transforms.select_nearest(tasks.unrealistic(20, 0.5, 3.0), x, lambda rows: rows["x"], oversample=False),
      [0.3, 0.5, 0.7],
    ),
  ],
)
def test_values_share_a_program(make, axis):
  results = cj.sweep(make, ["replace"], {"x": axis}, num_generations=2, num_seeds=3)
  assert int(results.attrs["num_compilations"]) == 1
  first = next(
    name for name in results.data_vars if {"seed", "x"} <= set(results[name].dims) and results[name].dtype.kind == "f"
  )
  alone = cj.sweep(make(axis[-1]), ["replace"], {}, num_generations=2, num_seeds=3)  # a constant in the program
  np.testing.assert_allclose(
    alone[first].values.ravel(), results[first].sel(x=axis[-1]).values.ravel(), rtol=2e-4, atol=1e-6
  )


def test_weights_share_a_program():
  """The weight of real rows, and under the exact law their share, are traced in the workflow."""
  make = {"mix": lambda real_fraction, real_weight: workflows.mix(real_fraction, fresh=True, real_weight=real_weight)}
  axes = {"num_samples": [20], "real_fraction": [0.2, 0.5], "real_weight": [0.3, 0.6]}
  results = cj.sweep(lambda num_samples: tasks.gaussian(1, num_samples), make, axes, num_generations=3, num_seeds=3)
  assert int(results.attrs["num_compilations"]) == 1
  alone = cj.sweep(
    tasks.gaussian(1, 20), {"mix": workflows.mix(0.5, fresh=True, real_weight=0.6)}, {}, num_generations=3, num_seeds=3
  )
  np.testing.assert_allclose(
    results.squared_error_of_mean.values[0, 0, 1, 1], alone.squared_error_of_mean.values[0], rtol=1e-3
  )


NGRAM = lambda: tasks.ngram(10, 6, length=8)
RUN = lambda task, workflow=None: jax.jit(lambda key: cj.run(key, task, workflow or workflows.replace(), 2))(
  jax.random.key(0)
)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: tasks.discrete(5, 10, temperature=-1.0), "temperature"),
    (lambda: tasks.ngram(10, 6, temperature=0.0), "temperature"),
    (lambda: tasks.ngram(10, 6, order=0), "order"),
    (lambda: tasks.ngram(10, truth=[[0.5, 0.6], [0.5, 0.5]]), "truth"),
    (
      lambda: transforms.curate(tasks.gaussian(1, 10), 1, lambda rows: rows[:, 0]),
      "num_candidates must be an integer of at least 2",
    ),
    (
      lambda: transforms.curate(tasks.gaussian(1, 10), 2, lambda rows: rows[:, 0], flip_share=1.5),
      "flip_share must be from 0 to 1",
    ),
    (
      lambda: RUN(transforms.curate(tasks.gaussian(1, 10), 2, lambda rows: rows)),
      "reward must return one number per row",
    ),
    (lambda: transforms.select_nearest(tasks.gaussian(1, 10), 0.0), "keep_fraction must be a number above 0"),
    (
      lambda: transforms.select_nearest(tasks.gaussian(1, 10), 1.1),
      "keep_fraction must be a number above 0 and at most 1",
    ),
    (
      lambda: RUN(transforms.select_nearest(tasks.gaussian(1, 10), 0.5, num_neighbors=11)),
      "num_neighbors must be at most",
    ),
    (
      lambda: RUN(transforms.select_nearest(tasks.gaussian(1, 10), 0.5, lambda rows: rows[0])),
      "embed must return features",
    ),
    (
      lambda: RUN(transforms.verify(tasks.classification(2, 10), lambda key, problem, rows: rows["x"])),
      "keep must return one",
    ),
    (
      lambda: RUN(transforms.verify(tasks.gaussian(1, 10), verifiers.oracle())),
      "needs rows with the parts 'label' and 'truth', got an array",
    ),
    (
      lambda: RUN(transforms.verify(tasks.classification(2, 10), verifiers.linear([1.0]))),
      "direction must have the shape of a row",
    ),
    (
      lambda: RUN(transforms.verify(tasks.gaussian(2, 10), verifiers.within([1.0], 1.0))),
      "centre must have the shape of a row",
    ),
    (
      lambda: RUN(transforms.curate(tasks.gaussian(2, 10), 2, rewards.near([8.0]))),
      "centre must have the shape of a row",
    ),
    (
      lambda: RUN(transforms.train_on_synthetic(tasks.gaussian(1, 10))),
      "train_on_synthetic needs rows with the parts 'x' and 'label'",
    ),
    (lambda: RUN(transforms.edit_labels(tasks.sample_median(10), 0.5)), "edit_labels needs rows"),
    (
      lambda: RUN(transforms.class_shares(tasks.gaussian(2, 10), lambda rows: rows, 3)),
      "log_probability must return 3 scores",
    ),
    (
      lambda: RUN(transforms.select_nearest(tasks.gaussian(1, 10), 1e-9)),
      "num_samples / keep_fraction must be an integer of at most",
    ),
    (lambda: tasks.kde("moons", 10, "scott", temperature=-1.0), "temperature"),
    (lambda: tasks.ngram(10, truth=0.5), "truth"),
    (lambda: tasks.unrealistic(10, 1.5, 3.0), "unrealistic_share must be from 0 to 1"),
    (lambda: theory.edited_regression(0.27, 3, mask="disjoint"), "share must be one over a whole number"),
    (lambda: theory.edited_regression(0.27, 3, base="last"), "no closed form"),
    (lambda: verifiers.noisy(1.2, 0.0), "phi must be from 0 to 1"),
    (lambda: verifiers.within(0.0, -1.0), "radius"),
    (lambda: transforms.edit_tokens(NGRAM(), 1.5, 3), "threshold must be from 0 to 1"),
    (lambda: transforms.edit_tokens(NGRAM(), 0.5, 0), "top_k"),
    (lambda: RUN(transforms.edit_tokens(NGRAM(), 0.5, 7)), "top_k must be at most the 6 tokens"),
    (lambda: transforms.edit_tokens(NGRAM(), 0.5, 3, base="last"), "base must be one of anchor, chain"),
    (lambda: transforms.edit_tokens(NGRAM(), 0.5, 3, mask="some"), "mask must be one of"),
    (lambda: transforms.edit_tokens(tasks.gaussian(1, 10), 0.5, 3), "needs a task with next_token"),
    (lambda: transforms.edit_labels(tasks.linear_regression(2, 10), -0.1), "share must be from 0 to 1"),
    (
      lambda: RUN(transforms.edit_labels(tasks.logistic_regression("breast_cancer", 40), 0.5, noise="additive")),
      "noise of known size",
    ),
    (lambda: transforms.ensemble(tasks.gaussian(1, 10), 1), "num_members"),
    (lambda: transforms.ensemble(tasks.gaussian(1, 10), 2, "jackknife"), "resample_real must be one of"),
    (lambda: RUN(transforms.ensemble(tasks.gaussian(1, 10), 3)), "num_members must divide"),
    (lambda: tasks.classification(2, 10, label_error=2.0), "label_error must be from 0 to 1"),
    (lambda: tasks.classification(2, 10, generator=[1.0]), "generator must be a direction of 2"),
    (lambda: tasks.labelled("moons", 10, "flow"), "generator must be one of"),
    (lambda: tasks.gaussian_mixture("ring", 10, 0), "num_components"),
    (lambda: workflows.mix(0.5, fresh=True, real_weight=1.5), "real_weight"),
    (lambda: workflows.replace(num_emitted=0), "num_emitted"),
  ],
)
def test_bad_input(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_non_finite_reward_is_recorded():
  task = transforms.curate(tasks.gaussian(1, 50), 2, lambda rows: jnp.where(rows[:, 0] > 1, jnp.nan, rows[:, 0]))
  results = cj.sweep(task, ["replace"], {}, num_generations=3, num_seeds=4)
  assert not results.finite.values.any()


def test_all_rows_rejected_is_recorded():
  task = transforms.verify(tasks.gaussian(1, 20), lambda key, problem, rows: jnp.zeros(len(rows)))
  out = RUN(task)
  assert float(out["kept_share"][0]) == 0 and not bool(out["finite"][1])


@pytest.mark.parametrize("inputs", ["mixture", "gaussian"])
def test_a_model_of_no_rows_is_none(inputs):
  """It has no accuracy, also not a perfect one."""
  out = RUN(transforms.verify(tasks.classification(2, 10, inputs=inputs), lambda key, problem, rows: jnp.zeros(10)))
  assert bool(out["finite"][0]) and not bool(out["finite"][1]) and jnp.isnan(out["accuracy"][1])


def test_weights_outside_of_0_and_1_are_recorded():
  out = RUN(transforms.verify(tasks.gaussian(1, 20), lambda key, problem, rows: jnp.full(20, -1.0)))
  assert not out["finite"].any()


def test_real_rows_alone():
  """mix(1.0) trains on no sample; what a transform says of samples is said all the same."""
  for task in (
    transforms.curate(tasks.gaussian(1, 10), 2, lambda rows: rows[:, 0]),
    transforms.select_nearest(tasks.gaussian(1, 10), 0.5),
    transforms.verify(tasks.gaussian(1, 10), lambda key, problem, rows: rows[:, 0] > 0),
  ):
    out = RUN(task, workflows.mix(1.0))
    assert out["finite"].all() and (out["train_size"] == 10).all() and (out["real_share"] == 1).all()


@pytest.mark.parametrize("workflow", ["accumulate", "replace"])
def test_edits_chain_from_the_latest_batch(workflow):
  """All labels get fresh noise: of the last batch, so that it adds up, or, anchored, of the real one."""
  n, variance = 4000, {}
  for base in ("chain", "anchor"):
    task = transforms.edit_labels(tasks.linear_regression(2, n), 1.0, base=base, noise="additive")
    make = workflows.parse(workflow)()

    def labels(key, task=task, make=make):
      run = cj.start(key, task, make, 4)
      return cj.advance(task, make, run, range(1, 5), num_generations=4)[0].store.rows["label"], run.real.rows["label"]

    after, real = jax.jit(labels)(jax.random.key(0))
    variance[base] = np.asarray(jnp.var(after[-1] - real[0]))
  error = np.sqrt(2 / n)
  assert abs(variance["chain"] / 4 - 1) < 5 * error and abs(variance["anchor"] - 1) < 5 * error


def test_a_strangers_task():
  """Rows of two parts, one of them an integer, and a model that is a pair: every transform that needs only rows serves it."""

  def draw(key, rate, num):
    a, b = jax.random.split(key)
    return store.batch({"count": jax.random.poisson(a, rate, (num,)), "wait": jax.random.exponential(b, (num,)) / rate})

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows["count"]) / jnp.maximum(jnp.sum(weight), 1e-30)

  task = cj.TaskSetting(
    lambda key: (None, draw(key, 3.0, 40)),
    fit,
    lambda key, problem, rate, context: (draw(key, rate, context.num), {}),
    lambda key, problem, rate: {"rate": rate},
    40,
  )
  reward = lambda rows: -rows["wait"]
  for made in (
    transforms.curate(task, 2, reward),
    transforms.verify(transforms.curate(task, 2, reward), lambda key, problem, rows: rows["count"] < 6),
    transforms.select_nearest(task, 0.5, lambda rows: rows["wait"][:, None]),
    transforms.ensemble(task, 4, "bootstrap"),
    transforms.curate(
      transforms.ensemble(transforms.select_nearest(task, 0.8, lambda rows: rows["wait"][:, None]), 2), 2, reward
    ),
  ):
    out = RUN(made, workflows.accumulate_subsample())
    assert out["finite"].all() and out["rate"].min() > 0


@pytest.mark.slow
def test_every_system_from_the_command_line(tmp_path):
  """Smoke scale: every binary's sweep, and its figures."""
  done = subprocess.run(
    [sys.executable, "-m", "experiments.reproduce", "--scale=smoke", "--only=related/*", "--output_dir=made"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
    env=ENVIRONMENT,
  )
  assert done.returncode == 0, done.stderr
  names = reproduce.related("smoke")
  assert len(names) == 18
  for name in names:
    results = cj.load(tmp_path / "made" / name / "results.nc")
    assert results.finite.all(), name
    drawn = plotting.figures_for(results)
    files = {figure.stem for figure in (tmp_path / "made" / name / "figures").glob("*.png")}
    assert files == set(drawn), name
    for title, figure in drawn.items():
      panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
      assert all(axis.lines or axis.collections or axis.images for axis in panels), (name, title)
      assert all(axis.get_xlabel() for axis in figure.axes if axis in panels[-1:]), (name, title)
