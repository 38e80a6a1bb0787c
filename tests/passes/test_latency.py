"""The policy `latency`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.errors import UsageError
from onnx_expand.graph.editing import label
from onnx_expand.passes import Fold, Policy
from onnx_expand.passes.benchmark import Benchmark, Timings
from onnx_expand.passes.fastest import Variant
from onnx_expand.passes.widths import Width
from onnx_expand.runtimes import OnnxRuntime, Session
from onnx_expand.runtimes.base import Source
from tests.support.graphs_text import bn, fold, graph, ops, weights
from tests.support.random_graphs import random_graph

pytest.importorskip("onnxruntime")


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for less long, where what is faster is several times as fast."""
    monkeypatch.setattr("onnx_expand.passes.benchmark._PER_MODEL", 0.01)


@pytest.mark.usefixtures("_brief")
def test_the_fastest_partition_is_chosen() -> None:
    """A narrow layer between wide ones stays if the merged layer takes many times as long."""
    model = graph(
        """
        g (float[N,256,20,20] x) => (float[N,256,20,20] y) {
            a = Conv(x, v)
            b = Conv <pads: ints = [1, 1, 1, 1]> (a, w)
            c = Conv(b, u)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }
        """,
        weights(v=(4, 256, 1, 1), w=(4, 4, 3, 3), u=(256, 4, 1, 1)) | bn("n", 256),
    )
    folded, report = fold(model, Policy.LATENCY)
    assert len(ops(folded)) > 1, "one 3x3 from 256 to 256 channels takes far longer"
    assert report.policy is Policy.LATENCY
    assert onnx_expand.check(model, folded, samples=1)


@pytest.mark.usefixtures("_brief")
def test_a_wide_middle_is_merged() -> None:
    """On any machine, 8 to 512 channels and back is slower than 8 to 8."""
    model = graph(
        """
        g (float[N,8,32,32] x) => (float[N,8,32,32] y) {
            a = Conv <pads: ints = [1, 1, 1, 1]> (x, v)
            b = Conv(a, w)
            c = Add(b, x)
            y = Relu(c)
        }
        """,
        weights(v=(512, 8, 3, 3), w=(8, 512, 1, 1)),
    )
    folded, _ = fold(model, Policy.LATENCY)
    assert ops(folded) in (["Conv", "Relu"], ["Conv", "Add", "Relu"])
    assert onnx_expand.check(model, folded, samples=1)


def pretend(
    monkeypatch: pytest.MonkeyPatch, taken: Mapping[str, float], noise: float = 0.0
) -> None:
    """Replace measurements of whole models by given times per op, with noise if asked."""
    rng = np.random.default_rng(0)

    def time(self: Benchmark, models: Mapping[str, ir.Model], *_: Any, **__: Any) -> Timings:
        del self
        totals = {n: sum(taken.get(x.op_type, 1) for x in m.graph) for n, m in models.items()}
        return Timings({n: list(t * rng.lognormal(0, noise, 12)) for n, t in totals.items()})

    monkeypatch.setattr(Benchmark, "time", time)


def test_measured_times_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes merge exactly if the merged node is not slower."""
    slow = {"Conv": 100, "BatchNormalization": 10}
    free = {"Conv": 100, "BatchNormalization": -10}  # simulates a node that makes the layer faster

    model = graph(
        "g (float[N,4,5,5] x) => (float[N,4,5,5] y) "
        "{ a = Conv(x, v) y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        weights(v=(4, 4, 1, 1)) | bn("n", 4),
    )
    for taken, wanted in ((slow, ["Conv"]), (free, ["Conv", "BatchNormalization"])):
        pretend(monkeypatch, taken)
        folded, report = fold(model, Policy.LATENCY)
        assert ops(folded) == wanted
        assert bool(report.sites) is (taken is slow)


def test_where_nothing_is_faster_the_source_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain within noise does not count: the graph stays, and the report has the figures."""
    model = graph(
        "g (float[N,4,5,5] x) => (float[N,4,5,5] y) "
        "{ a = Conv(x, v) b = Identity(a) c = Relu(b) y = Neg(c) }",
        weights(v=(4, 4, 1, 1)),
    )
    pretend(monkeypatch, {"Conv": 1000, "Identity": 5, "Relu": 100, "Neg": 10}, noise=0.02)
    folded, report = fold(model, Policy.LATENCY)
    assert ops(folded) == ops(model)
    assert not report.sites
    (kept,) = report.kept
    assert "nothing is faster" in kept.refusal.message
    assert kept.refusal.numbers["ratio"] == pytest.approx(1110 / 1115, rel=0.02)
    assert kept.refusal.numbers["low"] < 1 < kept.refusal.numbers["high"]
    assert report.measured is not None
    assert not report.measured.is_clear
    assert "did not suffice" in kept.refusal.message


