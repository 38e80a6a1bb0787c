"""The options of check: inputs, providers, findings and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_expand
from onnx_expand.cli import main
from onnx_expand.equivalence import bisect
from onnx_expand.equivalence.inputs.demands import demands_of
from onnx_expand.errors import UnsupportedError, UsageError
from tests.support.graphs_text import bn, fold, graph, weights
from tests.support.random_graphs import random_graph

pytest.importorskip("onnxruntime")


def pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a small network and its folded form."""
    model = graph(
        """
        g (float[N,3,H,W] image) => (float[N,4,P,Q] y) {
            a = Conv <pads: ints = [1, 1, 1, 1]> (image, v)
            b = BatchNormalization(a, n_s, n_b, n_m, n_v)
            r = Relu(b)
            y = Conv(r, w)
        }
        """,
        weights(v=(6, 3, 3, 3), w=(4, 6, 1, 1)) | bn("n", 6),
    )
    return model, fold(model)[0]


def changed(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    """Return a copy in which the largest element of a weight is multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            array = onnx.numpy_helper.to_array(tensor).copy()
            at = np.unravel_index(int(np.argmax(np.abs(array))), array.shape)
            array[at] *= factor
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    return copy


# -- Inputs -----------------------------------------------------------------------------------


def test_given_inputs_are_used(tmp_path: Path) -> None:
    """Inputs come as arrays from a file, a folder, ONNX test data, or Python."""
    a, b = pair()
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    np.savez(tmp_path / "one.npz", image=x)
    verdict = onnx_expand.check(a, b, inputs=tmp_path / "one.npz")
    assert verdict
    assert [figure.place.sample for figure in verdict.outputs] == ["one.npz"]
    np.savez(tmp_path / "two.npz", image=x[:1])
    assert len(onnx_expand.check(a, b, inputs=tmp_path).outputs) == 2
    data = tmp_path / "data" / "test_data_set_0"
    data.mkdir(parents=True)
    tensor = onnx.numpy_helper.from_array(x.astype(np.float32), "anything")
    (data / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert onnx_expand.check(a, b, inputs=data.parent)
    assert len(onnx_expand.check(a, b, inputs=[{"image": x}, {"image": -x}]).outputs) == 2


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"picture": np.zeros((1, 3, 5, 5))}, "no input 'picture'"),
        ({}, "'image' is missing"),
        ({"image": np.zeros((1, 4, 5, 5))}, r"\[1, 4, 5, 5\]"),
        ({"image": np.zeros((1, 3, 5, 5), np.int64)}, "int64"),
    ],
)
def test_invalid_inputs_are_named(arrays: dict[str, object], words: str) -> None:
    """The error names the input and the reason in one line."""
    a, b = pair()
    with pytest.raises(UsageError, match=words):
        onnx_expand.check(a, b, inputs=[arrays])


def test_ranges_and_shapes_are_obeyed() -> None:
    """Random inputs are in the given range and have the given extents."""
    a, b = pair()
    verdict = onnx_expand.check(
        a, b, ranges={"image": (0.0, 255.0)}, shapes={"image": (1, 3, 8, "W")}
    )
    assert verdict
    for feeds in verdict.inputs.values():
        assert feeds["image"].shape[:3] == (1, 3, 8)
        assert 0 <= feeds["image"].min() <= feeds["image"].max() <= 255
    assert max(float(f["image"].max()) for f in verdict.inputs.values()) > 200
    with pytest.raises(UsageError, match="no input 'x'"):
        onnx_expand.check(a, b, shapes={"x": (1,)})
    with pytest.raises(UsageError, match="no input 'x'"):
        onnx_expand.check(a, b, ranges={"x": (0.0, 1.0)})
    for low, high in ((1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="no range"):
            onnx_expand.check(a, b, ranges={"image": (low, high)})
    with pytest.raises(UsageError, match="extents"):
        onnx_expand.check(a, b, shapes={"image": (1, 4, 8, 8)})


def test_integers_stay_below_their_bounds() -> None:
    """Indices into a table of 300 rows, through a Cast; a depth of OneHot; an axis of data."""
    model = graph(
        """
        g (int32[N] tokens, int64[N] kinds, int64[N] free)
            => (float[N,4] y, float[N,7] z, int64[N] f) {
            wide = Cast <to: int = 7> (tokens)
            y = Gather(table, wide)
            depth = Constant <value: tensor = int64 {7}> ()
            values = Constant <value: tensor = float[2] {0, 1}> ()
            z = OneHot(kinds, depth, values)
            f = Identity(free)
        }
        """,
        weights(table=(300, 4)),
    )
    demands = demands_of(ir.serde.deserialize_model(model))
    assert {name: demand.rows for name, demand in demands.items()} == {"tokens": 300, "kinds": 7}
    verdict = onnx_expand.check(model, model, samples=4)
    assert verdict
    drawn = np.concatenate([feeds["tokens"] for feeds in verdict.inputs.values()])
    assert drawn.max() > 50


def test_denormal_inputs_are_tried() -> None:
    """Denormal inputs reveal a model that flushes them to zero."""
    ports = "g (float[4] x) => (float[4] y) "
    a = graph(ports + "{ y = Mul(x, big) }", {"big": np.full((), 1e30, np.float32)})
    b = graph(
        ports + "{ s = Mul(x, small)\n t = Mul(s, huge)\n y = Mul(t, big) }",
        {
            "small": np.full((), 1e-7, np.float32),
            "huge": np.full((), 1e7, np.float32),
            "big": np.full((), 1e30, np.float32),
        },
    )
    verdict = onnx_expand.check(a, b)
    assert not verdict
    wrong = {figure.place.sample.split()[0] for figure in verdict.outputs if not figure.equal}
    assert wrong == {"denormal"}


# -- Where ------------------------------------------------------------------------------------


def test_a_second_opinion_and_two_providers() -> None:
    """ONNX's reference implementation runs both, or one of them against onnxruntime."""
    a, b = pair()
    verdict = onnx_expand.check(a, b, providers=["cpu", "reference"], samples=1)
    assert verdict
    assert verdict.providers == ("cpu", "reference")
    mixed = onnx_expand.check(a, b, providers=["cpu"], providers_b=["reference"], samples=1)
    assert mixed
    assert mixed.providers == ("cpu/reference",)
    assert not onnx_expand.check(a, changed(b, "w", 1.001), providers=["reference"], samples=1)
    with pytest.raises(UsageError, match="one for each"):
        onnx_expand.check(a, b, providers=["cpu"], providers_b=["cpu", "cpu"])


def test_optimized_graphs_are_equal_too() -> None:
    """As deployed, onnxruntime itself folds A."""
    a, b = pair()
    assert onnx_expand.check(a, b, as_deployed=True, samples=1)
    assert not onnx_expand.check(a, changed(b, "w", 1.001), as_deployed=True, samples=1)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_provider_is_an_error(provider: str) -> None:
    """A missing provider is not replaced by the CPU silently."""
    from onnx_expand.runtimes import detect_providers

    if provider in detect_providers():
        pytest.skip("this machine has one")
    a, b = pair()
    with pytest.raises(UnsupportedError, match=provider):
        onnx_expand.check(a, b, providers=[provider])


# -- Findings ---------------------------------------------------------------------------------


def test_the_first_difference_is_found() -> None:
    """The first different tensor that both models have is the one behind the changed weight."""
    a, b = pair()
    x = {"image": np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)}
    assert bisect(a, b, x) is None
    late = bisect(a, changed(b, "w", 1.01), x)
    assert late is not None
    assert (late.tensor, late.after, late.replaced) == ("y", ("r",), ())
    early = bisect(a, changed(b, b.graph.node[0].input[1], 1.01), x)
    assert early is not None
    assert early.tensor == "b"
    assert len(early.replaced) == 2, "the convolution and the normalization that were merged"
    assert "merged there" in early.summary()


