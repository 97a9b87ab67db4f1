"""Every closed form against a plain NumPy simulation, by z-score; a wrong theory must fail the same test."""

import functools

import numpy as np
import pytest
from helpers import needed
from scipy import linalg

from collapse_jax import theory
from collapse_jax.vocabulary import parse_call

MAX_Z = 5.0


def schedule_of(name, n, T):
  """The schedule of a workflow given as its coordinate."""
  from collapse_jax import workflows

  return workflows.parse(name)().schedule(n, T)


def moments_of(name, n, T, unbiased=False):
  return theory.schedule_moments(schedule_of(name, n, T), unbiased=unbiased)


WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.25)", "mix(0.25, fresh=True)"]


def largest_z(samples, expected):
  """Largest |z| of the means of samples [runs, T] against expected [T]."""
  standard_error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
  return np.abs((samples.mean(axis=0) - expected) / standard_error).max()


def assert_oracle(samples, right, *wrong):
  assert largest_z(samples, right) < MAX_Z
  for expected in wrong:
    assert largest_z(samples, expected) > MAX_Z


def one_off(trajectory):
  """From [T + 1], the trajectory that counts generations from 0."""
  return trajectory[1:]


# -------------------------------------------------------------- simulation: rows, many runs at once


def gaussian_fit_and_sample(unbiased):
  """(rng, rows [runs, N, d]) -> mean, cov, sampler of rows."""

  def fit(rng, rows):
    mean = rows.mean(axis=1, keepdims=True)
    centred = rows - mean
    cov = np.einsum("rni,rnj->rij", centred, centred) / (rows.shape[1] - unbiased)
    root = np.linalg.cholesky(cov)
    draw = lambda num: mean + rng.standard_normal((len(rows), num, rows.shape[2])) @ np.swapaxes(root, 1, 2)
    return mean[:, 0], cov, draw

  return fit


def kde_fit_and_sample(bandwidth):
  """The same for a KDE with bandwidth(N), whose covariance is that of its rows plus the kernel's."""

  def fit(rng, rows):
    h = bandwidth(rows.shape[1])
    mean = rows.mean(axis=1, keepdims=True)
    cov = ((rows - mean) ** 2).mean(axis=1)[..., None] + h**2

    def draw(num):
      centres = np.take_along_axis(rows, rng.integers(rows.shape[1], size=(len(rows), num, 1)), axis=1)
      return centres + h * rng.standard_normal((len(rows), num, rows.shape[2]))

    return mean[:, 0], cov, draw

  return fit


def simulate(workflow, fit, dim, num_samples, num_generations, num_runs, seed=0, std=1.0):
  """Means [runs, T, d] and covariances [runs, T, d, d] of the models; `workflow` as in coordinates."""
  rng = np.random.default_rng(seed)
  real_rows = lambda: std * rng.standard_normal((num_runs, num_samples, dim))
  real = real_rows()
  train = pool = real
  means, covs = [], []
  for _ in range(num_generations):
    mean, cov, draw = fit(rng, train)
    means.append(mean)
    covs.append(cov)
    if workflow.startswith("mix(0.25"):
      train = np.concatenate([real_rows() if "fresh" in workflow else real, draw(3 * num_samples)], axis=1)
      continue
    synthetic = draw(num_samples)
    pool = np.concatenate([pool, synthetic], axis=1)
    train = synthetic if workflow == "replace" else pool
    if workflow == "accumulate_subsample":
      chosen = np.argsort(rng.random(pool.shape[:2]), axis=1)[:, :num_samples, None]
      train = np.take_along_axis(pool, chosen, axis=1)
  return np.stack(means, axis=1), np.stack(covs, axis=1)


@functools.cache
def gaussian_runs(workflow, unbiased, dim=2, num_samples=6, num_generations=4, num_runs=60_000):
  """Trace ratios, mean errors and determinants of simulated runs, [runs, T] each."""
  fit = gaussian_fit_and_sample(unbiased)
  means, covs = simulate(workflow, fit, dim, num_samples, num_generations, num_runs)
  return np.trace(covs, axis1=2, axis2=3) / dim, (means**2).sum(axis=2) / dim, np.linalg.det(covs)


# --------------------------------------------------------------------------------- Gaussian moments


@pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])
@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_gaussian_moments_match_simulation(workflow, unbiased):
  trace_ratio, mean_error, _ = gaussian_runs(workflow, unbiased)
  predict = lambda n, T=4, unbiased=unbiased, workflow=workflow: moments_of(workflow, n, T, unbiased)
  right, later, smaller = predict(6), predict(6, 5), predict(5)
  other_divisor = predict(6, unbiased=not unbiased)
  others = [predict(6, workflow=other) for other in WORKFLOWS if other != workflow]
  assert_oracle(
    mean_error,
    right.mean_error,
    one_off(later.mean_error),
    smaller.mean_error,
    other_divisor.mean_error,
    *(other.mean_error for other in others),
  )
  if unbiased and workflow == "replace":  # a martingale: no generation nor n to tell
    assert_oracle(trace_ratio, right.trace_ratio, other_divisor.trace_ratio)
  else:
    wrong = [other_divisor, *([] if unbiased else [smaller])]
    assert_oracle(trace_ratio, right.trace_ratio, *(moments.trace_ratio for moments in wrong))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_trace_and_mean_error_sum_to_one(workflow):
  moments = moments_of(workflow, 7, 50)
  np.testing.assert_allclose(moments.trace_ratio + moments.mean_error, 1, rtol=1e-12)
  assert np.abs(sum(moments_of(workflow, 7, 50, unbiased=True)) - 1).max() > 0.01