def test_each_kind_of_site_must_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that do not make the model faster are not folded, and the ratio is reported."""
    model = graph(
        """
        g (float[N,4,5,5] x) => (float[N,4,5,5] y) {
            a = Conv(x, v)
            b = BatchNormalization(a, n_s, n_b, n_m, n_v)
            c = Relu(b)
            d = Conv(c, w)
            e = Mul(d, s)
            y = Sigmoid(e)
        }
        """,
        weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1), s=(4, 1, 1)) | bn("n", 4),
    )
    pretend(monkeypatch, {"Conv": 100, "BatchNormalization": 50, "Mul": 0})
    folded, report = fold(model, Policy.LATENCY)
    assert ops(folded) == ["Conv", "Relu", "Conv", "Mul", "Sigmoid"]
    (site,) = report.sites
    assert len(site.nodes) == 2
    measured = [k for k in report.kept if "measured at" in k.refusal.message]
    assert [len(k.nodes) for k in measured] == [2]
    assert measured[0].refusal.numbers["ratio"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_never_slower_than_the_default(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """For any times of ops, the model by this policy is as fast as by the others."""
    model = random_graph(seed, length=12)
    rng = np.random.default_rng(seed)
    kinds = sorted({node.op_type for node in model.graph.node} | {"Conv", "Gemm", "Add"})
    taken = {op: float(rng.integers(1, 100)) for op in kinds}
    pretend(monkeypatch, taken)

    def total(folded: onnx.ModelProto) -> float:
        return sum(taken.get(node.op_type, 1) for node in folded.graph.node)

    fastest = total(onnx_expand.fold(model, policy="latency"))
    assert fastest <= total(onnx_expand.fold(model, policy="cheapest")) * 1.01
    assert fastest <= total(model)


def test_it_measures_at_the_sizes_that_are_given() -> None:
    """The inputs have the extents of `shapes`; impossible extents are an error."""
    model = ir.serde.deserialize_model(
        graph("g (float[N,4,H,W] x) => (float[N,4,H,W] y) { y = Relu(x) }", {})
    )
    benchmark = Benchmark(model, "cpu", {"x": [2, 4, 9, 7]})
    assert benchmark.conditions == "2x4x9x7 on cpu"
    with pytest.raises(UsageError, match="z"):
        Benchmark(model, "cpu", {"z": [2, 4, 9, 7]})


COMPUTED = """
    g (float[N,4,5,5] x) => (float[N,4,5,5] y) {
        v = Mul(w, s) a = Conv(x, v) b = Relu(a) y = Conv(b, w)
    }
"""
FLATTENED = """
    g (float[N,4,6] x) => (float[N,4,6] y) {
        a = MatMul(x, w) e = Shape(a) f = Reshape(a, flat) t = Add(f, s) y = Reshape(t, e)
    }
"""
PARALLEL = """
    g (float[N,4,5,5] x) => (float[N,4,5,5] y) {
        a = Conv(x, v) b = Conv(x, w) c = Relu(a) d = Sigmoid(b) y = Add(c, d)
    }
"""
CUT = """
    g (float[N,4,5,5] x) => (float[N,2,5,5] y) {
        a = Conv(x, v) b, c = Split <axis=1, num_outputs=2> (a)
        d = Relu(b) e = Sigmoid(c) y = Add(d, e)
    }
