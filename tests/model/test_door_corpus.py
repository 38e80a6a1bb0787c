"""What is not rewritten comes out as it went in: every model that ONNX itself is tested with."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnx_expand import model as door
from onnx_expand.graph.editing import label
from onnx_expand.passes import Fold, FoldReport, assume_constant
from tests.support.sameness import differences, file_models, node_models


def test_the_corpus_is_all_there() -> None:
    """The corpus holds what the installed onnx has: no loop runs over nothing."""
    assert len(node_models()) > 1500
    assert len(file_models()) > 100


def test_every_node_model_comes_out_as_it_went_in() -> None:
    """All fields of every model of one op survive; the caller's object is not touched."""
    for name, model in node_models().items():
        before = model.SerializeToString(deterministic=True)
        visit = door.visit(model)
        result = visit.leave(visit.model)
        assert differences(model, result) == [], name
        assert model.SerializeToString(deterministic=True) == before, name


def test_every_model_file_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """All fields of every model file survive reading and writing."""
    for name, path in file_models().items():
        door.save(door.load(path), tmp_path / "out.onnx")
        assert differences(onnx.load(path), onnx.load(tmp_path / "out.onnx")) == [], name


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, FoldReport]:
    """A folded model, and what was done; cleaning, which touches any node, has its own tests."""
    visit = door.visit(model)
    assume_constant(visit.model)
    report = Fold(clean=False)(visit.model).report  # type: ignore[attr-defined]
    result = visit.leave(visit.model)
    return result, report


def survivors(
    before: onnx.ModelProto, after: onnx.ModelProto, report: FoldReport
) -> list[tuple[onnx.NodeProto, onnx.NodeProto | None]]:
    """The nodes that no site lists, each with what it is now, None where it is gone."""
    replaced = {name for site in report.sites for name in site.nodes}
    own = ir.serde.deserialize_model(before)
    now = {tuple(node.output): node for node in after.graph.node}
    return [
        (proto, now.get(tuple(proto.output)))
        for node, proto in zip(own.graph, before.graph.node, strict=True)
        if label(node) not in replaced
    ]


def check_rest(name: str, before: onnx.ModelProto) -> int:
    """Check that a fold left all else as it was; the number of sites."""
    after, report = folded(before)
    onnx.checker.check_model(after)
    order = {tuple(node.output): i for i, node in enumerate(after.graph.node)}
    read = {x for graph in _graphs(after.graph) for node in graph.node for x in node.input}
    read |= {info.name for info in after.graph.output}
    read -= {tensor.name for tensor in after.graph.initializer}  # written down instead
    there = {name for node in after.graph.node for name in node.output}
    there |= {i.name for i in after.graph.input} | {t.name for t in after.graph.initializer}
    results = {result for site in report.sites for result in site.result}
    last = -1
    constants = {t.name: t for t in before.graph.initializer}
    now = {t.name: t for t in after.graph.initializer}
    for old, new in survivors(before, after, report):
        if new is None:
            assert read.isdisjoint(old.output), f"{name}: {old.name} is gone but read"
            continue
        if new.name in results:
            # A factor has passed the node, which computes what now has another name.
            assert _is_elsewhere(old, after, before), f"{name}: {old.name} is gone"
            continue
        given = onnx.NodeProto()
        given.CopyFrom(new)
        for index, (x, y) in enumerate(zip(old.input, new.input, strict=True)):
            if x not in there:  # a node that only handed a value on is gone
                given.input[index] = x
            elif x in constants and y in now:
                assert differences(constants[x], now[y]) == [], f"{name}: {old.name} reads others"
        pair = [_without_bodies(old), _without_bodies(given)] if report.sites else [old, given]
        assert differences(*pair) == [], name
        assert order[tuple(new.output)] > last, f"{name}: another order"
        last = order[tuple(new.output)]
    assert after.ir_version == max(before.ir_version, 4 if _defaults(before) else 0), name
    for field in ("producer_name", "model_version", "doc_string", "domain"):
        assert getattr(before, field) == getattr(after, field), name
    shells = [_shell(before), _shell(after)]
    assert differences(*shells) == [], name
    infos = {i.name: i for i in before.graph.value_info if i.name not in constants}
    for info in after.graph.value_info:
        if info.name in infos:
            assert differences(infos[info.name], info) == [], name
    return len(report.sites)


def _is_elsewhere(old: onnx.NodeProto, after: onnx.ModelProto, before: onnx.ModelProto) -> bool:
    """Whether a model has a node like an old one that computes a value of a new name."""
    known = {name for node in before.graph.node for name in node.output}
    return any(
        node.op_type == old.op_type
        and known.isdisjoint(node.output)
        and sorted(map(str, node.attribute)) == sorted(map(str, old.attribute))
        for node in after.graph.node
    )


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without what a fold may change."""
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    shell.ClearField("ir_version")
    inputs = [info for info in shell.graph.input if info.name not in _defaults(model)]
    del shell.graph.input[:]
    shell.graph.input.extend(inputs)
    del shell.graph.node[:], shell.graph.initializer[:], shell.graph.value_info[:]
    return shell


def _without_bodies(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node without the graphs in it, which were folded themselves."""
    shell = onnx.NodeProto()
    shell.CopyFrom(node)
    for attribute in shell.attribute:
        attribute.ClearField("g")
    return shell


def _defaults(model: onnx.ModelProto) -> set[str]:
    """The inputs that are initializers, which are taken to be constant here."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return weights & {info.name for info in model.graph.input}


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(found for g in inner for found in _graphs(g))]


def test_folding_leaves_the_rest_of_every_node_model() -> None:
    """Whatever fold does not replace in the models of single ops stays what and where it was."""
    names = [*node_models()][::3]  # a third, for time; the fuzzer sees all ops
    sites = sum(check_rest(name, node_models()[name]) for name in names)
    assert sites > 20


def test_folding_leaves_the_rest_of_every_model_file() -> None:
    """The same for networks, the two of the largest weights aside, and for torch's op tests."""
    names = [name for name in file_models() if "vgg" not in name and "alexnet" not in name]
    sites = sum(check_rest(name, onnx.load(file_models()[name])) for name in names)
    assert sites > 50


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exports_of_torch_come_out_as_they_went_in(dynamo: bool, tmp_path: Path) -> None:
    """Exports of both exporters keep all that they record, folding or not."""
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    nn = torch.nn
    modules = [
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8)),
        nn.GRU(4, 4, batch_first=True),
    ]
    shapes = [(2, 3, 8, 8), (2, 8), (2, 5, 4)]
    for module, shape in zip(modules, shapes, strict=True):
        path = tmp_path / "net.onnx"
        options = {"optimize": False, "verbose": False} if dynamo else {}
        torch.onnx.export(module.eval(), (torch.zeros(shape),), path, dynamo=dynamo, **options)
        model = onnx.load(path)
        door.save(door.load(path), tmp_path / "out.onnx")
        assert differences(model, onnx.load(tmp_path / "out.onnx")) == []
        check_rest(type(module).__name__, model)
