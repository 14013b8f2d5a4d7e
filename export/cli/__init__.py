"""Defines the command ``python -m export``: one module per group of commands."""
