"""Frequencies under drift: exact heterozygosity, renumbering, collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import z_score
from looking import bands, interval, lines, results
from looking import theory as theory_lines

import collapse_jax as cj
from collapse_jax import plotting, random, tasks, workflows
from collapse_jax.diagnostics import judgement
from collapse_jax.tasks import _surviving as surviving
from collapse_jax.types import Context

T = 8


def simulated(task, workflow, num_seeds=4000, num_generations=T):
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(2), i), task, workflow, num_generations)
  return {k: np.asarray(v, np.float64) for k, v in jax.jit(jax.vmap(one))(jnp.arange(num_seeds)).items()}


def test_metrics_are_numpys():
  """Of one real batch, given probabilities: entropy, support, heterozygosity."""
  share = np.array([0.5, 0.25, 0.25, 0.0])
  task = tasks.discrete(4, 50, share, draws="rows")
  problem, real = task.init(jax.random.key(0))
  rows = np.asarray(real.rows[0])
  p = np.bincount(rows, minlength=4) / 50
  entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
  expected = {
    "entropy": entropy,
    "entropy_ratio": entropy / (1.5 * np.log(2)),
    "support_ratio": (p > 0).sum() / 3,
    "heterozygosity": 1 - (p**2).sum(),
    "total_variation": 0.5 * np.abs(p - share).sum(),
    "kl_from_truth": (p[p > 0] * np.log(p[p > 0] / share[p > 0])).sum(),
  }
  law = tasks.discrete(4, 50, share)
  for one, model in (
    (task, task.summary.of(problem, real.rows[0], None) / 50),
    (law, law.init(jax.random.key(0))[1].summary),  # the same real batch
  ):
    if one is law:
      model = jax.tree.map(lambda x: x[0], model)
    out = one.evaluate(None, problem, model)
    for name, value in expected.items():
      np.testing.assert_allclose(out[name], value, rtol=1e-5, err_msg=name)
  assert p[3] == 0


def _far(seen, expected):
  """Chi-squared as a z; cells that are expected less than five times are taken together."""
  often = expected >= 5
  seen, expected = (np.r_[x[often], x[~often].sum()] for x in (seen, expected))
  freedom = max((expected > 0).sum() - 1, 1)
  if seen[expected == 0].sum():
    return np.inf
  return (((seen - expected) ** 2 / np.maximum(expected, 1e-30)).sum() - freedom) / np.sqrt(2 * freedom)


def test_binomials_have_their_law():
  """Of any number of trials and chance, on both sides of a variance of 25, against SciPy's probabilities."""
  from scipy import stats

  grid = [
    (1, 1, 1),
    (3, 2, 1),
    (7, 1, 6),
    (40, 3, 5),
    (98, 1, 1),
    (100, 50, 50),
    (102, 1, 1),
    (390, 1, 1),
    (410, 1, 1),
    (1000, 1, 7),
    (1000, 1, 10),
  ]
  grid += [(10_000, 3, 7), (100_000, 1, 99_999), (100_000, 95, 99_905), (100_000, 102, 99_898), (100_000, 99_999, 1)]
  grid += [(100_000, 1, 1), (5_000_000, 7, 4_999_993), (10**7, 1, 3), (50, 0, 4), (50, 4, 0), (0, 3, 4)]
  num, a, b = (np.repeat(np.array(x, np.int32)[:, None], draws := 40_000, 1) for x in zip(*grid))
  word = random.bits(jax.random.key(0), num.size).reshape(num.shape)
  first = jax.jit(random.binomial_split)(word, num, a, b, np.ones(num.shape, bool))
  some = slice(None), slice(5)  # so few that all are looked at together
  found = random.binomial_split(word[some], num[some], a[some], b[some], np.ones(num[some].shape, bool))
  np.testing.assert_array_equal(found, first[some])
  assert ((first >= 0) & (first <= num)).all()
  worst, twin = [], []
  for (n, x, y), seen in zip(grid, np.asarray(first)):
    if n * x * y == 0:
      assert (seen == (n if y == 0 else 0)).all()
      continue
    values, counts = np.unique(seen, return_counts=True)
    place = np.clip(np.arange(values[0] - 3, values[-1] + 4), 0, n)
    place = np.unique(place)
    observed = np.zeros(len(place))
    observed[np.searchsorted(place, values)] = counts
    groups = np.arange(len(place)) // max(1, len(place) // 200)
    for scores, weight in ((worst, x), (twin, 1.05 * x)):
      expected = draws * stats.binom.pmf(place, n, weight / (weight + y))
      scores.append(_far(np.bincount(groups, observed), np.bincount(groups, expected)))
  assert np.abs(worst).max() < 5, worst
  assert np.median(twin) > 5 and twin[grid.index((100, 50, 50))] > 5


