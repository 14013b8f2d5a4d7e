"""Runs the networks of bundles with ONNX Runtime or TensorRT, behind one contract (``base.Runner``).

Nothing is imported here: a device without TensorRT or without ONNX Runtime loads neither.
"""
