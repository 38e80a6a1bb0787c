"""`check` finds differences, and accepts rounding only."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

import onnx_expand
from models import smallnet
from onnx_expand import check
from onnx_expand.equivalence import FACTOR, Verdict
from onnx_expand.errors import ModelError, UnsupportedError, UsageError
from onnx_expand.model import read

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]


def parse(text: str, **weights: Array) -> onnx.ModelProto:
    """Return a model from ONNX text, which starts with the graph's name, and its initializers."""
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    model = onnx.parser.parse_model(header + text)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def cpu(a: Any, b: Any, **options: Any) -> Verdict:
    """Check on the CPU, with the least samples; the verdict must be strict JSON."""
    verdict = check(a, b, **{"samples": 1, "providers": ["cpu"], **options})
    json.dumps(verdict.as_dict(), allow_nan=False)
    assert verdict.equal == bool(verdict) == (not verdict.differences)
    return verdict


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


NET = (
    "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) {"
    "a = Conv<pads=[1,1,1,1]>(x, w1, b1) "
    "b = BatchNormalization(a, s, t, m, v) c = Relu(b) y = Conv<pads=[0,0,0,0]>(c, w2, b2)}"
)
FOLDED = (
    "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) {"
    "a = Conv<pads=[1,1,1,1]>(x, w1, b1) c = Relu(a) y = Conv<pads=[0,0,0,0]>(c, w2, b2)}"
)


def weights() -> dict[str, Array]:
    """Return the weights of NET."""
    return {
        "w1": normal(5, 3, 3, 3, scale=0.3),
        "b1": normal(5, seed=1),
        "s": normal(5, seed=2) + np.float32(2),
        "t": normal(5, seed=3),
        "m": normal(5, seed=4),
        "v": np.abs(normal(5, seed=5)) + np.float32(0.1),
        "w2": normal(4, 5, 3, 3, seed=6, scale=0.2),
        "b2": normal(4, seed=7),
    }


def folded_weights() -> dict[str, Array]:
    """Return the weights of FOLDED: the normalization merged into the convolution, in float64."""
    given = weights()
    w1, b1, s, t, m, v = (given[name].astype(np.float64) for name in ("w1", "b1", *"stmv"))
    factor = s / np.sqrt(v + float(np.float32(1e-5)))
    return {
        "w1": (w1 * factor[:, None, None, None]).astype(np.float32),
        "b1": ((b1 - m) * factor + t).astype(np.float32),
        "w2": given["w2"],
        "b2": given["b2"],
    }


def test_a_folded_normalization_passes() -> None:
    """An equivalent graph with other rounding is equal, in either direction."""
    a, b = parse(NET, **weights()), parse(FOLDED, **folded_weights())
    for verdict in (cpu(a, b, samples=3), cpu(b, a, samples=3)):
        assert verdict, verdict.differences
        assert verdict.basis == "float64 reference"
        assert 0 < verdict.ratio <= 0.5
        assert verdict.worst is not None
        assert 0 < verdict.floor < 1e-5 * verdict.worst.scale
        kinds = [figure.place.sample.split()[0].strip(",") for figure in verdict.outputs]
        counts = {kind: kinds.count(kind) for kind in ("normal", "uniform", "large", "edges")}
        assert counts == dict.fromkeys(("normal", "uniform", "large", "edges"), 3)
        assert {"fine", "zeros", "denormal", "size"} <= set(kinds)
        assert verdict.summary().startswith(f"equal on {len(kinds)} inputs (cpu)")


@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2"])
@pytest.mark.parametrize("place", [0, -1])
def test_one_wrong_weight_is_caught(name: str, place: int) -> None:
    """A change of a single weight that moves the output by three tolerances is found."""
    a, right = parse(NET, **weights()), folded_weights()
    step = 1e-2
    wrong = {**right, name: right[name].copy()}
    wrong[name].flat[place] += np.float32(step)
    coarse = cpu(a, parse(FOLDED, **wrong))
    # The output changes in proportion, so the step is scaled to three tolerances.
    step *= 3 / coarse.ratio
    wrong[name].flat[place] = right[name].flat[place] + np.float32(step)
    assert step < 1e-3
    fine = cpu(a, parse(FOLDED, **wrong))
    assert not fine
    assert 1 < fine.ratio < 6
    assert "output 'y'" in fine.differences[0]