def test_a_change_of_a_few_floors_is_caught() -> None:
    """In random networks, weights that change the output by more than the tolerance are found."""
    caught = missed = 0
    for seed in range(12):
        model = random_graph(seed, length=6)
        folded, _ = fold(model)
        base = onnx_expand.check(model, folded, samples=1)
        assert base, base.differences
        for tensor in folded.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype != np.float32 or not array.any():
                continue
            for factor in (1.001, 1 + 1e-4, 1 + 1e-6):
                other = changed(folded, tensor.name, factor)
                verdict = onnx_expand.check(model, other, samples=1)
                direct = onnx_expand.check(folded, other, samples=1, atol=0.0)
                figures = zip(direct.outputs, verdict.outputs, strict=False)
                if any(moved.max_error > 2 * figure.tolerance for moved, figure in figures):
                    caught += not verdict.equal
                    missed += verdict.equal
    assert missed == 0
    assert caught > 15


# -- Output -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """Write a model, its folded form, and a wrong one."""
    a, b = pair()
    paths = []
    for name, model in (("a", a), ("b", b), ("wrong", changed(b, "w", 1.01))):
        onnx.save(model, tmp_path / f"{name}.onnx")
        paths.append(str(tmp_path / f"{name}.onnx"))
    return paths[0], paths[1], paths[2]


