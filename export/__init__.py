"""The workstation side of coop_edge: networks, training and export, in PyTorch. Run it from a checkout.

Nothing in ``coop_edge`` imports this package, and it is not in the wheel.
"""
