"""Conformers: internal coordinates there and back, von Mises laws, scores on a torus, metrics, RDKit where it is installed."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needed, z_score
from scipy import special, stats

import collapse_jax as cj
from collapse_jax import metrics
from collapse_jax.data import molecules as data
from collapse_jax.refused import Refused
from collapse_jax.tasks import _molecules as module


def branched():
  """Isopentane with two torsions about one bond, positions drawn."""
  references = np.array([[-1, -1, -1], [0, -1, -1], [1, 0, -1], [2, 1, 0], [2, 1, 0], [3, 2, 1]])
  base = np.array([-1, 0, -1])
  positions = np.random.default_rng(0).normal(size=(7, 6, 3))
  rows = data.internal(positions, references, base)
  return positions, data.Molecule("branched", references, base, (0, 2), rows)


def test_there_and_back():
  positions, molecule = branched()
  placed = data.cartesian(molecule, jnp.asarray(molecule.rows, float))
  together = jax.vmap(lambda x, y: metrics.aligned_rmsd(x[None], y[None])[0, 0])(jnp.asarray(positions, float), placed)
  assert float(together.max()) < 2e-3  # the same up to a rotation, and no mirror image
  back = data.internal(np.asarray(placed), molecule.references, molecule.base)
  np.testing.assert_allclose(np.exp(1j * back[:, 9:]), np.exp(1j * molecule.rows[:, 9:]), atol=2e-3)
  mirrored = metrics.aligned_rmsd(jnp.asarray(positions * [1, 1, -1], float), placed)
  assert float(jnp.diag(mirrored).min()) > 0.1


def test_alignment():
  """Against singular value decompositions; coverage and matching of known distances."""
  random = np.random.default_rng(1)
  x, y = random.normal(size=(3, 5, 3)), random.normal(size=(4, 5, 3))
  found = np.asarray(metrics.aligned_rmsd(jnp.asarray(x, float), jnp.asarray(y, float)))
  for i in range(3):
    for j in range(4):
      a, b = x[i] - x[i].mean(axis=0), y[j] - y[j].mean(axis=0)
      u, s, v = np.linalg.svd(a.T @ b)
      s[-1] *= np.sign(np.linalg.det(u @ v))
      assert found[i, j] == pytest.approx(np.sqrt((np.sum(a**2) + np.sum(b**2) - 2 * s.sum()) / 5), rel=1e-4)
  distances = jnp.array([[0.1, 0.9, 0.0], [0.8, 0.6, 0.0]])
  told = metrics.coverage_matching(distances, 0.5, jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(told, (0.5, 0.35, 0.5, 0.35), rtol=1e-6)


def test_von_mises():
  """One component is the maximum-likelihood fit; draws have the law, from flat to narrow; two far modes are found."""
  angles = stats.vonmises.rvs(1.7, loc=2.0, size=500, random_state=0)
  weight = jnp.asarray(np.arange(500) < 400, float)
  fitted = module.fit_von_mises(jax.random.key(0), jnp.asarray(angles, float)[:, None], weight, 1, 3)
  kappa, mean, _ = stats.vonmises.fit(angles[:400], fscale=1)
  np.testing.assert_allclose([fitted.mean[0, 0], fitted.concentration[0, 0]], [mean, kappa], rtol=2e-3)
  law = module.VonMises(
    jnp.log(jnp.array([0.25, 0.75])), jnp.array([[0.0] * 3, [3.0] * 3]), jnp.array([[0.2, 4.0, 800.0]] * 2)
  )
  drawn = np.asarray(jax.jit(lambda key: module.draw_von_mises(key, law, 40_000))(jax.random.key(1)), np.float64)
  for k, kappa in enumerate((0.2, 4.0, 800.0)):
    resultant = stats.vonmises(kappa).expect(np.cos) if kappa < 100 else 1 - 1 / (2 * kappa) - 1 / (8 * kappa**2)
    expected = resultant * (0.25 + 0.75 * np.cos(3.0))
    assert abs(z_score(np.cos(drawn[:, k]), expected)) < 5
    assert kappa < 1 or abs(z_score(np.cos(drawn[:, k]), resultant * (0.3 + 0.7 * np.cos(3.0)))) > 5
  two = module.fit_von_mises(jax.random.key(2), jnp.asarray(drawn[:2000, 2:], float), jnp.ones(2000), 2, 20)
  np.testing.assert_allclose(np.sort(np.exp(two.log_share)), [0.25, 0.75], atol=0.05)
  for kappa in (0.01, 1.0, 50.0, 3000.0):
    resultant = special.i1e(kappa) / special.i0e(kappa)
    assert float(module.concentration_of(jnp.asarray(resultant))) == pytest.approx(kappa, rel=0.02)


def test_score_on_a_torus():
  """That of wrapped noise is the slope of its log density; samples of the exact score are the data's, smoothed."""
  away, std = jnp.linspace(-3.0, 3.0, 7), jnp.asarray(1.3)
  density = lambda x: jnp.log(sum(jnp.exp(-0.5 * ((x + 2 * np.pi * k) / std) ** 2) for k in range(-6, 7)))
  np.testing.assert_allclose(
    module.wrapped_score(away, jnp.full(7, std)), jax.vmap(jax.grad(density))(away), rtol=1e-4, atol=1e-5
  )


