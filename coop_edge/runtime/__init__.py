"""Compiled networks and what runs them: bundles, ONNX Runtime, TensorRT, behind one contract (``base.Runner``).

Nothing is imported here: a device without TensorRT or without ONNX Runtime loads neither.
"""
