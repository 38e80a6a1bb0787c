"""The runtimes: onnxruntime, the float64 reference, and the clock."""

from __future__ import annotations

import gc
import itertools
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from models import mobilenetv2, smallnet
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.model import read, to_proto
from onnx_expand.runtimes import OnnxRuntime, Reference, content, detect_providers, latency
from onnx_expand.runtimes.latency import ratio_of
from tests.support.constant_cases import draw_case

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]
HEADER = '<ir_version: 8, opset_import: ["" : {opset}, "own" : 1]>'


def parse(text: str, opset: int = 17) -> ir.Model:
    """A model from ONNX text, which starts with the graph's name."""
    return read(onnx.parser.parse_model(HEADER.format(opset=opset) + text))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CASES = {
    "conv with groups, strides, dilations, uneven pads": (
        "g (float[2,4,9,11] x, float[6,2,3,2] w, float[6] b) => (float[n,c,h,u] y) "
        "{y = Conv<group=2, strides=[2,1], dilations=[1,3], pads=[0,2,1,1]>(x, w, b)}"
    ),
    "depthwise conv": (
        "g (float[2,4,9,8] x, float[4,1,3,3] w) => (float[n,c,h,u] y) "
        "{y = Conv<group=4, pads=[1,1,1,1]>(x, w)}"
    ),
    "conv over one axis, same lower": (
        "g (float[2,3,10] x, float[5,3,4] w) => (float[n,c,h] y) "
        '{y = Conv<auto_pad="SAME_LOWER", strides=[3]>(x, w)}'
    ),
    "conv over three axes": (
        "g (float[1,2,4,5,6] x, float[3,2,2,3,2] w) => (float[n,c,d,h,u] y) "
        "{y = Conv<strides=[1,2,3]>(x, w)}"
    ),
    "transposed conv": (
        "g (float[2,4,5,6] x, float[4,3,3,2] w, float[6] b) => (float[n,c,h,u] y) "
        "{y = ConvTranspose<group=2, strides=[2,3], dilations=[2,1], pads=[1,0,2,1], "
        "output_padding=[1,2]>(x, w, b)}"
    ),
    "max pool that rounds up": (
        "g (float[2,3,10,9] x) => (float[n,c,h,u] y) {y = MaxPool"
        "<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,1], ceil_mode=1>(x)}"
    ),
    "max pool with indices": (
        "g (float[2,3,7,9] x) => (float[n,c,h,u] y, int64[n,c,h,u] z) {y, z = MaxPool"
        "<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], dilations=[2,1]>(x)}"
    ),
    **{
        f"average pool: {pads}, count_include_pad={counted}, ceil_mode={partial}": (
            "g (float[2,3,10,9] x) => (float[n,c,h,u] y) {y = AveragePool<kernel_shape=[3,2], "
            f"strides=[2,1], count_include_pad={counted}, ceil_mode={partial}, {pads}>(x)}}"
        )
        for pads in (
            *("pads=[1,0,1,1]", "pads=[0,1,2,0]"),
            *('auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', 'auto_pad="VALID"'),
        )
        for counted in (0, 1)
        for partial in (0, 1)
    },
    "error function": "g (float[50] x) => (float[50] y) {y = Erf(x)}",
    "constants of several kinds": (
        "g (float[5] x) => (float[5] y) {c = Constant<value_float=0.1>() "
        "d = Constant<value_floats=[1.1,2.2,3.3,4.4,5.5]>() k = Constant<value_ints=[5]>() "
        "z = ConstantOfShape(k) a = Mul(x, c) b = Add(a, d) y = Add(b, z)}"
    ),
    "a subgraph that reads from outside": (
        "g (float[5] x, float[5] w) => (float[5] y) {c = Constant<value = bool {1}>() "
        "y = If(c) <then_branch = t () => (float[5] p) "
        "{q = Constant<value = float[1] {0.3}>() r = Mul(x, q) p = Add(r, w)}, "
        "else_branch = e () => (float[5] s) {s = Identity(x)}>}"
    ),
}


