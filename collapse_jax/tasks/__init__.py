"""Task-settings: one factory a file."""

from collapse_jax.tasks.gaussian import gaussian as gaussian
