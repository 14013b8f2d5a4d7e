"""The paper's ablations on the smallest networks: ``python -m benchmarks.ablations``."""
