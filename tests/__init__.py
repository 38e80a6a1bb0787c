"""The tests of onnx-expand."""
