"""Broken models, each a function of a seed and a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Error
from onnx import TensorProto, helper, numpy_helper

import onnx_expand
from models import smallnet
from onnx_expand.model.outline import graphs, tensors
from tests.support.bombs import MODELS
from tests.support.random_graphs import random_graph
from tests.support.random_layouts import random_layouts
from tests.support.random_models import KINDS, random_model

__all__ = ["Broken", "broken", "sources"]

_EXPORTS = Path(__file__).parents[1] / "exports"
_LARGEST = 300_000  # bytes of a source

_HUGE = (0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 7)


@dataclass
class Broken:
    """A model file and the files beside it.

    Attributes:
        content: The bytes of the file.
        files: The files beside it, by name.
        mutations: The applied mutations.
    """

    content: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    mutations: list[str] = field(default_factory=list)


@cache
def sources() -> tuple[bytes, ...]:
    """Return valid models to start from: some that fold changes, and some that it must not."""
    models = [random_graph(seed, length=3 + seed % 9) for seed in range(40)]
    models += [random_layouts(seed, length=3 + seed % 7) for seed in range(40)]
    models += [onnx_expand.expand(random_graph(seed, length=5)) for seed in range(8)]
    models += [onnx_expand.expand(smallnet.build(), strategy="ck", rate=0.5)]
    models += [_nested(), _with_function(), _trained(), _double_weights()]
    models += [onnx.load(path) for path in sorted(_EXPORTS.rglob("*.onnx"))]
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    paths = [*sorted((root / "pytorch-converted").rglob("model.onnx"))]
    paths += [*sorted((root / "simple").rglob("model.onnx"))]
    models += [onnx.load(path) for path in paths[::3]]
    models += [random_model(seed, kind) for seed in range(4) for kind in KINDS]
    models += [build() for build in MODELS.values()]
    contents = [model.SerializeToString() for model in models]
    return tuple(content for content in contents if len(content) <= _LARGEST)


def _nested() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    branches = [
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], [f"{name}_a"], name=f"{name}_one"),
                helper.make_node("MatMul", [f"{name}_a", "v"], [f"{name}_b"], name=f"{name}_two"),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_b", TensorProto.FLOAT, [2, 4])],
            [numpy_helper.from_array(np.full((4, 4), 2, np.float32), "v")],
        )
        for name in ("yes", "no")
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])]
    graph = helper.make_graph([node], "nested", inputs, outputs, [weight])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _with_function() -> onnx.ModelProto:
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
    g (float[2,3,8,8] x) => (float[2,3,8,8] y)
    <float[3,3,1,1] w = {1,2,3,4,5,6,7,8,9}, float[3] b = {1,2,3}>
    { a = Conv(x, w, b) c = own.twice(a, w) y = Relu(c) }
    <domain: "own", opset_import: ["" : 17]>
    twice (p, q) => (r) {
      k = Constant <value_float: float = 2.0> ()
      s = Mul(p, k) r = Conv(s, q)
    }"""
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    return model


def _trained() -> onnx.ModelProto:
    """Build a model with training_info, a sparse initializer and a quantization annotation."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,4] y) <float[4] b = {1,2,3,4}>
    { a = MatMul(x, s) y = Add(a, b) }"""
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 6]), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    node = helper.make_node("Neg", ["b"], ["b_new"])
    output = helper.make_tensor_value_info("b_new", TensorProto.FLOAT, [4])
    algorithm = helper.make_graph([node], "step", [], [output])
    model.training_info.append(helper.make_training_info(algorithm, [("b", "b_new")], None, None))
    note = model.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    return model