def test_poisson_numbers_have_their_law():
  """Of every kind of count, on both sides of a mean of 25, against SciPy's probabilities; not of a mean that is 5% off."""
  from scipy import stats

  factor, draws = 0.9, 40_000
  counts = np.array([0, 1, 2, 7, 20, 26, 27, 28, 29, 60, 500, 100_000])
  words = [random.bits(jax.random.key(i), len(counts) * draws).reshape(len(counts), draws) for i in (0, 1)]
  table = random.poisson_table(factor)
  assert len(table.kept) == 29  # rows for means below 25, and one more
  found = np.asarray(jax.jit(random.poisson_counts)(words, np.repeat(counts[:, None], draws, 1), table))
  assert (found[0] == 0).all()
  worst, twin = [], []
  for count, seen in zip(counts[1:], found[1:]):
    place = np.arange(max(seen.min() - 3, 0), seen.max() + 4)
    groups = np.arange(len(place)) // max(1, len(place) // 200)
    observed = np.bincount(groups, np.bincount(seen - place[0], minlength=len(place)))
    for scores, mean in ((worst, factor * count), (twin, 0.95 * factor * count)):
      scores.append(_far(observed, draws * np.bincount(groups, stats.poisson.pmf(place, mean))))
  assert np.abs(worst).max() < 5, worst
  assert min(twin) > 5


@pytest.mark.parametrize("num_outcomes, each", [(300, True), (120, False)])
def test_many_counts_are_multinomial(num_outcomes, each):
  """Of more leaves than are split and of fewer: groups of them have the chi-squared law of a multinomial, single ones that of a
  binomial, and all are as many as before; not with the weights of two leaves exchanged, nor as independent Poisson numbers are."""
  from scipy import stats

  n, runs, rng = 2000, 4000, np.random.default_rng(0)
  weights = rng.multinomial(n - num_outcomes - 149, rng.dirichlet(np.full(num_outcomes, 0.5))) + 1
  weights[0], weights[1], weights[2] = weights[0] + 149, 1, weights[2] + weights[1] - 1
  state = surviving.surviving(jnp.asarray(weights, np.int32), 1024, True)
  assert (1 << int(state.depth) > 128) == each  # 2 sqrt(n) is 89
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(runs))
  found = jax.jit(jax.vmap(lambda key: surviving.drawn(key, state, 5, n)))(keys)
  drawn = np.asarray(jax.vmap(surviving.leaves)(found))[:, :num_outcomes]
  assert (drawn >= 0).all() and (drawn.sum(1) == n).all() and np.asarray(found.mixed).all()
  group = rng.permutation(num_outcomes) % 6

  def far(weights, drawn):
    """z of the mean over runs of the chi-squared statistic of six groups, which has mean 5 and about variance 10."""
    expected = np.bincount(group, weights)
    statistic = ((np.stack([np.bincount(group, one, 6) for one in drawn]) - expected) ** 2 / expected).sum(1)
    return (statistic.mean() - 5) / (statistic.std() / np.sqrt(len(statistic)))

  assert abs(far(weights, drawn)) < 5
  exchanged = weights[np.r_[1, 0, 2:num_outcomes]]
  assert group[0] != group[1] and far(exchanged, drawn) > 5
  assert far(weights, rng.poisson(weights, (runs, num_outcomes))) > 5
  values = np.arange(n + 1)
  for leaf in (0, 1, 2, 40, num_outcomes - 1):
    seen = np.bincount(drawn[:, leaf], minlength=n + 1)
    assert abs(_far(seen, runs * stats.binom.pmf(values, n, weights[leaf] / n))) < 5, leaf
  seen = np.bincount(drawn[:, 0], minlength=n + 1)
  assert _far(seen, runs * stats.binom.pmf(values, n, 1.05 * weights[0] / n)) > 5


