"""Conformers of a molecule in internal coordinates: normal lengths and angles, torsions by von Mises mixtures or by diffusion.

After the molecules of 2404.01413, at a size that a CPU can loop over; diffusion is on the torus of torsions (2206.01729).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import i0e, i1e

from collapse_jax import metrics, store, theory, training
from collapse_jax._citation import citing
from collapse_jax.data import molecules as conformers
from collapse_jax.data.molecules import Molecule, wrapped
from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.tasks._networks import apply_dense, dense
from collapse_jax.tasks.parts import check_integer, check_positive, matmul
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, TaskSetting

MODELS = ("von_mises", "diffusion")
MOST_CONCENTRATED = 1e4  # a standard deviation of half a degree
_SMALLEST, _LARGEST = 0.05, math.pi  # noise of the diffusion, radian
_WINDINGS = np.arange(-2, 3)
_BINS = 36  # of a torsion, ten degrees each
_REFERENCES = 64  # conformers that coverage and matching look at


class VonMises(NamedTuple):
  """A mixture over D angles, independent within each of K components.

  Attributes:
    log_share: [K].
    mean: [K, D] radian.
    concentration: [K, D].
  """

  log_share: Any
  mean: Any
  concentration: Any


class MoleculeModel(NamedTuple):
  """A fitted model.

  Attributes:
    mean, std: [2A - 3] of lengths and angles.
    torsions: a VonMises of all torsions; of the diffusion of those that it leaves.
    score: weights of the diffusion's network; None: there is none.
  """

  mean: Any
  std: Any
  torsions: VonMises
  score: Any = None


@citing("2404.01413")
def molecules(
  molecule: Molecule,
  num_samples: int,
  model: str = "von_mises",
  *,
  num_components: int = 8,
  num_em_steps: int = 40,
  hidden: int = 64,
  num_steps: int = 50,
  budget: str = "epochs",
  amount=100.0,
  batch_size: int = 128,
  learning_rate=2e-3,
  threshold=0.5,
) -> TaskSetting:
  """Conformers in internal coordinates; rows are [3A - 6], lengths, angles and torsions, of A heavy atoms.

  Args:
    molecule: from `data.molecules`: `conformers` of RDKit, `alkane` without it, or your own.
    num_samples: conformers per batch, at most as many as the molecule has.
    model: "von_mises": a mixture of all torsions, by expectation and maximisation. "diffusion": a network's score on the torus of
      the torsions about bonds that turn; the others, which hardly move, as before.
    num_components: of the mixture.
    num_em_steps: steps of expectation and maximisation.
    hidden: diffusion: units of the network's two layers.
    num_steps: diffusion: steps of the sampler.
    budget, amount, batch_size, learning_rate: diffusion: of training; see `training.num_steps`.
    threshold: of coverage, angstrom.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.molecules(cj.data.molecules.alkane(num_carbons=4, num=50), num_samples=20)
  >>> print(*task.metrics)
  stiff_variance_ratio recall_coverage recall_matching precision_coverage precision_matching torsion_divergence excess_strain
  """
  _check(molecule, num_samples, model)
  for name, value in (("num_components", num_components), ("num_em_steps", num_em_steps), ("num_steps", num_steps)):
    check_integer(name, value, 1)
  check_integer("hidden", hidden, 1)
  for name, value in (("amount", amount), ("learning_rate", learning_rate), ("threshold", threshold)):
    check_positive(name, value)
  training.check_batches(batch_size)
  stiff = 2 * molecule.num_atoms - 3  # lengths and angles come first
  turning = np.array(molecule.rotatable, int)
  diffuses = model == "diffusion"
  mixed = np.setdiff1d(np.arange(molecule.num_atoms - 3), turning) if diffuses else np.arange(molecule.num_atoms - 3)
  spread = molecule.rows[:, :stiff].var(axis=0, ddof=1)

  def init(key):
    test_key, real_key = jax.random.split(key)
    known = jnp.asarray(molecule.rows, float)
    test = jax.random.permutation(test_key, known)[:_REFERENCES]
    problem = {"test": test, "placed": conformers.cartesian(molecule, test)}
    if molecule.energy is not None:
      problem["strain"] = jnp.mean(conformers.strain(molecule, known))
    return problem, _real(real_key, known, num_samples)

  def fresh(key, problem) -> Data:
    return _real(key, jnp.asarray(molecule.rows, float), num_samples)

  def fit(key, problem, context: Context) -> MoleculeModel:
    em_key, train_key = jax.random.split(key)
    rows, weight = store.flat(context.data)
    share = weight / jnp.maximum(jnp.sum(weight), 1e-30)
    mean = matmul(share, rows[:, :stiff])
    std = jnp.sqrt(matmul(share, (rows[:, :stiff] - mean[None]) ** 2))
    torsions, old = rows[:, stiff:], context.previous
    mixture = fit_von_mises(
      em_key, torsions[:, mixed], weight, num_components, num_em_steps, None if old is None else old.torsions
    )
    if not diffuses:
      return MoleculeModel(mean, std, mixture)
    start_key, fit_key = jax.random.split(train_key)
    steps, _ = training.num_steps(budget, amount, weight > 0, batch_size)
    optimiser = optax.adam(learning_rate)
    params = start_score(start_key, len(turning), hidden) if old is None else old.score
    fitted = training.fit(
      fit_key, score_loss, training.start(optimiser, params), torsions[:, turning], weight, optimiser, steps, batch_size
    )
    return MoleculeModel(mean, std, mixture, fitted.params)

  def sample(key, problem, params: MoleculeModel, context: Context):
    stiff_key, mixed_key, turn_key = jax.random.split(key, 3)
    num = context.num
    rigid = params.mean[None] + params.std[None] * normal(stiff_key, (num, stiff))
    torsions = jnp.zeros((num, molecule.num_atoms - 3))
    torsions = torsions.at[:, mixed].set(draw_von_mises(mixed_key, params.torsions, num))
    if diffuses:
      torsions = torsions.at[:, turning].set(draw_score(turn_key, params.score, num, num_steps))
    rows = jnp.concatenate([rigid, torsions], axis=1)
    return store.batch(rows), beside(problem, rows, store.in_use(context))

  def beside(problem, rows, used):
    """Emitted conformers beside real ones."""
    edges = jnp.linspace(-math.pi, math.pi, _BINS + 1)
    real = jnp.asarray(molecule.rows[:, stiff:], float)
    laws = [metrics.jensen_shannon(real[:, k], rows[:, stiff + k], edges, weight=used) for k in molecule.rotatable]
    distances = metrics.aligned_rmsd(problem["placed"], conformers.cartesian(molecule, rows[:_REFERENCES]))
    found = metrics.coverage_matching(distances, threshold, used[:_REFERENCES])._asdict()
    found["torsion_divergence"] = jnp.mean(jnp.stack(laws))
    if molecule.energy is not None:
      mean = jnp.sum(used * conformers.strain(molecule, rows)) / jnp.maximum(jnp.sum(used), 1e-30)
      found["excess_strain"] = mean - problem["strain"]
    return found

  def evaluate(key, problem, params: MoleculeModel):
    return {"stiff_variance_ratio": jnp.mean(params.std**2 / jnp.asarray(np.maximum(spread, 1e-30), float))}

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Of lengths and angles, which are fitted as a Gaussian; exact where each generation is fitted to the last one's rows."""
    if not (spread > 0).all():
      return {}
    law = theory.schedule_moments(schedule).trace_ratio
    return {"stiff_variance_ratio": Expected(law, None, None if schedule.alone and not schedule.fresh else 0)}

  described = METRICS if molecule.energy is not None else {k: v for k, v in METRICS.items() if k != "excess_strain"}
  return TaskSetting(init, fit, sample, evaluate, num_samples, None, fresh, metrics=described, predict=predict)


