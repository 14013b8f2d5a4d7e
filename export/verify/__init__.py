"""Compares a bundle with the PyTorch checkpoints it was exported from."""