def test_a_part_that_differs_is_a_failure_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Differences that only the parts show are in the table, in JUnit and in the exit code."""
    deep = "g (float[N,64] x) => (float[N,64] y) {{ k = MatMul(x, a) r = Relu(k) y = Add(r, d) }}"
    numbers = weights(3, a=(64, 64)) | {"d": np.full(64, 1e4, np.float32)}
    other = deep.replace("MatMul(x, a)", "Gemm(x, a)")
    a, b = graph(deep.format(), numbers), graph(other.format(), numbers)
    array = numpy_helper.to_array(b.graph.initializer[0]).copy()
    array[0, 0] += 1e-2
    b.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "a"))
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    for model, path in zip((a, b), paths, strict=True):
        onnx.save(model, path)
    junit = tmp_path / "v.xml"
    assert main(["check", *paths, "--bisect", "--junit", str(junit), "-n", "1"]) == 1
    printed = capsys.readouterr().out
    assert "different: 'k', computed by k in B" in printed
    assert "error/tolerance" in printed
    assert "all tensors" not in printed
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "1"
    assert main(["check", *paths, "--no-regions", "-n", "1"]) == 0


def test_figures_are_written(files: tuple[str, str, str], tmp_path: Path) -> None:
    """JSON of schema 2 has every figure, and JUnit a case for each."""
    a, b, wrong = files
    report, junit = tmp_path / "v.json", tmp_path / "v.xml"
    assert main(["check", a, b, "--json", str(report), "--junit", str(junit)]) == 0
    data = json.loads(report.read_text())
    assert (data["schema"], data["equal"], data["divergence"]) == (2, True, None)
    first = data["outputs"][0]
    assert first["ulp"] >= 0
    assert 0.999 < first["cosine"] <= 1
    assert first["border_error"] >= 0
    assert first["interior_error"] >= 0
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "0"
    assert int(suite.get("tests", "0")) == len(data["outputs"]) + len(data["regions"])
    words = ["check", a, wrong, "--json", str(report), "--junit", str(junit), "--bisect"]
    assert main(words) == 1
    assert json.loads(report.read_text())["divergence"]["tensor"] == "y"
    assert int(ElementTree.parse(junit).getroot().get("failures", "0")) > 0


@pytest.mark.parametrize(
    "words",
    [
        ["--val-range", "image:1"],
        ["--val-range", "image:3,1"],
        ["--shape", "1,3,H,W"],
        ["--inputs", "nothing.npz"],
        ["--certificate", "nothing.json"],
    ],
)
def test_bad_options_are_one_line(
    words: list[str], files: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage or an unreadable file is an error of one line, without traceback."""
    assert main(["check", *files[:2], *words]) in {2, 3}
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("onnx-expand: error: ")


