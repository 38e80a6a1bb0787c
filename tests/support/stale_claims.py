"""Models whose value descriptions are wrong, as after editing a graph.

Runtimes run such models, at most with warnings: only what the nodes compute matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["WRAPS", "read_shapes", "spread_claims", "without_claims"]

_FLOAT = onnx.TensorProto.FLOAT


def spread_claims(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a copy with symbolic inputs in which most values have wrong declared shapes.

    Args:
        model: A model of float32 values. Its subgraphs and functions get wrong shapes, too.
        rng: The source of randomness.
    """
    model = _copy(model)
    _free_inputs(model.graph, rng)
    for graph in _graphs(model.graph):
        names = {name for node in graph.node for name in node.output if name}
        ends = {info.name for info in graph.output}
        claimed = [name for name in sorted(names - ends) if rng.uniform() < 0.7]
        graph.value_info.extend(_claim(name, rng) for name in claimed)
        inner = graph is not model.graph
        for info in (*graph.output, *(graph.input if inner else ())):
            if _is_image(info.type) and rng.uniform() < 0.7:
                info.CopyFrom(_claim(info.name, rng))
    for function in model.functions:
        names = {*function.input, *(name for node in function.node for name in node.output)}
        claimed = [name for name in sorted(names) if rng.uniform() < 0.7]
        integer = {n.output[0] for n in function.node if n.op_type == "Shape"}
        function.value_info.extend(_claim(n, rng) for n in claimed if n not in integer)
    for graph in _graphs(model.graph):
        integer = {n.output[0] for n in graph.node if n.op_type == "Shape"}
        for info in [info for info in graph.value_info if info.name in integer]:
            info.type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def _claim(name: str, rng: np.random.Generator, rank: int | None = None) -> onnx.ValueInfoProto:
    ranks = [4, 4, 4, 4, 2, 3, 5] if rank is None else [rank]
    count = int(rng.choice(ranks))
    static = [[1, 4, 64, 64, 2], [1, 4, 9, 8, 1], [2, 4, 7, 7, 7], [1, 1, 1, 1, 1]]
    dims: list[int | str | None] = list(static[int(rng.integers(len(static)))][:count])
    for axis in range(count):
        if rng.uniform() < 0.3:
            dims[axis] = [None, "N", "h", "dyn", "unk__0", 0, -1, 3][int(rng.integers(8))]
    return helper.make_tensor_value_info(name, _FLOAT, dims)


