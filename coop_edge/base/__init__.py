"""Holds what every room may use: options, files, compilation, and facts about the machine."""
