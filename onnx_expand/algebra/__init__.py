"""The algebra of affine maps; it depends on numpy only, not on ONNX or torch."""
