"""Task-settings: one factory a file."""

from collapse_jax.tasks.gaussian import gaussian as gaussian
from collapse_jax.tasks.kde import kde as kde