def test_every_kernel_tap_counts() -> None:
    """A change of any weight of a convolution by a thousandth of the largest is found."""
    text = "g (float[1,2,6,6] x) => (float[1,2,6,6] y) {y = Conv<pads=[1,1,1,1]>(x, w)}"
    right = normal(2, 2, 3, 3)
    a = parse(text, w=right)
    for place in range(right.size):
        wrong = right.copy()
        wrong.flat[place] += np.float32(1e-3)
        assert not cpu(a, parse(text, w=wrong)), place
    assert cpu(a, parse(text, w=right))


def test_a_wrong_border_is_caught() -> None:
    """Merging a 1x1 with bias into a padded 3x3 is wrong at the border, and is found there."""
    w1, w2 = normal(3, 2, 1, 1), normal(4, 3, 3, 3, seed=1)
    ports = "g (float[N,2,7,7] x) => (float[N,4,7,7] y) "
    chain = ports + "{a = Conv(x, w1, b1) y = Conv<pads=[1,1,1,1]>(a, w2)}"
    merged = ports + "{y = Conv<pads=[1,1,1,1]>(x, w, b)}"
    w = np.einsum("omhw,miab->oihw", w2.astype(np.float64), w1.astype(np.float64))
    for size, equal in ((0.0, True), (1e-4, False)):
        b1 = np.full(3, size, np.float32)
        b = np.einsum("omhw,m->o", w2.astype(np.float64), b1.astype(np.float64))
        a = parse(chain, w1=w1, b1=b1, w2=w2)
        verdict = cpu(a, parse(merged, w=w.astype(np.float32), b=b.astype(np.float32)))
        assert bool(verdict) == equal
        if not equal:
            index = max(verdict.outputs, key=lambda figure: figure.ratio).index
            assert index is not None
            assert {index[2], index[3]} & {0, 6}


PLAIN = "g (float[N,4] x) => (float[N,4] y) {y = Relu(x)}"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("g (float[N,4] u) => (float[N,4] y) {y = Relu(u)}", "input 'x' is in A only"),
        ("g (float[N,4] x) => (float[N,4] z) {z = Relu(x)}", "output 'z' is in B only"),
        ("g (double[N,4] x) => (double[N,4] y) {y = Relu(x)}", "input 'x' is FLOAT in A, DOUBLE"),
        ("g (float[N,5] x) => (float[N,5] y) {y = Relu(x)}", r"axis 1: \[N, 4\] in A, \[N, 5\]"),
        ("g (float[N,4,1] x) => (float[N,4,1] y) {y = Relu(x)}", "has 2 axes in A, 3 in B"),
        ("g (float[2,4] x) => (float[2,4] y) {y = Relu(x)}", r"axis 0: \[N, 4\] in A, \[2, 4\]"),
    ],
)
def test_different_signatures_are_differences(other: str, words: str) -> None:
    """Different names, types, ranks and extents are reported, and are not errors."""
    verdict = cpu(parse(PLAIN), parse(other))
    assert not verdict
    assert verdict.outputs == ()
    assert verdict.as_dict()["ratio"] == "inf"
    assert any(re.search(words, line) for line in verdict.differences)
    assert verdict.summary().startswith("different: ")


def test_symbolic_dimensions_match_any_extent() -> None:
    """Another name for a dimension, or a symbolic one where A is static, is not a difference."""
    assert cpu(parse(PLAIN), parse(PLAIN.replace("N", "batch")))
    assert cpu(parse(PLAIN.replace("N", "2")), parse(PLAIN))


def test_different_shapes_at_run_time_are_found() -> None:
    """An output of another shape than declared differs."""
    a = parse("g (float[N,4] x) => (float[a,b] y) {y = Relu(x)}")
    b = parse("g (float[N,4] x) => (float[a,b] y) {t = Transpose(x) y = Relu(t)}")
    assert "float32[1, 4] in A, float32[4, 1] in B" in cpu(a, b).differences[0]


def test_dynamic_sizes_are_tried() -> None:
    """A graph that is correct at one size only fails at the second size."""
    ports = "g (float[N,2,H,W] x) => (float[N,2,H,W] y) "
    a = parse(ports + "{y = Relu(x)}")
    b = parse(
        ports + "{s = Shape(x) h = Gather<axis=0>(s, i) e = Equal(h, k) f = Cast<to=1>(e) "
        "r = Relu(x) y = Mul(r, f)}",
        i=np.asarray(2),
        k=np.asarray(33),
    )
    verdict = cpu(a, b)
    assert not verdict
    assert "H=40" in verdict.differences[0]
    assert {figure.place.sample for figure in verdict.outputs} >= {
        "normal 1, N=1, H=33, W=40",
        "uniform 1, N=3, H=40, W=33",
    }


