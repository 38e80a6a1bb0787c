"""Write products of tokens as products of rows.

    MatMul(x, W) + b = Reshape(Gemm(Reshape(x, [-1, k]), W, b), [..., n])

for x of [..., k]. A Reshape commutes with elementwise ops, so the Reshapes of consecutive products
cancel, and merge with others such as those that split attention heads. Products are rewritten
where this needs no more nodes than before, which saves one addition for each product.

All extents must be static; onnxruntime does the same when it loads such a model, before it
searches for fusions. For dynamic extents it fuses the addition with a following GELU or with a
whole attention instead, which needs the nodes as they are.
"""

from onnx_expand.passes.rows.writing import Rowed, as_rows

__all__ = ["Rowed", "as_rows"]
