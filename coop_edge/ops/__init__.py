"""Operates on a device's arrays for the stages: one contract (``base``), an implementation each for CPU and CUDA."""