def test_all_are_drawn_again_where_they_are_too_many(monkeypatch):
  """Also where hardly any item is left for rows: the sum stays, and so does the law of a leaf."""
  n, runs = 2000, 4000
  monkeypatch.setattr(surviving, "_SPARED", 0.0)
  surviving._drawn.cache_clear()
  state = surviving.surviving(jnp.full(400, 5, np.int32), 1024, False)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(2), i))(jnp.arange(runs))
  drawn = np.asarray(jax.jit(jax.vmap(lambda key: surviving.leaves(surviving.drawn(key, state, 5, n))))(keys))[:, :400]
  surviving._drawn.cache_clear()
  assert (drawn.sum(1) == n).all()
  p = 200 * 5 / n
  half = drawn[:, :200].sum(1)
  assert abs(half.mean() - n * p) < 5 * np.sqrt(n * p * (1 - p) / runs)
  assert abs(half.var() / (n * p * (1 - p)) - 1) < 5 * np.sqrt(2 / runs)


def test_the_dead_leave_the_tree():
  """Runs of other depths beside each other: positive counts keep their order and what they stand for, sums are those of leaves."""
  rng = np.random.default_rng(3)
  chances = (0.9, 0.4, 0.02, 0.0)
  counts = np.stack([rng.integers(1, 9, 500) * (rng.random(500) < chance) for chance in chances]).astype(np.int32)
  counts[:, 417] = 7  # one is always there
  full = jax.vmap(lambda one: surviving.surviving(one + (one == 0), 512, True))(jnp.asarray(counts))
  put = lambda tree, one: tree.at[512 : 512 + 500].set(one)
  state = full._replace(tree=jax.vmap(put)(full.tree, jnp.asarray(counts)))
  for found, plain in zip(surviving._without_the_dead(state, jnp.zeros(4, bool)), state):
    np.testing.assert_array_equal(found, plain)
  found = surviving._without_the_dead(state, jnp.ones(4, bool))
  every = jax.vmap(surviving.leaves)(found)
  for i, one in enumerate(counts):
    alive = np.flatnonzero(one)
    assert int(found.depth[i]) == int(np.ceil(np.log2(len(alive)))) and bool(found.mixed[i]) == (len(alive) > 1)
    leaves = np.asarray(every[i])
    np.testing.assert_array_equal(leaves[: len(alive)], one[alive])
    assert (leaves[len(alive) :] == 0).all() and int(found.tree[i, 1]) == one.sum()
    np.testing.assert_array_equal(found.outcome[i, : len(alive)], alive)


def test_counts_are_multinomial():
  """All counts of the next generation together, from 3, 2, 0 and 1: no other weights, and nothing drawn from what is gone."""
  from scipy import stats

  num, counts = 20_000, np.array([3, 2, 0, 1], np.int32)
  state = surviving.surviving(jnp.asarray(counts), surviving.LEAST, True)
  draw = lambda i: surviving.drawn(jax.random.fold_in(jax.random.key(1), i), state, 5, 6)
  found = jax.jit(jax.vmap(draw))(jnp.arange(num))
  drawn = np.zeros((num, 4), int)
  leaves = np.asarray(jax.vmap(surviving.leaves)(found))
  np.put_along_axis(drawn, np.asarray(found.outcome)[:, :3], leaves[:, :3], 1)
  assert (drawn.sum(1) == 6).all() and (drawn[:, 2] == 0).all()
  np.testing.assert_array_equal(found.mixed, (drawn > 0).sum(1) > 1)
  cells = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)])
  seen = np.array([(drawn[:, [0, 1, 3]] == cell).all(1).sum() for cell in cells])
  law = lambda p: num * stats.multinomial.pmf(cells, 6, p)
  assert abs(_far(seen, law(np.array([3, 2, 1]) / 6))) < 5
  assert _far(seen, law(np.array([2, 3, 1]) / 6)) > 5 and _far(seen, law(np.array([3.1, 1.9, 1]) / 6)) > 5


