"""Trains the networks: losses, the loop, checkpoints, and figures on held-out pairs."""
