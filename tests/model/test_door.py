"""The door refuses what it cannot keep, and reads nothing that a model should not lead to."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnx_expand
from onnx_expand import model as door
from onnx_expand.cli import main
from onnx_expand.errors import ModelError, OnnxExpandError, UnsupportedError, UsageError
from onnx_expand.model.files import checksum
from tests.support.sameness import differences

Change = Callable[[onnx.ModelProto], object]


def parsed(text: str, *, ir_version: int = 11, opset: int = 21) -> onnx.ModelProto:
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "own" : 1]>'
    model: onnx.ModelProto = onnx.parser.parse_model(header + text)
    return model


def small() -> onnx.ModelProto:
    """Two matrices in a row, which fold, and something behind them."""
    model = parsed(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, v) b = MatMul(a, w) y = Relu(b) }"
    )
    rng = np.random.default_rng(0)
    for name in "vw":
        array = rng.standard_normal((4, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    return model


# -- What is kept -----------------------------------------------------------------------------


def rich() -> onnx.ModelProto:
    """A model with something in every place that ONNX has for it."""
    model = small()
    model.producer_name, model.producer_version = "maker", "1"
    model.domain, model.model_version, model.doc_string = "org.maker", 7, "the model"
    graph = model.graph
    graph.doc_string = "the graph"
    holder: Any
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.metadata_props.add(key="who", value="me")
    described: Any
    for described in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        described.doc_string = "said"
    where: Any
    for name, where in (("a", ["N", 4]), ("v", [4, 4]), ("nowhere", [3])):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, where, "described")
        info.metadata_props.add(key="k", value="v")
        graph.value_info.append(info)
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "BATCH"
    for tensor in ("b", "nothing"):
        note = graph.quantization_annotation.add(tensor_name=tensor)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 6]), "")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    graph.node.append(helper.make_node("MatMul", ["y", "s"], ["z"], name="sparse"))
    graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4]))
    step = helper.make_graph([helper.make_node("Neg", ["w"], ["w2"])], "step", [], [])
    step.output.append(helper.make_tensor_value_info("w2", TensorProto.FLOAT, [4, 4]))
    model.training_info.append(helper.make_training_info(step, [("w", "w2")], None, None))
    attributes: dict[str, Any] = {
        "ints": [1, 2],
        "floats": [float("nan"), -0.0],
        "text": "é",
        "bytes": b"\xff\x00",
        "texts": ["a", "b"],
        "tensor": numpy_helper.from_array(np.array([1, 2], np.int8), "t"),
        "kind": helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"]),
    }
    for way in ("", "other"):
        graph.node.append(
            helper.make_node("f", ["x"], [f"c{way}"], domain="own", overload=way, **attributes)
        )
        body = [helper.make_node("Relu", ["p"], ["q"])]
        function = helper.make_function(
            "own", "f", ["p"], ["q"], body, [helper.make_opsetid("", 21)], ["ints", "floats"]
        )
        function.overload, function.doc_string = way, "a function"
        function.metadata_props.add(key="of", value="f")
        function.value_info.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, ["N"]))
        model.functions.append(function)
    onnx.checker.check_model(model)
    return model


def test_everything_that_a_model_may_hold_is_kept(tmp_path: Path) -> None:
    """Metadata, doc strings, descriptions, training, sparse weights, overloads: all comes out."""
    model = rich()
    visit = door.visit(model)
    once = visit.leave(visit.model)
    assert differences(model, once) == []
    onnx.save(model, tmp_path / "in.onnx")
    path = tmp_path / "in.onnx"
    for _ in range(2):  # nothing grows from trip to trip either
        door.save(door.load(path), tmp_path / "out.onnx")
        path = tmp_path / "out.onnx"
    assert differences(model, onnx.load(path)) == []


def test_everything_that_is_not_rewritten_is_kept() -> None:
    """Folding two matrices of a model that holds everything changes these and nothing else."""
    model = rich()
    del model.training_info[:]
    result = onnx_expand.fold(model, clean=False)
    assert [n.op_type for n in result.graph.node] == ["MatMul", "Relu", "MatMul", "f", "f"]
    merged = result.graph.node[0]
    assert merged.doc_string == "said"
    said = {"who": "me", "onnx_expand.folded_from": '["n_a", "n_b"]'}
    assert {e.key: e.value for e in merged.metadata_props} == said
    assert differences(*(m.graph.node[-4] for m in (model, result))) == []
    for field in ("functions", "metadata_props", "opset_import"):
        one, other = onnx.ModelProto(), onnx.ModelProto()
        getattr(one, field).extend(getattr(model, field))
        getattr(other, field).extend(getattr(result, field))
        assert differences(one, other) == [], field
    assert differences(model.graph.sparse_initializer[0], result.graph.sparse_initializer[0]) == []
    described = {info.name for info in result.graph.value_info}
    assert described <= {"v", "w", "nowhere"}
    assert {n.tensor_name for n in result.graph.quantization_annotation} == {"b", "nothing"}


def test_training_info_of_merged_weights_is_not_left_to_lie() -> None:
    """A weight that training updates is not merged silently: the model is refused by that name."""
    with pytest.raises(UnsupportedError, match=r"training_info updates '[vw]'"):
        onnx_expand.fold(rich())


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights_fold_like_others(flat: bool) -> None:
    """A sparse initializer that is merged is counted in; one that is not stays sparse."""
    model = small()
    dense = np.zeros((4, 4), np.float32)
    dense[0, 1], dense[2, 3] = 2, 3
    values = numpy_helper.from_array(np.array([2, 3], np.float32), "v")
    where = np.array([1, 11]) if flat else np.array([[0, 1], [2, 3]])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(where, ""), [4, 4])
    del model.graph.initializer[0]
    model.graph.sparse_initializer.append(sparse)
    own = door.read(model)
    assert differences(model, door.to_proto(own.clone())) == []
    result = onnx_expand.fold(model)
    w = numpy_helper.to_array(model.graph.initializer[0])
    (merged,) = (numpy_helper.to_array(t) for t in result.graph.initializer)
    np.testing.assert_allclose(merged, dense @ w, rtol=1e-6)
    assert not result.graph.sparse_initializer


def test_a_sparse_weight_without_end_is_refused() -> None:
    """A sparse initializer that would fill the memory when written out is an error by name."""
    model = small()
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.array([1]), ""),
        [2**31, 2**31],
    )
    del model.graph.initializer[0]
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(UnsupportedError, match="sparse initializer 'v'"):
        onnx_expand.fold(model)


def _of_map() -> onnx.TypeProto:
    kind = onnx.TypeProto()
    kind.map_type.key_type = TensorProto.INT64
    kind.map_type.value_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return kind


def _of_opaque() -> onnx.TypeProto:
    kind = onnx.TypeProto()
    kind.opaque_type.name = "image"
    return kind


@pytest.mark.parametrize("wrap", ["", "sequence", "optional"])
@pytest.mark.parametrize("kind", [_of_map(), _of_opaque()], ids=["map", "opaque"])
@pytest.mark.parametrize("field", ["input", "output", "value_info"])
def test_types_that_onnx_ir_lacks_are_kept(
    field: str, kind: onnx.TypeProto, wrap: str, tmp_path: Path
) -> None:
    """Maps and opaque values, alone or wrapped, stay declared; the rest of the model folds."""
    model = small()
    info = onnx.ValueInfoProto(name="odd", doc_string="said")
    holder = getattr(info.type, f"{wrap}_type").elem_type if wrap else info.type
    holder.CopyFrom(kind)
    model.opset_import.add(domain="own", version=1)
    ways = {"input": (["odd"], []), "output": (["x"], ["odd"]), "value_info": (["x"], ["odd"])}
    read, made = ways[field]
    model.graph.node.add(op_type="Other", domain="own", input=read, output=made)
    getattr(model.graph, field).append(info)
    large = numpy_helper.from_array(np.ones((300, 4), np.float32), "large")  # not in the outline
    model.graph.initializer.append(large)
    model.graph.node.add(op_type="Other", domain="own", input=["large"])
    visit = door.visit(model)
    assert differences(model, visit.leave(visit.model)) == []
    onnx.save(model, tmp_path / "in.onnx")
    result = onnx.load(onnx_expand.fold(tmp_path / "in.onnx", clean=False))
    assert getattr(result.graph, field)[-1] == info
    assert len(result.graph.node) < len(model.graph.node)


# -- What is refused --------------------------------------------------------------------------


def _custom(model: onnx.ModelProto, attribute: AttributeProto) -> None:
    node = model.graph.node.add(op_type="Other", domain="own", name="odd", output=["o"])
    node.attribute.append(attribute)


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.array([1]), "")
    sparse = helper.make_sparse_tensor(values, indices, [4])
    _custom(model, helper.make_attribute("value", sparse))


def _undefined(model: onnx.ModelProto) -> None:
    _custom(model, AttributeProto(name="value", i=3))


def _bytes(model: onnx.ModelProto) -> None:
    _custom(model, helper.make_attribute("value", [b"a", b"\xff"]))


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].MergeFromString(b"\xfa\x3e\x01x")  # field 1007


def _two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="own", version=2)


def _twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="k", value="1")
    model.metadata_props.add(key="k", value="2")


REFUSED: dict[str, tuple[Change, str]] = {
    "sparse attribute": (_sparse, r"sparse tensor \(attribute 'value' of node 'odd'\)"),
    "attribute without a type": (_undefined, "type"),
    "text that is not UTF-8": (_bytes, "not UTF-8.*'odd'"),
    "unknown field": (_unknown, r"does not know \(number 1007\)"),
    "two versions": (_two_opsets, "opset_import"),
    "one key twice": (_twice, "duplicate keys in metadata_props"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(case: str, tmp_path: Path) -> None:
    """Each thing that onnx-ir drops and that is not put back is an error of one line naming it."""
    change, message = REFUSED[case]
    model = small()
    change(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (model, path):
        with pytest.raises((UnsupportedError, ModelError), match=message) as caught:
            onnx_expand.fold(source)
        assert "\n" not in str(caught.value)


def _twin(model: onnx.ModelProto) -> None:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[1])
    model.graph.initializer[-1].name = model.graph.initializer[0].name


def _set(name: str, value: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        setattr(model.graph.initializer[0], name, value)

    return change


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "b"


def _recursive(model: onnx.ModelProto) -> None:
    body = [helper.make_node("f", ["p"], ["q"], domain="own")]
    opsets = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "f", ["p"], ["q"], body, opsets))


def _without_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _without_data(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")


def _other_field(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].int64_data.append(1)


INVALID: dict[str, tuple[Change, str]] = {
    "cut data": (lambda m: _set("raw_data", b"123")(m), "holds 3 bytes"),
    "no data": (_without_data, "holds 0 numbers"),
    "huge extents": (
        lambda m: m.graph.initializer[0].dims.extend([2**40, 2**40]),
        "which needs 77371252455336267181195264",
    ),
    "negative extent": (lambda m: m.graph.initializer[0].dims.append(-1), "negative extent"),
    "type that does not exist": (_set("data_type", 77), "does not exist"),
    "no type": (_set("data_type", 0), "no data type"),
    "another type": (_set("data_type", TensorProto.DOUBLE), "needs 128, but holds 64"),
    "numbers of another type": (_other_field, "is of type FLOAT but holds int64_data"),
    "duplicate weights": (_twin, "not a valid"),
    "cycle": (_cycle, "not a valid"),
    "recursion": (_recursive, "calls itself|Cycle detected"),
    "no opset": (_without_opset, "opset"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_not_true_is_refused(case: str) -> None:
    """A model that contradicts itself is an error of one line, before anything is allocated."""
    change, message = INVALID[case]
    model = small()
    change(model)
    with pytest.raises(ModelError, match=message) as caught:
        onnx_expand.fold(model)
    assert "\n" not in str(caught.value)


# -- External data ----------------------------------------------------------------------------


def external(directory: Path, *, attribute: bool = False, **entries: Any) -> Path:
    """The model with its first weight in another file."""
    model = small()
    tensor = model.graph.initializer[0]
    directory.mkdir(exist_ok=True)
    (directory / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    if attribute:
        node = helper.make_node("Constant", [], ["v"], name="held", value=tensor)
        nodes = list(model.graph.node)
        del model.graph.node[:], model.graph.initializer[0]
        model.graph.node.extend([node, *nodes])
    path = directory / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of the model's directory, of the right size."""
    path = tmp_path / "secret.bin"
    path.write_bytes(bytes(64))
    return path


