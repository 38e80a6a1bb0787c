"""Folding leaves one node of every re-parameterisable block, however torch exported it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import onnx_expand
from onnx_expand.passes import Policy
from tests.support.graphs_text import fold, ops

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from tests.exports.blocks import BLOCKS
from tests.exports.exporting import Route, export

# What states numbers, or only moves them.
SILENT = {"Constant", "Flatten", "Reshape", "Transpose"}

# Where dynamic extents are tried too: each of these meets another spelling of sizes.
WITH_EXTENTS = {
    *("repvgg", "repvgg, stride 2", "acnet, negative padding", "acnet, sliced", "bn and pad"),
    *("bias as padding, by a detour", "mobileone, depthwise", "unireplknet", "fastvit mixer"),
    *("chunked", "concatenated", "transposed conv bn", "conv average pool", "weight norm"),
}

# What torch does not export, or not to a valid model.
NO_EXPORT = {
    ("orepa", Route.SCRIPT): "the shape of a padded parameter is not known to it",
    ("orepa", Route.KEPT): "the shape of a padded parameter is not known to it",
    ("bn and pad", Route.KEPT_HW): "it writes the example's extents into the graph",
    ("repvgg, 3d", Route.RAW): "it gives Conv a bias with two axes",
}

SCRIPT = (Route.SCRIPT, Route.KEPT)
STATIC = (*SCRIPT, Route.DYNAMO, Route.RAW)


@dataclass(frozen=True)
class Obstacle:
    """Why some exports of some blocks do not become one node yet."""

    reason: str
    blocks: tuple[str, ...]
    routes: tuple[Route, ...]


OBSTACLES = (
    Obstacle(
        "onnxruntime's pooling takes images that are smaller than its window",
        ("conv average pool",),
        (Route.KEPT_HW, Route.RAW_HW),
    ),
)

# (block, route): what remains and why. A pair that folds fails until it is taken out.
NOT_YET = {
    (block, route): obstacle.reason
    for obstacle in OBSTACLES
    for block in obstacle.blocks
    for route in obstacle.routes
}


def pairs() -> Iterator[tuple[str, Route]]:
    """The blocks and the ways in which each is exported."""
    for name in BLOCKS:
        for route in Route:
            is_tried = not route.has_dynamic_extents or name in WITH_EXTENTS
            if is_tried and (name, route) not in NO_EXPORT:
                yield name, route


def _marked(pair: tuple[str, Route]) -> object:
    # Only `pytest.fail` is expected: a wrong number fails an assertion, and the test with it.
    late = pytest.mark.xfail(raises=pytest.fail.Exception, reason=NOT_YET.get(pair, ""))
    return pytest.param(*pair, marks=[late] if pair in NOT_YET else [], id="-".join(pair))


@pytest.mark.parametrize(("name", "route"), [_marked(pair) for pair in pairs()])
def test_one_node_remains(name: str, route: Route) -> None:
    """Folding changes no number, and of all nodes that compute it leaves one."""
    model = export(name, route)
    folded, report = fold(model, Policy.CHEAPEST)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences
    computing = tuple(op for op in ops(folded) if op not in SILENT)
    if computing != BLOCKS[name].folded:
        kept = "; ".join(str(k.refusal) for k in report.kept)
        pytest.fail(f"{len(computing)} nodes remain: {' '.join(computing[:20])} ({kept})")


def test_obstacles_are_of_pairs_that_are_tried() -> None:
    """Every obstacle and every missing export names a block and a route that exist."""
    assert {(name, route) for name in BLOCKS for route in Route} >= set(NO_EXPORT)
    assert set(pairs()) >= set(NOT_YET)
    assert set(BLOCKS) >= WITH_EXTENTS
