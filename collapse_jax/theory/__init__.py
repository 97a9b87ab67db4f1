"""Closed forms of self-consuming training in NumPy float64, one function per equation, for tests and plots.

A file a subject or a family of papers. Conventions: generation t = 1..T, and model 1 is fitted to n = num_samples real items only;
trajectories are arrays [T] for t = 1..T. Every equation is an expectation over all randomness of a run; "exact" means at any
num_samples, "first order" means the leading term in 1/n. Unless told otherwise fits divide by n (biased). "Derived" marks what
is derived here, not quoted from a paper; all is checked by simulation in the tests.

scipy.stats and scipy.optimize take 0.4 s to import, which is done where they are used.
"""

from collapse_jax.theory.autoencoders import PpcaMoments as PpcaMoments
from collapse_jax.theory.autoencoders import linear_vae as linear_vae
from collapse_jax.theory.autoencoders import linear_vae_extinction as linear_vae_extinction
from collapse_jax.theory.autoencoders import linear_vae_mix_limit as linear_vae_mix_limit
from collapse_jax.theory.autoencoders import ppca_divergence as ppca_divergence
from collapse_jax.theory.autoencoders import ppca_replace as ppca_replace
from collapse_jax.theory.autoregression import NormalLoop as NormalLoop
from collapse_jax.theory.autoregression import autoregression_bias as autoregression_bias
from collapse_jax.theory.autoregression import autoregression_loop as autoregression_loop
from collapse_jax.theory.autoregression import component_variance_factor as component_variance_factor
from collapse_jax.theory.autoregression import cross_column_variance as cross_column_variance
from collapse_jax.theory.autoregression import integer_sizes_loop as integer_sizes_loop
from collapse_jax.theory.autoregression import mixture_heterozygosity as mixture_heterozygosity
from collapse_jax.theory.autoregression import range_replace as range_replace
from collapse_jax.theory.autoregression import redraw_atom as redraw_atom
from collapse_jax.theory.autoregression import residual_variance_replace as residual_variance_replace
from collapse_jax.theory.autoregression import simulated_traffic as simulated_traffic
from collapse_jax.theory.autoregression import truncated_normal_loop as truncated_normal_loop
from collapse_jax.theory.curation import curation_divergence_bound as curation_divergence_bound
from collapse_jax.theory.curation import curation_factor as curation_factor
from collapse_jax.theory.curation import curation_gain_bound as curation_gain_bound
from collapse_jax.theory.curation import curation_gaussian as curation_gaussian
from collapse_jax.theory.curation import curation_two_types as curation_two_types
from collapse_jax.theory.curation import curation_two_types_limit as curation_two_types_limit
from collapse_jax.theory.drift import drift_collapse_time as drift_collapse_time
from collapse_jax.theory.drift import drift_entropy as drift_entropy
from collapse_jax.theory.editing import changed_share as changed_share
from collapse_jax.theory.editing import edited_regression as edited_regression
from collapse_jax.theory.editing import edited_sweep as edited_sweep
from collapse_jax.theory.editing import eligible_share as eligible_share
from collapse_jax.theory.ensembles import member_coverage as member_coverage
from collapse_jax.theory.ensembles import naive_coverage as naive_coverage
from collapse_jax.theory.ensembles import pooled_error as pooled_error
from collapse_jax.theory.gaussian import SUBSAMPLE_LIMIT as SUBSAMPLE_LIMIT
from collapse_jax.theory.gaussian import Moments as Moments
from collapse_jax.theory.gaussian import gaussian_accumulate as gaussian_accumulate
from collapse_jax.theory.gaussian import gaussian_accumulate_det as gaussian_accumulate_det
from collapse_jax.theory.gaussian import gaussian_accumulate_subsample as gaussian_accumulate_subsample
from collapse_jax.theory.gaussian import gaussian_accumulate_trace_limit as gaussian_accumulate_trace_limit
from collapse_jax.theory.gaussian import gaussian_known_variance as gaussian_known_variance
from collapse_jax.theory.gaussian import gaussian_mix as gaussian_mix
from collapse_jax.theory.gaussian import gaussian_mix_limit as gaussian_mix_limit
from collapse_jax.theory.gaussian import gaussian_replace as gaussian_replace
from collapse_jax.theory.gaussian import gaussian_replace_det as gaussian_replace_det
from collapse_jax.theory.gaussian import gaussian_replace_log_det as gaussian_replace_log_det
from collapse_jax.theory.gaussian import gaussian_replace_log_variance as gaussian_replace_log_variance
from collapse_jax.theory.gaussian import gaussian_schedule as gaussian_schedule
from collapse_jax.theory.gaussian import unbiased_std_replace as unbiased_std_replace
from collapse_jax.theory.gaussian import wasserstein2_squared as wasserstein2_squared
from collapse_jax.theory.kde import kde_variance_limit as kde_variance_limit
from collapse_jax.theory.kde import scott_bandwidth as scott_bandwidth
from collapse_jax.theory.kde import silverman_bandwidth as silverman_bandwidth
from collapse_jax.theory.mixing import golden_weight as golden_weight
from collapse_jax.theory.mixing import mean_total_variation_of_fit as mean_total_variation_of_fit
from collapse_jax.theory.mixing import mix_first_order as mix_first_order
from collapse_jax.theory.mixing import mix_first_order_peak as mix_first_order_peak
from collapse_jax.theory.mixing import mixture_bound as mixture_bound
from collapse_jax.theory.mixing import total_variation_gaussian as total_variation_gaussian
from collapse_jax.theory.mixing import total_variation_of_coin as total_variation_of_coin
from collapse_jax.theory.mixing import weighted_mixing_error as weighted_mixing_error
from collapse_jax.theory.regression import linear_regression_mse as linear_regression_mse
from collapse_jax.theory.samplers import SAMPLERS as SAMPLERS
from collapse_jax.theory.samplers import EarlyStopping as EarlyStopping
from collapse_jax.theory.samplers import PartialFit as PartialFit
from collapse_jax.theory.samplers import StoppedMixture as StoppedMixture
from collapse_jax.theory.samplers import distinct_rows as distinct_rows
from collapse_jax.theory.samplers import early_stopping as early_stopping
from collapse_jax.theory.samplers import early_stopping_mixture as early_stopping_mixture
from collapse_jax.theory.samplers import flow_euler_constant as flow_euler_constant
from collapse_jax.theory.samplers import mean_factor as mean_factor
from collapse_jax.theory.samplers import negative_extrapolation as negative_extrapolation
from collapse_jax.theory.samplers import negative_weight as negative_weight
from collapse_jax.theory.samplers import partial_fit as partial_fit
from collapse_jax.theory.samplers import partial_fit_mix as partial_fit_mix
from collapse_jax.theory.samplers import partial_fit_rate as partial_fit_rate
from collapse_jax.theory.samplers import sampler_log_variance as sampler_log_variance
from collapse_jax.theory.samplers import sampler_loop as sampler_loop
from collapse_jax.theory.samplers import sampler_times as sampler_times
from collapse_jax.theory.samplers import variance_factor as variance_factor
from collapse_jax.theory.schedules import Schedule as Schedule
from collapse_jax.theory.schedules import SecondMoments as SecondMoments
from collapse_jax.theory.schedules import light_until as light_until
from collapse_jax.theory.schedules import schedule_family as schedule_family
from collapse_jax.theory.schedules import schedule_kde_variance as schedule_kde_variance
from collapse_jax.theory.schedules import schedule_log_det as schedule_log_det
from collapse_jax.theory.schedules import schedule_moments as schedule_moments
from collapse_jax.theory.schedules import schedule_noise as schedule_noise
from collapse_jax.theory.schedules import schedule_of_weights as schedule_of_weights
from collapse_jax.theory.schedules import schedule_trace_variance as schedule_trace_variance
from collapse_jax.theory.schedules import second_moments as second_moments
from collapse_jax.theory.selection import level_set_variance as level_set_variance
from collapse_jax.theory.selection import nearest_loop as nearest_loop
from collapse_jax.theory.selection import nearest_purity as nearest_purity
from collapse_jax.theory.selection import nearest_variance as nearest_variance
from collapse_jax.theory.temperature import gaussian_temperature as gaussian_temperature
from collapse_jax.theory.temperature import heat_death as heat_death
from collapse_jax.theory.temperature import heat_death_exponent as heat_death_exponent
from collapse_jax.theory.temperature import heat_death_noise as heat_death_noise
from collapse_jax.theory.temperature import polya_variance as polya_variance
from collapse_jax.theory.temperature import tempered as tempered
from collapse_jax.theory.temperature import tempered_models as tempered_models
from collapse_jax.theory.verification import breakdown_point as breakdown_point
from collapse_jax.theory.verification import generator_direction as generator_direction
from collapse_jax.theory.verification import kept_error_rate as kept_error_rate
from collapse_jax.theory.verification import linear_verifier as linear_verifier
from collapse_jax.theory.verification import linear_verifier_loop as linear_verifier_loop
from collapse_jax.theory.verification import truncation_loop as truncation_loop
from collapse_jax.theory.verification import truncation_rate as truncation_rate
from collapse_jax.theory.verification import verified_accuracy as verified_accuracy
from collapse_jax.theory.weights import ACCUMULATE_LIMIT as ACCUMULATE_LIMIT
from collapse_jax.theory.weights import linear_noise as linear_noise
from collapse_jax.theory.weights import quadratic_family as quadratic_family
from collapse_jax.theory.weights import sliding_window as sliding_window

