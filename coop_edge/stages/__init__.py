"""Runs the method, stage by stage, over the contracts of templates, render, ops, pnp and runtime."""
