"""The command ``python -m export``: one module per group of commands."""