__all__ = [
  "ACCUMULATE_LIMIT",
  "SAMPLERS",
  "SUBSAMPLE_LIMIT",
  "EarlyStopping",
  "Moments",
  "NormalLoop",
  "PartialFit",
  "PpcaMoments",
  "Schedule",
  "SecondMoments",
  "StoppedMixture",
  "autoregression_bias",
  "autoregression_loop",
  "breakdown_point",
  "changed_share",
  "component_variance_factor",
  "cross_column_variance",
  "curation_divergence_bound",
  "curation_factor",
  "curation_gain_bound",
  "curation_gaussian",
  "curation_two_types",
  "curation_two_types_limit",
  "distinct_rows",
  "drift_collapse_time",
  "drift_entropy",
  "early_stopping",
  "early_stopping_mixture",
  "edited_regression",
  "edited_sweep",
  "eligible_share",
  "flow_euler_constant",
  "gaussian_accumulate",
  "gaussian_accumulate_det",
  "gaussian_accumulate_subsample",
  "gaussian_accumulate_trace_limit",
  "gaussian_known_variance",
  "gaussian_mix",
  "gaussian_mix_limit",
  "gaussian_replace",
  "gaussian_replace_det",
  "gaussian_replace_log_det",
  "gaussian_replace_log_variance",
  "gaussian_schedule",
  "gaussian_temperature",
  "generator_direction",
  "golden_weight",
  "heat_death",
  "heat_death_exponent",
  "heat_death_noise",
  "integer_sizes_loop",
  "kde_variance_limit",
  "kept_error_rate",
  "level_set_variance",
  "light_until",
  "linear_noise",
  "linear_regression_mse",
  "linear_vae",
  "linear_vae_extinction",
  "linear_vae_mix_limit",
  "linear_verifier",
  "linear_verifier_loop",
  "mean_factor",
  "mean_total_variation_of_fit",
  "member_coverage",
  "mix_first_order",
  "mix_first_order_peak",
  "mixture_bound",
  "mixture_heterozygosity",
  "naive_coverage",
  "nearest_loop",
  "nearest_purity",
  "nearest_variance",
  "negative_extrapolation",
  "negative_weight",
  "partial_fit",
  "partial_fit_mix",
  "partial_fit_rate",
  "polya_variance",
  "pooled_error",
  "ppca_divergence",
  "ppca_replace",
  "quadratic_family",
  "range_replace",
  "redraw_atom",
  "residual_variance_replace",
  "sampler_log_variance",
  "sampler_loop",
  "sampler_times",
  "schedule_family",
  "schedule_kde_variance",
  "schedule_log_det",
  "schedule_moments",
  "schedule_noise",
  "schedule_of_weights",
  "schedule_trace_variance",
  "scott_bandwidth",
  "second_moments",
  "silverman_bandwidth",
  "simulated_traffic",
  "sliding_window",
  "tempered",
  "tempered_models",
  "total_variation_gaussian",
  "total_variation_of_coin",
  "truncated_normal_loop",
  "truncation_loop",
  "truncation_rate",
  "unbiased_std_replace",
  "variance_factor",
  "verified_accuracy",
  "wasserstein2_squared",
  "weighted_mixing_error",
]


def __dir__() -> list[str]:
  return __all__
