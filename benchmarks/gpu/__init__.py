"""Benchmarks that need an NVIDIA GPU and CuPy; on a machine without one they say so and exit with status 2."""