HOSTILE = {
    "..": ("../secret.bin", "outside the directory"),
    "inner ..": ("sub/../../secret.bin", "outside the directory"),
    "absolute": ("{secret}", "absolute"),
    "other system": ("C:\\secret.bin", "absolute"),
    "link": ("link.bin", "outside the directory"),
    "linked directory": ("up/secret.bin", "outside the directory"),
    "hard link": ("hard.bin", "links"),
    "directory": ("sub", "regular"),
    "pipe": ("pipe", "regular"),
    "missing": ("none.bin", "cannot be read"),
    "empty": ("", "without a location"),
    "too long": ("x" * 5000, "cannot be read"),
}


@pytest.mark.parametrize("attribute", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_places_outside_of_the_model_are_refused(
    case: str, attribute: bool, tmp_path: Path, secret: Path
) -> None:
    """External data is read from regular files in the model's directory and from nowhere else."""
    location, message = HOSTILE[case]
    directory = tmp_path / "model"
    path = external(directory, attribute=attribute, location=location.format(secret=secret))
    (directory / "sub").mkdir()
    (directory / "link.bin").symlink_to(secret)
    (directory / "up").symlink_to(tmp_path)
    (directory / "hard.bin").hardlink_to(secret)
    os.mkfifo(directory / "pipe")
    with pytest.raises(ModelError, match=message) as caught:
        onnx_expand.fold(path, tmp_path / "out.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": 640}, "640 bytes"),
        ({"length": 32}, "32 bytes"),
        ({"offset": 1}, "ends at byte 65"),
        ({"offset": 2**62}, "ends at byte"),
        ({"offset": -64}, "negative"),
        ({"offset": "x"}, "no number"),
        ({"length": "1e3"}, "no number"),
    ],
)
def test_sizes_that_no_file_has_are_refused(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """An offset or length beyond the file, or another than the shape's, is an error."""
    with pytest.raises(ModelError, match=message):
        onnx_expand.fold(external(tmp_path / "model", **entries), tmp_path / "out.onnx")


def test_a_link_within_the_directory_is_followed(tmp_path: Path) -> None:
    """A link that stays in the model's directory leads nowhere else, and is no attack."""
    path = external(tmp_path / "model", location="link.bin")
    (path.parent / "link.bin").symlink_to("w.bin")
    onnx_expand.fold(path, tmp_path / "out.onnx")
    expected = onnx_expand.fold(small())
    assert (
        differences(onnx.load(tmp_path / "out.onnx").graph.node[0], expected.graph.node[0]) == []
    )


def test_a_proto_with_external_data_is_refused(tmp_path: Path) -> None:
    """Where the files of a proto lie is not known, and the working directory is no answer."""
    proto = onnx.load(external(tmp_path / "model"), load_external_data=False)
    with contextlib.chdir(tmp_path / "model"), pytest.raises(ModelError, match="give its path"):
        onnx_expand.fold(proto)


def test_weights_in_attributes_move_with_the_model(tmp_path: Path) -> None:
    """A Constant whose numbers lie in another file is found by the result, wherever it goes."""
    path = external(tmp_path / "model", attribute=True, checksum="0" * 40)
    model = onnx.load(path, load_external_data=False)
    model.graph.node[1].op_type = "Other"  # nothing to fold
    model.graph.node[1].domain = "own"
    path.write_bytes(model.SerializeToString())
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "out.onnx"
    onnx_expand.fold(path, target, clean=False)
    expected = small().graph.initializer[0].raw_data
    assert onnx.load(target).graph.node[0].attribute[0].t.raw_data == expected
    kept = onnx.load(target, load_external_data=False).graph.node[0].attribute[0].t
    entries = {entry.key: entry.value for entry in kept.external_data}
    assert entries["location"] == "out.onnx.data"
    assert entries["checksum"] == checksum(tmp_path / "far" / "out.onnx.data")


def test_unknown_keys_of_external_data_are_refused(tmp_path: Path) -> None:
    """A key that ONNX does not have, or that says where else to look, is not dropped silently."""
    with pytest.raises(UnsupportedError, match="basepath"):
        onnx_expand.fold(external(tmp_path / "model", basepath="/"), tmp_path / "out.onnx")


# -- Odd but valid ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_stay_where_they_are(bad: float) -> None:
    """NaN and infinity are not multiplied into other weights; the model is as it was."""
    model = small()
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array[1, 2] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "v"))
    assert differences(model, onnx_expand.fold(model)) == []