@pytest.mark.parametrize(
  "workflow, t, trace_ratio, mean_error",
  [
    ("replace", 10, 0.3487, 0.6513),
    ("accumulate", 10, 0.852, 0.149),
    ("accumulate_subsample", 10, 0.760, 0.240),
    ("mix(0.2)", 30, 0.862, 0.138),
    ("mix(0.5, fresh=True)", 30, 0.936, 0.0645),
  ],
)
def test_gaussian_moments_tabulated(workflow, t, trace_ratio, mean_error):
  """At n=10: values that the literature survey of this project had simulated."""
  moments = moments_of(workflow, 10, t)
  assert moments.trace_ratio[-1] == pytest.approx(trace_ratio, abs=6e-4)
  assert moments.mean_error[-1] == pytest.approx(mean_error, abs=6e-4)


CLOSED = {
  "replace": theory.gaussian_replace,
  "accumulate": theory.gaussian_accumulate,
  "accumulate_subsample": theory.gaussian_accumulate_subsample,
  "mix(0.25)": lambda n, T, unbiased: theory.gaussian_mix(n, 0.25, T, unbiased=unbiased),
  "mix(0.25, fresh=True)": lambda n, T, unbiased: theory.gaussian_mix(n, 0.25, T, fresh=True, unbiased=unbiased),
  "sliding_window(1)": theory.gaussian_replace,
  "sliding_window(9)": theory.gaussian_accumulate,
}


@pytest.mark.parametrize("unbiased", [False, True], ids=["biased", "unbiased"])
@pytest.mark.parametrize("workflow", CLOSED)
def test_moments_of_schedules_are_the_closed_forms(workflow, unbiased):
  np.testing.assert_allclose(moments_of(workflow, 10, 5, unbiased), CLOSED[workflow](10, 5, unbiased), rtol=1e-12)


# ----------------------------------------------------------------------------------------------------- limits
def table_of(real_share, T):
  """Each generation is fitted to the real batch with a share, and to the last one."""
  table = np.diag(np.append(1.0, np.full(T - 1, 1 - real_share)))
  table[1:, 0] = real_share
  return table