def test_diffusion_finds_rotamers():
  molecule = data.alkane(4, 200)
  task = cj.tasks.molecules(molecule, 150, "diffusion", budget="steps", amount=600, hidden=32, num_steps=30)
  found = jax.jit(lambda key: cj.run(key, task, cj.workflows.replace(), 1))(jax.random.key(0))
  untrained = cj.tasks.molecules(molecule, 150, "diffusion", budget="steps", amount=1, hidden=32, num_steps=30)
  start = jax.jit(lambda key: cj.run(key, untrained, cj.workflows.replace(), 1))(jax.random.key(0))
  assert float(found["torsion_divergence"][0]) < 0.7 * float(start["torsion_divergence"][0])
  assert float(found["excess_strain"][0]) < float(start["excess_strain"][0]) - 0.5


def test_chain_has_its_law():
  """Torsions after Boltzmann, and their energy."""
  chain = data.alkane(5, 4000)
  torsions = chain.rows[:, -2:]
  grid = (np.arange(4000) + 0.5) / 4000 * 2 * np.pi - np.pi
  energy = 0.761 * (1 + np.cos(grid)) - 0.1575 * (1 - np.cos(2 * grid)) + 1.6035 * (1 + np.cos(3 * grid))
  weight = np.exp(-(energy - energy.min()) / (0.0019872 * 298))
  weight /= weight.sum()
  trans = np.sum(weight * (np.abs(grid) > 2))
  assert (
    abs(z_score((np.abs(torsions) > 2).ravel(), trans)) < 5 < abs(z_score((np.abs(torsions) > 2).ravel(), trans + 0.05))
  )
  told = np.asarray(data.strain(chain, jnp.asarray(chain.rows, float)), np.float64)
  assert abs(z_score(told, 2 * np.sum(weight * (energy - energy.min())))) < 5


@pytest.mark.parametrize(("name", "rotatable", "shape"), [("butane", 1, 6), ("alanine_dipeptide", 4, 24)])
def test_conformers_of_rdkit(name, rotatable, shape):
  needed("rdkit")
  found = data.conformers(name, 20)
  assert found.rows.shape == (20, shape) and len(found.rotatable) == rotatable
  assert len(np.unique(found.rows[:, 0])) == 20
  np.testing.assert_allclose(found.rows[:, 0], 1.52, atol=0.12)
  placed = data.cartesian(found, jnp.asarray(found.rows, float))
  back = data.internal(np.asarray(placed), found.references, found.base)
  np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * found.rows), atol=5e-3)
  if name == "butane":  # gauche lies above trans, and cis above both
    cis, gauche, trans = (
      float(data.strain(found, jnp.zeros((1, 6)).at[0, 5].set(angle))[0]) for angle in (0.0, np.radians(65), np.pi)
    )
    assert trans == pytest.approx(0, abs=0.1) and 0.5 < gauche < 1.2 and 4 < cis < 7
  with pytest.raises(Refused, match="molecule must be one of butane"):
    data.conformers("no molecule")


def test_rdkit_absent(monkeypatch):
  plain = builtins.__import__

  def absent(name, *rest):
    if name.split(".")[0] == "rdkit":
      raise ImportError("No module named 'rdkit'")
    return plain(name, *rest)

  monkeypatch.setattr(builtins, "__import__", absent)
  with pytest.raises(Refused, match=r"^conformers need rdkit: pip install 'collapse-jax\[molecules\]'\.$"):
    data.conformers("CCCCC", 7)


def test_a_chain_is_one_in_a_factory():
  """A sweep calls the factory while JAX traces; the conformers are those of a call outside."""
  outside = data.alkane(4, 20, seed=3).rows
  inside = []

  def task(num_samples):
    found = data.alkane(4, 20, seed=3)
    inside.append(found.rows)
    return cj.tasks.molecules(found, num_samples, num_components=2, num_em_steps=2)

  results = cj.sweep(task, ["replace"], {"num_samples": [6]}, num_generations=2, num_seeds=2)
  assert bool(results.finite.all())
  for rows in inside:
    np.testing.assert_array_equal(rows, outside)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: cj.tasks.molecules("butane", 5), "molecule must be a data.molecules.Molecule"),
    (lambda: cj.tasks.molecules(data.alkane(4, 10), 11), "num_samples must be"),
    (lambda: cj.tasks.molecules(data.alkane(4, 10), 5, "gan"), "model must be one of"),
    (lambda: cj.tasks.molecules(data.alkane(4, 10), 5, num_steps=0), "num_steps must be"),
    (lambda: cj.tasks.molecules(data.alkane(4, 10)._replace(rotatable=()), 5), "a bond that turns"),
    (lambda: data.alkane(3), "num_carbons must be"),
    (lambda: data.strain(data.alkane(4, 5)._replace(energy=None), jnp.zeros((1, 6))), "energy of"),
  ],
)
def test_refused(make, message):
  with pytest.raises(Refused, match=message) as error:
    make()
  assert "\n" not in str(error.value)
