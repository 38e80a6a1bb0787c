"""Gradients of every translated operator, in float64, against finite differences.

The inputs are those of ONNX's own tests, moved a little off kinks and ties.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from onnx_expand.errors import OnnxExpandError
from onnx_expand.train import to_torch
from onnx_expand.train.registry import find, registered
from tests.support.onnx_nodes import array_of, cases

# Operators without gradients, and why.
CONSTANT = "its results are integers, truths or shapes"
STEPS = "it is constant between steps"
FLAT = {
    **dict.fromkeys(
        (
            *("And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"),
            *("BitwiseXor", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
            *("LessOrEqual", "NonZero", "Not", "Or", "Shape", "Size", "Xor"),
        ),
        CONSTANT,
    ),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign"), STEPS),
    **dict.fromkeys(
        ("ConstantOfShape", "EyeLike", "OneHot", "Range", "BlackmanWindow", "HammingWindow",
         "HannWindow", "SequenceConstruct", "SplitToSequence"),
        "it makes numbers from none, or no tensor",
    ),
    "Unique": "torch has no gradient for it",
    "Dropout": "random while training, the identity otherwise",
    "Hardmax": STEPS,
    "Upsample": "Resize, under the name that it had",
    **dict.fromkeys(("ConcatFromSequence", "SequenceAt"), "its input is no tensor"),
    "Scatter": "ScatterElements, under the name that it had",
}  # fmt: skip
_MOST = 4000  # elements of an input
_CASES = 3


OWN = {
    "Cast": "y = Cast<to=11>(x)",
    "CastLike": "y = CastLike(x, x)",
    "Mish": "y = Mish(x)",
    "Trilu": "y = Trilu(x)",
}


def smallest() -> dict[str, list[Any]]:
    """Return the smallest loadable test of each operator."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for case in cases():
        sizes = [int(np.size(array_of(x))) for x in case.data_sets[0][0]]
        if min(sizes) > 0 and max(sizes) <= _MOST and len(case.model.graph.node) == 1:
            op = case.model.graph.node[0].op_type
            found.setdefault(op, []).append((sum(sizes), case))
    return {
        op: [case for _, case in sorted(some, key=lambda pair: (pair[0], pair[1].name))]
        for op, some in found.items()
    }


SMALLEST = smallest()
OPS = [name for domain, name in registered() if domain == "" and name in SMALLEST]


def check(case: Any) -> bool:
    """Compare the gradients of one test; return whether there are any."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    if model.graph.node[0].op_type == "LayerNormalization":  # no rounding is allowed
        model.graph.node[0].attribute.add(name="stash_type", type=2, i=onnx.TensorProto.DOUBLE)
    try:
        module = to_torch(model).double()
    except OnnxExpandError:
        return False
    rng = np.random.default_rng(0)
    node, opset = model.graph.node[0], model.opset_import[0].version
    plan = find("", node.op_type, opset)
    settings = set() if plan is None else plan.static | plan.frozen
    named = {node.input[slot] for slot in settings if slot < len(node.input)}
    inputs = []
    for port, value in zip(model.graph.input, map(array_of, case.data_sets[0][0]), strict=True):
        tensor = torch.from_numpy(np.array(value))
        if tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                return False
            tensor = tensor.double()
            if port.name not in named:
                tensor += 1e-2 * torch.from_numpy(rng.random(tensor.shape))
                tensor.requires_grad_()
        inputs.append(tensor)

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = module(*tensors)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(r for r in results if r.is_floating_point() and r.requires_grad)

    if not run(*inputs):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True, atol=1e-6, rtol=1e-4)
    return True


@pytest.mark.parametrize("op", [op for op in OPS if op not in {*FLAT, *OWN}])
def test_gradients_are_those_of_the_function(op: str) -> None:
    """Some tests of each operator have gradients, and they are correct."""
    done = 0
    for case in SMALLEST[op]:
        done += check(case)
        if done == _CASES:
            break
    assert done, f"no test of {op} has a gradient"


@pytest.mark.parametrize("body", OWN.values(), ids=list(OWN))
def test_gradients_of_operators_without_small_tests(body: str) -> None:
    """Operators that ONNX tests only with large inputs or in other types."""
    head = '<ir_version: 10, opset_import: ["" : 22]> g (double[3,4] x) => (double[3,4] y)'
    module = to_torch(onnx.parser.parse_model(f"{head} {{ {body} }}"))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4))).requires_grad_()
    assert torch.autograd.gradcheck(module, [x])


def test_every_translation_is_accounted_for() -> None:
    """Every operator has a test here or a reason for having none."""
    known = {*OPS, *FLAT, *OWN}
    assert {name for domain, name in registered() if domain == ""} - known == set()