def test_sizes_at_which_a_fails_are_avoided() -> None:
    """A model that needs a certain extent is tried at others, then refused in one line."""
    text = "g (float[N,2,H,H] x) => (float[N,2,P,Q] y) {y = Conv(x, w)}"
    assert cpu(*[parse(text, w=normal(2, 2, 50, 50))] * 2)
    flat = "g (float[N,A] x) => (float[M,4] y) {r = Reshape(x, s) y = MatMul(r, w)}"
    assert cpu(*[parse(flat, w=normal(64, 4), s=np.asarray([-1, 64]))] * 2)
    with pytest.raises(
        UnsupportedError, match=r"^A \(g\): onnxruntime on CPU cannot run it.*A=33.*--shape"
    ):
        cpu(*[parse(flat, w=normal(77, 4), s=np.asarray([-1, 77]))] * 2)
    baked = "g (float[N,4] x) => (float[N,2,2] y) {y = Reshape(x, s)}"
    assert cpu(*[parse(baked, s=np.asarray([1, 2, 2]))] * 2)


def test_not_a_number_is_equal_to_itself_only() -> None:
    """NaN and infinity at the same positions are equal and reported; elsewhere they differ."""
    ports = "g (float[4,8] x) => (float[4,8] y) "
    a, b = parse(ports + "{y = Log(x)}"), parse(ports + "{z = Log(x) y = Identity(z)}")
    verdict = cpu(a, b)
    assert verdict
    assert "NaN or infinity, at the same places in both, on 6 of 7" in verdict.notes[0]
    assert verdict.outputs[0].non_finite > 0
    finite = cpu(a, parse(ports + "{n = Abs(x) y = Log(n)}"))
    assert "nan in A" in finite.differences[0]
    inverse = cpu(
        parse(ports + "{y = Reciprocal(x)}"),
        parse(ports + "{n = Neg(x) r = Reciprocal(n) y = Neg(r)}"),
    )
    assert inverse.differences == ()
    assert inverse.outputs[-2].non_finite == 32


def test_scalars_and_empty_outputs() -> None:
    """Outputs without axes or without elements have figures too."""
    text = (
        "g (float[3,4] x) => (float s, float[0,4] e) "
        "{s = ReduceSum<keepdims=0>(%s) e = Slice(x, z, z, z)}"
    )
    zero = np.asarray([0])
    assert cpu(*[parse(text % "x", z=zero)] * 2)
    verdict = cpu(
        parse(text % "x", z=zero), parse(text.replace("{", "{n = Abs(x) ", 1) % "n", z=zero)
    )
    assert [line.split(":")[0] for line in verdict.differences][:1] == ["output 's'"]
    assert {f.index for f in verdict.outputs if f.place.output == "e"} == {None}


def test_integers_are_compared_exactly() -> None:
    """Integer, boolean and string results must be equal exactly."""
    ports = "g (int64[N,4] x, bool[N,4] c) => (int64[N,4] y, bool[N,4] d) "
    a = parse(ports + "{y = Mul(x, k) d = Not(c)}", k=np.asarray(1_000_000_007))
    assert cpu(a, a)
    b = parse(
        ports + "{p = Mul(x, k) y = Max(p, o) d = Identity(c)}",
        k=np.asarray(1_000_000_007),
        o=np.asarray(1),
    )
    verdict = cpu(a, b)
    assert len(verdict.differences) == 2
    assert " in A, 1 in B" in verdict.differences[0]
    assert verdict.max_error > 2**31


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_has_its_own_tolerance(dtype: type[np.floating[Any]]) -> None:
    """A dense layer equals its two factors' product within the precision of its own type."""
    name = {"float32": "float", "float64": "double"}.get(dtype.__name__, dtype.__name__)
    ports = f"g ({name}[N,16] x) => ({name}[N,8] y) "
    chain, merged = "{a = MatMul(x, u) y = MatMul(a, v)}", "{y = MatMul(x, w)}"
    u: Array = normal(16, 24, scale=0.3).astype(dtype)
    v: Array = normal(24, 8, seed=1, scale=0.3).astype(dtype)
    w = u.astype(np.float64) @ v.astype(np.float64)
    a = parse(ports + chain, u=u, v=v)
    verdict = cpu(a, parse(ports + merged, w=w.astype(dtype)))
    assert verdict, verdict.differences
    eps = float(np.finfo(dtype).eps)
    assert verdict.outputs[0].tolerance < 16 * FACTOR * eps * verdict.outputs[0].scale
    w[3, 3] += 200 * FACTOR * eps
    assert not cpu(a, parse(ports + merged, w=w.astype(dtype)))


