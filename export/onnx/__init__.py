"""Turns checkpoints into a model bundle: tracing, simplification, FP16, manifest."""
