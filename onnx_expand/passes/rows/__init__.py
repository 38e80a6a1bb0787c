"""Products of tokens as products of rows.

    MatMul(x, W) + b = Reshape(Gemm(Reshape(x, [-1, k]), W, b), [..., n])

for x of [..., k]. A Reshape moves no number, and goes through what treats all numbers alike:
those of products in a row meet, and one that meets another is one with it, such as that by which
attention cuts its heads. Written are products of which that takes no more nodes than before, with
an addition less to compute for each.

Only where all extents are static, as onnxruntime does it by itself when it loads a model:
elsewhere it fuses the addition with the GELU behind it, which needs the three nodes as they are.
Under masked scores it looks for a whole attention, the additions included, so that nothing
changes there.
"""

from onnx_expand.passes.rows.writing import Rowed, as_rows

__all__ = ["Rowed", "as_rows"]