def test_a_certificate_holds_until_a_file_changes(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has hashes, versions, sites and the verdict, and is verified with the files."""
    source, target, paper = files[0], str(tmp_path / "out.onnx"), str(tmp_path / "c.json")
    assert main(["fold", source, target, "--certificate", paper]) == 0
    data = json.loads(Path(paper).read_text())
    assert data["verdict"]["equal"] is True
    assert data["fold"]["folded"]
    assert "onnx" in data["tools"]
    assert list(data["output"]["sha256"]) == ["out.onnx"]
    assert main(["check", source, target, "--certificate", paper]) == 0
    capsys.readouterr()
    assert main(["check", source, files[2], "--certificate", paper]) == 3
    assert "is not the output" in capsys.readouterr().err
    assert main(["fold", source, "--dry-run", "--certificate", paper]) == 2


def test_models_are_timed_in_turns(files: tuple[str, str, str], tmp_path: Path) -> None:
    """The result has medians, ratios with an interval and memory, as table and JSON."""
    report = tmp_path / "b.json"
    words = ["bench", *files[:2], "--seconds", "0.2", "--threads", "1", "--json", str(report)]
    assert main(words) == 0
    data = json.loads(report.read_text())
    first, second = data["timings"]
    assert first["ratio"] == 1.0
    assert second["ratio_interval"][0] <= second["ratio"] <= second["ratio_interval"][1]
    assert first["runs"] == second["runs"] >= 5
    assert first["memory_bytes"] is None or first["memory_bytes"] > 0
    assert main(["bench", files[0], "--providers", "nowhere"]) == 2


def test_a_picture_of_the_times(files: tuple[str, str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "b.png"
    assert main(["bench", *files[:2], "--seconds", "0.2", "--png", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
ODD = {
    "bfloat16": (
        "(bfloat16[N,4] x) => (bfloat16[N,4] y)",
        "f = Cast<to=1>(x) g = Add(f, f) y = Cast<to=16>(g)",
        "f = Cast<to=1>(x) g = Neg(f) y = Cast<to=16>(g)",
    ),
    "float8": (
        "(float[N] x) => (float8e4m3fn[N] y)",
        "y = Cast<to=17>(x)",
        "z = Neg(x) y = Cast<to=17>(z)",
    ),
    "int4": (
        "(int4[N,4] x) => (float[N,4] y)",
        "y = Cast<to=1>(x)",
        "z = Cast<to=1>(x) y = Neg(z)",
    ),
    "string": ("(string[N] x) => (string[N] y)", "y = Identity(x)", "y = StringConcat(x, x)"),
    "scalar": ("(float x, int64 i) => (float y)", "y = Neg(x)", "y = Abs(x)"),
    "no input": (
        "() => (float y)",
        "y = Constant<value_float=1.0>()",
        "y = Constant<value_float=2.0>()",
    ),
    "sequence in": (
        "(seq(float[N,4]) x) => (float[M,4] y)",
        "y = ConcatFromSequence<axis=0>(x)",
        "z = ConcatFromSequence<axis=0>(x) y = Neg(z)",
    ),
    "sequence out": (
        "(float[N,4] x) => (seq(float[M,4]) y)",
        "y = SplitToSequence<axis=1>(x)",
        "z = Neg(x) y = SplitToSequence<axis=1>(z)",
    ),
    "sequence of another length": (
        "(float[N,4] x) => (seq(float) y)",
        "y = SplitToSequence<axis=1>(x)",
        "y = SequenceConstruct(x)",
    ),
    "optional": (
        "(optional(float[N,4]) x) => (float[N,4] y)",
        "y = OptionalGetElement(x)",
        "z = OptionalGetElement(x) y = Neg(z)",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_ports_that_are_not_arrays(kind: str) -> None:
    """Differences are found for inputs and outputs of every type."""
    ports, same, other = ODD[kind]
    a, b = (onnx.parser.parse_model(HEAD + ports + "{" + body + "}") for body in (same, other))
    assert onnx_expand.check(a, a, samples=1, providers=["cpu"])
    verdict = onnx_expand.check(a, b, samples=1, providers=["cpu"])
    assert not verdict
    assert verdict.outputs
