"""What is written computes what was read, or is not written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from models import smallnet
from onnx_expand import DifferentError, UnsupportedError, UsageError
from onnx_expand.cli import main
from onnx_expand.passes import Expand, ExpandResult, Fold, FoldResult
from tests.support.graphs_text import bn, graph, weights

ort = pytest.importorskip("onnxruntime")


def sized(*, batch: str = "N", height: str = "H") -> onnx.ModelProto:
    """A convolution and a normalization, at sizes that are not static."""
    return graph(
        f"g (float[{batch},2,{height},W] x) => (float[{batch},4,p,q] y) {{"
        "  c = Conv(x, w)"
        "  y = BatchNormalization(c, b_s, b_b, b_m, b_v) }",
        {**weights(w=(4, 2, 3, 3)), **bn("b", 4)},
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model to fold, one to expand, and a file that must stay."""
    onnx.save(sized(), tmp_path / "net.onnx")
    onnx.save(smallnet.build(kernel=3), tmp_path / "small.onnx")
    (tmp_path / "out.onnx").write_bytes(b"precious")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Break = Callable[[ir.Model], None]


def _append(model: ir.Model, op: str, *operands: ir.Value, domain: str = "", **attrs: Any) -> None:
    """One more node before the first output, which keeps its name."""
    graph, old = model.graph, model.graph.outputs[0]
    name, old.name = old.name, "inner"
    node = ir.node(op, [old, *operands], attrs, domain=domain)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, old.type, old.shape
    graph.append(node)
    graph.outputs[0] = node.outputs[0]


def unloadable(model: ir.Model) -> None:
    """An operator that no runtime has."""
    model.opset_imports["nowhere"] = 1
    _append(model, "Nothing", domain="nowhere")


def one_size_only(model: ir.Model) -> None:
    """A Reshape to the extents that the first size tried has, or to none that any has."""
    extents = ir.val("extents", const_value=ir.tensor(np.array([1, 4, 31, 38])))
    model.graph.register_initializer(extents)
    _append(model, "Reshape", extents)


def greedy(model: ir.Model) -> None:
    """An output of 2^50 numbers, on every input."""
    repeats = ir.val("repeats", const_value=ir.tensor(np.full(4, 1 << 13)))
    model.graph.register_initializer(repeats)
    _append(model, "Tile", repeats)


def wrong(model: ir.Model) -> None:
    """Other numbers."""
    factor = ir.val("factor", const_value=ir.tensor(np.array(1.01, np.float32)))
    model.graph.register_initializer(factor)
    _append(model, "Mul", factor)


BREAKS = {b.__name__: b for b in (unloadable, one_size_only, greedy, wrong)}


@pytest.fixture(params=BREAKS)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fold and expand break what they make, in one way after the other."""
    spoil: Break = BREAKS[request.param]
    fold, expand = Fold.call, Expand.call

    def bad_fold(self: Fold, model: ir.Model) -> FoldResult:
        result = fold(self, model)
        spoil(model)
        return FoldResult(model, True, result.report)

    def bad_expand(self: Expand, model: ir.Model) -> ExpandResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Fold, "call", fold)  # which contracts
            result = expand(self, model)
        spoil(model)
        return ExpandResult(model, True, result.report)

    monkeypatch.setattr(Fold, "call", bad_fold)
    monkeypatch.setattr(Expand, "call", bad_expand)
    return str(request.param)


COMMANDS = {
    "fold": "fold net.onnx out.onnx",
    "a number": "fold net.onnx out.onnx --check 1",
    "preprocessing": "fold net.onnx out.onnx --mean 0.5,0.4 --std 2 --swap-rb",
    "certificate": "fold net.onnx out.onnx --certificate c.json --report r.json",
    "always": "fold net.onnx out.onnx --policy always --border map",
    "preserve": "expand small.onnx out.onnx --strategy cl --init preserve --plan-out p.json",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_does_not_run_as_before_is_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str], broken: str, command: str
) -> None:
    """Exit code 1, one line, and every file as it was, however the result is broken."""
    before = sorted(path.name for path in folder.iterdir())
    code = main(COMMANDS[command].split())
    _, err = capsys.readouterr()
    assert code == 1
    assert err.startswith("onnx-expand: error: ")
    assert err.count("\n") == 1
    assert "out.onnx was not written" in err
    assert (folder / "out.onnx").read_bytes() == b"precious"
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("init", ["random", "contracted"])
def test_what_claims_no_equality_must_run(
    folder: Path, capsys: pytest.CaptureFixture[str], broken: str, init: str
) -> None:
    """Random numbers are no difference; a model that does not run, or returns less, is."""
    code = main(["expand", "small.onnx", "out.onnx", "--strategy", "cl", "--init", init])
    out, _ = capsys.readouterr()
    assert code == (0 if broken == "wrong" else 1)
    assert ((folder / "out.onnx").read_bytes() == b"precious") == (broken != "wrong")
    assert ("runs on all" in out) == (broken == "wrong")


def test_the_library_verifies_when_asked(folder: Path, broken: str) -> None:
    """`verify=` raises DifferentError and writes nothing; without it the report says so."""
    for verify in (True, 1):
        with pytest.raises(DifferentError, match=r"net\.onnx: the folded model differs"):
            onnx_expand.fold("net.onnx", "out.onnx", verify=verify)
        with pytest.raises(DifferentError, match="the expanded model differs"):
            onnx_expand.expand("small.onnx", "out.onnx", init="preserve", verify=verify)
    assert (folder / "out.onnx").read_bytes() == b"precious"
    _, report = onnx_expand.fold(sized(), report=True)
    assert report.verification.equal is None
    assert report.as_dict()["verification"]["checked"] is False
    assert "not checked" in report.verification.text


def test_what_was_verified_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the terminal, in the report, in the certificate, and in the library's report."""
    assert main(COMMANDS["certificate"].split()) == 0
    assert "checked: equal on" in capsys.readouterr()[0]
    for name, place in (("r.json", "verification"), ("c.json", "fold")):
        stated = json.loads((folder / name).read_text())[place]
        stated = stated.get("verification", stated)
        assert (stated["checked"], stated["equal"]) == (True, True)
    assert main(COMMANDS["preserve"].split()) == 0
    assert "checked: equal on" in capsys.readouterr()[0]
    _, folded = onnx_expand.fold(sized(), verify=True, report=True)
    _, expanded = onnx_expand.expand(sized(), init="preserve", verify=2, report=True)
    assert folded.verification.equal is True
    assert expanded.verification.equal is True


