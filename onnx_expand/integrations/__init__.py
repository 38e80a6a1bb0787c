"""Adapters for other tools, one file for each.

Some tools need no adapter: the passes of `onnx_expand.passes` are passes of onnx_ir, for
`onnx_ir.passes.Sequential`, `PassManager` and the steps of onnxscript; the functions of
`onnx_expand` take an `onnx_graphsurgeon.Graph` and a `torch.onnx.ONNXProgram`.
"""