def in_function(model: ir.Model) -> ir.Model:
    """A model whose nodes are the body of a local function."""
    proto = to_proto(model)
    graph, opsets = proto.graph, [onnx.helper.make_opsetid("", 17)]
    given, found = ([info.name for info in infos] for infos in (graph.input, graph.output))
    body = onnx.helper.make_function("own", "body", given, found, list(graph.node), opsets)
    del graph.node[:]
    graph.node.append(onnx.helper.make_node("body", given, found, domain="own"))
    proto.functions.append(body)
    return read(proto)


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "function"])
@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_reference_computes_what_onnxruntime_does(text: str, inside: bool) -> None:
    """The float64 reference and onnxruntime, which share no code, agree to float32's rounding."""
    model = in_function(parse(text)) if inside else parse(text)
    feeds = {
        value.name or "": normal(*[d for d in value.shape or () if isinstance(d, int)], seed=seed)
        for seed, value in enumerate(model.graph.inputs)
    }
    before = to_proto(model)
    exact, rounded = Reference().session(model).run(feeds), OnnxRuntime().session(model).run(feeds)
    assert to_proto(model) == before
    for name, array in rounded.items():
        assert exact[name].shape == array.shape
        if array.dtype == np.float32:
            assert exact[name].dtype == np.float64
        np.testing.assert_allclose(exact[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 13, 15])
def test_batch_normalization_of_every_opset_is_inference(opset: int) -> None:
    """Opsets 7 to 13, which onnx's own reference takes for training, normalize by given values."""
    model = parse(
        "g (float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3,4] y) "
        "{y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)}",
        opset,
    )
    x, s, b, m = normal(2, 3, 4), normal(3), normal(3, seed=1), normal(3, seed=2)
    v = np.asarray([0.5, 1, 2], np.float32)
    got = Reference().session(model).run({"x": x, "s": s, "b": b, "m": m, "v": v})["y"]
    by = [array.astype(np.float64)[:, None] for array in (m, s, v, b)]
    want = (x - by[0]) * by[1] / np.sqrt(by[2] + float(np.float32(0.01))) + by[3]
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_reference_has_no_float32_in_it() -> None:
    """A sum that float32 and float16 lose comes out exactly, so every step is in float64."""
    model = parse(
        "g (float16[1] x) => (float16[1] y) <float[1] one = {1.0}> {a = Cast<to=1>(x) "
        "b = Add(a, one) c = Sub(b, one) y = Cast<to=10>(c)}"
    )
    x = np.asarray([6e-8], np.float16)
    assert Reference().session(model).run({"x": x})["y"] == float(x[0])
    assert OnnxRuntime().session(model).run({"x": x})["y"] == 0


def test_reference_refuses_what_it_lacks() -> None:
    """An operator without an implementation is a clear refusal, when loading or when running."""
    model = read(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["own" : 1]> g (float[1] x) => (float[1] y) '
            "{y = own.Secret(x)}"
        )
    )
    with pytest.raises(UnsupportedError, match=r"A: the float64 reference cannot load it.*Secret"):
        Reference().session(model, "A")
    window = parse("g (int64 n) => (float[k] y) {y = HannWindow(n)}")
    with pytest.raises(UnsupportedError, match="not in float64"):
        Reference().session(window).run({"n": np.asarray(5)})


@pytest.mark.parametrize(
    ("build", "options", "limit"),
    [(smallnet.build, {}, 0.5), (mobilenetv2.build, {"size": 64}, 5.0)],
)
def test_reference_is_fast(build: Any, options: dict[str, int], limit: float) -> None:
    """A float64 run of the paper's networks takes no longer than a person waits."""
    session = Reference().session(read(build(**options)))
    size = options.get("size", 32)
    start = time.perf_counter()
    session.run({"input": normal(4, 3, size, size)})
    assert time.perf_counter() - start < limit


SUM = "g (float[n] x) => (float[n] y) <float[1] w = {2.5}> {y = Add(x, w)}"