def nowhere() -> onnx.ModelProto:
    """A model that no runtime has all operators of."""
    model = sized()
    model.graph.node.append(onnx.helper.make_node("Nothing", ["y"], ["z"], domain="nowhere"))
    model.graph.output[0].name = "z"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    return model


def test_a_source_that_does_not_run_here_is_not_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is folded, expanded and written, which is said; asking for the check is an error."""
    onnx.save(nowhere(), folder / "odd.onnx")
    for command in ("fold", "expand --strategy cl --init preserve", "expand"):
        words = command.split()
        assert main([words[0], "odd.onnx", "new.onnx", *words[1:]]) == 0
        assert "not checked: " in capsys.readouterr()[0]
    assert main(["fold", "odd.onnx", "out.onnx", "--check", "1"]) == 4
    _, report = onnx_expand.fold(nowhere(), verify=True, report=True)
    assert report.verification.equal is None
    assert "not checked: " in report.verification.text
    with pytest.raises(UnsupportedError):
        onnx_expand.fold(nowhere(), verify=1)
    assert (folder / "out.onnx").read_bytes() == b"precious"


def test_a_source_that_runs_at_some_sizes_only_is_checked_there(folder: Path) -> None:
    """The sizes of the comparison are those at which the source runs."""
    model = graph(
        "g (float[N,2,H,W] x) => (float[N,p] y) {"
        "  c = Conv(x, w)  b = BatchNormalization(c, b_s, b_b, b_m, b_v)"
        "  f = Flatten(b)  y = MatMul(f, v) }",
        {**weights(w=(4, 2, 3, 3), v=(4 * 31 * 38, 3)), **bn("b", 4)},
    )
    _, report = onnx_expand.fold(model, shapes={"x": ("N", 2, 33, 40)}, verify=True, report=True)
    assert report.verification.equal is True


def test_memory_that_is_not_there_is_a_reason(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that do not fit several times into memory are not checked unless asked for."""
    monkeypatch.setattr("onnx_expand.workflow.verification._LARGE", 0)
    monkeypatch.setattr("onnx_expand.workflow.verification._free_memory", lambda: 100)
    assert main(["fold", "net.onnx", "new.onnx"]) == 0
    assert "not checked: 0.0 GiB of weights" in capsys.readouterr()[0]
    assert main(["fold", "net.onnx", "new.onnx", "--check", "1"]) == 0
    assert "checked: equal" in capsys.readouterr()[0]


def test_a_result_for_which_memory_runs_out_is_a_difference(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source alone fits, so that it is the result that does not run."""
    from onnx_expand import equivalence

    def starved(a: Any, b: Any, *options: Any) -> Any:
        if a is not b:
            raise MemoryError("of 8 GiB")
        return real(a, b, *options)

    real = equivalence.check
    monkeypatch.setattr("onnx_expand.workflow.verification.check", starved)
    assert main(["fold", "net.onnx", "out.onnx"]) == 1
    assert (folder / "out.onnx").read_bytes() == b"precious"


@pytest.mark.parametrize("value", [0, -1, "yes", 1.5])
def test_verify_is_a_number_or_a_truth(value: Any) -> None:
    """Anything else is wrong usage."""
    with pytest.raises(UsageError, match="verify"):
        onnx_expand.fold(sized(), verify=value)


def test_the_library_takes_shapes_everywhere() -> None:
    """Extents that are not static can be said to each function, and are checked."""
    shapes = {"x": (1, 2, 8, 10)}
    assert onnx_expand.inspect(sized()).macs is None
    assert onnx_expand.inspect(sized(), shapes=shapes).macs == 4 * 2 * 9 * 6 * 8
    options: dict[str, Any] = {"verify": True, "report": True, "shapes": shapes}
    for init in ("preserve", "random"):
        _, report = onnx_expand.expand(sized(), init=init, **options)
        assert "not checked" not in report.verification.text
    for call in (onnx_expand.inspect, onnx_expand.fold, onnx_expand.expand):
        more: dict[str, Any] = {} if call is onnx_expand.inspect else {"verify": True}
        with pytest.raises(UsageError, match="nobody"):
            call(sized(), shapes={"nobody": (1,)}, **more)


FOLD_OPTIONS: list[Mapping[str, Any]] = [
    {"policy": "always", "border": "map"},
    {"inline": True},
    {"mean": (0.5, 0.4), "std": 2 * (0.25,), "swap_rb": True},
    {"mean": "0.5", "input": "x"},
    {"shapes": {"x": (2, 2, 9, 12)}},
]


@pytest.mark.parametrize("options", FOLD_OPTIONS)
def test_the_library_folds_with_the_options_of_the_command(options: Mapping[str, Any]) -> None:
    """Each is taken, and what comes out is verified against the model with its preprocessing."""
    model, report = onnx_expand.fold(sized(), verify=True, report=True, **options)
    assert report.verification.equal is True
    assert len(model.graph.node) < 4
