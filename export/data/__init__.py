"""Training data: objects, scenes and pairs rendered on the fly."""
