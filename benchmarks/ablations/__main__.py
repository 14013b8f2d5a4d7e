"""``python -m benchmarks.ablations``; ``--help`` lists the options."""

import sys

from benchmarks.ablations.cli import main

if __name__ == "__main__":
    sys.exit(main())
