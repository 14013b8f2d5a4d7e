"""``python -m benchmarks.accuracy DATASET``; ``--help`` lists the options."""

import sys

from benchmarks.accuracy.cli import main

if __name__ == "__main__":
    sys.exit(main())