def test_counts_and_rows_have_one_law():
  """Means and variances of metrics over runs, of several hundred outcomes, by counts and by rows; not of another number of rows."""
  runs = {}
  for draws, n in (("law", 300), ("rows", 300), ("rows", 290)):
    runs[draws, n] = simulated(tasks.discrete(200, n, draws=draws), workflows.replace(), 1500, 20)
  differ = lambda a, b: (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
  for name in ("entropy", "support_ratio", "heterozygosity", "total_variation", "kl_from_truth"):
    law, rows, other = (runs[one][name] for one in (("law", 300), ("rows", 300), ("rows", 290)))
    np.testing.assert_allclose(law[:, 0], rows[:, 0], rtol=2e-5)  # the real batch is the same
    assert np.abs(differ(law, rows)[1:]).max() < 5, name
    assert np.abs(differ((law - law.mean(0)) ** 2, (rows - rows.mean(0)) ** 2)[1:]).max() < 5, name
    assert name == "support_ratio" or np.abs(differ(law, other)).max() > 5, name


@pytest.mark.parametrize("size", [(300, 60), (2000, 1500)])
def test_runs_beside_each_other_do_not_meet(size):
  """A run is the same whatever runs share its loops, and however many generations lie between two that are recorded."""
  one = lambda record_every: jax.jit(
    jax.vmap(
      lambda i: cj.run(
        jax.random.fold_in(jax.random.key(3), i),
        tasks.discrete(*size),
        workflows.replace(),
        30,
        record_every=record_every,
      )
    )
  )
  every = one(1)
  first, second = every(jnp.arange(4)), every(jnp.array([0, 17, 18, 19]))
  sparse = one(7)(jnp.arange(4))
  for name, value in first.items():
    np.testing.assert_array_equal(value[0], second[name][0], err_msg=name)
    np.testing.assert_allclose(value[:, [0, 6, 13, 20, 27]], sparse[name], rtol=1e-6, err_msg=name)
  assert (np.asarray(first["entropy"][1]) != np.asarray(second["entropy"][1])).any()


def test_renumbering_keeps_the_frequencies():
  task = tasks.discrete(10**6, 12, np.r_[np.full(5, 0.2), np.zeros(10**6 - 5)], draws="rows")
  problem, real = task.init(jax.random.key(0))
  counts = np.asarray(task.summary.of(problem, real.rows[0], None))
  assert counts.sum() == 12 and 1 < (counts > 0).sum() <= 5 and len(counts) == 12
  assert task.fresh is None


def test_collapse_time_of_two_outcomes():
  """Wright-Fisher absorption from the exact Markov chain, n = 6; a run that has not ended is censored."""
  from scipy import stats

  n, last = 6, 60
  states = np.arange(n + 1)
  chain = stats.binom.pmf(states[None], n, states[:, None] / n)
  law = stats.binom.pmf(states, n, 0.5)
  absorbed = []
  for _ in range(last):
    absorbed.append(law[0] + law[-1])
    law = law @ chain
  out = simulated(tasks.discrete(2, n), workflows.replace(), 5000, last)
  generation = out["collapse_generation"][:, -1]
  censored = generation == 0
  for t in (1, 5, 12, 40):
    share, p = ((generation <= t) & ~censored).mean(), absorbed[t - 1]
    assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 5000), t
  assert abs(((generation <= 6) & ~censored).mean() - absorbed[4]) > 5 * np.sqrt(absorbed[4] * (1 - absorbed[4]) / 5000)


def test_collapse_times_are_those_of_every_driver(tmp_path):
  """The first generation of one outcome, whoever computes it, also where a checkpoint lies between; some runs are censored."""
  task, options = tasks.discrete(2, 3), {"num_generations": 4, "num_seeds": 5}
  sweep = lambda driver, **more: cj.sweep(task, ["replace"], {}, driver=driver, **options | more)
  scan = sweep("scan")
  times = scan.collapse_generation.values.ravel()
  assert scan.censored.values.any() and len(set(times[~scan.censored.values.ravel()])) > 1
  stopped = []

  def once(cell, t, seeds, metrics):
    if t == 3 and not stopped:
      stopped.append(t)
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    sweep("steps", directory=tmp_path / "out", on_metrics=once)
  for found in (sweep("steps", directory=tmp_path / "out", resume=True), sweep("host")):
    assert stopped and found.censored.equals(scan.censored)
    np.testing.assert_array_equal(found.collapse_generation.values.ravel(), times)

  def stop(cell, t, seeds, metrics):
    if t == 2:
      raise cj.sweeps.Stop("enough")

  short = sweep("host", on_metrics=stop)  # drift that had not ended when a run was stopped is censored there
  ended = ~scan.censored.values.ravel() & (times <= 2)
  assert 0 < ended.sum() < 5
  np.testing.assert_array_equal(short.censored.values.ravel(), ~ended)
  np.testing.assert_array_equal(short.collapse_generation.values.ravel(), np.where(ended, times, 2))


def test_most_runs_that_are_known_have_ended():
  """A run of which nothing is known counts neither way, here the last of four."""
  dims = ("workflow", "num_samples", "seed")
  times = (dims, np.array([[[3.0, 4.0, 5.0, np.nan]]]))
  ended = lambda censored: xarray.Dataset(
    {"collapse_generation": times, "censored": (dims, np.array([[censored]]))},
    {"workflow": ["replace"], "num_samples": [5]},
  )
  judged = lambda *censored: judgement._drift_ended(ended(censored), {"workflow": "replace", "num_samples": 5})
  assert judged(False, False, True, False) and not judged(False, True, True, False)


