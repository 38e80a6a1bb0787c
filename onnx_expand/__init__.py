"""Expand, train, fold and check ONNX models."""