def _double_weights() -> onnx.ModelProto:
    """Build a model with weights in typed fields of several types, and one in Constant nodes."""
    nodes = [
        helper.make_node(
            "Constant", [], ["w"], value=helper.make_tensor("w", 10, [4, 4], [1.0] * 16)
        ),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Constant", [], ["f"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Cast", ["f"], ["h"], to=10),
        helper.make_node("Add", ["a", "h"], ["b"]),
        helper.make_node("MatMul", ["b", "u"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 10, ["N", 4])],
        [helper.make_tensor_value_info("y", 10, ["N", 4])],
        [helper.make_tensor("u", 10, [4, 4], [0.5] * 16)],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def broken(seed: int, number: int) -> Broken:
    """Build one broken model, the same for the same seed and number."""
    rng = np.random.default_rng([seed, number])
    content = sources()[int(rng.integers(len(sources())))]
    result = Broken(content)
    if rng.random() < 0.95:
        model = onnx.ModelProto.FromString(content)
        for _ in range(int(rng.choice([1, 1, 1, 1, 2, 2, 3]))):
            mutation = _MUTATIONS[int(rng.integers(len(_MUTATIONS)))]
            result.mutations.append(mutation.__name__.strip("_"))
            try:
                mutation(rng, model, result.files)
            except (ValueError, TypeError, LookupError, NotImplementedError, Error):
                # protobuf refused an invalid value, so nothing was broken
                result.mutations[-1] += " (refused)"
        result.content = model.SerializeToString()
    if rng.random() < 0.07 or not result.mutations:
        result.mutations.append("bytes")
        result.content = _scramble(rng, result.content)
    return result


