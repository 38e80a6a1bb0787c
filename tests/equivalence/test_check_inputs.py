"""Inputs are drawn from the requirements of their consumers and from weights."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand
from onnx_expand.cli import main
from onnx_expand.equivalence.inputs.demand import Demand, Meaning
from onnx_expand.equivalence.inputs.integers import draw_integers
from onnx_expand.equivalence.inputs.signature import Port, Signature
from onnx_expand.equivalence.inputs.sizes import extents_at, symbols_of
from onnx_expand.errors import UnsupportedError
from tests.support.graphs_text import graph, weights

ort = pytest.importorskip("onnxruntime")

# The inputs of these ops depend on each other beyond their demands, or the op is random.
HARD = (
    "attention",
    "affine_grid",
    "col2im",
    "dft",
    "maxunpool",
    "melweight",
    "training_dropout",
    "random",
)


@cache
def node_models() -> dict[str, onnx.ModelProto]:
    """Return one of ONNX's test models for each op that reads integers from inputs."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, onnx.ModelProto] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its values are too large on purpose
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        if model is None or len(model.graph.node) != 1 or any(word in case.name for word in HARD):
            continue
        types = {value.type.tensor_type.elem_type for value in model.graph.input}
        is_plain = types <= {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13}
        if is_plain and types & {3, 6, 7} and len(model.graph.input) > 1:
            found.setdefault(model.graph.node[0].op_type, model)
    return found


def runs(model: onnx.ModelProto) -> bool:
    """Return whether onnxruntime has the op."""
    try:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize("op", sorted(node_models()))
def test_valid_operands_are_drawn_for_every_op(op: str) -> None:
    """An op whose operands are all graph inputs gets valid ones."""
    model = node_models()[op]
    if not runs(model):
        pytest.skip("onnxruntime lacks it")
    assert onnx_expand.check(model, model, samples=1, providers=["cpu"])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint64"])
def test_integers_cover_their_type(kind: str) -> None:
    """A few draws include both ends, zero, and values of every sign and many magnitudes."""
    info = np.iinfo(kind)
    rng = np.random.default_rng(0)
    args: dict[str, Any] = {"sizes": {}, "reach": 1 << 63}
    drawn = draw_integers(np.dtype(kind), (200,), Demand(), rng, **args)
    assert drawn.dtype == kind
    assert {info.min, info.max, 0} <= set(drawn.tolist())
    lengths = {int(n).bit_length() for n in drawn}
    assert len(lengths) >= min(info.bits - 2, 10)


