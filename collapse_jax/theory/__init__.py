"""Closed forms of self-consuming training in NumPy float64, one function per equation, for tests and plots.

A file a family of papers; `estimation` has those of the three workflows and their schedules, and the conventions of all.
"""

from collapse_jax.theory.curation import curation_two_types as curation_two_types
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
