"""Defines the command ``coop-edge``: one module per command."""
