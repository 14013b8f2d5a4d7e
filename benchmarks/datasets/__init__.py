"""Data sets that scripts make: the synthetic evaluation set and the demo scene."""