def test_without_a_reference_the_models_are_compared_directly() -> None:
    """Without float64, rounding is estimated from A's inputs, and differences are still found."""
    text = (
        "g (float[N,6] x) => (float[N,3] y, float[8] h) "
        "{a = MatMul(x, w) y = Add(a, b) h = HannWindow(n)}"
    )
    fixed: dict[str, Array] = {"n": np.asarray(8), "w": normal(6, 3)}
    a = parse(text, **fixed, b=normal(3, seed=1))
    same = parse(text.replace("Add(a, b)", "Gemm(x, w, b)"), **fixed, b=normal(3, seed=1))
    verdict = cpu(a, same)
    assert verdict, verdict.differences
    assert "last place" in verdict.basis
    assert "'h' in float32" in verdict.basis
    wrong = cpu(a, parse(text, **fixed, b=normal(3, seed=1) + np.float32(1e-4)))
    assert not wrong
    assert wrong.ratio > 10


def test_a_reference_that_differs_is_not_used() -> None:
    """Deliberate rounding, such as 8-bit steps in A, does not enlarge the tolerance."""
    text = (
        "g (float[N,6] x) => (float[N,6] y) {q = QuantizeLinear(x, s, z) "
        "d = DequantizeLinear(q, s, z) e = Cast<to=10>(d) f = Cast<to=1>(e) y = Mul(f, k)}"
    )
    given: dict[str, Array] = {"s": np.asarray(0.0123, np.float32), "z": np.asarray(0, np.int8)}
    a = parse(text, **given, k=np.asarray(1, np.float32))
    assert cpu(a, a)
    assert not cpu(a, parse(text, **given, k=np.asarray(1.05, np.float32)))


def test_a_model_that_draws_random_numbers_is_refused() -> None:
    """A random model cannot be compared, and its noise is not a tolerance."""
    a = parse("g (float[8] x) => (float[8] y) {r = RandomNormalLike(x) y = Add(x, r)}")
    with pytest.raises(UnsupportedError, match="output 'y' changes from run to run"):
        cpu(a, a)


def test_a_given_tolerance_overrides() -> None:
    """With rtol or atol, the models are compared by these, element by element."""
    ports = "g (float[N,4] x) => (float[N,4] y) "
    a = parse(ports + "{y = Mul(x, k)}", k=np.asarray(1, np.float32))
    b = parse(ports + "{y = Mul(x, k)}", k=np.asarray(1.001, np.float32))
    assert not cpu(a, b)
    assert cpu(a, b, rtol=1.1e-3)
    assert not cpu(a, b, rtol=0.9e-3)
    assert not cpu(a, b, atol=1e-3)
    assert cpu(a, b, atol=1.0)
    assert cpu(a, b, rtol=1.1e-3).basis == "rtol 0.0011, atol 0"
    assert cpu(a, a, rtol=0.0)
    assert cpu(a, b, factor=1e5)


def test_verdicts_are_replayable_and_frozen() -> None:
    """The same seed gives the same figures, another seed gives others."""
    a, b = parse(NET, **weights()), parse(FOLDED, **folded_weights())
    first = cpu(a, b, seed=3)
    assert first.as_dict() == cpu(a, b, seed=3).as_dict()
    assert first.as_dict() != cpu(a, b, seed=4).as_dict()
    assert first.as_dict()["schema"] == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.equal = False  # type: ignore[misc]


def test_every_kind_of_model_is_accepted(tmp_path: Path) -> None:
    """Paths, protos, onnx-ir models and graphsurgeon graphs can be compared with each other."""
    proto = smallnet.build()
    onnx.save(proto, tmp_path / "a.onnx")
    onnx.save(parse(PLAIN), tmp_path / "a.textproto")
    kinds = [str(tmp_path / "a.onnx"), read(proto), gs.import_onnx(proto)]
    for kind in kinds:
        assert check(proto, kind, samples=1)
    assert check(tmp_path / "a.textproto", parse(PLAIN), samples=1)


def test_the_package_exports_check() -> None:
    """`onnx_expand.check(a, b)` is the same check."""
    assert onnx_expand.check(parse(PLAIN), parse(PLAIN), samples=1)


