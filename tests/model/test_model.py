"""The door: what models come in and leave as, and which files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_expand
from models import smallnet
from onnx_expand import model as door
from onnx_expand.errors import ModelError, UsageError
from onnx_expand.passes import FoldReport
from tests.support.graphs_text import bn, graph, weights


@pytest.fixture(scope="module")
def tiny() -> onnx.ModelProto:
    """A convolution with a normalization behind it."""
    model = graph(
        "g (float[N,4,H,W] x) => (float[M,C,P,Q] y) "
        "{ a = Conv(x, w, c) y = BatchNormalization(a, p_s, p_b, p_m, p_v) }",
        weights(w=(4, 4, 3, 3), c=(4,)) | bn("p", 4),
    )
    for node in model.graph.node:
        node.name = node.op_type.lower()
    return model


def arrays(model: onnx.ModelProto) -> dict[str, Any]:
    """The initializers of a model by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# -- Reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"hello world\n", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04"]
)
def test_files_that_are_no_models_are_refused(content: bytes, tmp_path: Path) -> None:
    """Text, zeros and noise give one line that names the file."""
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for function in (onnx_expand.fold, onnx_expand.expand, onnx_expand.inspect):
        with pytest.raises(ModelError, match=r"net\.onnx") as caught:
            function(path)
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    """A path to nothing and one to a directory say so."""
    with pytest.raises(ModelError, match="no such file"):
        onnx_expand.inspect(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        onnx_expand.inspect(tmp_path)


def test_every_truncated_file_is_refused(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A model cut off anywhere is an error, and never another model."""
    whole = tiny.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in sorted({*range(0, len(whole), 7), *range(len(whole) - 24, len(whole))}):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            door.load(path)


def test_a_model_that_breaks_the_rules_is_refused(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A node that reads what nothing computes is refused as file, proto and graph alike."""
    broken = onnx.ModelProto()
    broken.CopyFrom(tiny)
    broken.graph.node[1].input[0] = "nowhere"
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken.SerializeToString())
    for source in (path, broken):
        with pytest.raises(ModelError, match="valid"):
            onnx_expand.fold(source)


def test_what_is_no_model_is_refused() -> None:
    """An object of another type is refused with the types that are accepted."""
    with pytest.raises(UsageError, match="ModelProto"):
        onnx_expand.fold(3)


def test_an_output_goes_with_a_path_only(tiny: onnx.ModelProto) -> None:
    """A file name beside a model in memory makes no sense, and says so."""
    with pytest.raises(UsageError, match="path"):
        onnx_expand.fold(tiny, "out.onnx")


def test_a_result_is_of_the_type_of_the_model(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A type checker knows, too, what a call returns."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny, path)
    folded, report = onnx_expand.fold(tiny, report=True)
    assert_type(folded, onnx.ModelProto)
    assert_type(report, FoldReport)
    assert_type(onnx_expand.run(door.read(tiny), "fold"), ir.Model)
    assert_type(onnx_expand.expand(str(path)), str)
    assert_type(onnx_expand.strip_nonlinear(path), Path)
    for place in (path, str(path)):
        assert type(onnx_expand.fold(place)) is type(place)


# -- Writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_paths_lead_to_paths(tiny: onnx.ModelProto, tmp_path: Path, as_text: bool) -> None:
    """A path gives a path of its own kind, beside the model by default, where the result lies."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny, path)
    source = str(path) if as_text else path
    written = onnx_expand.fold(source)
    assert type(written) is type(source)
    assert Path(written) == tmp_path / "net.folded.onnx"
    named = onnx_expand.fold(source, tmp_path / "other.onnx")
    assert Path(named).read_bytes() == Path(written).read_bytes()
    assert Path(onnx_expand.expand(source)) == tmp_path / "net.expanded.onnx"
    assert path.read_bytes() == tiny.SerializeToString()


def test_an_output_that_cannot_be_written_is_refused(
    tiny: onnx.ModelProto, tmp_path: Path
) -> None:
    """A directory that is missing is named before anything is computed, and nothing is touched."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny, path)
    with pytest.raises(UsageError, match="does not exist"):
        onnx_expand.fold(path, tmp_path / "none" / "out.onnx")
    with pytest.raises(UsageError, match="is a directory"):
        onnx_expand.fold(path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("odd")])
def test_a_failed_save_leaves_the_old_file(
    tiny: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """When writing fails the file that was there stays, and nothing is left beside it."""
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(door, "to_proto", fail)
    with pytest.raises((UsageError, RuntimeError)):
        door.save(ir.serde.deserialize_model(tiny), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_initializers_are_not_described_twice(tiny: onnx.ModelProto) -> None:
    """The value_info of a written model names no initializer, unless it did before."""
    for model in (
        onnx_expand.fold(tiny),
        onnx_expand.expand(tiny),
        onnx_expand.fold(smallnet.build()),
    ):
        described = {info.name for info in model.graph.value_info}
        assert described.isdisjoint(t.name for t in model.graph.initializer)


def test_external_weights_go_to_their_own_file(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A model with external weights is folded to one that can be moved with its data file."""
    source, target, moved = (tmp_path / name for name in ("source", "target", "moved"))
    source.mkdir()
    target.mkdir()
    copy = onnx.ModelProto()
    copy.CopyFrom(tiny)
    onnx.save(
        copy,
        source / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    assert set(before) == {"net.onnx", "net.data"}
    onnx_expand.fold(source / "net.onnx", target / "out.onnx")
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before
    assert {p.name for p in target.iterdir()} <= {"out.onnx", "out.onnx.data"}
    target.rename(moved)
    expected, actual = arrays(onnx_expand.fold(tiny)), arrays(onnx.load(moved / "out.onnx"))
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_external_weights_can_be_folded_in_place(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    """A model with external weights may be its own output: data is read before it is replaced."""
    copy = onnx.ModelProto()
    copy.CopyFrom(tiny)
    path = tmp_path / "net.onnx"
    onnx.save(copy, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    onnx_expand.expand(path, path, exclude=".")
    for name, array in arrays(tiny).items():
        np.testing.assert_array_equal(arrays(onnx.load(path))[name], array)


def test_missing_external_weights_are_an_error_of_the_model(
    tiny: onnx.ModelProto, tmp_path: Path
) -> None:
    """A model whose data file is gone is refused with one line."""
    copy = onnx.ModelProto()
    copy.CopyFrom(tiny)
    path = tmp_path / "net.onnx"
    onnx.save(copy, path, save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError):
        onnx_expand.fold(path)


# -- Kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [onnx_expand.fold, onnx_expand.expand])
def test_objects_come_back_as_what_they_were(function: Any, tiny: onnx.ModelProto) -> None:
    """A proto, an onnx-ir model and a graphsurgeon graph give their own kind, and stay as is."""
    bytes_before = tiny.SerializeToString()
    result = function(tiny)
    assert isinstance(result, onnx.ModelProto)
    assert result is not tiny
    assert tiny.SerializeToString() == bytes_before

    own = ir.serde.deserialize_model(onnx.ModelProto.FromString(bytes_before))
    text = ir.serde.serialize_model(own).SerializeToString()
    changed = function(own)
    assert isinstance(changed, ir.Model)
    assert changed is not own
    assert ir.serde.serialize_model(own).SerializeToString() == text
    assert [n.op_type for n in changed.graph] == [n.op_type for n in result.graph.node]

    graphsurgeon = gs.import_onnx(tiny)
    written = gs.export_onnx(graphsurgeon).SerializeToString()
    given_back = function(graphsurgeon)
    assert isinstance(given_back, gs.Graph)
    assert gs.export_onnx(graphsurgeon).SerializeToString() == written
    assert [n.op for n in given_back.nodes] == [n.op_type for n in result.graph.node]


def test_a_graphsurgeon_graph_folds_back_to_its_names() -> None:
    """Expanding and folding a graphsurgeon graph restores its nodes, names and weights' names."""
    source = gs.import_onnx(smallnet.build())
    back = onnx_expand.fold(onnx_expand.expand(source, strategy="ck+fc"))
    assert [(n.op, n.name) for n in back.nodes] == [(n.op, n.name) for n in source.nodes]
    for new, old in zip(back.nodes, source.nodes, strict=True):
        assert [v.name for v in new.inputs] == [v.name for v in old.inputs]
        assert dict(new.attrs) == dict(old.attrs)


def test_changing_a_result_does_not_change_the_source(tiny: onnx.ModelProto) -> None:
    """A result in onnx-ir shares no node or initializer with the model that it came from."""
    own = ir.serde.deserialize_model(onnx.ModelProto.FromString(tiny.SerializeToString()))
    text = ir.serde.serialize_model(own).SerializeToString()
    result = onnx_expand.expand(own, exclude=".")
    for value in list(result.graph.initializers.values()):
        value.name = f"{value.name}.changed"
    for node in result.graph:
        node.metadata_props["changed"] = "yes"
    assert ir.serde.serialize_model(own).SerializeToString() == text