METRICS = {
  "stiff_variance_ratio": MetricInfo(
    "variance of lengths and angles, fitted / real", worse="lower", log_scale=True, measures="variance"
  ),
  "recall_coverage": MetricInfo("real conformers with an emitted one nearby (COV-R)", worse="lower", measures="tail"),
  "recall_matching": MetricInfo("distance to the nearest emitted one (MAT-R)", "angstrom", worse="higher"),
  "precision_coverage": MetricInfo("emitted conformers with a real one nearby (COV-P)", worse="lower"),
  "precision_matching": MetricInfo("distance to the nearest real one (MAT-P)", "angstrom", worse="higher"),
  "torsion_divergence": MetricInfo(
    "Jensen-Shannon divergence of torsions, bins of 10 degrees", "nats", worse="higher", measures="risk"
  ),
  "excess_strain": MetricInfo("strain energy of torsions, emitted less real", "kcal/mol", worse="higher"),
}


# ------------------------------------------------------------------------------------------ von Mises laws
def fit_von_mises(
  key: Array, angles: Array, weight: Array, num_components: int, num_steps: int, previous: VonMises | None = None
) -> VonMises:
  """A mixture by expectation and maximisation; of one component the maximum-likelihood fit.

  Args:
    key: of the rows that it begins at.
    angles: [n, D] radian.
    weight: [n].
    num_components: K.
    num_steps: of the algorithm.
    previous: where to start; None: at rows that are far from those already taken.
  """
  share = weight / jnp.maximum(jnp.sum(weight), 1e-30)
  cos, sin = jnp.cos(angles), jnp.sin(angles)

  def step(_, model: VonMises) -> VonMises:
    logs = model.log_share[None] + log_von_mises(model, angles)
    each = share[:, None] * jax.nn.softmax(logs, axis=1)  # [n, K]
    mass = jnp.sum(each, axis=0)
    x, y = matmul(each.T, cos), matmul(each.T, sin)
    found = VonMises(
      jnp.log(jnp.maximum(mass, 1e-30)),
      jnp.arctan2(y, x),
      concentration_of(jnp.sqrt(x**2 + y**2) / jnp.maximum(mass, 1e-30)[:, None]),
    )
    alive = mass > 1e-6  # one that has no rows stays what it was
    keep = lambda new, old: jnp.where(alive.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return VonMises(found.log_share, keep(found.mean, model.mean), keep(found.concentration, model.concentration))

  if previous is None:
    previous = _spread(key, angles, weight, num_components)
  return jax.lax.fori_loop(0, num_steps, step, previous)


def _spread(key, angles, weight, num_components) -> VonMises:
  """Components at rows drawn in proportion to their squared distance from those taken before (k-means++)."""
  log_weight = jnp.where(weight > 0, jnp.log(jnp.maximum(weight, 1e-30)), -jnp.inf)
  noise = jax.random.gumbel(key, (num_components, len(angles)))

  def take(nearest, gumbel):
    at = jnp.argmax(log_weight + jnp.log(jnp.maximum(nearest, 1e-12)) + gumbel)
    return jnp.minimum(nearest, jnp.sum(1 - jnp.cos(angles - angles[at][None]), axis=1)), angles[at]

  _, means = jax.lax.scan(take, jnp.ones(len(angles)), noise)
  return VonMises(jnp.full(num_components, -math.log(num_components)), means, jnp.full(means.shape, 2.0))


def log_von_mises(model: VonMises, angles: Array) -> Array:
  """log density [n, K] of angles [n, D] in each component."""
  away = jnp.cos(angles[:, None] - model.mean[None]) - 1  # i0e(k) = exp(-k) I0(k)
  kappa = model.concentration
  return jnp.sum(kappa[None] * away, axis=2) - jnp.sum(jnp.log(2 * math.pi * i0e(kappa)), axis=1)[None]


def concentration_of(length: Array) -> Array:
  """kappa with I1 / I0 = a mean resultant length in [0, 1): a rational start (Banerjee et al. 2005), two steps of Newton's."""
  length = jnp.clip(length, 0.0, 1 - 1e-7)
  kappa = length * (2 - length**2) / (1 - length**2)
  for _ in range(2):
    ratio = i1e(kappa) / i0e(kappa)
    slope = 1 - ratio / jnp.maximum(kappa, 1e-6) - ratio**2
    kappa = jnp.where((kappa > 1e-3) & (kappa < 1e3), kappa - (ratio - length) / jnp.maximum(slope, 1e-6), kappa)
  return jnp.clip(kappa, 0.0, MOST_CONCENTRATED)


def draw_von_mises(key: Array, model: VonMises, num: int) -> Array:
  """[num, D] angles of a mixture in -pi..pi, exact: by rejection (Best and Fisher 1979), of angles that are left over.

  Args:
    key: used once.
    model: the mixture.
    num: rows.
  """
  which_key, key = jax.random.split(key)
  u = uniform(which_key, num)
  cumulative = jnp.cumsum(jnp.exp(model.log_share - jax.nn.logsumexp(model.log_share)))
  which = jnp.minimum(jnp.sum(cumulative[None] < u[:, None], axis=1), len(cumulative) - 1)
  mean, kappa = model.mean[which], jnp.maximum(model.concentration[which], 1e-3)
  tau = 1 + jnp.sqrt(1 + 4 * kappa**2)
  rho = (tau - jnp.sqrt(2 * tau)) / (2 * kappa)
  r = (1 + rho**2) / (2 * rho)

  def again(carry):
    i, left, _ = carry
    return (training.largest(jnp.any(left).astype(jnp.int32)) > 0) & (i < 100)  # each try ends two of three

  def attempt(carry):
    i, left, angle = carry
    one, two, three = jnp.moveaxis(uniform(jax.random.fold_in(key, i), 3 * mean.size).reshape(*mean.shape, 3), -1, 0)
    z = jnp.cos(math.pi * one)
    f = jnp.clip((1 + r * z) / (r + z), -1.0, 1.0)
    c = kappa * (r - f)
    taken = (c * (2 - c) - two > 0) | (jnp.log(c / two) + 1 - c >= 0)
    drawn = jnp.where(three < 0.5, -1.0, 1.0) * jnp.arccos(f)
    return i + 1, left & ~taken, jnp.where(left & taken, drawn, angle)

  start = jnp.zeros((), jnp.int32), jnp.ones(mean.shape, bool), jnp.zeros(mean.shape)
  return wrapped(mean + jax.lax.while_loop(again, attempt, start)[2])


# ------------------------------------------------------------------------------------------ diffusion on a torus
def start_score(key: Array, dim: int, hidden: int):
  """Weights of a network from [2 dim + 1] to [dim]."""
  gain = math.sqrt(2)  # of layers before an activation
  layers = dense(key, (2 * dim + 1, hidden, hidden, dim), last=0.1 / gain)
  return [(gain * matrix, bias) for matrix, bias in layers]


def scaled_score(params, angles: Array, std: Array) -> Array:
  """The network's score [n, dim] times the noise's standard deviation [n], of angles [n, dim]."""
  return apply_dense(params, jnp.concatenate([jnp.cos(angles), jnp.sin(angles), jnp.log(std)[:, None]], axis=1))


def score_loss(params, key: Array, angles: Array) -> Array:
  """Denoising score matching [n] with wrapped normal noise, whose score is known.

  Args:
    params: of the network.
    key: of the noise.
    angles: [n, dim].
  """
  level_key, noise_key = jax.random.split(key)
  level = uniform(level_key, len(angles))
  std = _SMALLEST * (_LARGEST / _SMALLEST) ** level
  away = std[:, None] * normal(noise_key, angles.shape)
  found = scaled_score(params, angles + away, std)
  return jnp.mean((found - std[:, None] * wrapped_score(away, std[:, None])) ** 2, axis=1)


def wrapped_score(away: Array, std: Array) -> Array:
  """d/dx log of a wrapped normal density, `away` from its mean; both [n, dim] or what broadcasts.

  Args:
    away: radian.
    std: standard deviation before it was wrapped.
  """
  shifted = wrapped(away)[..., None] + 2 * math.pi * _WINDINGS.reshape((1,) * away.ndim + (-1,))
  shares = jax.nn.softmax(-0.5 * (shifted / std[..., None]) ** 2, axis=-1)
  return -jnp.sum(shares * shifted, axis=-1) / std**2


def draw_score(key: Array, params, num: int, num_steps: int) -> Array:
  """[num, dim] angles: from uniform ones along falling noise, a step of the reverse equation each, and a last one without noise.

  Args:
    key: used once.
    params: of the network.
    num: rows.
    num_steps: of the sampler.
  """
  dim = params[-1][1].shape[0]
  start_key, noise_key = jax.random.split(key)
  stds = _SMALLEST * (_LARGEST / _SMALLEST) ** np.linspace(1, 0, num_steps)
  after = np.append(stds[1:], 0.0)

  def step(angles, given):
    std, later, one = given
    score = scaled_score(params, angles, jnp.full(num, std)) / std
    gap = std**2 - later**2
    # the ancestral step of DDPM: noise of what is left between the two levels
    moved = angles + gap * score + jnp.sqrt(gap * later**2 / std**2) * normal(one, angles.shape)
    return wrapped(moved), None

  start = math.pi * (2 * uniform(start_key, num * dim).reshape(num, dim) - 1)
  given = jnp.asarray(stds, float), jnp.asarray(after, float), jax.random.split(noise_key, num_steps)
  return jax.lax.scan(step, start, given)[0]


def _real(key, known, num) -> Data:
  """Conformers without replacement."""
  return store.batch(jax.random.permutation(key, known)[:num])


def _check(molecule, num_samples, model) -> None:
  if not isinstance(molecule, Molecule):
    raise Refused.must_be("molecule", "a data.molecules.Molecule, as `conformers` makes", type(molecule).__name__)
  check_integer("num_samples", num_samples, 2, len(molecule.rows))
  if model not in MODELS:
    raise Refused.must_be("model", f"one of {', '.join(MODELS)}", model)
  if not molecule.rotatable:
    raise Refused("molecule must have a bond that turns.", argument="molecule", value=molecule.name)