@pytest.mark.parametrize(("rows", "size"), [(2, 1), (10, 40), (300, 40), (1000, 7), (5, 5)])
def test_rows_are_drawn_in_turn(rows: int, size: int) -> None:
    """The first and the last row come first, and sufficiently many draws read every row."""
    demand = Demand(Meaning.ROW, 0, rows - 1)
    seen: set[int] = set()
    for turn in range(-(-rows // size)):
        rng = np.random.default_rng(turn)
        args: dict[str, Any] = {"sizes": {}, "reach": 4, "turn": turn}
        drawn = draw_integers(np.int64, (size,), demand, rng, **args)
        if turn == 0 and size > 1:
            assert {0, rows - 1} <= set(drawn.tolist())
        seen |= set(drawn.tolist())
    assert seen == set(range(rows))


def test_masks_hide_something_but_not_everything() -> None:
    """Masks are zeros and contiguous ones, with at least one 1 in each sample."""
    args: dict[str, Any] = {"sizes": {}, "reach": 4}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mask = draw_integers(np.int64, (3, 9), Demand(Meaning.MASK, 0, 1), rng, **args)
        assert set(np.unique(mask)) <= {0, 1}
        assert (mask.sum(axis=1) >= 1).all()
        assert (np.abs(np.diff(mask, axis=1)).sum(axis=1) <= 1).all()


def test_extents_may_be_sums_of_others() -> None:
    """An exporter's `past + seq` follows from its terms; other text is a name."""
    assert extents_at(["a + b", "2*a", "c // 2", 7], {"a": 3, "b": 4, "c": 9}) == (7, 6, 4, 7)
    with pytest.raises(KeyError):
        extents_at(["__import__('os').getcwd()"], {"a": 3})
    port = Port("x", None, ("batch", "past", "past + 1", "d-e", "(" * 500))
    batch, others = symbols_of(Signature({"x": port}, {}))
    assert (batch, others) == (["batch"], ["past", "d-e", "(" * 500])


BERT = """
    g (int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids,
       int64[B,S] position_ids) => (float[B,S,E] y) {
        e = Gather(words, input_ids) f = Gather(kinds, token_type_ids)
        p = Gather(places, position_ids) h = Add(e, f) k = Add(h, p)
        m = Cast <to: int = 1> (attention_mask) n = Sub(one, m) o = Mul(n, low)
        q = Unsqueeze(o, axis) t = Transpose <perm: ints = [0, 2, 1]> (k) s = MatMul(k, t)
        a = Add(s, q) r = Softmax(a) v = MatMul(r, k) y = MatMul(v, w)
    }
"""


def bert() -> onnx.ModelProto:
    """Build a transformer in the style of exporters, without static axes."""
    numbers: dict[str, Any] = weights(words=(120, 6), kinds=(2, 6), places=(64, 6), w=(6, 6))
    numbers |= {"one": np.float32(1), "low": np.float32(-1e4), "axis": np.asarray([1])}
    return graph(BERT, numbers)


def test_a_transformer_without_static_axes_needs_no_shape() -> None:
    """Tokens and positions are valid rows, both token types occur, and masks are valid."""
    verdict = onnx_expand.check(bert(), bert(), samples=2)
    assert verdict
    feeds = verdict.inputs.values()
    assert {f["input_ids"].shape for f in feeds} >= {(1, 33), (3, 40), (2, 64)}
    for name, rows in (("input_ids", 120), ("token_type_ids", 2), ("position_ids", 64)):
        drawn = np.unique(np.concatenate([f[name].reshape(-1) for f in feeds]))
        assert drawn.tolist() == list(range(rows))
    assert all(set(np.unique(f["attention_mask"])) <= {0, 1} for f in feeds)
    assert any((f["attention_mask"] == 0).any() for f in feeds)


def test_every_command_accepts_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fold, expand, check, inspect and bench accept --shape, and refuse invalid ones."""
    text = "g (float[N,C,H,W] x) => (float[N,4,P,Q] y) {r = Reshape(x, s) y = Conv(r, w)}"
    model = graph(text, weights(w=(4, 3, 3, 3)) | {"s": np.asarray([0, 3, 37, -1])})
    onnx.save(model, tmp_path / "a.onnx")
    monkeypatch.chdir(tmp_path)
    commands = [
        ["fold", "a.onnx", "out.onnx", "--check", "1"],
        ["expand", "a.onnx", "out.onnx", "--include", ".", "--init", "preserve", "--check", "1"],
        ["check", "a.onnx", "a.onnx"],
        ["bench", "a.onnx", "--seconds", "0.01", "--no-memory"],
    ]
    for words in commands:
        assert main(words) == 4, words
        assert "--shape" in capsys.readouterr().err
        assert main([*words, "--shape", "x:1,3,37,6"]) == 0, words
        capsys.readouterr()
        assert main([*words, "--shape", "z:1,3,37,6"]) == 2, words
        assert "no input 'z'" in capsys.readouterr().err
    assert main(["inspect", "a.onnx", "--json", "n.json"]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["macs"] is None
    assert main(["inspect", "a.onnx", "--shape", "x:1,3,37,6", "--json", "n.json"]) == 0
    assert json.loads((tmp_path / "n.json").read_text())["macs"] == 4 * 27 * 35 * 4


def test_sizes_where_only_b_runs_are_noted() -> None:
    """A size at which only B runs is noted; one at which only A runs is a difference."""
    ports = "g (float[N,3,H,W] x) => (float[N,3,P,Q] y) "
    free = graph(ports + "{y = Relu(x)}", {})
    fixed = graph(ports + "{r = Relu(x) y = Reshape(r, s)}", {"s": np.asarray([1, 3, 64, 64])})
    verdict = onnx_expand.check(fixed, free)
    assert verdict
    assert any("B runs at sizes where A does not" in note for note in verdict.notes)
    other = onnx_expand.check(free, fixed)
    assert not other
    assert "A runs, and B does not" in other.differences[0]


def test_computed_shapes_are_bounded() -> None:
    """Extents that are computed from an input are small."""
    text = "g (int64 n, int64[2] k) => (float[a,b] y) {m = Mul(n, n) z = Max(m, k) " \
           "y = ConstantOfShape(z)}"  # fmt: skip
    verdict = onnx_expand.check(graph(text, {}), graph(text, {}))
    assert verdict
    assert max(int(np.max(a)) for f in verdict.inputs.values() for a in f.values()) < 10


def test_a_model_that_runs_nowhere_is_refused_in_one_line() -> None:
    """The error states the attempts, and what to do."""
    text = "g (float[N,A] x) => (float[a,b] y) {y = Reshape(x, s)}"
    model = graph(text, {"s": np.asarray([-1, 77])})
    with pytest.raises(UnsupportedError, match=r"tried .*specify extents with --shape"):
        onnx_expand.check(model, model)
