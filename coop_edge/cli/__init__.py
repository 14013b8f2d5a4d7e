"""The command ``coop-edge``: one module per command."""
