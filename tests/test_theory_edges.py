"""Every public function of `theory` where its arguments end: right, or a ValueError, never NaN in silence."""

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from collapse_jax import theory

T = 10**6
HUGE = 10**12
EYE = np.eye(3)
WINDOW = theory.Schedule(np.full(4, 5.0), np.arange(4) % 2)
TINY = 1e-300


def near(value, relative=1e-9):
  return pytest.approx(value, rel=relative, abs=0)


# name -> rows (arguments, keywords, part of the result that is compared, what it must be); ValueError: it must be refused.
last = lambda x: x[-1]
whole = lambda x: x
CASES = {
  "curation_two_types": [
    ((0.1, 800.0, 2, 3), {}, last, near(1 - 0.9**8)),
    ((0.1, -800.0, 2, 3), {}, last, near(0.1**8)),
    ((0.0, 1.0, 3, 2), {}, last, 0.0),
    ((1.0, 1.0, 3, 2), {}, last, near(1.0)),
    ((0.3, 1.0, 1, 4), {}, last, near(0.3)),
    ((0.3, 1.0, 2, 4), {"flip_share": 0.5}, last, near(0.3)),
    ((0.3, 1.0, 0, 4), {}, last, ValueError),
    ((1.3, 1.0, 2, 4), {}, last, ValueError),
    ((0.3, 1.0, 2, 4), {"synthetic_per_real": 0.0}, last, near(0.3)),
  ],
  "curation_two_types_limit": [
    ((0.1, 1e-12, 1e-3), {}, whole, near(0.1)),
    ((0.1, 1.0, np.inf), {}, whole, 1.0),
    ((0.1, -1.0, np.inf), {}, whole, 0.0),
    ((0.0, 1.0, 5.0), {}, whole, 0.0),
    ((1.0, 1.0, 5.0), {}, whole, 1.0),
    ((0.1, 2000.0, 1.0), {}, whole, near(0.1**0.5)),
    ((0.1, np.nan, 1.0), {}, whole, ValueError),
  ],
  "curation_factor": [
    (([0.0, -1e5], [0.5, 0.5], 2), {}, whole, near([1.5, 0.5])),
    (([0.0, -np.inf], [0.5, 0.5], 2), {}, whole, near([1.5, 0.5])),
    (([3.0, 1.0], [0.5, 0.5], 1), {}, whole, near([1.0, 1.0])),
    (([0.0, np.nan], [0.5, 0.5], 2), {}, whole, ValueError),
    (([0.0, -1e6], [0.5, 0.5], 2), {}, whole, ValueError),
  ],
  "curation_gaussian": [
    ((2.0, 0.6, 4, 1), {}, np.ravel, pytest.approx([0.9444, 0.4687], abs=6e-4)),
    ((2.0, 0.3, 4, 1), {}, np.ravel, pytest.approx([1.0097, 0.4595], abs=6e-4)),
    ((2.0, 2.0, 1, 5), {}, last, near(np.ones(5))),
    ((2.0, 2.0, np.inf, T), {}, lambda x: x[0][-1], near(2.0, 1e-5)),
    ((2.0, 0.0, 4, 1), {}, whole, ValueError),
    ((2.0, 0.6, 2.5, 1), {}, whole, ValueError),
  ],
  "curation_gain_bound": [
    (([800.0, 0.0], [0.5, 0.5], 2), {}, whole, np.inf),
    (([800.0, 800.0], [0.5, 0.5], 2), {}, whole, 0.0),
    (([-800.0, -801.0], [0.5, 0.5], 2), {}, whole, 0.0),
    (([0.0, np.log(3)], [0.5, 0.5], 2), {}, whole, near(1 / 6)),
    (([0.0, 1.0], [0.5, 0.5], 1), {}, whole, 0.0),
  ],
  "curation_divergence_bound": [
    ((1, np.inf), {}, whole, 0.0),
    ((2, 1.0), {}, whole, np.inf),
    ((2, 0.5), {}, whole, near(np.log(2))),
  ],
  "changed_share": [
    ((EYE, np.ones(3) / 3, EYE, 0.5, 1), {}, whole, 0.0),
    ((EYE, np.ones(3) / 3, EYE, 0.5, 4), {}, whole, ValueError),
    ((EYE, np.ones(3) / 3, np.full((3, 3), 1 / 3), 0.1, 3), {"beta": np.inf}, whole, near(2 / 3)),
  ],
  "edited_regression": [
    ((1.0, 5), {"mask": "fixed"}, last, 5.0),
    ((0.0, 5), {"mask": "fixed"}, last, 1.0),
    ((1.0, 5), {"base": "anchor"}, last, near(5.0)),
    ((0.0, 5), {"base": "anchor"}, last, 1.0),
    ((1.0, 5), {"mask": "disjoint", "noise": "additive"}, last, 2.0),
    ((0.0, 5), {"mask": "disjoint"}, last, ValueError),
    ((1.5, 5), {}, last, ValueError),
    ((0.5, T), {"mask": "fixed"}, last, near(0.5 * 4 + 0.5 / 0.75)),
  ],
  "edited_sweep": [((1.0, 1), {}, whole, 2.0), ((1.0, 0), {}, whole, 1.0), ((0.0, 1), {}, whole, ValueError)],
  "eligible_share": [
    ((EYE, np.ones(3) / 3, EYE, 0.0), {}, whole, near(1.0)),
    ((EYE, np.ones(3) / 3, EYE, 2.0), {}, whole, 0.0),
  ],
  "member_coverage": [
    ((1.0, 1), {}, whole, ValueError),
    ((np.inf, 5), {}, whole, 0.0),
    ((0.0, 5), {}, whole, ValueError),
  ],
  "naive_coverage": [
    ((0.0,), {}, whole, near(0.9500042097)),
    ((np.inf,), {}, whole, 0.0),
    ((-1.0,), {}, whole, ValueError),
  ],
  "pooled_error": [((1, np.inf), {}, whole, 1.0), ((0, 1.0), {}, whole, ValueError), ((3, 0.0), {}, whole, ValueError)],
  "drift_collapse_time": [
    ((1, 10), {}, whole, 0.0),
    ((2, 10), {}, whole, near(20 * np.log(2))),
    ((HUGE, 10), {}, whole, near(20.0)),
  ],
  "drift_entropy": [((0, 10), {}, whole, ValueError)],
  "gaussian_accumulate": [
    ((2, 1), {}, np.ravel, near([0.5, 0.5])),
    ((HUGE, T), {}, lambda x: x.mean_error[-1] * HUGE, near(np.pi**2 / 6, 1e-5)),
    ((1, 3), {}, whole, ValueError),
    ((2, T), {"unbiased": True}, lambda x: len(x.trace_ratio), T),
  ],
  "gaussian_accumulate_det": [
    ((1, 2, 1), {}, last, near(0.5)),
    ((3, 2, 4), {}, last, 0.0),
    ((2, HUGE, T), {}, lambda x: (1 - x[-1]) * HUGE, near(np.pi**2 / 2, 1e-3)),
  ],
  "gaussian_accumulate_subsample": [
    ((2, 1), {}, np.ravel, near([0.5, 0.5])),
    ((HUGE, 10**5), {}, lambda x: x.mean_error[-1] * HUGE, near(np.pi**2 / 2 - 2, 1e-3)),
  ],
  "gaussian_accumulate_trace_limit": [
    ((HUGE,), {}, lambda x: (1 - x) * HUGE, near(np.pi**2 / 6, 1e-3)),
    ((1,), {}, whole, ValueError),
  ],
  "gaussian_mix": [
    ((10, 1.0, 3), {}, lambda x: x.mean_error[-1], near(0.1)),
    ((10, 0.0, 3), {}, whole, ValueError),
    ((10, 5e-324, 3), {}, whole, ValueError),
    ((2, 0.5, T), {}, lambda x: np.sum(x, axis=0)[-1], near(1.0)),
  ],
  "gaussian_known_variance": [
    (([0.0, np.inf],), {}, whole, near([1.0, 0.0])),
    ((1.0,), {}, float, near(0.6556795424)),
    ((1e-9,), {}, lambda x: (1 - x) * 1e9, near(1.0, 1e-6)),
    ((1e12,), {}, lambda x: x * 1e6, near(np.sqrt(np.pi / 2), 1e-5)),
    ((-1.0,), {}, whole, ValueError),
    ((np.nan,), {}, whole, ValueError),
  ],
  "gaussian_mix_limit": [
    ((10, 1.0), {}, np.ravel, near([0.9, 0.1])),
    ((HUGE, 0.5), {}, lambda x: x.mean_error * HUGE, near(4 / 3)),
    ((1, 0.5), {}, whole, ValueError),
  ],
  "gaussian_replace": [
    ((2, 1), {}, np.ravel, near([0.5, 0.5])),
    ((HUGE, 3), {}, lambda x: x.mean_error[-1], near(3e-12)),
    ((2, T), {}, lambda x: x.trace_ratio[-1], 0.0),
    ((10, 2.5), {}, whole, ValueError),
  ],
  "gaussian_replace_det": [
    ((1, 2, 1), {}, last, near(0.5)),
    ((2, 2, 3), {}, last, 0.0),
    ((1, HUGE, T), {}, lambda x: 1 - x[-1], near(1e-6, 1e-5)),
  ],
  "gaussian_replace_log_det": [
    ((1, HUGE, T), {}, lambda x: x[0][-1], near(-2e-6, 1e-5)),
    ((100, 200, T), {}, lambda x: len(x[0]), T),
    ((1, 2, 1), {}, np.ravel, near([-np.euler_gamma - 2 * np.log(2), np.pi**2 / 2])),
  ],
  "gaussian_replace_log_variance": [((HUGE, 1), {}, last, near(-2e-12, 1e-6)), ((1, 1), {}, last, ValueError)],
  "gaussian_schedule": [((np.eye(1), 2), {}, np.ravel, near([0.5, 0.5])), ((np.eye(2), 0), {}, whole, ValueError)],
  "kde_variance_limit": [((2, 0.0), {}, whole, 0.0), ((2, np.nan), {}, whole, ValueError)],
  "linear_noise": [((np.eye(1),), {}, last, 1.0), ((np.eye(2),), {"num": 0.0}, whole, ValueError)],
  "linear_regression_mse": [
    ((np.eye(1), 3, HUGE), {}, last, near(3e-12)),
    ((np.eye(1), 3, 4), {}, last, np.inf),
    ((np.eye(1), 0, 4), {}, last, ValueError),
    ((np.eye(1), 30, 1), {}, last, near(1 / 28 + 29)),
  ],
  "mix_first_order": [
    ((5, np.inf), {}, whole, 1.0),
    ((1, 0.0), {}, whole, 1.0),
    ((5, 0.0), {}, whole, 1.0),
    ((1, np.inf), {}, whole, 1.0),
    ((T, 1.0), {}, whole, near(4 / 3)),
    ((0, 1.0), {}, whole, ValueError),
    ((5, 1e20), {}, whole, near(1.0)),
  ],
  "mix_first_order_peak": [((T,), {}, lambda x: x > 1e5, True), ((1,), {}, whole, ValueError)],
  "quadratic_family": [((np.eye(1), 2, -1.0), {}, last, 0.5), ((np.eye(1), 0, -1.0), {}, last, ValueError)],
  "scott_bandwidth": [
    ((1, 1), {}, whole, 1.0),
    ((0, 1), {}, whole, ValueError),
    ((HUGE, 1), {}, whole, near(10**-2.4)),
  ],
  "silverman_bandwidth": [((1, 2), {}, whole, 1.0), ((0, 1), {}, whole, ValueError)],
  "sliding_window": [((1, 1), {}, np.ravel, [1.0]), ((0, 3), {}, whole, ValueError)],
  "unbiased_std_replace": [
    ((HUGE, 1), {}, lambda x: (1 - x[-1]) * HUGE, near(0.25, 1e-3)),
    ((10**9, 3), {}, lambda x: 1 - x[-1], near(0.75e-9, 1e-6)),
    ((2, 1), {}, last, near((2 / np.pi) ** 0.5)),
    ((41, 1), {}, last, near(stats.chi.mean(40) / 40**0.5, 1e-12)),
    ((42, 1), {}, last, near(stats.chi.mean(41) / 41**0.5, 1e-12)),
    ((1, 1), {}, last, ValueError),
  ],
  "wasserstein2_squared": [
    (([0.0], [[0.0]], [0.0], [[0.0]]), {}, whole, 0.0),
    (([0.0], [[1.0]], [0.0], [[1 + 2e-9]]), {}, whole, near(1e-18, 1e-6)),
    (([0, 0], np.eye(2), [0, 0], np.diag([1 + 2e-9, 1e-20])), {}, whole, near(1.0)),
  ],
  "golden_weight": [
    ((np.inf,), {}, whole, 1.0),
    ((0.0,), {}, whole, 0.0),
    ((1e20,), {}, whole, near(1.0)),
    ((1.0,), {}, whole, near(0.6180339887)),
    ((-1.0,), {}, whole, ValueError),
  ],
  "mean_total_variation_of_fit": [((0,), {}, whole, ValueError), ((HUGE,), {}, lambda x: 1e-7 < x < 1e-6, True)],
  "mixture_bound": [(([0.5], [[1.0]]), {}, last, 0.5)],
  "total_variation_gaussian": [
    ((0.3, std), {}, whole, near(1.0, 1e-8)) for std in (1e-10, 1e-12, 1e-13, TINY, 1e200, 0.0, np.inf)
  ]
  + [
    ((0.0, 1.0), {}, whole, 0.0),
    ((1e-8, 1.0), {}, whole, near(1e-8 * stats.norm.pdf(0))),
    ((1e30, 1.0), {}, whole, 1.0),
    ((0.0, 1 + 1e-9), {}, whole, near(2e-9 * stats.norm.pdf(1), 1e-6)),
    ((0.0, np.nan), {}, whole, ValueError),
    ((0.0, -1.0), {}, whole, ValueError),
  ],
  "total_variation_of_coin": [
    ((1, 0.5), {}, whole, near(0.5)),
    ((HUGE, 0.5), {}, whole, near((0.5 / np.pi) ** 0.5 * 1e-6, 1e-3)),
    ((10, 0.0), {}, whole, 0.0),
    ((10, 1.0), {}, whole, 0.0),
    ((10, 1.5), {}, whole, ValueError),
  ],
  "weighted_mixing_error": [
    ((1.0, 5.0), {}, whole, 1.0),
    ((0.0, 5.0), {}, whole, ValueError),
    ((0.5, np.inf), {}, whole, ValueError),
    ((1e-12, 0.0), {}, whole, near(5e-13)),
  ],
  "level_set_variance": [
    ((1.0, 1.0), {}, whole, 1.0),
    ((1.0, 1e-9), {}, whole, near(np.pi / 6 * 1e-18, 1e-6)),
    ((1.0, 0.0), {}, whole, ValueError),
    ((4.0, 0.6826894921370859), {}, whole, near(4 * 0.2911250947, 1e-8)),
  ],
  "nearest_loop": [((0.5, 1), {}, last, 1.0), ((1.5, 3), {}, last, ValueError)],
  "nearest_purity": [((0.0, 2, 10, 0.5), {}, whole, near(0.5, 1e-2)), ((1.0, 2, 10, 1.0), {}, whole, ValueError)],
  "nearest_variance": [
    ((0.0, 0.5), {}, whole, 0.0),
    ((1e-30, 0.5), {}, lambda x: x / 1e-30 <= 1.0001, True),
    ((1.0, 0.0), {}, whole, ValueError),
  ],
  "gaussian_temperature": [
    ((2, 0.0, 3), {}, lambda x: x.trace_ratio[-1], 0.0),
    ((10, np.inf, 3), {}, whole, ValueError),
    ((10, 2.0, 3), {"real_fraction": 1.0}, lambda x: x.mean_error[-1], near(0.1)),
    ((1, 2.0, 3), {}, whole, ValueError),
  ],
  "heat_death": [
    (([0.6, 0.4, 0.0], np.inf, 3), {}, last, near([0.5, 0.5, 0.0])),
    (([0.6, 0.4, 0.0], 0.0, 3), {}, last, [1.0, 0.0, 0.0]),
    (([0.5, 0.5, 0.0], 0.0, 3), {"accumulate": True}, last, near([0.5, 0.5, 0.0])),
    (([0.6, 0.4], -1.0, 3), {}, last, ValueError),
  ],
  "heat_death_exponent": [((np.inf,), {}, whole, -1.0), ((0.0,), {}, whole, ValueError)],
  "heat_death_noise": [
    ((100, np.inf, 0.5), {}, whole, near(0.05 * (2 / np.pi) ** 0.5)),
    ((100, 0.5, 0.5), {}, whole, ValueError),
  ],
  "polya_variance": [
    (((1, 1), 1), {}, whole, 0.0),
    (((1, 1), T), {}, whole, near(1 / 12, 1e-5)),
    (((0, 0), 3), {}, whole, ValueError),
  ],
  "tempered_models": [
    (([0.6, 0.4, 0.0], np.inf, np.eye(3)), {}, last, near([0.5, 0.5, 0.0])),
    (([0.6, 0.4], 1.0, np.eye(2)), {"score": [1.0, 0.0]}, last, [1.0, 0.0]),
    (([0.6, 0.4], 0.0, [[1.0]]), {}, last, [0.6, 0.4]),
    (([0.6, 0.4], -1.0, np.eye(3)), {}, last, ValueError),
    (([0.6, 0.4], 1.0, np.ones((2, 3))), {}, last, ValueError),
  ],
  "tempered": [
    (([0.5, 0.5, 0.0], np.inf), {}, whole, [0.5, 0.5, 0.0]),
    (([0.6, 0.4, 0.0], 0.0), {}, whole, [1.0, 0.0, 0.0]),
    (([0.6, 0.4], TINY), {}, whole, [1.0, 0.0]),
    (([0.0, 0.0], 1.0), {}, whole, ValueError),
    (([0.6, 0.4], np.nan), {}, whole, ValueError),
  ],
  "breakdown_point": [((0.0, 0.5), {}, whole, 0.0), ((0.5, 0.0), {}, whole, 1.0), ((0.0, 0.0), {}, whole, ValueError)],
  "generator_direction": [
    ((0.3, 0.0, 0.3), {}, lambda x: x[0], near(np.cos(0.3))),
    ((0.3, 0.0, 0.5), {}, whole, ValueError),
    ((0.0, 0.3, 0.3), {}, lambda x: x[0], 1.0),
  ],
  "kept_error_rate": [
    ((1.0, 0.5, 0.5), {}, whole, 1.0),
    ((0.0, 0.5, 0.5), {}, whole, 0.0),
    ((0.5, 0.0, 0.0), {}, whole, ValueError),
  ],
  "linear_verifier": [((0.0, 0.5, 0.5), {}, whole, ValueError), ((np.pi, 0.5, 0.5), {}, whole, ValueError)],
  "linear_verifier_loop": [
    ((0.3, 0.3, 0.0, 3), {}, np.ravel, near([0, 0, 0, 0.3, 0.3, 0.3])),
    ((1.2, 0.5, 1.234, T), {}, lambda x: x[1][-1], near(0.5)),
    ((0.5, np.pi - 0.5, np.pi, 3), {}, whole, ValueError),
  ],
  "truncation_loop": [
    ((0.0, 30.0, 1.0, 2), {}, lambda x: 29 < x[-1] < 29.05, True),
    ((0.0, -30.0, 1.0, 2), {}, lambda x: -29.05 < x[-1] < -29, True),
    ((5.0, 1.0, np.inf, 3), {}, last, 5.0),
    ((0.0, 0.5, 1e-9, 2), {}, last, near(0.5, 1e-8)),
    ((0.0, 0.5, 0.0, 2), {}, last, ValueError),
  ],
  "truncation_rate": [
    ((1e-6,), {}, whole, near(1e-12 / 3)),
    ((1e-4,), {}, whole, near(1e-8 / 3, 1e-8)),
    ((np.inf,), {}, whole, 1.0),
    ((0.0,), {}, whole, ValueError),
    ((1.0,), {}, whole, near(0.2911250947, 1e-8)),
  ],
  "verified_accuracy": [
    ((1.0, 2, np.inf, 0.2), {}, whole, near(stats.norm.cdf(1))),
    ((0.0, 2, 10, 0.2), {}, whole, near(0.5)),
    ((1.0, 1, 10, 0.2), {}, whole, ValueError),
    ((1.0, 2, HUGE, 0.2), {}, whole, near(stats.norm.cdf(1), 1e-5)),
  ],
  "schedule_of_weights": [
    ((np.eye(2), [HUGE, 1]), {}, lambda x: x.alone, True),
    (([[1.0, 0], [0.5, 0.5]], [2, 0]), {}, whole, None),
    (([[1.0, 0], [0.0, 1.0]], [2, 2]), {"redrawn": True}, whole, None),
  ],
  "light_until": [((WINDOW, 0.0), {}, whole, 0), ((WINDOW, np.inf), {}, whole, None)],
  "schedule_moments": [
    (
      (theory.Schedule(np.full(T // 10, float(HUGE)), np.zeros(T // 10, int)),),
      {},
      lambda x: x.mean_error[-1],
      near(1e-7, 1e-5),
    ),
    ((WINDOW,), {"temperature": 0.0}, lambda x: x.trace_ratio[-1], 0.0),
    (
      (theory.Schedule(np.array([2.0]), np.zeros(1, int)),),
      {"limit": True},
      lambda x: bool(np.isnan(x.mean_error)),
      True,
    ),
  ],
  "schedule_family": [((WINDOW, 0.0), {}, lambda x: x[0], 0.2)],
  "schedule_noise": [((WINDOW,), {"temperature": 0.0}, lambda x: x[0], 1.0)],
  "schedule_kde_variance": [
    ((WINDOW, lambda rows: 0.0), {"first": 0.0}, last, 0.0),
    ((WINDOW, lambda rows: 1.0), {"first": 0.0}, lambda x: x[0], 1.0),
    (
      (theory.Schedule(np.full(10**5, float(HUGE)), np.zeros(10**5, int)), lambda rows: 1e-6),
      {},
      last,
      near(1.1, 1e-4),
    ),
  ],
  "schedule_log_det": [
    (
      (theory.Schedule(np.array([2.0, 1.0, 1.0]), np.zeros(3, int)), 1),
      {},
      lambda x: list(np.isfinite(x[0])),
      [True, False, False],
    )
  ],
  "schedule_trace_variance": [((WINDOW, 1), {}, lambda x: x[0], near(2 * 4 / 25))],
  "second_moments": [((WINDOW._replace(fresh=True), lambda *_: 1.0), {"first": 1.0}, whole, ValueError)],
}
CASES |= {
  "variance_factor": [
    (("flow_euler",), {"num_steps": 0, "variance": 1.0}, whole, ValueError),
    (("euler",), {"num_steps": 10, "variance": 1.0}, whole, ValueError),
    (("ddim",), {"num_steps": 10, "variance": -1.0}, whole, ValueError),
    (("flow_rk4",), {"num_steps": 1000, "variance": 1.0}, whole, near(1.0)),
  ],
  "mean_factor": [
    (("flow_euler",), {"num_steps": 0}, whole, ValueError),
    (("flow_euler",), {"num_steps": 1}, whole, near(1.0)),
  ],
  "sampler_loop": [(("nothing",), {"num_steps": 5, "variance": 1.0, "num_generations": 2}, whole, ValueError)],
  "sampler_times": [(("ddim", 0), {}, whole, ValueError)],
  "sampler_log_variance": [
    (("ddim",), {"num_steps": 0, "variance": 1.0, "num_samples": 9, "num_generations": 2}, whole, ValueError)
  ],
  "flow_euler_constant": [((1.0,), {}, whole, near(1 + np.pi / 2)), ((0.0,), {}, whole, ValueError)],
  "early_stopping": [
    ((1.0,), {}, whole, ValueError),
    ((1.0,), {"noise_var": 0.1, "real_fraction": 1.5}, whole, ValueError),
  ],
  "distinct_rows": [((0, 3), {}, whole, ValueError)],
  "partial_fit": [((10, 1.5, 3), {}, whole, ValueError)],
  "early_stopping_mixture": [
    ((0.1, 1.0, 2), {}, lambda x: x.share, pytest.approx([1.0, 0.0])),
    ((0.1, 1e-12, 3), {}, lambda x: x.share.sum(), near(1.0)),
    ((0.0, 0.5, 3), {}, lambda x: x.noise_var, pytest.approx([0.0, 0.0, 0.0])),
    ((0.1, 0.0, 3), {}, whole, ValueError),
  ],
  "partial_fit_mix": [
    ((5, 1.0, 1.0), {}, whole, 0.0),
    ((10**12, 1.0, 0.5), {}, whole, near(0.25 / (1e12 * 0.5 * 1.5))),
    ((5, 0.0, 0.5), {}, whole, ValueError),
  ],
  "negative_extrapolation": [
    ((1.0, 1e6), {}, whole, near(1.0)),
    ((0.5, 0.0), {"parameter": "variance"}, whole, near(1.0)),
    ((0.0, 1.0), {}, whole, ValueError),
    ((0.5, 1.0), {"parameter": "precision"}, whole, ValueError),
  ],
  "negative_weight": [
    ((1.0, 0.5), {}, whole, 0.0),
    ((0.9, 1.0), {}, whole, ValueError),
    ((0.0, 0.5), {}, whole, ValueError),
  ],
  "partial_fit_rate": [(([1.0], 1.0), {}, whole, near(1.0)), (([], 1.0), {}, whole, near(0.0))],
  "linear_vae": [(([2.0, 1.0], -0.1, 1, [[1.0]]), {}, whole, ValueError)],
  "linear_vae_extinction": [((1.0, 0.0), {}, whole, ValueError), ((1.0, 0.1, "nothing"), {}, whole, ValueError)],
  "linear_vae_mix_limit": [((1.0, 0.1, 1.0), {}, whole, near(0.9)), ((1.0, 0.1, 1.5), {}, whole, ValueError)],
  "ppca_replace": [(([2.0, 1.0], 2, 10, 3), {}, whole, ValueError)],
  "ppca_divergence": [(([1.0, 1.0], 1), {}, whole, near(0.0)), (([2.0, 1.0], 3), {}, whole, ValueError)],
}

CASES |= {
  "autoregression_bias": [
    (([0.0],), {}, list, [0.0]),
    (([0.5, 0.2],), {"intercept": True}, list, [-1.7, -2.8]),
    (([1.0],), {}, whole, ValueError),
    (([0.5, 0.5],), {}, whole, ValueError),
    (([0.1, 0.1, 0.1],), {}, whole, ValueError),
    (([np.nan],), {}, whole, ValueError),
  ],
  "autoregression_loop": [
    (([0.5], np.inf, 3), {}, whole, ValueError),
    (([0.5], 10, 3), {"intercept": True, "pooled": True}, whole, ValueError),
    (([0.5], 1, 3), {}, whole, ValueError),
    (([0.5], HUGE, 2), {}, np.ravel, near([0.5, 0.5])),
    (([-0.3333333333], 10, 50), {"intercept": True}, last, near(np.array([-1 / 3]), 1e-8)),
    (([0.5], 10, 0), {}, whole, ValueError),
  ],
  "residual_variance_replace": [
    ((10, 2), {}, list, near([0.9, 0.81])),
    ((HUGE, T), {}, last, near(np.exp(-T / HUGE))),
    ((2, 2, 2), {}, whole, ValueError),
  ],
  "cross_column_variance": [
    ((1.0, 3, 1), {}, list, near([1.0])),
    ((0.0, 3, 2), {}, list, [0.0, 0.0]),
    ((1.0, 2, 1), {}, whole, ValueError),
  ],
  "mixture_heterozygosity": [
    ((0.0, 5, 2), {}, list, [0.0, 0.0]),
    ((0.5, 2, 1), {}, list, near([0.25])),
    ((1.1, 5, 2), {}, whole, ValueError),
  ],
  "component_variance_factor": [
    ((1.0, 10), {}, whole, near(0.9)),
    ((1e-9, 10), {}, whole, pytest.approx(0.0, abs=1e-7)),
    ((0.0, 10), {}, whole, ValueError),
  ],
  "truncated_normal_loop": [
    ((0.0, 1.0, 2), {"low": -np.inf, "high": np.inf}, lambda x: x.std[-1], near(1.0, 1e-3)),
    ((0.5, TINY, 1), {}, lambda x: x.mean[0], near(0.5)),
    ((0.5, 0.1, 1), {"low": 1.0, "high": 0.0}, whole, ValueError),
    ((0.5, 0.0, 1), {}, whole, ValueError),
  ],
  "redraw_atom": [((0.0,), {}, whole, 0.0), ((1.0,), {}, whole, 1.0), ((1.5,), {}, whole, ValueError)],
  "integer_sizes_loop": [
    ((0.0, 0.0, 3), {}, list, near([1.0] * 4)),
    ((20.0, 1.0, 3), {}, last, near(np.exp(20.5), 1e-3)),
    ((0.0, 1.0, 3), {"rounding": "up"}, whole, ValueError),
  ],
  "range_replace": [((2, 1), {}, list, near([1 / 3])), ((1, 1), {}, whole, ValueError)],
  "simulated_traffic": [
    ((0.9, 0.9), {}, lambda x: x["correlation"], near(0.9)),
    ((0.0, 0.0), {}, lambda x: x["lag1_y"], 0.0),
    ((1.0, 0.5), {}, whole, ValueError),
  ],
}

TYPES = {
  "EarlyStopping",
  "Moments",
  "NormalLoop",
  "PartialFit",
  "PpcaMoments",
  "Schedule",
  "SecondMoments",
  "StoppedMixture",
}


def test_every_function_is_here():
  public = {name for name, value in vars(theory).items() if callable(value) and not name.startswith("_")}
  assert public - TYPES == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_edges(name):
  function = getattr(theory, name)
  for arguments, keywords, part, expected in CASES[name]:
    inspect.signature(function).bind(*arguments, **keywords)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      if expected is ValueError:
        with pytest.raises(ValueError):
          function(*arguments, **keywords)
        continue
      found = part(function(*arguments, **keywords))
    if isinstance(expected, list):
      found = list(np.ravel(found))
    assert found == expected, (arguments, keywords)


def test_scipy_stats_is_imported_where_it_is_used():
  """It takes 0.4 s: not with the package, nor with what a sweep needs."""
  needed = "cj.sweep, cj.tasks.kde, cj.workflows, cj.theory"
  code = f"import sys, collapse_jax as cj; {needed}; assert 'scipy.stats' not in sys.modules"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
