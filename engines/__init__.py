"""Model bundles, one folder each: ``bundle.json`` and its ONNX graphs. Installed as ``coop_edge.engines``."""
