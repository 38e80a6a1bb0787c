"""Where ONNX's reference implementation computes what onnxruntime does, as was compared."""

PROVEN: dict[str, frozenset[str]] = {}
