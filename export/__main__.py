"""Runs `python -m export`."""

from export.cli.main import main

if __name__ == "__main__":
    main()