def _scramble(rng: np.random.Generator, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        way = int(rng.choice([0, 0, 0, 1, 2, 3, 4, 5]))
        if way == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif way == 1:
            data[at] = int(rng.integers(256))
        elif way == 2:
            del data[at : at + length]
        elif way == 3:
            data[at:at] = rng.bytes(length)
        elif way == 4:
            data[at:at] = data[at : at + 8 * length]
        else:
            del data[at:]
    return bytes(data)


# -- Mutations of the structure ---------------------------------------------------------------

Files = dict[str, bytes]
Mutation = Callable[[np.random.Generator, onnx.ModelProto, Files], None]


def _pick(rng: np.random.Generator, options: Any) -> Any:
    """Pick one of a list of messages or values, or a new throwaway message if it is empty."""
    if not len(options):
        raise ValueError("nothing to pick from")
    return options[int(rng.integers(len(options)))]


def _graph(rng: np.random.Generator, model: onnx.ModelProto) -> onnx.GraphProto:
    return _pick(rng, list(graphs(model)))  # type: ignore[no-any-return]


def _node(rng: np.random.Generator, model: onnx.ModelProto) -> onnx.NodeProto:
    nodes = list(_graph(rng, model).node)
    for function in model.functions:
        nodes += list(function.node)
    return _pick(rng, nodes)  # type: ignore[no-any-return]


def _names(graph: onnx.GraphProto) -> list[str]:
    names = [info.name for info in (*graph.input, *graph.output)]
    names += [tensor.name for tensor in graph.initializer]
    names += [name for node in graph.node for name in (*node.input, *node.output)]
    return [*names, "", "nowhere"]


def _swap_input(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    if not graph.node:
        raise ValueError("no nodes")
    index = int(rng.integers(len(graph.node)))
    names = _names(graph)
    if rng.random() < 0.8:  # an operand defined before the node
        names = [info.name for info in graph.input] + [t.name for t in graph.initializer]
        names += [name for node in graph.node[:index] for name in node.output]
    node = graph.node[index]
    if not node.input:
        raise ValueError("no inputs")
    node.input[int(rng.integers(len(node.input)))] = _pick(rng, names)


def _swap_output(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    node = _node(rng, model)
    if not node.output:
        raise ValueError("no outputs")
    node.output[int(rng.integers(len(node.output)))] = _pick(rng, _names(_graph(rng, model)))


def _cycle(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    nodes = model.graph.node
    first, last = sorted(rng.integers(len(nodes), size=2)) if len(nodes) else (0, 0)
    if nodes[int(first)].input and nodes[int(last)].output:
        nodes[int(first)].input[0] = nodes[int(last)].output[0]


def _reorder(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[i] for i in rng.permutation(len(nodes)))


def _arity(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    node = _node(rng, model)
    names = _pick(rng, [node.input, node.output])
    if names and rng.random() < 0.5:
        del names[-1]
    else:
        names.append(_pick(rng, [*_names(_graph(rng, model)), f"extra{rng.integers(9)}"]))


def _drop_node(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    graph.node.remove(_pick(rng, graph.node))


def _copy_node(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    graph.node.add().CopyFrom(_pick(rng, graph.node))
    if rng.random() < 0.7:
        for index in range(len(graph.node[-1].output)):
            graph.node[-1].output[index] += "_copy"


def _op_type(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    others = ["Conv", "Gemm", "MatMul", "Add", "Mul", "Div", "BatchNormalization", "Reshape"]
    others += ["Transpose", "Concat", "Split", "Pad", "AveragePool", "ConvTranspose", "Einsum"]
    others += ["Identity", "Gather", "Slice", "Sum", "Shape", "Loop", "NoSuchOp", "", "Constant"]
    _node(rng, model).op_type = _pick(rng, others)


def _domain(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _node(rng, model).domain = _pick(rng, ["ai.onnx", "ai.onnx.ml", "custom", "", "own", "é"])


def _opset(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    way = int(rng.integers(4))
    if way == 0:
        del model.opset_import[:]
    elif way == 1:
        model.opset_import.add(domain=_pick(rng, ["", "ai.onnx", "custom"]), version=13)
    else:
        versions = [*range(1, 28), 0, -1, 2**31, 2**62]
        _pick(rng, model.opset_import).version = _pick(rng, versions)


def _ir_version(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    model.ir_version = _pick(rng, [*range(1, 15), 0, -1, 2**40])


def _dims(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    way = int(rng.integers(4))
    if way == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, _HUGE)
    elif way == 1:
        tensor.dims.append(_pick(rng, _HUGE))
    elif way == 2 and tensor.dims:
        del tensor.dims[-1]
    else:  # another shape of the same size
        size = int(np.prod(list(tensor.dims), dtype=np.int64))
        tensor.dims[:] = _pick(rng, [[size], [1, size], [size, 1], [1, 1, size], [size, 1, 1, 1]])


def _zero_sized(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    if tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = 0
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(name)


def _other_data(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Create a well-formed tensor of any type, shape and content."""
    _, tensor = _pick(rng, list(tensors(model)))
    dtype = _pick(rng, ["f4", "f2", "f8", "i8", "i4", "u1", "i1", "?", "c8", "u2"])
    if rng.random() < 0.8:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = [d if 0 <= d < 100 else 1 for d in tensor.dims]
    way = rng.random()
    if way < 0.2:
        shape = [int(rng.integers(0, 5)) for _ in range(int(rng.integers(0, 5)))]
    elif way < 0.5 and shape:
        shape[int(rng.integers(len(shape)))] = int(rng.integers(0, 5))
    elif way < 0.7:
        shape = [*shape, 1] if rng.random() < 0.5 else [1, *shape]
    elif way < 0.8:
        shape = [int(d) for d in rng.permutation(shape)]
    values = rng.standard_normal(shape) * _pick(rng, [1, 3, 1e6, 1e30, 0])
    with np.errstate(all="ignore"):
        made = numpy_helper.from_array(np.asarray(values).astype(dtype), tensor.name)
    tensor.CopyFrom(made)


def _cut_data(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    if tensor.raw_data:
        cut = int(rng.integers(len(tensor.raw_data) + 1))
        tensor.raw_data = tensor.raw_data[:cut] + rng.bytes(int(rng.integers(3)))
    elif tensor.float_data:
        del tensor.float_data[int(rng.integers(len(tensor.float_data))) :]


def _data_type(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    tensor.data_type = int(rng.integers(-1, 32))


def _value_type(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    info = _pick(rng, [*graph.input, *graph.output, *graph.value_info])
    way = int(rng.integers(5))
    if way == 0:
        info.type.tensor_type.elem_type = int(rng.integers(-1, 32))
    elif way == 1:
        info.type.ClearField("value")
    elif way == 2:
        info.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        dims = info.type.tensor_type.shape.dim
        if dims and rng.random() < 0.8:
            dim = _pick(rng, dims)
            _pick(
                rng,
                [
                    lambda: setattr(dim, "dim_value", _pick(rng, _HUGE)),
                    lambda: setattr(dim, "dim_param", _pick(rng, ["N", "", "batch", "é"])),
                    lambda: dim.ClearField("value"),
                ],
            )()
        else:
            dims.add(dim_value=_pick(rng, _HUGE))


def _describe(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Create a type description of a value that is as likely wrong as right."""
    graph = _graph(rng, model)
    info = graph.value_info.add(name=_pick(rng, _names(graph)))
    info.type.tensor_type.elem_type = _pick(rng, [1, 1, 1, 10, 7, 11])
    for _ in range(int(rng.integers(0, 5))):
        info.type.tensor_type.shape.dim.add(dim_value=int(rng.integers(0, 9)))


def _non_finite(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    if tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, np.float32).copy()
        bad = [np.nan, np.inf, -np.inf, 3e38, 1e-45]
        array[int(rng.integers(len(array)))] = _pick(rng, bad)
        tensor.raw_data = array.tobytes()


def _attribute(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Change an attribute of the op, or add one that it does not have."""
    node = _node(rng, model)
    known: dict[str, Any] = {"group": None, "auto_pad": None, "x": None}
    if onnx.defs.has(node.op_type, node.domain) and rng.random() < 0.95:
        known = dict(onnx.defs.get_schema(node.op_type, node.domain).attributes)
    name = _pick(rng, sorted(known))
    old = next((a for a in node.attribute if a.name == name), None)
    value: Any = 1
    if old is not None:
        kinds = {2: _small(rng), 1: _real(rng), 7: _list(rng, old.ints), 3: _mode(rng)}
        value = kinds.get(old.type, 1)
        node.attribute.remove(old)
        if rng.random() < 0.2:
            return  # the default instead
    elif known[name] is not None:
        kind = onnx.defs.OpSchema.AttrType
        made = {
            kind.INT: _small(rng),
            kind.FLOAT: _real(rng),
            kind.INTS: _list(rng, [1] * int(rng.integers(0, 5))),
            kind.STRING: _mode(rng),
        }
        value = made.get(known[name].type, 1)
    if rng.random() < 0.1:
        value = _pick(rng, [1, 1.5, "x", [1, 1], [2, 2, 2, 2], _pick(rng, _HUGE)])
    integers = onnx.AttributeProto.INTS if value == [] else None
    node.attribute.append(helper.make_attribute(name, value, attr_type=integers))
    if rng.random() < 0.05:
        node.attribute[-1].ref_attr_name = "alpha"
    if rng.random() < 0.05:
        node.attribute[-1].type = _pick(rng, range(15))


def _small(rng: np.random.Generator) -> int:
    return int(_pick(rng, [0, 1, 2, 3, 4, -1, -2, 5, 10, *_HUGE]))


def _real(rng: np.random.Generator) -> float:
    return float(_pick(rng, [0.0, 1.0, -1.0, 0.5, 1e30, 1e-30, np.nan, np.inf]))


def _list(rng: np.random.Generator, old: Any) -> list[int]:
    values = [_small(rng) if rng.random() < 0.5 else int(v) for v in old]
    way = rng.random()
    return values if way < 0.7 else values[:-1] if way < 0.85 else [*values, _small(rng)]


def _mode(rng: np.random.Generator) -> Any:
    modes: list[Any] = ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "OTHER", "", b"\xff"]
    modes += ["ij,jk->ik", "...c,cd->...d", "constant", "reflect", "linear", "CRD"]
    return _pick(rng, modes)


def _external(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    _, tensor = _pick(rng, list(tensors(model)))
    length = len(tensor.raw_data)
    files["weights.bin"] = tensor.raw_data
    tensor.data_location = TensorProto.EXTERNAL
    places = ["weights.bin"] * 4 + ["../weights.bin", "/etc/passwd", "link", "none", "", ".", "\0"]
    places += [
        "a/../weights.bin",
        "model.onnx",
        "//weights.bin",
        "C:\\x",
        "weights.bin/",
        "é" * 300,
    ]
    entries = {"location": _pick(rng, places)}
    numbers = [0, length, length + 1, -1, 2**63, "x", "1e3", "", " 4", length // 2]
    if rng.random() < 0.5:
        entries["offset"] = str(_pick(rng, numbers))
    if rng.random() < 0.5:
        entries["length"] = str(_pick(rng, numbers))
    if rng.random() < 0.1:
        entries[_pick(rng, ["checksum", "basepath", "other"])] = "x"
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.9:
        tensor.ClearField("raw_data")


def _initializers(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    tensor = _pick(rng, graph.initializer)
    way = int(rng.integers(5))
    if way == 0:
        graph.initializer.add().CopyFrom(tensor)
    elif way == 1:
        tensor.name = _pick(rng, _names(graph))
    elif way == 2:
        graph.initializer.remove(tensor)
    elif way == 3:
        graph.input.add(name=tensor.name).type.tensor_type.elem_type = tensor.data_type
    else:
        graph.output.add(name=tensor.name).type.tensor_type.elem_type = tensor.data_type


def _ends(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    graph = _graph(rng, model)
    ends = _pick(rng, [graph.input, graph.output])
    way = int(rng.integers(4))
    if way == 0 and ends:
        del ends[int(rng.integers(len(ends)))]
    elif way == 1 and ends:
        ends.add().CopyFrom(_pick(rng, ends))
    elif way == 2 and ends:
        _pick(rng, ends).name = _pick(rng, _names(graph))
    else:
        info = ends.add(name=_pick(rng, _names(graph)))
        info.type.tensor_type.elem_type = 1


def _metadata(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Change the metadata that expand records, or add those of others."""
    held = [e for node in model.graph.node for e in node.metadata_props]
    held += list(model.metadata_props)
    if held and rng.random() < 0.8:
        entry = _pick(rng, held)
        text = entry.value
        at = int(rng.integers(len(text) + 1))
        entry.value = _pick(rng, [text[:at], "", "{}", "null", "[]", text[:at] + "9" + text[at:]])
    else:
        _node(rng, model).metadata_props.add(key=_pick(rng, ["a", "", "é"]), value="b")


def _function(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Create a function that calls itself, others, or nothing."""
    name = _pick(rng, ["twice", "f", "Conv"])
    domain = _pick(rng, ["own", "", "ai.onnx"])
    inner = helper.make_node(_pick(rng, [name, "Relu", "Identity"]), ["p"], ["r"], domain=domain)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function(domain, name, ["p"], ["r"], [inner], opsets))
    node = _node(rng, model)
    node.op_type, node.domain = name, domain
    if rng.random() < 0.7:
        model.opset_import.add(domain="own", version=1)


def _into_subgraph(rng: np.random.Generator, model: onnx.ModelProto, files: Files) -> None:
    """Nest the main graph in a node of its own, repeatedly."""
    depth = _pick(rng, [1, 1, 2, 5, 30])
    model.opset_import.add(domain="custom", version=1)
    for _ in range(depth):
        inner = onnx.GraphProto()
        inner.CopyFrom(model.graph)
        del inner.input[:]
        outputs = [f"{info.name}_{len(model.graph.name)}" for info in model.graph.output]
        infos = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in model.graph.output]
        node = helper.make_node("If", ["c"], outputs, then_branch=inner, else_branch=inner)
        if depth > 1:  # two branches each would grow exponentially
            node = helper.make_node("Wrap", ["c"], outputs, domain="custom", body=inner)
        del model.graph.node[:], model.graph.initializer[:], model.graph.output[:]
        model.graph.node.append(node)
        model.graph.name += "x"
        for info, name in zip(infos, outputs, strict=True):
            info.name = name
            model.graph.output.append(info)
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))


_MUTATIONS: tuple[Mutation, ...] = (
    *(_swap_input,) * 4,
    *(_other_data,) * 6,
    *(_attribute,) * 8,
    *(_value_type, _describe, _non_finite, _metadata) * 2,
    *(_swap_output, _cycle, _reorder, _arity, _drop_node, _copy_node, _op_type, _domain, _opset),
    *(_ir_version, _dims, _zero_sized, _cut_data, _data_type, _external, _external, _initializers),
    *(_ends, _function, _into_subgraph),
)
