"""The algebra of affine maps: numpy alone, without ONNX and without torch."""