"""


@pytest.mark.parametrize(
    ("text", "width", "constants"),
    [
        (COMPUTED, Width.AS_IS, weights(w=(4, 4, 1, 1), s=(4, 1, 1, 1))),
        (FLATTENED, Width.AS_IS, weights(w=(6, 6), s=(6,)) | {"flat": np.array([-1, 6])}),
        (PARALLEL, Width.WIDER, weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1))),
        (CUT, Width.NARROWER, weights(v=(4, 4, 1, 1))),
    ],
)
def test_locked_nodes_stay(text: str, width: Width, constants: dict[str, np.ndarray]) -> None:
    """No node that a site replaced is part of another when its label is locked."""
    model = ir.serde.deserialize_model(graph(text, constants, opset=18))
    plain = Fold("cheapest", clean=False)  # type: ignore[arg-type]
    free = plain._by_variant(model.clone(), Variant(width=width))
    assert free, "there is something to lock"
    for site in free:
        locked = frozenset(site.nodes)
        copy = model.clone()
        sites = plain._by_variant(copy, Variant(width=width, locked=locked))
        assert all(locked.isdisjoint(other.nodes) for other in sites)
        gone = locked & set(map(label, model.graph)) - set(map(label, copy.graph))
        assert gone <= {"e"}, "a Shape goes when nothing reads it, as it would by cleaning"


def test_it_measures_where_the_source_runs_with_all_optimizations() -> None:
    """An optimizing runtime trusts declared shapes, which other extents contradict."""
    model = graph(
        """
        g (float[N,4,L] x) => (float[N,4,L] z) <float[1,4,L] v, float[N,4,32] y> {
            u = Div(x, w) v = Reshape(u, same) y = Reshape(v, same) z = Relu(y)
        }
        """,
        weights(w=(4, 1)) | {"same": np.array([0, 0, -1])},
    )
    assert Benchmark(ir.serde.deserialize_model(model), "cpu").conditions == "1x4x32 on cpu"


def test_every_block_has_sessions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of one model differ: a slow session does not decide alone."""
    made = dict[str, int]()
    real = OnnxRuntime.session

    def session(self: OnnxRuntime, source: Source, name: str) -> Session:
        made[name] = made.get(name, 0) + 1
        return real(self, source, name)

    monkeypatch.setattr(OnnxRuntime, "session", session)
    text = "g (float[1,8] x) => (float[1,8] y) { a = MatMul(x, w) y = Relu(a) }"
    model = ir.serde.deserialize_model(graph(text, weights(w=(8, 8))))
    result = Benchmark(model, "cpu", seconds=0.1).time({"one": model, "other": model.clone()})
    counts = {name: made[name] for name in result.times}
    assert set(counts.values()) == {len(result.times["one"])}
    assert min(counts.values()) > 1


class Clocked:
    """A runtime whose sessions take given times, each session another, by a clock of its own.

    Attributes:
        now: The time.
        spread: How much sessions of one model differ, as the deviation of a logarithm.
    """

    def __init__(self, taken: Mapping[str, float], spread: float, seed: int) -> None:
        self.now, self.spread, self.taken = 0.0, spread, taken
        self.rng = np.random.default_rng(seed)

    def session(self, source: Source, name: str) -> Session:
        """Make a session, a little slower or faster than the last one."""
        del source
        took = self.taken[name] * float(self.rng.lognormal(0, self.spread))
        return _Waiting(self, took)


class _Waiting:
    def __init__(self, runtime: Clocked, took: float) -> None:
        self._runtime, self._took = runtime, took

    def run(self, feeds: object) -> dict[str, np.ndarray]:
        """Let the time pass."""
        del feeds
        self._runtime.now += self._took * float(self._runtime.rng.lognormal(0, 0.05))
        return {}


def benchmark_of(taken: Mapping[str, float], spread: float, seed: int = 0) -> Benchmark:
    """Return a benchmark of models that take given times."""
    text = "g (float[1,8] x) => (float[1,8] y) { y = Relu(x) }"
    benchmark = Benchmark(ir.serde.deserialize_model(graph(text, {})), "cpu", seconds=1e3)
    runtime = Clocked(taken, spread, seed)
    benchmark._runtime = runtime  # type: ignore[assignment]
    benchmark._clock = lambda: runtime.now
    return benchmark


def raced(benchmark: Benchmark, *names: str) -> Timings:
    """Time models until it is clear which is faster."""
    models = dict.fromkeys(names, benchmark.source)
    return benchmark.time(models, lambda result: names if result.fastest(names)[1] else ())


def test_a_benchmark_ends_as_soon_as_it_is_clear() -> None:
    """Half of the time is clear after eight blocks, three percent later, and nothing is missed."""
    blocks = []
    for ratio in (0.5, 0.97):
        result = raced(benchmark_of({"a": 0.01, "b": 0.01 * ratio}, spread=0.02), "a", "b")
        assert result.fastest(("a", "b")) == ("b", True)
        blocks.append(result.blocks)
    assert blocks[0] == 8 < blocks[1]


def test_equal_models_are_rarely_told_apart() -> None:
    """However often it looks at the intervals, one in twenty times at most."""
    found = [
        raced(benchmark_of({"a": 0.01, "b": 0.01}, 0.03, seed), "a", "b").is_faster("b", "a")
        for seed in range(60)
    ]
    assert sum(found) <= 3


def test_a_benchmark_keeps_to_its_time() -> None:
    """It ends with the time that it may take, but not before it can decide anything."""
    benchmark = benchmark_of({"a": 0.01, "b": 0.01}, 0.1)
    benchmark.seconds = 0.0
    assert raced(benchmark, "a", "b").blocks == 8
    models = dict.fromkeys("ab", benchmark.source)
    assert not benchmark.time(models, share=0.5).is_decisive
