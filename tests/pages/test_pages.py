"""The HTML pages: one file, no network, nothing in a name is run, and clicks do what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand
from models import smallnet
from onnx_expand.cli import main
from onnx_expand.model import read
from onnx_expand.pages import draw, render_page
from tests.support.browser import CHROMIUM, Outline, browse, data_of
from tests.support.graphs_text import graph as graph_of
from tests.support.graphs_text import weights

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def _brief() -> Iterator[None]:
    """Measure latencies for a moment only: the pages show them, whatever they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_expand.cli.pages._SECONDS", 0.1)
        yield


def hostile(branches: int = 3) -> onnx.ModelProto:
    """A sum of branches of a convolution, in scopes, with names that want to be run."""
    h = onnx.helper
    rng = np.random.default_rng(0)
    nodes, weights, sums = [], [], []
    for i in range(branches):
        weights.append(
            onnx.numpy_helper.from_array(rng.normal(size=(2, 2, 3, 3)).astype(np.float32), f"w{i}")
        )
        nodes.append(
            h.make_node("Conv", ["x", f"w{i}"], [f"c{i}"], f"block/{i}/conv", pads=[1, 1, 1, 1])
        )
        sums.append(f"c{i}")
    nodes.append(h.make_node("Sum", sums, ["s"], f"block/{HOSTILE}"))
    nodes.append(h.make_node("Relu", ["s"], ["y"], "act"))
    value = h.make_tensor_value_info
    graph = h.make_graph(
        nodes, HOSTILE, [value("x", 1, [1, 2, 8, 8])], [value("y", 1, [1, 2, 8, 8])], weights
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of fold, check, expand and bench, made on the command line."""
    folder = tmp_path_factory.mktemp("pages")
    source, target, large = (str(folder / f"{name}.onnx") for name in ("in", "out", "large"))
    onnx.save(hostile(), source)
    words = {
        "fold": ["fold", source, target],
        "check": ["check", source, target],
        "expand": ["expand", target, large, "--strategy", "cl"],
        "bench": ["bench", source, target, "--seconds", "0.1", "--no-memory"],
    }
    for name, command in words.items():
        assert main([*command, "--html", str(folder / f"{name}.html")]) == 0
    return folder


@pytest.mark.parametrize("name", ["fold", "check", "expand", "bench"])
def test_a_page_is_one_file_and_holds_its_data(pages: Path, name: str) -> None:
    """No element loads anything, no name ends an element, and the data are JSON."""
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    tags = [tag for tag, _ in outline.found]
    assert tags.count("script") == 3
    assert "img" not in tags
    for _, attributes in outline.found:
        links = [attributes.get(key) for key in ("src", "href") if attributes.get(key)]
        assert all(link == "data:," for link in links)
    assert "default-src 'none'" in text
    data = json.loads(outline.data)
    assert data["kind"] == name
    command = dict(map(tuple, data["origin"]))["command"]
    assert command.startswith(f"onnx-expand {name} ")


def test_a_page_of_fold_says_what_was_done(pages: Path) -> None:
    """The site has both costs, both equations and what is known of its numbers."""
    data = data_of(pages / "fold.html")
    (site,) = data["sites"]
    assert site["before"]["macs"] == 3 * site["after"]["macs"] > 0
    assert site["equation"][0] == "s = (block/0/conv(x) + block/1/conv(x) + block/2/conv(x))"
    assert site["proof"]["grade"] == "proven"
    assert [figure["name"] for figure in data["headline"]][:2] == ["nodes", "parameters"]
    assert data["bench"]["timings"][1]["ratio"] > 0
    assert len(data["graphs"][0]["nodes"]) == 5
    assert data["graphs"][0]["nodes"][0]["weights"] == ["w0 [2x2x3x3]"]


def test_a_part_without_a_bound_shows_no_error(tmp_path: Path) -> None:
    """A part that was compared only through the outputs has no error and no bound, not zeros."""
    text = """g (float[2, 5, 8] x) => (float[2, 5, 8] y) {
        m = ReduceMean <axes = [-1]> (x)
        c = Sub (x, m)
        q = Pow (c, two)
        v = ReduceMean <axes = [-1]> (q)
        e = Add (v, eps)
        d = Sqrt (e)
        n = Div (c, d)
        s = Mul (n, w)
        y = Add (s, b)
    }"""
    scalars = {"two": np.float32(2), "eps": np.float32(1e-5)}
    held = weights(w=(8,), b=(8,)) | {name: np.asarray(v) for name, v in scalars.items()}
    onnx.save(graph_of(text, held), tmp_path / "a.onnx")
    words = ["fold", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 0
    (site,) = data_of(tmp_path / "page.html")["sites"]
    assert site["proof"]["grade"] == "unchecked"
    assert (site["proof"]["error"], site["proof"]["bound"]) == (None, None)
    assert site["proof"]["why"].startswith("no bound is known for Pow")


def test_places_are_filled_once() -> None:
    """Data that hold what looks like a place of the template are left alone."""
    text = render_page("t <!--DATA-->", {"kind": "<!--STYLE-->"})
    outline = Outline()
    outline.feed(text)
    assert json.loads(outline.data) == {"kind": "<!--STYLE-->"}


def test_equations_of_long_chains_end() -> None:
    """A chain of 3,000 nodes has an equation of bounded length."""
    h = onnx.helper
    nodes = [h.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], f"n{i}") for i in range(3000)]
    value = h.make_tensor_value_info
    graph = h.make_graph(nodes, "g", [value("v0", 1, [1])], [value("v3000", 1, [1])])
    model = read(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8))
    drawing = draw(model, "chain")
    text = drawing.equation(f"n{i}" for i in range(3000))
    assert text.startswith("v3000 = ")
    assert len(text) <= 480


@pytest.mark.parametrize("where", ["missing/page.html", ""])
def test_a_page_that_cannot_be_written_is_one_line(
    where: str, pages: Path, capsys: Any, tmp_path: Path
) -> None:
    """Nothing is folded, nothing is written."""
    path = str(tmp_path / where) if where else ""
    words = ["fold", str(pages / "in.onnx"), str(tmp_path / "out.onnx"), "--html", path]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


# -- In a browser -------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["fold", "check", "expand", "bench"])
def test_clicks_in_a_browser(pages: Path, name: str) -> None:
    """Nodes, sites and scopes answer clicks, no script fails, and 400 pixels are wide enough."""
    seen = browse(pages / f"{name}.html")
    assert "error:" not in seen
    assert seen["hacked"] == "undefined"
    assert int(seen["width"]) <= 400
    if name == "bench":
        return
    assert seen["graphs"] == "2"
    assert "Relu act" in seen["detail"]
    assert "null" not in seen["site"]
    if name == "fold":
        assert int(seen["chosen"]) == 5
        assert "proven" in seen["site"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_click_on_what_was_kept_shows_it(tmp_path: Path) -> None:
    """Both nodes are marked in both graphs; their reason, weights and way out are shown."""
    model = graph_of(
        "g (float[1,2,8,8] x) => (float[1,2,8,8] y) "
        "{ h = Conv(x, u, b) y = Conv<pads=[1,1,1,1]>(h, w) }",
        weights(u=(2, 2, 1, 1), b=(2,), w=(2, 2, 3, 3)),
    )
    onnx.save(model, tmp_path / "a.onnx")
    words = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    assert main(["fold", *words, "--html", str(tmp_path / "page.html")]) == 0
    seen = browse(tmp_path / "page.html")
    assert "error:" not in seen
    assert seen["kept"].startswith("4 border")
    assert "--border ones" in seen["kept"]
    assert "u [2x2x1x1]" in seen["kept"]
    assert "w [2x2x3x3]" in seen["kept"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_large_graph_is_drawn_by_scope(tmp_path: Path) -> None:
    """Of 1,500 nodes in scopes a few boxes are drawn, and a click opens one."""
    h = onnx.helper
    nodes = [
        h.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], f"/stage{i // 100}/block{i // 10}/relu{i}")
        for i in range(1500)
    ]
    nodes[-1].name = "act"
    value = h.make_tensor_value_info
    graph = h.make_graph(nodes, "g", [value("v0", 1, [1])], [value("v1500", 1, [1])])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    words = [str(tmp_path / "a.onnx"), str(tmp_path / "a.onnx")]
    assert main(["check", *words, "--html", str(tmp_path / "large.html")]) == 0
    seen = browse(tmp_path / "large.html")
    assert "error:" not in seen
    before, after = map(int, seen["opened"].split())
    assert 20 < before < 160
    assert after > before


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_edges_around_the_outside_are_shown(tmp_path: Path) -> None:
    """A drawing is as wide as its edges need, which run beside all nodes."""
    h = onnx.helper
    nodes: list[onnx.NodeProto] = []

    def chain(x: str, length: int) -> str:
        for _ in range(length):
            nodes.append(h.make_node("Relu", [x], [f"v{len(nodes)}"], f"relu{len(nodes)}"))
            x = nodes[-1].output[0]
        return x

    def joined(*values: str) -> str:
        nodes.append(h.make_node("Sum", values, [f"v{len(nodes)}"], f"sum{len(nodes)}"))
        return str(nodes[-1].output[0])

    x = "x"
    for _ in range(2):  # attention and the way around it
        ahead = chain(x, 8)
        query, key, value = chain(ahead, 4), chain(ahead, 5), chain(ahead, 4)
        x = joined(x, chain(joined(value, chain(joined(query, key), 1)), 5))
        x = joined(x, chain(x, 4))
    nodes.append(h.make_node("Relu", [x], ["y"], "act"))
    ends = [h.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    graph = h.make_graph(nodes, "g", ends[:1], ends[1:])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    words = [str(tmp_path / "a.onnx"), str(tmp_path / "a.onnx")]
    assert main(["check", *words, "--html", str(tmp_path / "page.html")]) == 0
    seen = browse(tmp_path / "page.html")
    assert "error:" not in seen
    assert float(seen["beyond"]) == 0


def test_a_page_shows_every_part_of_a_network(tmp_path: Path) -> None:
    """Each site of a fold names nodes that the drawings have."""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    expanded = onnx_expand.expand(smallnet.build(kernel=5), strategy="ck+fc", rate=1)
    onnx.save(expanded, source)
    page = tmp_path / "page.html"
    words = ["fold", str(source), str(target), "--policy", "cheapest", "--check", "0"]
    assert main([*words, "--html", str(page)]) == 0
    data = data_of(page)
    for side, graph in zip(("nodes", "result"), data["graphs"], strict=True):
        names = {node["name"] for node in graph["nodes"]}
        assert all(names.issuperset(site[side]) for site in data["sites"])
    assert all(kept["nodes"] for kept in data["kept"])
