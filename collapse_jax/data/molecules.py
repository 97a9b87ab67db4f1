"""Conformers of small molecules in internal coordinates: lengths, angles and torsions of their heavy atoms.

RDKit embeds them (extra `molecules`); what comes after, JAX and NumPy alone do.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import new_key, normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["MOLECULES", "Molecule", "alkane", "cartesian", "conformers", "internal", "strain", "wrapped"]

MOLECULES = {
  "butane": "CCCC",
  "alanine_dipeptide": "CC(=O)N[C@@H](C)C(=O)NC",
  "ibuprofen": "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
}
_ORDER = 6  # of the Fourier series of a torsion's energy
_GAS = 0.0019872  # kcal/mol/K
_SCAN = 24  # angles at which it is taken


class Molecule(NamedTuple):
  """A molecule of A heavy atoms, each placed by three that were placed before it, and its conformers.

  Attributes:
    name: what results call it.
    references: [A, 3] int: the atom that it is bonded to, that of its angle, that of its torsion; -1 for what the first lack.
    base: [A - 3] int: the torsion that a torsion is told relative to, since both turn about one bond; -1: none.
    rotatable: numbers of torsions about bonds that turn.
    rows: [conformers, 3A - 6]: A - 1 lengths (angstrom), A - 2 angles (radian), A - 3 torsions (radian, in -pi..pi).
    energy: [rotatable, 1 + 2 * 6] Fourier coefficients of the strain energy (kcal/mol) of each; None: unknown.
  """

  name: str
  references: np.ndarray
  base: np.ndarray
  rotatable: tuple[int, ...]
  rows: np.ndarray
  energy: Any = None

  @property
  def num_atoms(self) -> int:
    return len(self.references)


def alkane(num_carbons: int = 4, num: int = 1000, seed: int = 0, *, temperature: float = 298.0) -> Molecule:
  """A chain of carbons whose law is known, without RDKit: normal lengths and angles, torsions after Boltzmann, independent.

  Lengths 1.53 (0.03) angstrom, angles 112.5 (2.5) degrees; the energy of a torsion is that of butane in OPLS (Jorgensen 1984).

  Args:
    num_carbons: from 4.
    num: conformers, at least 2.
    seed: of their draw.
    temperature: kelvin, above 0.
  """
  if num_carbons < 4:
    raise Refused.must_be("num_carbons", "at least 4", num_carbons)
  if num < 2:
    raise Refused.must_be("num", "at least 2", num)
  if not 0 < temperature < np.inf:
    raise Refused.must_be("temperature", "above 0 and finite", temperature)
  with jax.ensure_compile_time_eval():  # factories are called where JAX traces
    normal_key, uniform_key = jax.random.split(new_key(seed))
    stiff = np.asarray(normal(normal_key, (num, 2 * num_carbons - 3)), np.float64)
    chance = np.asarray(uniform(uniform_key, num * (num_carbons - 3)), np.float64).reshape(num, -1)
  lengths, angles = stiff[:, : num_carbons - 1], stiff[:, num_carbons - 1 :]
  one, two, three = 1.522, -0.315, 3.207  # kcal/mol; cis is at 0
  energy = np.zeros(1 + 2 * _ORDER)
  energy[:4] = (one + two + three) / 2, one / 2, -two / 2, three / 2
  grid = np.linspace(-np.pi, np.pi, 20_001)
  energy[0] -= (_fourier(grid, np) @ energy).min()
  density = np.exp(-(_fourier(grid, np) @ energy) / (_GAS * temperature))
  below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
  torsions = np.interp(chance, below / below[-1], grid)
  order = np.arange(num_carbons)
  references = np.stack([order - 1, order - 2, order - 3], axis=1)
  rows = np.concatenate([1.53 + 0.03 * lengths, np.radians(112.5 + 2.5 * angles), torsions], axis=1)
  turning = num_carbons - 3
  return Molecule(
    f"alkane({num_carbons})",
    np.maximum(references, -1),
    np.full(turning, -1),
    tuple(range(turning)),
    rows,
    np.tile(energy, (turning, 1)),
  )


@functools.lru_cache(maxsize=8)
def conformers(molecule: str, num: int = 1000, seed: int = 0) -> Molecule:
  """Conformers embedded by RDKit (ETKDG), and the relaxed MMFF energy of each bond that turns.

  Args:
    molecule: "butane", "alanine_dipeptide", "ibuprofen", or SMILES of four to 50 heavy atoms.
    num: conformers, at least 2; what cannot be embedded is left out.
    seed: of the embedding.
  Raises:
    Refused: RDKit is not installed, or it cannot read or embed the molecule.
  """
  try:
    from rdkit import Chem, RDLogger
    from rdkit.Chem import AllChem
  except ImportError:
    raise Refused(
      "conformers need rdkit: pip install 'collapse-jax[molecules]'.", argument="molecule", value=molecule
    ) from None
  if num < 2:
    raise Refused.must_be("num", "at least 2", num)
  RDLogger.DisableLog("rdApp.*")
  parsed = Chem.MolFromSmiles(MOLECULES.get(molecule, molecule))
  if parsed is None or not 4 <= parsed.GetNumHeavyAtoms() <= 50 or len(Chem.GetMolFrags(parsed)) > 1:
    raise Refused.must_be(
      "molecule", f"one of {', '.join(MOLECULES)}, or SMILES of one molecule of 4 to 50 heavy atoms", molecule
    )
  whole = Chem.AddHs(parsed)  # heavy atoms come first
  found = list(AllChem.EmbedMultipleConfs(whole, num, randomSeed=seed + 1, numThreads=1))  # of seed 0 all are the same
  if len(found) < 2:
    raise Refused(f"RDKit cannot embed {molecule}.", argument="molecule", value=molecule)
  heavy = parsed.GetNumAtoms()
  neighbours = [sorted(other.GetIdx() for other in atom.GetNeighbors()) for atom in parsed.GetAtoms()]
  order, references = _placed(neighbours)
  base = _bases(references)
  turns = Chem.MolFromSmarts("[!$([D1])]-&!@[!$([D1])]")  # single bonds, in no ring, between atoms that are no ends
  bonds = {frozenset(bond) for bond in parsed.GetSubstructMatches(turns)}
  central = [frozenset(order[i] for i in references[atom, :2]) for atom in range(3, heavy)]
  rotatable = tuple(k for k, bond in enumerate(central) if base[k] < 0 and bond in bonds)
  positions = np.array([whole.GetConformer(one).GetPositions()[order] for one in found])
  scans = [[order[i] for i in (k + 3, *references[k + 3])] for k in rotatable]
  energy = np.array([_scan(whole, found[0], atoms) for atoms in scans]).reshape(len(scans), 1 + 2 * _ORDER)
  rows = internal(positions, references, base)
  return Molecule(molecule, references, base, rotatable, rows, energy)


def _placed(neighbours) -> tuple[list[int], np.ndarray]:
  """Atoms in the order in which they are placed, and their references, in numbers of that order."""
  first = min(range(len(neighbours)), key=lambda atom: (len(neighbours[atom]), atom))
  order, parent = [first], {first: -1}
  for atom in order:  # grows: breadth first
    for other in neighbours[atom]:
      if other not in parent:
        parent[other] = atom
        order.append(other)
  place = {atom: i for i, atom in enumerate(order)}
  references = np.full((len(order), 3), -1)
  for i, atom in enumerate(order[1:], 1):
    found = [place[parent[atom]]]
    while len(found) < min(i, 3):  # up the tree, and where that ends a neighbour that is placed
      last = order[found[-1]]
      near = [place[other] for other in neighbours[last] if place[other] < i]
      up = [place[parent[last]]] if parent[last] >= 0 else []
      found.append(next(other for other in [*up, *sorted(near), *range(i)] if other not in found))
    references[i, : len(found)] = found
  return order, references


def _bases(references) -> np.ndarray:
  """[A - 3] the first torsion about the same bond and atom, -1 for that one itself."""
  seen: dict[tuple[int, ...], int] = {}
  found = []
  for k, (bonded, angle, torsion) in enumerate(references[3:]):
    key = int(bonded), int(angle), int(torsion)
    found.append(seen.get(key, -1))
    seen.setdefault(key, k)
  return np.array(found, int)


def internal(positions, references, base) -> np.ndarray:
  """Rows [n, 3A - 6] of positions [n, A, 3] in angstrom; see `Molecule`.

  Args:
    positions: [n, A, 3], atoms in the order in which they are placed.
    references, base: of the molecule.
  """
  x = np.asarray(positions, np.float64)
  at = lambda i, k: x[:, references[i:, k]] if i < len(references) else x[:, :0]
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  lengths = np.linalg.norm(x[:, 1:] - at(1, 0), axis=-1)
  inner = np.sum(unit(x[:, 2:] - at(2, 0)) * unit(at(2, 1) - at(2, 0)), axis=-1)
  angles = np.arccos(np.clip(inner, -1, 1))
  one, two, three = at(3, 0) - x[:, 3:], at(3, 1) - at(3, 0), at(3, 2) - at(3, 1)
  left, right = np.cross(one, two), np.cross(two, three)
  torsions = np.arctan2(
    np.sum(np.linalg.norm(two, axis=-1, keepdims=True) * one * right, axis=-1), np.sum(left * right, axis=-1)
  )
  shift = np.where(base >= 0, torsions[:, np.maximum(base, 0)], 0.0)
  return np.concatenate([lengths, angles, wrapped(torsions - shift)], axis=1)


def cartesian(molecule: Molecule, rows: Array) -> Array:
  """Positions [n, A, 3] in angstrom of rows [n, 3A - 6]: an atom after the other."""
  num = molecule.num_atoms
  lengths, angles, told = rows[:, : num - 1], rows[:, num - 1 : 2 * num - 3], rows[:, 2 * num - 3 :]
  torsions = [told[:, k] if at < 0 else told[:, k] + told[:, at] for k, at in enumerate(map(int, molecule.base))]
  zero = jnp.zeros(len(rows))
  placed = [jnp.stack([zero, zero, zero], axis=1), jnp.stack([lengths[:, 0], zero, zero], axis=1)]
  unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), 1e-12)
  for i in range(2, num):
    a, b = placed[molecule.references[i, 0]], placed[molecule.references[i, 1]]
    length, angle = lengths[:, i - 1, None], angles[:, i - 2, None]
    along = unit(b - a)
    if i == 2:  # in a plane
      normal, across = None, jnp.stack([zero, zero + 1, zero], axis=1)
      placed.append(a + length * (jnp.cos(angle) * along + jnp.sin(angle) * across))
      continue
    c = placed[molecule.references[i, 2]]
    normal = unit(jnp.cross(c - b, along))
    across = jnp.cross(along, normal)
    torsion = torsions[i - 3][:, None]
    away = jnp.cos(torsion) * across + jnp.sin(torsion) * normal
    placed.append(a + length * (jnp.cos(angle) * along + jnp.sin(angle) * away))
  return jnp.stack(placed, axis=1)


def strain(molecule: Molecule, rows: Array) -> Array:
  """Strain energy [n] of torsions, kcal/mol: the sum of the relaxed energies of bonds that turn, each above its least.

  Args:
    molecule: with `energy`.
    rows: [n, 3A - 6].
  """
  if molecule.energy is None:
    raise Refused(f"the energy of {molecule.name} is not known.", argument="molecule", value=molecule.name)
  first = 2 * molecule.num_atoms - 3
  torsions = rows[:, np.array([first + k for k in molecule.rotatable], int)]
  return jnp.sum(jnp.einsum("nrf,rf->nr", _fourier(torsions, jnp), jnp.asarray(molecule.energy, float)), axis=1)


def _fourier(torsions, xp):
  """[..., 1 + 2 * order]."""
  waves = xp.arange(1, _ORDER + 1) * 1.0
  phases = torsions[..., None] * waves.reshape((1,) * torsions.ndim + (-1,))
  return xp.concatenate([xp.ones((*torsions.shape, 1)), xp.cos(phases), xp.sin(phases)], axis=-1)


def _scan(whole, conformer: int, atoms) -> np.ndarray:
  """Coefficients of the relaxed MMFF energy along a torsion, its least 0; each angle from the same relaxed conformer."""
  from rdkit import Chem
  from rdkit.Chem import rdForceFieldHelpers, rdMolTransforms

  relaxed = Chem.Mol(whole, confId=conformer)
  properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(relaxed)
  field = lambda molecule: rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties)
  field(relaxed).Minimize(maxIts=2000)
  atoms, angles = tuple(map(int, atoms)), np.arange(_SCAN) * 360 / _SCAN
  found = []
  for angle in map(float, angles):
    turned = Chem.Mol(relaxed)
    rdMolTransforms.SetDihedralDeg(turned.GetConformer(), *atoms, angle)
    held = field(turned)
    held.Initialize()
    held.MMFFAddTorsionConstraint(*atoms, False, angle, angle, 500.0)
    held.Minimize(maxIts=500)
    found.append(field(turned).CalcEnergy())
  radians = np.radians(angles)
  coefficients = np.linalg.lstsq(_fourier(radians, np), np.array(found), rcond=None)[0]
  fine = _fourier(np.linspace(-np.pi, np.pi, 721), np) @ coefficients
  coefficients[0] -= fine.min()
  return coefficients


def wrapped(angles: Any) -> Any:
  """In -pi..pi, of NumPy or of JAX."""
  return angles - 2 * np.pi * (angles / (2 * np.pi)).round()