def test_unknown_ops_are_left_alone() -> None:
    """Ops of other domains stay, with what they read; the linear nodes around them fold."""
    model = small()
    model.graph.node[2].op_type, model.graph.node[2].domain = "Magic", "own"
    result = onnx_expand.fold(model)
    assert [n.op_type for n in result.graph.node] == ["MatMul", "Magic"]
    assert differences(model.graph.node[2], result.graph.node[1]) == []


def test_ops_that_onnx_does_not_have_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An op of the default domain that is unknown, or younger than the opset, is said once."""
    model = small()
    model.graph.node[2].op_type = "Gelu"  # came with opset 20
    del model.opset_import[:]
    model.opset_import.add(version=17)
    with pytest.warns(UserWarning, match="ONNX has no Gelu in the opset of the model"):
        result = onnx_expand.fold(model)
    assert [n.op_type for n in result.graph.node] == ["MatMul", "Gelu"]
    assert differences(model.graph.node[2], result.graph.node[1]) == []
    path, target = tmp_path / "net.onnx", tmp_path / "out.onnx"
    path.write_bytes(model.SerializeToString())
    assert main(["fold", str(path), str(target)]) == 0
    warned = capsys.readouterr().err.splitlines()
    assert warned == [
        f"onnx-expand: warning: {path}: ONNX has no Gelu in the opset of the model; left as it is"
    ]
    assert differences(result, onnx.load(target)) == []


def test_zero_sized_weights_are_left_alone() -> None:
    """A product over no numbers at all is valid ONNX; it stays."""
    model = parsed("g (float[N,0] x) => (float[N,2] y) { a = MatMul(x, v) y = MatMul(a, w) }")
    for name, shape in (("v", (0, 3)), ("w", (3, 2))):
        array = np.ones(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    assert differences(model, onnx_expand.fold(model)) == []


def test_auto_pad_that_is_no_text_is_left_alone() -> None:
    """An attribute whose text is not UTF-8 is kept byte for byte, and its node with it."""
    model = parsed(
        "g (float[N,1,8,8] x) => (float[N,1,8,8] y) "
        "{ a = Conv <kernel_shape = [1, 1]> (x, w) y = Conv(a, w) }"
    )
    array = np.ones((1, 1, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(array, "w"))
    model.graph.node[0].attribute.append(helper.make_attribute("auto_pad", b"\xff"))
    assert differences(model, onnx_expand.fold(model)) == []


# -- Versions ---------------------------------------------------------------------------------


def old() -> onnx.ModelProto:
    """A model of the time when every initializer had to be an input."""
    model = small()
    model.ir_version = 3
    del model.opset_import[:]
    model.opset_import.add(version=7)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    return model


def test_old_models_fold_when_the_user_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are inputs stay, with the option named; with the option they are merged."""
    source, target = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(old(), source)
    assert main(["fold", str(source), str(target), "--check", "0"]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--assume-constant-initializers" in said
    assert differences(old(), onnx.load(target)) == []
    arguments = ["fold", str(source), str(target), "--assume-constant-initializers"]
    assert main(arguments) == 0
    result = onnx.load(target)
    onnx.checker.check_model(result)
    assert [n.op_type for n in result.graph.node] == ["MatMul", "Relu"]
    assert [info.name for info in result.graph.input] == ["x"]
    assert result.ir_version == 4


def test_old_models_hold_new_weights_in_nodes() -> None:
    """What a fold of Constant nodes leaves in a model of IR version 3 is valid in that version."""
    model = old()
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    rest = list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:], model.graph.input[1:]
    model.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model)
    result = onnx_expand.fold(model)
    onnx.checker.check_model(result)
    assert result.ir_version == 3
    assert [n.op_type for n in result.graph.node] == ["Constant", "MatMul", "Relu"]


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 21, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("ir_version", [4, 8, onnx.IR_VERSION])
def test_every_version_comes_out_as_it_went_in(opset: int, ir_version: int) -> None:
    """The versions of a model are its own, from opset 7 and IR version 4 to the newest."""
    model = small()
    model.ir_version = ir_version
    del model.opset_import[:]
    model.opset_import.add(version=opset)
    result = onnx_expand.fold(model)
    onnx.checker.check_model(result)
    assert (result.ir_version, result.opset_import[0].version) == (ir_version, opset)
    assert len(result.graph.node) == 2