LIMITS = {  # schedule, limits of trace ratio and error of the mean
  "replace": (schedule_of("replace", 50, 3), (0.0, 1.0)),
  "replace, a billion rows": (schedule_of("replace", 10**9, 3), (0.0, 1.0)),
  "other numbers": (schedule_of("replace(5)", 50, 3), (0.0, 1.0)),
  "window": (schedule_of("sliding_window(3)", 50, 20), (0.0, 1.0)),
  "accumulate": (schedule_of("accumulate", 50, 2), (np.sinc(1 / np.sqrt(50)), 1 - np.sinc(1 / np.sqrt(50)))),
  "mix": (schedule_of("mix(0.2)", 50, 8), theory.gaussian_mix_limit(50, 0.2)),
  "little real data": (schedule_of("mix(0.001)", 50, 8), theory.gaussian_mix_limit(50, 0.001)),
  "fresh": (schedule_of("mix(0.2, fresh=True)", 50, 8), theory.gaussian_mix_limit(50, 0.2, fresh=True)),
  "a table": (theory.schedule_of_weights(table_of(0.5, 8), np.full(8, 50.0)), theory.gaussian_mix_limit(50, 0.5)),
  "a table that ends": (
    theory.schedule_of_weights(np.eye(8)[[0, 1, 2, 3, 4, 5, 6, 3]], np.full(8, 50.0)),
    (np.nan, np.nan),
  ),
  "batches that grow": (schedule_of("grown_replace", 50, 8), (np.nan, np.nan)),
  "a window not yet full": (schedule_of("sliding_window(9)", 50, 8), (np.nan, np.nan)),
  "one generation": (schedule_of("replace", 50, 1), (np.nan, np.nan)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_schedules(name):
  """As the schedule ends it goes on; where nothing tells how, there is none."""
  schedule, limits = LIMITS[name]
  np.testing.assert_allclose(theory.schedule_moments(schedule, limit=True), limits, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["accumulate_subsample", "accumulate(20)", "mix(0.3, real_weight=0.7)"])
def test_limits_are_what_late_generations_tend_to(name):
  """To first order in 1 / t, of what changes like 1 / t: half of it is left at twice the generation."""
  limit = np.array(theory.schedule_moments(schedule_of(name, 50, 8), limit=True))
  at = lambda T: np.array(moments_of(name, 50, T))[:, -1]
  left, later = at(500) - limit, at(1000) - limit
  assert (np.abs(later) < 2e-4).all() and (np.abs(later - 0.5 * left) <= 0.01 * np.abs(left) + 1e-12).all()


def test_limits_of_other_laws():
  replace, pool = schedule_of("replace", 50, 4), schedule_of("accumulate", 50, 4)
  assert theory.schedule_noise(replace, limit=True) == theory.schedule_family(replace, 1.0, limit=True) == np.inf
  assert theory.schedule_noise(pool, limit=True) == pytest.approx(theory.ACCUMULATE_LIMIT, rel=1e-9)
  assert theory.schedule_family(replace, -1.0, limit=True) == pytest.approx(1)  # a coin that always falls on one side
  assert theory.schedule_kde_variance(replace, lambda rows: 0.25, limit=True) == pytest.approx(50 * 0.25)
  assert theory.schedule_kde_variance(pool, lambda rows: 0.25, limit=True) == np.inf  # like log t
  assert np.isnan(theory.schedule_kde_variance(pool, lambda rows: rows**-0.3, limit=True))
  assert theory.schedule_log_det(replace, 2, limit=True) == -np.inf
  assert np.isnan(theory.schedule_log_det(pool, 2, limit=True))
  warm = theory.schedule_moments(replace, temperature=1.2, limit=True)
  assert warm.trace_ratio == warm.mean_error == np.inf


def test_schedules_by_weights():
  """What weights alone say gives the laws of the workflow that has them."""
  for name in ("replace", "accumulate", "accumulate_subsample", "sliding_window(3)", "mix(0.5)"):
    from collapse_jax import workflows

    workflow = workflows.parse(name)()
    sizes = [20.0] + [workflow.emit(20, t) for t in range(1, 6)]
    found = theory.schedule_of_weights(workflow.weights(6), sizes, workflow.redrawn)
    np.testing.assert_allclose(theory.schedule_moments(found), moments_of(name, 20, 6), rtol=1e-12)
  assert theory.schedule_of_weights(np.eye(4), np.full(4, 20.0), redrawn=True) is None
  assert theory.schedule_of_weights(table_of(0.5, 4), [20.0, 0.0, 0.0, 0.0]) is None


def test_tails_are_light_until():
  assert theory.light_until(schedule_of("replace", 50, 40), 0.2) == 10
  assert theory.light_until(schedule_of("replace", 50, 10), 0.2) is None
  assert theory.light_until(schedule_of("replace", 2, 10), 0.2) == 0
  assert theory.light_until(schedule_of("accumulate", 50, 1000), 0.2) is None


def test_gaussian_mix_with_real_data_only_is_the_first_fit():
  for fresh in (False, True):
    for moments in (theory.gaussian_mix(10, 1.0, 3, fresh), theory.gaussian_mix_limit(10, 1.0, fresh)):
      np.testing.assert_allclose(moments.trace_ratio, 0.9)
      np.testing.assert_allclose(moments.mean_error, 0.1)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_gaussian_mix_limit(fresh, unbiased):
  moments = theory.gaussian_mix(10, 0.2, 500, fresh, unbiased)
  limit = theory.gaussian_mix_limit(10, 0.2, fresh, unbiased)
  np.testing.assert_allclose([moments.trace_ratio[-1], moments.mean_error[-1]], limit, rtol=1e-10)
  num, ratio = 10**7, 4
  first_order = (1 + ratio if fresh else 1 + 3 * ratio) / (1 + 2 * ratio)
  assert theory.gaussian_mix_limit(num, 0.2, fresh).mean_error * num == pytest.approx(first_order, rel=1e-5)


def test_limits():
  limits = [theory.gaussian_accumulate_trace_limit(n) for n in (10, 32, 100, 316, 1000)]
  np.testing.assert_allclose(limits, [0.8434, 0.9494, 0.9836, 0.9948, 0.9984], atol=5e-5)
  num, long = 10**6, 20_000
  assert theory.gaussian_accumulate(10, long).trace_ratio[-1] == pytest.approx(limits[0], abs=1e-5)
  tail = 1 / long
  accumulated = theory.gaussian_accumulate(num, long).mean_error[-1] * num
  assert accumulated == pytest.approx(theory.ACCUMULATE_LIMIT, abs=2 * tail)
  subsampled = theory.gaussian_accumulate_subsample(num, long).mean_error[-1] * num
  assert subsampled == pytest.approx(theory.SUBSAMPLE_LIMIT, abs=5 * tail)


# ----------------------------------------------------- schedules, and first order for any estimator


def uniform_history(num_generations):
  lower = np.tril(np.ones((num_generations, num_generations)))
  return lower / lower.sum(axis=1, keepdims=True)


def mix_table(real_fraction, num_generations):
  table = (1 - real_fraction) * np.eye(num_generations)
  table[:, 0] = real_fraction
  table[0, 0] = 1
  return table


def sliding_window(length, num_generations):
  lower = np.tril(np.ones((num_generations, num_generations)))
  table = lower - np.tril(lower, -length)
  return table / table.sum(axis=1, keepdims=True)


def any_schedule(num_generations, seed=0):
  table = np.tril(np.random.default_rng(seed).random((num_generations, num_generations)))
  return table / table.sum(axis=1, keepdims=True)


def test_gaussian_schedule_equals_the_closed_forms():
  T = 12
  for weights, num_samples, expected in [
    (np.eye(T), 7, theory.gaussian_replace(7, T)),
    (uniform_history(T), 7, theory.gaussian_accumulate(7, T)),
    (mix_table(0.2, T), [7] + [28] * (T - 1), theory.gaussian_mix(7, 0.2, T)),
  ]:
    np.testing.assert_allclose(theory.gaussian_schedule(weights, num_samples), expected, rtol=1e-12)


def test_gaussian_schedule_matches_simulation():
  """A random table, with batches of different sizes, in one dimension."""
  T, num_runs = 4, 100_000
  rng = np.random.default_rng(3)
  weights, sizes = any_schedule(T), np.array([4, 7, 3, 5])
  batches, variances, errors = [rng.standard_normal((num_runs, sizes[0]))], [], []
  for t in range(T):
    batch_means = np.stack([batch.mean(axis=1) for batch in batches], axis=1)
    squares = np.stack([(batch**2).mean(axis=1) for batch in batches], axis=1)
    mean = batch_means @ weights[t, : t + 1]
    variance = squares @ weights[t, : t + 1] - mean**2
    errors.append(mean**2)
    variances.append(variance)
    if t + 1 < T:
      noise = rng.standard_normal((num_runs, sizes[t + 1]))
      batches.append(mean[:, None] + np.sqrt(variance)[:, None] * noise)
  right, wrong = theory.gaussian_schedule(weights, sizes), theory.gaussian_schedule(weights, sizes[::-1])
  assert_oracle(np.stack(variances, axis=1), right.trace_ratio, wrong.trace_ratio)
  assert_oracle(np.stack(errors, axis=1), right.mean_error, wrong.mean_error)


def test_linear_noise_matches_simulation():
  T, num_runs = 5, 100_000
  rng = np.random.default_rng(4)
  weights, num = any_schedule(T), np.array([1.0, 0.5, 2.0, 1.5, 3.0])
  noise = rng.standard_normal((num_runs, T)) / np.sqrt(num)
  batches, errors = [noise[:, 0]], []
  for t in range(T):
    model = np.stack(batches, axis=1) @ weights[t, : t + 1]
    errors.append(model)
    batches += [model + noise[:, t + 1]] if t + 1 < T else []
  squared = np.stack(errors, axis=1) ** 2
  assert_oracle(
    squared,
    theory.linear_noise(weights, num=num),
    theory.linear_noise(weights),
    one_off(theory.linear_noise(any_schedule(T + 1))),
  )


def test_linear_noise_limits():
  T = 1000
  t = np.arange(1, T + 1)
  np.testing.assert_allclose(theory.linear_noise(np.eye(T)), t)
  np.testing.assert_allclose(theory.linear_noise(uniform_history(T)), np.cumsum(1 / t**2))
  grown = theory.linear_noise(np.eye(T), num=t)  # grown replace: batch j holds (j + 1) n items
  np.testing.assert_allclose(grown, np.cumsum(1 / t))
  window = theory.linear_noise(sliding_window(5, T))
  np.testing.assert_allclose(np.diff(window)[-10:], (2 / 6) ** 2, rtol=1e-9)
  assert window[49] == pytest.approx(6.57, abs=0.005)
  subsample = theory.linear_noise(uniform_history(T), redrawn=True)
  assert subsample[-1] == pytest.approx(theory.SUBSAMPLE_LIMIT, abs=5 / T)
  assert subsample[9] == pytest.approx(2.65, abs=0.005)
  assert subsample[99] == pytest.approx(2.905, abs=0.0005)
  published = (1 - 1 / t) + 1 + np.append(0, np.cumsum((2 - 1 / t) / (t + 1) ** 2)[:-1])
  np.testing.assert_allclose(subsample, published)


def test_linear_noise_is_the_gaussian_mean_at_large_num_samples():
  num, T = 10**8, 30
  for workflow, weights, redrawn, size in [
    ("replace", np.eye(T), False, 1.0),
    ("accumulate", uniform_history(T), False, 1.0),
    ("accumulate_subsample", uniform_history(T), True, 1.0),
    ("mix(0.2)", mix_table(0.2, T), False, [1.0] + [4.0] * (T - 1)),
  ]:
    exact = moments_of(workflow, num, T).mean_error * num
    np.testing.assert_allclose(theory.linear_noise(weights, redrawn, size), exact, rtol=1e-5)


def test_mix_first_order_rises_and_falls():
  t = np.arange(1, 31)
  for ratio in (0.5, 1, 9):
    fraction = 1 / (1 + ratio)
    sizes = [1.0] + [ratio] * 29
    np.testing.assert_allclose(
      theory.mix_first_order(t, ratio), theory.linear_noise(mix_table(fraction, 30), num=sizes), rtol=1e-12
    )
  tabulated = [1.333, 1.437, 1.285, 1.043]
  np.testing.assert_allclose(theory.mix_first_order(10, [1, 5, 20, 200]), tabulated, atol=5e-4)
  peaks = [theory.mix_first_order_peak(t) for t in (2, 5, 10, 30)]
  np.testing.assert_allclose(peaks, [1, 2.5, 4.6, 11.8], atol=0.05)
  with pytest.raises(ValueError, match="t must be at least 2"):
    theory.mix_first_order_peak(1)


# ------------------------------------------------------------- determinants and standard deviations


@pytest.mark.parametrize("dim, num_samples", [(1, 6), (3, 6), (5, 6), (9, 4)])
def test_gaussian_replace_log_det_matches_simulation(dim, num_samples):
  """Rows through a factor, so that dim > num_samples - 1 works too; tested with the known standard error."""
  num_runs, T, rank = 20_000, 3, min(dim, num_samples - 1)
  rng = np.random.default_rng(5)
  rows = rng.standard_normal((num_runs, num_samples, dim))
  log_dets = []
  for _ in range(T):
    mean = rows.mean(axis=1, keepdims=True)
    factor = (rows - mean) / np.sqrt(num_samples)
    log_dets.append(2 * np.log(np.linalg.svd(factor, compute_uv=False)[:, :rank]).sum(axis=1))
    rows = mean + rng.standard_normal((num_runs, num_samples, num_samples)) @ factor
  log_det = np.stack(log_dets, axis=1)
  mean, variance = theory.gaussian_replace_log_det(dim, num_samples, T)
  z = (log_det.mean(axis=0) - mean) / np.sqrt(variance / num_runs)
  assert np.abs(z).max() < MAX_Z
  later, later_variance = theory.gaussian_replace_log_det(dim, num_samples, T + 1)
  fewer, fewer_variance = theory.gaussian_replace_log_det(dim, num_samples - 1, T)
  assert_oracle(log_det, mean, one_off(later), fewer, mean + rank * np.log(num_samples / (num_samples - 1)))
  assert_oracle((log_det - mean) ** 2, variance, one_off(later_variance), fewer_variance)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_first_generation_log_det_is_the_same_under_every_workflow(workflow):
  log_det = np.log(gaussian_runs(workflow, unbiased=False)[2][:, :1])
  expected, wrong = (theory.gaussian_replace_log_det(2, num_samples, 1)[0] for num_samples in (6, 7))
  assert_oracle(log_det, expected, wrong)


def test_log_variance_and_c4_law():
  assert theory.gaussian_replace_log_variance(10, 20)[-1] == pytest.approx(-4.411, abs=5e-4)
  assert theory.unbiased_std_replace(10, 20)[-1] == pytest.approx(0.5744, abs=5e-5)
  _, covs = simulate("replace", gaussian_fit_and_sample(unbiased=True), 1, 6, 4, 50_000, seed=6)
  std = np.sqrt(covs[..., 0, 0])
  assert_oracle(
    std,
    theory.unbiased_std_replace(6, 4),
    theory.unbiased_std_replace(5, 4),
    one_off(theory.unbiased_std_replace(6, 5)),
  )
  biased = theory.gaussian_replace_log_variance(6, 4)
  assert_oracle(2 * np.log(std), biased + np.arange(1, 5) * np.log(6 / 5), biased)


def test_replace_det():
  det = gaussian_runs("replace", unbiased=False)[2]
  assert_oracle(
    det,
    theory.gaussian_replace_det(2, 6, 4),
    theory.gaussian_replace_det(2, 5, 4),
    one_off(theory.gaussian_replace_det(2, 6, 5)),
  )
  assert theory.gaussian_replace_det(2, 10, 2)[-1] == pytest.approx(0.518, abs=5e-4)
  assert not theory.gaussian_replace_det(10, 10, 3).any()
  assert not theory.gaussian_replace_det(100, 10, 3).any()


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_accumulate_det_matches_simulation(dim):
  det = gaussian_runs("accumulate", unbiased=False, dim=dim)[2]
  trace_ratio = theory.gaussian_accumulate(6, 4).trace_ratio
  wrong = [theory.gaussian_accumulate_det(dim, 5, 4), one_off(theory.gaussian_accumulate_det(dim, 6, 5))]
  wrong += [trace_ratio**dim] if dim > 1 else []
  assert_oracle(det, theory.gaussian_accumulate_det(dim, 6, 4), *wrong)


def test_accumulate_det_limits():
  trace_ratio = theory.gaussian_accumulate(7, 50).trace_ratio
  np.testing.assert_allclose(theory.gaussian_accumulate_det(1, 7, 50), trace_ratio)
  np.testing.assert_allclose(theory.gaussian_accumulate_det(5, 7, 1), theory.gaussian_replace_det(5, 7, 1))
  assert not theory.gaussian_accumulate_det(7, 7, 3).any()
  assert np.isfinite(theory.gaussian_accumulate_det(100, 1000, 100)).all()


# ---------------------------------------------------------------------------------------------- KDE


def kde_variance(schedule, bandwidth, dim=1, truth=1.0):
  """In data units, of a kernel of width `bandwidth`(rows, dim)."""
  kernel_variance = lambda rows: float(bandwidth(rows, dim)) ** 2
  return theory.schedule_kde_variance(schedule, kernel_variance, first=(1 - 1 / schedule.sizes[0]) * truth)


@pytest.mark.parametrize("workflow", ["replace", "accumulate", "accumulate_subsample"])
def test_kde_variance_matches_simulation(workflow):
  dim, n, T, std = 2, 5, 4, 1.5
  constant, scott = (lambda num, dim: 0.5), theory.scott_bandwidth
  for bandwidth, wrong_bandwidth in [(constant, scott), (scott, lambda num, dim: scott(n, dim))]:
    fit = kde_fit_and_sample(lambda num, bandwidth=bandwidth: bandwidth(num, dim))
    _, covs = simulate(workflow, fit, dim, n, T, 40_000, seed=7, std=std)
    predict = lambda n=n, T=T, variance=std**2, bandwidth=bandwidth: kde_variance(
      schedule_of(workflow, n, T), bandwidth, dim, variance
    )
    wrong = [predict(n=n - 1), one_off(predict(T=T + 1)), predict(variance=1.0)]
    if bandwidth is constant or workflow == "accumulate":  # elsewhere every model is fitted to n rows
      wrong.append(predict(bandwidth=wrong_bandwidth))
    assert_oracle(covs.mean(axis=(2, 3)), predict(), *wrong)


def test_kde_variance_tabulated():
  for workflow, fixed, scott in [
    ("replace", 4.692, 5.65),
    ("accumulate", 2.03, 1.51),
    ("accumulate_subsample", 1.93, 2.15),
  ]:
    for bandwidth, expected in [(lambda rows, dim: 0.5, fixed), (theory.scott_bandwidth, scott)]:
      assert kde_variance(schedule_of(workflow, 20, 50), bandwidth)[-1] == pytest.approx(expected, abs=0.005)
    none = kde_variance(schedule_of(workflow, 20, 30), lambda rows, dim: 0.0)
    np.testing.assert_allclose(none, moments_of(workflow, 20, 30).trace_ratio)
  limit = theory.kde_variance_limit(20, 0.5)
  assert kde_variance(schedule_of("replace", 20, 1000), lambda rows, dim: 0.5)[-1] == pytest.approx(limit)


def test_bandwidth_rules_are_those_of_scikit_learn():
  neighbors = needed("sklearn.neighbors")
  for dim in (1, 2, 3):
    rows = np.random.default_rng(0).standard_normal((30, dim))
    for name, rule in [("scott", theory.scott_bandwidth), ("silverman", theory.silverman_bandwidth)]:
      assert rule(30, dim) == pytest.approx(neighbors.KernelDensity(bandwidth=name).fit(rows).bandwidth_)


# ------------------------------------------------------------------------------- other closed forms


def test_wasserstein2_squared():
  rng = np.random.default_rng(8)
  a, b = rng.standard_normal((2, 4, 6))
  cov_a, cov_b, mean_a, mean_b = a @ a.T, b @ b.T, a[:, 0], b[:, 0]
  root = linalg.sqrtm(cov_a)
  cross = linalg.sqrtm(root @ cov_b @ root)
  expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * cross).real
  assert theory.wasserstein2_squared(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-9)
  assert theory.wasserstein2_squared(mean_b, cov_b, mean_a, cov_a) == pytest.approx(expected, rel=1e-9)
  assert theory.wasserstein2_squared(mean_a, cov_a, mean_a, cov_a) == pytest.approx(0, abs=1e-9)
  assert theory.wasserstein2_squared([0, 0], np.diag([1, 0]), [3, 0], np.diag([0, 4])) == pytest.approx(9 + 5)
  assert theory.wasserstein2_squared([1], [[4]], [3], [[9]]) == pytest.approx(4 + 1)


@pytest.mark.parametrize(
  "num_candidates, t, expected",
  [(2, (1, 4, 8, 12), (0.142, 0.362, 0.794, 0.975)), (4, (1, 4, 8), (0.177, 0.643, 0.978))],
)
def test_curation_two_types(num_candidates, t, expected):
  shares = theory.curation_two_types(0.1, 1.0, num_candidates, max(t))
  np.testing.assert_allclose(shares[np.array(t) - 1], expected, atol=6e-4)
  rng = np.random.default_rng(9)
  before = np.append(0.1, shares[:-1])
  preferred = rng.random((200_000, len(shares), num_candidates)) < before[:, None]
  best = np.argmax(preferred * 1.0 + rng.gumbel(size=preferred.shape), axis=-1)
  chosen = np.take_along_axis(preferred, best[..., None], axis=-1)[..., 0].astype(float)
  assert_oracle(chosen, shares, before, theory.curation_two_types(0.1, 1.0, num_candidates + 1, max(t)))
  np.testing.assert_allclose(theory.curation_two_types(0.1, 1.0, 1, 3), 0.1)


# ------------------------------------------------------------------- laws of schedules: all workflows, all arguments

TABLE = ((1, 0, 0, 0), (0.3, 0.7, 0, 0), (0.2, 0.3, 0.5, 0), (0, 0.4, 0, 0.6))
SCHEDULES = [
  "replace",
  "replace(5)",
  "replace(20)",
  "accumulate",
  "accumulate(1)",
  "accumulate(20)",
  "accumulate_subsample",
  "mix(0.3)",
  "mix(0.56)",
  "mix(0.5, fresh=True)",
  "mix(0.3, fresh=True, real_weight=0.7)",
  "mix(0.6, real_weight=0.2)",
  "mix(1.0)",
  "grown_replace",
  "sliding_window(2)",
  f"weights({TABLE})",
]


def training_rows(rng, workflow, n, num_generations, num_runs, real_rows, model):
  """Yields what model(rows [runs, N], share of each row [N]) makes of the rows of each generation; it returns a sampler too."""
  name, arguments, keywords = parse_call(workflow)
  given = dict(zip(("real_fraction", "fresh", "real_weight"), arguments)) | keywords if name == "mix" else {}
  batches = [real_rows(n)]
  for t in range(1, num_generations + 1):
    if given.get("fresh") and t > 1:
      batches[0] = real_rows(n)
    shares = [0.0] * t
    if name == "weights":
      shares = arguments[0][t - 1]
    elif name == "mix" and t > 1 and batches[-1].shape[1]:
      weight = given.get("real_weight", n / (n + batches[-1].shape[1]))
      shares[0], shares[-1] = weight, 1 - weight
    else:
      keep = {"replace": 1, "grown_replace": 1, "sliding_window": arguments[0] if arguments else 0}.get(name, t)
      used = [0] if name == "mix" else range(max(t - keep, 0), t)
      for j in used:
        shares[j] = batches[j].shape[1] / sum(batches[i].shape[1] for i in used)
    used = [j for j in range(t) if shares[j] > 0]
    rows = np.concatenate([batches[j] for j in used], axis=1)
    share = np.concatenate([np.full(batches[j].shape[1], shares[j] / batches[j].shape[1]) for j in used])
    if name == "accumulate_subsample":
      chosen = np.argsort(rng.random(rows.shape), axis=1)[:, :n]
      rows, share = np.take_along_axis(rows, chosen, axis=1), np.full(n, 1 / n)
    found, draw = model(rows, share)
    yield found
    num = {
      "replace": (arguments or (n,))[0],
      "accumulate": (arguments or (n,))[0],
      "grown_replace": n * (t + 1),
      "mix": round(n * (1 - given.get("real_fraction", 1)) / given.get("real_fraction", 1)),
    }.get(name, n)
    batches.append(draw(num))


def gaussian_model(rng, temperature=1.0, unbiased=False, kernel=0.0):
  """Mean and variance of rows; samples of a Gaussian, or of the rows blurred by a kernel of that variance."""

  def model(rows, share):
    mean = rows @ share
    variance = (rows - mean[:, None]) ** 2 @ share
    fitted = variance * (len(share) / (len(share) - 1) if unbiased else 1) + kernel

    def draw(num):
      noise = rng.standard_normal((len(rows), num))
      if not kernel:
        return mean[:, None] + np.sqrt(temperature * fitted)[:, None] * noise
      return (
        rows[np.arange(len(rows))[:, None], rng.choice(len(share), (len(rows), num), p=share)]
        + np.sqrt(temperature * kernel) * noise
      )

    return (fitted, mean**2), draw

  return model


def family_model(draw_rows, truth):
  def model(rows, share):
    mean = np.clip(rows @ share, 0, None)
    return (mean, (mean - truth) ** 2), lambda num: draw_rows(mean[:, None], num)

  return model


def laws_of(kind, schedule):
  """(variances [T] or None, errors [T] or None) by theory."""
  if kind == "kde":
    return theory.schedule_kde_variance(schedule, lambda rows: 0.3, temperature=0.6), None
  if kind in ("bernoulli", "poisson", "exponential"):
    scale, curvature = {"bernoulli": (0.21, -1), "poisson": (2.0, 0), "exponential": (1.0, 1)}[kind]
    return None, scale * theory.schedule_family(schedule, curvature)
  options = {"gaussian": {}, "warm": {"temperature": 1.2}, "unbiased": {"unbiased": True}}[kind]
  return theory.schedule_moments(schedule, **options)


@pytest.mark.parametrize("kind", ["gaussian", "warm", "unbiased", "kde", "bernoulli", "poisson", "exponential"])
def test_laws_of_schedules_match_simulation(kind):
  """Every workflow with every argument; a law that takes all batches for equal, or real data for the first, must fail."""
  n, T, num_runs = 10, 4, 6000
  rng = np.random.default_rng(11)
  families = {
    "bernoulli": (lambda mean, num: (rng.random((num_runs, num)) < mean) * 1.0, 0.3),
    "poisson": (lambda mean, num: rng.poisson(mean, (num_runs, num)) * 1.0, 2.0),
    "exponential": (lambda mean, num: mean * rng.exponential(size=(num_runs, num)), 1.0),
  }
  if kind in families:
    draw, truth = families[kind]
    model, real = family_model(draw, truth), lambda num: draw(np.full((num_runs, 1), truth), num)
  else:
    options = {"warm": {"temperature": 1.2}, "unbiased": {"unbiased": True}, "kde": {"kernel": 0.3, "temperature": 0.6}}
    model, real = gaussian_model(rng, **options.get(kind, {})), lambda num: rng.standard_normal((num_runs, num))
  told = 0
  for name in SCHEDULES:
    schedule = schedule_of(name, n, T)
    found = zip(*training_rows(rng, name, n, T, num_runs, real, model))
    careless = schedule._replace(sizes=np.full(T, float(n)), fresh=False, real_weight=None)
    for values, law, twin in zip(found, laws_of(kind, schedule), laws_of(kind, careless)):
      if law is not None:
        samples = np.stack(values, axis=1)
        assert largest_z(samples, law) < MAX_Z, (name, law, samples.mean(axis=0))
        told += largest_z(samples, twin) > MAX_Z
  assert told >= 6  # of the nine that emit other numbers, weigh or draw real data anew


def test_schedules_have_the_shares_of_their_workflows():
  from collapse_jax import workflows

  for name in SCHEDULES:
    workflow = workflows.parse(name)()
    schedule = workflow.schedule(10, 4)
    assert list(schedule.sizes) == [10] + [workflow.emit(10, t) for t in (1, 2, 3)]
    if workflow.weights is not None and name not in ("mix(0.3)", "mix(0.56)"):  # whose rows are whole numbers
      np.testing.assert_allclose(schedule.weights, workflow.weights(4), atol=1e-15)
  np.testing.assert_allclose(
    schedule_of("accumulate(5)", 10, 3).weights, [[1, 0, 0], [2 / 3, 1 / 3, 0], [0.5, 0.25, 0.25]]
  )
  np.testing.assert_allclose(schedule_of("mix(0.56)", 2, 2).weights[1], [0.5, 0.5])
  np.testing.assert_allclose(schedule_of("mix(0.56)", 100, 2).weights[1], np.array([100, 79]) / 179)


def test_log_det_and_trace_variance_of_schedules():
  """In NumPy, dim 2: batches of unequal sizes, warm and unbiased."""
  sizes, num_runs, rng = (8, 5, 20), 20_000, np.random.default_rng(12)
  factor = np.broadcast_to(np.eye(2), (num_runs, 2, 2))
  log_dets, traces = [], []
  for t, num in enumerate(sizes):
    rows = rng.standard_normal((num_runs, num, 2)) @ np.swapaxes(factor, 1, 2) * np.sqrt(1.3 if t else 1.0)
    rows = rows - rows.mean(axis=1, keepdims=True)
    cov = np.einsum("rni,rnj->rij", rows, rows) / (num - 1)
    factor = np.linalg.cholesky(cov)
    log_dets.append(np.linalg.slogdet(cov)[1])
    traces.append(np.trace(cov, axis1=1, axis2=2) / 2)
  schedule = theory.Schedule(np.array(sizes, float), np.zeros(3, int))
  how = {"unbiased": True, "temperature": 1.3}
  mean, variance = theory.schedule_log_det(schedule, 2, **how)
  careless = theory.schedule_log_det(schedule._replace(sizes=np.full(3, 8.0)), 2, **how)
  log_det, trace = np.stack(log_dets, axis=1), np.stack(traces, axis=1)
  assert_oracle(log_det, mean, careless[0], theory.schedule_log_det(schedule, 2)[0])
  assert_oracle((log_det - mean) ** 2, variance, careless[1])
  moments, spread = theory.schedule_moments(schedule, **how), theory.schedule_trace_variance(schedule, 2, **how)
  assert_oracle((trace - moments.trace_ratio) ** 2, spread, theory.schedule_trace_variance(schedule, 3, **how))
  pooled = schedule_of("accumulate", 8, 3)
  assert (
    theory.schedule_trace_variance(pooled, 1) <= [2 * 7 / 64] * 3
  ).all()  # a bound: what comes from the real batch
