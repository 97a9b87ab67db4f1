"""Closed forms of self-consuming training in NumPy float64, one function per equation, for tests and plots.

A file a family of papers; `estimation` has those of the three workflows and their schedules, and the conventions of all.
"""

from collapse_jax.theory.curation import curation_divergence_bound as curation_divergence_bound
from collapse_jax.theory.curation import curation_factor as curation_factor
from collapse_jax.theory.curation import curation_gain_bound as curation_gain_bound
from collapse_jax.theory.curation import curation_gaussian as curation_gaussian
from collapse_jax.theory.curation import curation_two_types as curation_two_types
from collapse_jax.theory.curation import curation_two_types_limit as curation_two_types_limit
from collapse_jax.theory.estimation import ACCUMULATE_LIMIT as ACCUMULATE_LIMIT
from collapse_jax.theory.estimation import SUBSAMPLE_LIMIT as SUBSAMPLE_LIMIT
from collapse_jax.theory.estimation import Moments as Moments
from collapse_jax.theory.estimation import drift_collapse_time as drift_collapse_time
from collapse_jax.theory.estimation import drift_entropy as drift_entropy
from collapse_jax.theory.estimation import gaussian_accumulate as gaussian_accumulate
from collapse_jax.theory.estimation import gaussian_accumulate_det as gaussian_accumulate_det
from collapse_jax.theory.estimation import gaussian_accumulate_subsample as gaussian_accumulate_subsample
from collapse_jax.theory.estimation import gaussian_accumulate_trace_limit as gaussian_accumulate_trace_limit
from collapse_jax.theory.estimation import gaussian_limit as gaussian_limit
from collapse_jax.theory.estimation import gaussian_mix as gaussian_mix
from collapse_jax.theory.estimation import gaussian_mix_limit as gaussian_mix_limit
from collapse_jax.theory.estimation import gaussian_moments as gaussian_moments
from collapse_jax.theory.estimation import gaussian_replace as gaussian_replace
from collapse_jax.theory.estimation import gaussian_replace_det as gaussian_replace_det
from collapse_jax.theory.estimation import gaussian_replace_log_det as gaussian_replace_log_det
from collapse_jax.theory.estimation import gaussian_replace_log_variance as gaussian_replace_log_variance
from collapse_jax.theory.estimation import gaussian_schedule as gaussian_schedule
from collapse_jax.theory.estimation import kde_variance as kde_variance
from collapse_jax.theory.estimation import kde_variance_limit as kde_variance_limit
from collapse_jax.theory.estimation import linear_noise as linear_noise
from collapse_jax.theory.estimation import linear_regression_mse as linear_regression_mse
from collapse_jax.theory.estimation import mix_first_order as mix_first_order
from collapse_jax.theory.estimation import mix_first_order_peak as mix_first_order_peak
from collapse_jax.theory.estimation import quadratic_family as quadratic_family
from collapse_jax.theory.estimation import scott_bandwidth as scott_bandwidth
from collapse_jax.theory.estimation import silverman_bandwidth as silverman_bandwidth
from collapse_jax.theory.estimation import sliding_window as sliding_window
from collapse_jax.theory.estimation import unbiased_std_replace as unbiased_std_replace
from collapse_jax.theory.estimation import wasserstein2_squared as wasserstein2_squared
from collapse_jax.theory.mixing import golden_weight as golden_weight
from collapse_jax.theory.mixing import mean_total_variation_of_fit as mean_total_variation_of_fit
from collapse_jax.theory.mixing import mixture_bound as mixture_bound
from collapse_jax.theory.mixing import total_variation_gaussian as total_variation_gaussian
from collapse_jax.theory.mixing import total_variation_of_coin as total_variation_of_coin
from collapse_jax.theory.mixing import weighted_mixing_error as weighted_mixing_error
from collapse_jax.theory.selection import level_set_variance as level_set_variance
from collapse_jax.theory.selection import nearest_loop as nearest_loop
from collapse_jax.theory.selection import nearest_purity as nearest_purity
from collapse_jax.theory.selection import nearest_variance as nearest_variance
from collapse_jax.theory.temperature import gaussian_temperature as gaussian_temperature
from collapse_jax.theory.temperature import heat_death as heat_death
from collapse_jax.theory.temperature import heat_death_exponent as heat_death_exponent
from collapse_jax.theory.temperature import heat_death_noise as heat_death_noise
from collapse_jax.theory.temperature import least_stable_temperature as least_stable_temperature
from collapse_jax.theory.temperature import polya_variance as polya_variance
from collapse_jax.theory.temperature import tempered as tempered
