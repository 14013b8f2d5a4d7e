"""From checkpoints to a model bundle: tracing, simplification, FP16, manifest."""