def _free_inputs(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Make spatial extents of inputs symbolic, with shared names or without names."""
    names: list[list[str | int | None]] = [["h", "w"], ["dyn", "dyn"], ["N", "N"]]
    names += [[None, None], [-1, -1]]
    for info in graph.input:
        if not _is_image(info.type):
            continue
        chosen = names[int(rng.integers(len(names)))]
        dims = info.type.tensor_type.shape.dim
        for dim, name in zip(list(dims)[2:], chosen, strict=False):
            if rng.uniform() < 0.8:
                dim.Clear()
                if isinstance(name, int):
                    dim.dim_value = name
                elif name is not None:
                    dim.dim_param = name
    for info in graph.output:
        for dim in info.type.tensor_type.shape.dim[2:]:
            dim.Clear()


def without_claims(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that declares only the shapes of its inputs."""
    model = _copy(model)
    for graph in _graphs(model.graph):
        inner = graph is not model.graph
        for info in (*graph.value_info, *graph.output, *(graph.input if inner else ())):
            info.type.tensor_type.ClearField("shape")
    for function in model.functions:
        for info in function.value_info:
            info.type.tensor_type.ClearField("shape")
    return model


def read_shapes(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """Return a copy in which some values are reshaped to their own shapes, or pooled."""
    model = _copy(model)
    nodes: list[onnx.NodeProto] = []
    ends = {info.name for info in model.graph.output}
    for node in list(model.graph.node):
        nodes.append(node)
        name = node.output[0]
        if len(node.output) > 1 or name in ends or rng.uniform() > 0.3:
            continue
        node.output[0] = f"{name}.plain"
        nodes.append(helper.make_node("Shape", [node.output[0]], [f"{name}.shape"]))
        nodes.append(helper.make_node("Reshape", [node.output[0], f"{name}.shape"], [name]))
    if rng.uniform() < 0.7:
        mean = helper.make_node("GlobalAveragePool", [nodes[-1].output[0]], ["mean"])
        nodes += [mean, helper.make_node("Mul", ["mean", "mean.scale"], ["mean.scaled"])]
        scale = numpy_helper.from_array(np.array(rng.uniform(0.5, 2), np.float32), "mean.scale")
        model.graph.initializer.append(scale)
        model.graph.output.add().CopyFrom(
            helper.make_tensor_value_info("mean.scaled", _FLOAT, [None] * 4)
        )
    copies = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(copies.node)
    return model


# -- Graphs within others ---------------------------------------------------------------------


def _in_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Wrap the model in both branches of an If."""
    model = _copy(model)
    graph, outputs = model.graph, [f"{info.name}.out" for info in model.graph.output]
    bodies = []
    for index in range(2):
        body = onnx.GraphProto(name=f"branch{index}", node=graph.node, output=graph.output)
        body.initializer.extend(graph.initializer)
        bodies.append(_renamed(body, f".{index}", {info.name for info in graph.input}))
    choice = helper.make_node(
        "If", ["choice"], outputs, then_branch=bodies[0], else_branch=bodies[1]
    )
    true = numpy_helper.from_array(np.array(True), "choice")
    return _around(model, [choice], [true], outputs)


def _in_loop(model: onnx.ModelProto) -> onnx.ModelProto:
    """Wrap the model in one iteration of a Loop, which stacks its outputs."""
    model = _copy(model)
    graph, outputs = model.graph, [f"{info.name}.out" for info in model.graph.output]
    body = onnx.GraphProto(name="body", node=graph.node, initializer=graph.initializer)
    body = _renamed(body, ".in", set())
    state = onnx.ValueInfoProto()
    state.CopyFrom(graph.input[0])
    state.name = f"{state.name}.in"
    body.input.append(helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []))
    body.input.append(state)
    body.node.append(helper.make_node("Identity", ["go"], ["going"]))
    body.node.append(helper.make_node("Identity", [state.name], ["state"]))
    body.output.append(helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []))
    after = body.output.add()
    after.CopyFrom(state)
    after.name = "state"
    for info in graph.output:
        inner = body.output.add()
        inner.CopyFrom(info)
        inner.name = f"{info.name}.in"
    once = numpy_helper.from_array(np.array(1), "once")
    start = numpy_helper.from_array(np.array(True), "start")
    loop = helper.make_node(
        "Loop", ["once", "start", graph.input[0].name], ["last", *outputs], body=body
    )
    return _around(model, [loop], [once, start], outputs, stacked=True)


def _in_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """Wrap the model in a local function."""
    model = _copy(model)
    graph, outputs = model.graph, [f"{info.name}.out" for info in model.graph.output]
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
    function = helper.make_function(
        "own",
        "body",
        [info.name for info in graph.input],
        [info.name for info in graph.output],
        [*constants, *graph.node],
        [helper.make_opsetid("", model.opset_import[0].version)],
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.ir_version = 10
    call = helper.make_node("body", [graph.input[0].name], outputs, domain="own")
    return _around(model, [call], [], outputs)


WRAPS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "none": lambda model: model,
    "branch": _in_branch,
    "loop": _in_loop,
    "function": _in_function,
}
"""Ways to put a model of one input into a graph within another."""


def _around(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    outputs: Sequence[str],
    *,
    stacked: bool = False,
) -> onnx.ModelProto:
    """Replace the nodes of a model by others that contain them."""
    ranks = [len(info.type.tensor_type.shape.dim) + stacked for info in model.graph.output]
    for field in ("node", "initializer", "output", "value_info"):
        model.graph.ClearField(field)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, _FLOAT, [None] * rank)
        for name, rank in zip(outputs, ranks, strict=True)
    )
    return model


def _renamed(graph: onnx.GraphProto, suffix: str, kept: set[str]) -> onnx.GraphProto:
    """Return a copy whose values have a suffix, except for those from outside."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    for node in copy.node:
        node.name += suffix
        for names in (node.input, node.output):
            names[:] = [name if name in {"", *kept} else name + suffix for name in names]
    for tensor in copy.initializer:
        tensor.name += suffix
    for info in (*copy.output, *copy.value_info):
        info.name += suffix
    return copy


def _is_image(kind: onnx.TypeProto) -> bool:
    return kind.tensor_type.elem_type == _FLOAT and len(kind.tensor_type.shape.dim) > 2


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