# -- graphsurgeon -----------------------------------------------------------------------------


def test_what_graphsurgeon_has_no_place_for_is_said() -> None:
    """A result that graphsurgeon cuts is given back with a warning that names what is missing."""
    model = small()
    graph = gs.import_onnx(model)
    model.graph.doc_string = "said"
    visit = door.visit(graph)
    visit.model.graph.doc_string = "said"
    visit.model.model_version = 3
    with pytest.warns(UserWarning, match="the model's version, doc strings") as caught:
        visit.leave(visit.model)
    assert len(caught) == 1


def test_a_graph_that_is_wired_wrongly_is_an_error_of_the_model() -> None:
    """What graphsurgeon cannot write is an error of one line, whatever it raises."""
    graph = gs.import_onnx(small())
    graph.nodes[0].attrs["alpha"] = object()
    with pytest.raises(OnnxExpandError) as caught:
        onnx_expand.fold(graph)
    assert "\n" not in str(caught.value)


# -- Outputs ----------------------------------------------------------------------------------


def test_devices_are_not_replaced_by_files(tmp_path: Path) -> None:
    """An output that is no regular file, /dev/null say, is refused and stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="regular file"):
        door.check_output(pipe)
    assert pipe.is_fifo()


def test_the_source_model_is_not_touched_by_serialization() -> None:
    """Names of the tensors of a caller's onnx-ir model stay what they were."""
    own = ir.serde.deserialize_model(onnx.ModelProto.FromString(small().SerializeToString()))
    tensors = {v.name: v.const_value for v in own.graph.initializers.values()}
    names = {name: tensor.name for name, tensor in tensors.items() if tensor is not None}
    result = onnx_expand.fold(own)
    for value in list(result.graph.initializers.values()):
        value.name = f"{value.name}.new"
    door.to_proto(result)
    assert {n: t.name for n, t in tensors.items() if t is not None} == names