def test_a_float_weight_stored_in_half_precision_is_found() -> None:
    """Rounding one weight tensor of B to float16 is a difference."""
    ports = "g (float[N,8] x) => (float[N,8] y) "
    w = normal(8, 8)
    a = parse(ports + "{y = MatMul(x, w)}", w=w)
    b = parse(ports + "{f = Cast<to=1>(w) y = MatMul(x, f)}", w=w.astype(np.float16))
    assert not cpu(a, b)
    assert cpu(b, b)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"samples": 0}, UsageError, "samples is 0"),
        ({"rtol": -1.0}, UsageError, "rtol is -1"),
        ({"atol": float("nan")}, UsageError, "atol is nan"),
        ({"factor": 0.0}, UsageError, "factor is 0"),
        ({"providers": "cpu"}, UsageError, "give a list"),
        ({"providers": []}, UsageError, "give a list"),
        ({"providers": ["npu"]}, UsageError, "provider 'npu' is none of cpu, cuda"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, words: str) -> None:
    """An invalid option is named."""
    with pytest.raises(error, match=words):
        cpu(parse(PLAIN), parse(PLAIN), **options)


def test_bad_models_are_named(tmp_path: Path) -> None:
    """A broken file is an error of the file; a model that onnxruntime cannot run is named."""
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        cpu(parse(PLAIN), tmp_path / "broken.onnx")
    custom = parse("g (float[N,4] x) => (float[N,4] y) {y = own.Secret(x)}")
    with pytest.raises(UnsupportedError, match=r"^B \(g\): onnxruntime on CPU cannot load it: .+"):
        cpu(parse(PLAIN), custom)
    text = parse("g (complex64[N] x) => (complex64[N] y) {y = Identity(x)}")
    with pytest.raises(UnsupportedError, match="complex64"):
        cpu(text, text)
    series = parse("g (optional(seq(float[N])) x) => (bool y) {y = OptionalHasElement(x)}")
    with pytest.raises(UnsupportedError, match="input 'x' has no tensor type"):
        cpu(series, series)


@pytest.mark.parametrize(
    "labels", [{"classlabels_int64s": [7, 9]}, {"classlabels_strings": ["a", "b"]}]
)
def test_maps_are_compared_by_keys_and_values(labels: dict[str, Any]) -> None:
    """A ZipMap, which ends the classifiers of scikit-learn, is folded up to and compared."""

    def classifier(scale: float, **names: Any) -> onnx.ModelProto:
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Mul", ["h", "s"], ["y"]),
            helper.make_node("ZipMap", ["y"], ["p"], domain="ai.onnx.ml", **names),
        ]
        weights = {"w": np.eye(3, 2, dtype=np.float32), "s": np.array([scale, 2], np.float32)}
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
            [onnx.ValueInfoProto(name="p")],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        entry = graph.output[0].type.sequence_type.elem_type.map_type
        is_text = "classlabels_strings" in names
        entry.key_type = onnx.TensorProto.STRING if is_text else onnx.TensorProto.INT64
        entry.value_type.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
        imports = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    model = classifier(3, **labels)
    folded = onnx_expand.fold(model, verify=True)
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "ZipMap"]
    assert onnx_expand.check(model, folded).equal
    assert not onnx_expand.check(model, classifier(3.01, **labels)).equal
    other = {name: [*reversed(keys)] for name, keys in labels.items()}
    assert not onnx_expand.check(model, classifier(3, **other)).equal


def test_the_unused_part_of_a_constant_may_differ() -> None:
    """1 + scale, as in adaptive normalization, moves into a part of the bias before a Split."""
    model = parse(
        "g (float[N,4] x, float[N,2] z) => (float[N,2] y) { h = Gemm(x, w, b) "
        "p, q = Split<axis=1>(h, halves) one = Add(q, plus) r = Mul(one, z) s = Tanh(p) "
        "y = Add(s, r) }",
        w=normal(4, 4),
        b=normal(4, seed=1),
        plus=np.ones(2, np.float32),
        halves=np.array([2, 2]),
    )
    folded = onnx_expand.fold(model)
    assert [node.op_type for node in folded.graph.node].count("Add") == 1
    assert cpu(model, folded)
    bias = next(t for t in folded.graph.initializer if t.name == "b")
    for place in (0, 3):
        wrong = numpy_helper.to_array(bias) + 1e-2 * np.eye(4, dtype=np.float32)[place]
        other = onnx.ModelProto()
        other.CopyFrom(folded)
        next(t for t in other.graph.initializer if t.name == "b").CopyFrom(
            numpy_helper.from_array(wrong, "b")
        )
        assert not cpu(model, other)
