"""Co-op's networks in PyTorch: coarse (class + offset per query patch), refiner (flow and confidences), selector."""