def test_external_weights_reach_onnxruntime(tmp_path: Path) -> None:
    """A model with weights in a second file runs, and its temporary copy goes with the session."""
    ir.save(parse(SUM), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    feeds = {"x": np.ones(2, np.float32)}
    session = OnnxRuntime().session(read(tmp_path / "m.onnx"))
    direct = OnnxRuntime().session(tmp_path / "m.onnx")
    assert session.run(feeds)["y"].tolist() == direct.run(feeds)["y"].tolist() == [3.5, 3.5]


def test_temporary_files_go_with_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that need a file leave none behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(content, "_INLINE_LIMIT", 0)
    session = OnnxRuntime().session(parse(SUM))
    assert list(tmp_path.iterdir())
    assert session.run({"x": np.ones(1, np.float32)})["y"] == 3.5
    del session
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_missing_provider_is_no_fallback() -> None:
    """CUDA without a GPU is an error that names what there is, never a run on the CPU."""
    if "cuda" in detect_providers():
        session = OnnxRuntime("cuda").session(parse(SUM))
        assert session.providers[0] == "CUDAExecutionProvider"
        return
    with pytest.raises(UnsupportedError, match="provider 'cuda' here; available: cpu"):
        OnnxRuntime("cuda").session(parse(SUM))


def test_an_absent_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime the message says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'onnx-expand\[cpu\]' or \[gpu\]"):
        OnnxRuntime().session(parse(SUM))
    with pytest.raises(UnsupportedError, match="check needs onnxruntime"):
        detect_providers()


def test_errors_name_the_model_and_the_runtime() -> None:
    """What onnxruntime says arrives in one line, with the model's name in front."""
    session = OnnxRuntime(threads=1).session(parse(SUM), "B")
    with pytest.raises(UnsupportedError, match=r"^B: onnxruntime on CPU cannot run it: .+$"):
        session.run({"x": np.ones((1, 1), np.float32)})
    unknown = parse("g (float[1] x) => (float[1] y) {y = own.Secret(x)}")
    with pytest.raises(UnsupportedError, match=r"^B: onnxruntime on CPU cannot load it: .+$"):
        OnnxRuntime().session(unknown, "B")


@pytest.mark.parametrize("options", [{"provider": "tpu"}, {"threads": 0}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    """An option that makes no sense is named before anything runs."""
    with pytest.raises(UsageError):
        OnnxRuntime(**options)


class Sleeper:
    """A session that takes the time it is told, and keeps a log of who ran."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, feeds: Any) -> dict[str, Array]:
        """Note the run, and wait."""
        self.log.append(self.name)
        time.sleep(self.seconds)
        return {}


def test_latency_takes_turns() -> None:
    """Sessions alternate, and the medians are the times that they take."""
    log: list[str] = []
    sessions = {"a": Sleeper("a", 0.002, log), "b": Sleeper("b", 0.008, log)}
    times = latency(sessions, {}, seconds=0.2)
    assert set(zip(log[::2], log[1::2], strict=True)) == {("a", "b")}
    assert 0.002 <= times["a"][0] <= times["a"][1]
    assert 0.008 <= times["b"][0] <= times["b"][1]
    assert times["a"][0] < times["b"][0]


def test_latency_of_optimized_sessions() -> None:
    """Two real sessions are measured, as deployed."""
    model = read(smallnet.build())
    sessions = {str(n): OnnxRuntime(optimize=True, threads=n).session(model) for n in (1, 2)}
    times = latency(sessions, {"input": normal(1, 3, 32, 32)}, seconds=0.1)
    assert all(0 < median <= high for median, high in times.values())
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="seconds"):
            latency(sessions, {}, seconds=bad)
    with pytest.raises(UsageError, match="at least one"):
        latency({}, {})


def test_importing_the_runtimes_is_light() -> None:
    """onnxruntime, torch and onnx's evaluator load when something runs, not before."""
    code = (
        "import sys, onnx_expand.equivalence, onnx_expand.runtimes; "
        "heavy = {'onnxruntime', 'torch', 'onnx.reference', 'onnx_graphsurgeon'}; "
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SEMANTIC = {
    "Softmax": (1, 11, 13),
    "LogSoftmax": (1, 11, 13),
    "Hardmax": (1, 11, 13),
    "Resize": (11, 13, 18, 19),
    "BatchNormalization": (7, 9, 14, 15),
}


@pytest.mark.parametrize("op", SEMANTIC)
def test_the_reference_has_the_semantics_of_the_operator_set(op: str) -> None:
    """What the float64 reference computes is what onnxruntime does, or it says that it cannot."""
    rng = np.random.default_rng(0)
    compared = 0
    for version, _ in itertools.product(SEMANTIC[op], range(80 if op == "Resize" else 20)):
        case = draw_case(rng, _like(op), max(version, 7), "float32")
        case.op = op
        if op in {"LogSoftmax", "Hardmax", "Softmax"}:
            assert case.inputs[0] is not None
            case.inputs[0] = (
                rng.permutation(case.inputs[0].size)
                .astype(np.float32)
                .reshape(case.inputs[0].shape)
            )
        node = ir.serde.serialize_node(case.node())
        float_type = onnx.TensorProto.FLOAT
        own = onnx.helper.make_graph(
            [node],
            "g",
            [onnx.helper.make_tensor_value_info("c0", float_type, None)],
            [onnx.helper.make_tensor_value_info("o0", float_type, None)],
            [
                onnx.numpy_helper.from_array(a, f"c{i}")
                for i, a in enumerate(case.inputs)
                if i and a is not None
            ],
        )
        opset = onnx.helper.make_opsetid("", case.opset)
        model = onnx.helper.make_model(own, opset_imports=[opset], ir_version=9)
        source = ir.serde.deserialize_model(model)
        assert case.inputs[0] is not None
        feeds = {"c0": case.inputs[0]}
        try:
            truth = OnnxRuntime().session(source).run(feeds)["o0"]
            found = Reference().session(source).run(feeds)["o0"]
        except UnsupportedError:
            continue
        compared += 1
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5, err_msg=str(case))
    assert compared > 20


def _like(op: str) -> str:
    return "Softmax" if op in {"LogSoftmax", "Hardmax"} else op


def test_runs_within_a_tick_of_the_clock_have_a_ratio() -> None:
    """A clock that does not move on during a run makes no infinity of it."""
    assert ratio_of([0.0] * 6, [0.0] * 6) == (1.0, 1.0, 1.0)
    middle, low, high = ratio_of([0.0, 2e-3, 2e-3] * 3, [1e-3, 0.0, 1e-3] * 3)
    assert 1 <= low <= middle <= high <= 2


def test_few_pairs_have_no_interval() -> None:
    """Five pairs differ in one direction by chance more often than once in twenty times."""
    assert ratio_of([2.0] * 5, [1.0] * 5)[1:] == (0.0, math.inf)
    assert ratio_of([2.0] * 6, [1.0] * 6) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize("count", [6, 8, 12, 30])
def test_an_interval_misses_as_seldom_as_it_says(count: int) -> None:
    """Times of one distribution, with the long tail that times have, count as different rarely."""
    rng, rounds, missed = np.random.default_rng(count), 1000, 0
    for _ in range(rounds):
        a, b = rng.lognormal(0, 0.03, (2, count)) + rng.exponential(0.02, (2, count))
        found = ratio_of(a, b)
        missed += not found.low <= 1 <= found.high
    assert missed / rounds < 0.05 + 3 * math.sqrt(0.05 * 0.95 / rounds)


def test_an_interval_finds_what_differs() -> None:
    """Three percent between medians of blocks that vary by as much are found in 27 blocks."""
    rng = np.random.default_rng(0)
    found = [ratio_of(0.97 * a, b) for a, b in rng.lognormal(0, 0.02, (200, 2, 27))]
    assert np.mean([ratio.high < 1 for ratio in found]) > 0.9
