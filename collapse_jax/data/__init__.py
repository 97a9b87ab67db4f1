"""Where real data come from: files that people bring, bundled sets (neither imports JAX), generators."""
