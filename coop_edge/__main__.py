"""``python -m coop_edge``: the command ``coop-edge``."""

from coop_edge.cli.main import main

if __name__ == "__main__":
    main()