def test_collapse_times_are_drawn_beside_their_law():
  """Means over runs and what is expected of them, each at its own num_samples."""
  sizes, outcomes = [10, 40, 90], [2, 5]
  law = np.array([[10.0, 50.0, 80.0], [30.0, 150.0, 240.0]])
  times = law[None, ..., None] * np.array([0.9, 1.0, 1.2, 1.3])
  axes = {"workflow": ["replace"], "num_outcomes": outcomes, "num_samples": sizes}
  known = results(
    {
      "entropy": np.zeros((1, 2, 3, 4, 5)),
      "collapse_generation": ((*axes, "seed"), times, {}),
      "censored": ((*axes, "seed"), np.zeros(times.shape, bool), {}),
      "collapse_generation_expected": (tuple(axes), law[None], {}),
    },
    **axes,
  )
  [axis] = plotting.figures_for(known)["collapse_times"].axes
  for i in range(2):
    np.testing.assert_allclose(lines(axis, "-")[i], (sizes, 1.1 * law[i]))
    np.testing.assert_allclose(bands(axis)[i][2], interval(times[0, i].T)[2])
    np.testing.assert_allclose(theory_lines(axis)[i], (sizes, law[i]))
  assert len(theory_lines(axis)) == 2


@pytest.mark.parametrize("record_every", [1, 4])
def test_stopping_absorbed_runs_changes_nothing(record_every):
  """A sweep that stops them equals the plain program, and the collapse generation is exact where it is not recorded."""
  task, T, seeds = (lambda num_samples: tasks.discrete(12, num_samples)), 101, 40
  sweep = cj.sweep(
    task, ["replace"], {"num_samples": [6]}, num_generations=T, num_seeds=seeds, record_every=record_every
  )
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task(6), workflows.replace(), T)
  whole = jax.jit(jax.vmap(one))(jnp.arange(seeds))
  kept = sweep.generation.values - 1
  for name in ("entropy", "support_ratio", "heterozygosity", "train_size"):
    np.testing.assert_allclose(sweep[name].values[0, 0], whole[name][:, kept], rtol=1e-6, err_msg=name)
  first = np.argmax(np.asarray(whole["entropy"]) < 1e-8, axis=1) + 1
  assert not sweep.censored.values.any() and first.max() < T
  np.testing.assert_array_equal(sweep.collapse_generation.values[0, 0], first)
  short = cj.sweep(task, ["replace", "accumulate"], {"num_samples": [6]}, num_generations=5, num_seeds=seeds)
  np.testing.assert_array_equal(short.censored.values[0, 0], first > 5)
  assert short.censored.values[1].all() and (short.collapse_generation.values[1] == 5).all()


def test_temperature():
  """In one step of many rows frequencies go to p^(1/temperature); above 1 they even out."""
  share = np.array([0.6, 0.3, 0.1])
  n = 4000

  def expected(temperature):
    """To first order in 1 / n: that of the limit, less what two batches vary by."""
    share_of = lambda p: p ** (1 / temperature) / (p ** (1 / temperature)).sum()
    limit = lambda p: 1 - (share_of(p) ** 2).sum()
    covariance, step = (np.diag(share) - np.outer(share, share)) / n, 1e-4
    unit = np.eye(3) * step
    curved = np.array(
      [
        [limit(share + a + b) - limit(share + a - b) - limit(share - a + b) + limit(share - a - b) for a in unit]
        for b in unit
      ]
    ) / (4 * step**2)
    return (limit(share) + 0.5 * (curved * covariance).sum()) * (1 - 1 / n)

  for temperature in (0.5, 2.0):
    out = simulated(tasks.discrete(3, n, share, temperature=temperature), workflows.replace(), 400, 2)
    found = out["heterozygosity"][:, 1]
    assert abs(z_score(found, expected(temperature))) < 5
    assert abs(z_score(found, expected(1.02 * temperature))) > 5
    assert abs(z_score(found, expected(1 / temperature))) > 5


