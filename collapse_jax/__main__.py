"""See `cli`."""

from collapse_jax.cli import main

main()
