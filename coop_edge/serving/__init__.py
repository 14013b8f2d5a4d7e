"""Serves poses: a model repository for NVIDIA Triton Inference Server."""