@pytest.mark.parametrize("num_outcomes", [10, 1000])
def test_temperature_in_logs(num_outcomes):
  """Emitted rows follow frequency^(1 / temperature) at any temperature; what is impossible stays so."""
  share = np.r_[np.linspace(1, 2, num_outcomes - 1), 0]
  share = share / share.sum()
  temperatures, num = np.array([1e-6, 0.02, 0.07, 0.1, 1, 10, 1e6]), 20_000

  def counts(temperature):
    task = tasks.discrete(num_outcomes, num, share, temperature=temperature)
    context = Context(1, num, None, None, None)
    return task.summary.of(
      None, task.sample(jax.random.key(3), None, jnp.asarray(share, jnp.float32), context)[0].rows[0], None
    )

  found = np.asarray(jax.jit(jax.vmap(counts))(jnp.asarray(temperatures)))

  def score(seen, temperature):
    """Chi-squared over what is expected five times, and the rest together, as a z."""
    law = np.exp(np.log(np.maximum(share, 1e-300) / share.max()) / temperature) * (share > 0)
    expected = num * law / law.sum()
    often = expected > 5
    expected, seen = (np.r_[x[often], x[~often].sum()] for x in (expected, seen))
    freedom = len(expected) - 1
    return (((seen - expected) ** 2 / np.maximum(expected, 1)).sum() - freedom) / np.sqrt(2 * freedom) if freedom else 0

  for temperature, seen in zip(temperatures, found):
    assert seen[-1] == 0 and seen.sum() == num and np.abs(score(seen, temperature)) < 5, temperature
    assert not 0.01 < temperature < 0.5 or score(seen, 1.5 * temperature) > 5  # the law of another one


def test_the_tail_of_a_power_law():
  """Outcomes that a million draws show, of 1e5 whose rarest has 1e-8: the sum of 1 - (1 - p)^n. 23 bits are too few."""
  share, num, runs = 1 / np.arange(1, 100_001) ** 1.5, 10**6, 5
  share = share / share.sum()
  seen = -np.expm1(num * np.log1p(-share))
  task = tasks.discrete(len(share), num, share, draws="rows")
  problem = task.init(jax.random.key(0))[0]
  high, low = (np.asarray(x).astype(object) for x in problem.table)
  below = high * 2**32 + low
  np.testing.assert_allclose(np.diff(below, prepend=0).astype(float) / float(below[-1]), share, rtol=1e-9)
  draw = jax.jit(lambda key: task.fresh(key, problem).rows[0])
  support = [np.count_nonzero(np.bincount(draw(jax.random.key(i)))) for i in range(runs)]
  assert abs(np.mean(support) - seen.sum()) < 5 * np.sqrt((seen * (1 - seen)).sum() / runs)
  coarse = np.ceil(
    np.cumsum(share).astype(np.float32).astype(float) * 2**23
  )  # numbers of 23 bits that each outcome has
  assert np.sum(np.diff(coarse) == 0) > 50_000


def test_small_divergences():
  """Of frequencies close to the truth, and of a truth with nearly impossible outcomes, against float64."""
  rng = np.random.default_rng(0)
  truth = rng.random(1000)
  truth = np.r_[truth / truth.sum(), 0]
  task = tasks.discrete(1001, 5000, truth, draws="rows")
  problem = task.init(jax.random.key(0))[0]
  for size in (1e-4, 1e-2, 0.5):
    model = np.asarray(truth * (1 + size * rng.uniform(-1, 1, 1001)))
    model = (model / model.sum()).astype(np.float32)
    exact, known = model.astype(np.float64)[:-1], np.asarray(problem.known, np.float64)[:-1]
    expected = (exact * np.log(exact / known) - exact + known).sum()
    np.testing.assert_allclose(task.evaluate(None, problem, jnp.asarray(model))["kl_from_truth"], expected, rtol=2e-3)
    if size == 1e-4:
      cancelled = np.sum(model[:-1] * np.log(model[:-1] / known.astype(np.float32)), dtype=np.float32)
      assert abs(cancelled / expected - 1) > 0.1
  task = tasks.discrete(3, 50, [0.5, 0.5, 1e-60], draws="rows")
  found = task.evaluate(None, task.init(jax.random.key(0))[0], jnp.asarray([0.98, 0.0, 0.02]))
  assert 1 < found["kl_from_truth"] < 10 and np.isfinite(found["entropy"])


def test_bad_arguments():
  for bad, part in (
    (((1, 5)), "num_outcomes"),
    ((5, 1), "num_samples"),
    ((2, 5, [1.0, 0.0]), "two of them"),
    ((2, 5, [1.0]), "2 numbers"),
  ):
    with pytest.raises(ValueError, match=part):
      tasks.discrete(*bad)
  with pytest.raises(ValueError, match="temperature"):
    tasks.discrete(2, 5, temperature=0.0)
