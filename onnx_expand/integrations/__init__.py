"""onnx-expand inside other tools, one file for each, which imports the tool when it is used.

What needs no file here: the passes of `onnx_expand.passes` are passes of onnx_ir, so that they go
into `onnx_ir.passes.Sequential` and `PassManager` and between the steps of onnxscript; the
functions of `onnx_expand` take an `onnx_graphsurgeon.Graph` and a `torch.onnx.ONNXProgram`.
"""
