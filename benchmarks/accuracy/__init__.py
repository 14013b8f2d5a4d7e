"""Accuracy as the BOP benchmark measures it: ``python -m benchmarks.accuracy DATASET``."""