def test_a_pipe_beside_an_existing_output_is_not_opened(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer; the model is refused at once."""
    pipe, out = tmp_path / "pipe", tmp_path / "out.onnx"
    os.mkfifo(pipe)
    out.write_bytes(b"before")
    assert main(["fold", str(pipe), str(out)]) == 3
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize("ending", ["json", "onnxtxt", "textproto", "pbtxt"])
def test_a_model_is_not_written_under_the_name_of_a_text_format(
    tmp_path: Path, ending: str
) -> None:
    """Neither the command line nor the library would read the binary file again."""
    source, out = tmp_path / "in.onnx", tmp_path / f"out.{ending}"
    onnx.save(small(), source)
    assert main(["fold", str(source), str(out)]) == 2
    with pytest.raises(UsageError, match="states a text format"):
        onnx_expand.fold(source, out)
    with pytest.raises(UsageError, match=r"name a file such as out\.onnx"):
        door.save(door.load(source), out)
    assert not out.exists()


def test_errors_of_text_formats_are_told_whole(tmp_path: Path) -> None:
    """The parser raises bytes of several lines, of which the last has the cause."""
    source = tmp_path / "bad.onnxtxt"
    source.write_text("<ir_version: 8> g (float x")
    with pytest.raises(ModelError) as error:
        door.load(source)
    assert "Expected character" in str(error.value)
    assert "b'" not in str(error.value)
    assert "\n" not in str(error.value)
