"""Passes by name: what a pipeline runs, what it refuses, and what packages add to it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_expand
from models import smallnet
from onnx_expand import DifferentError, UsageError
from onnx_expand.cli import main
from onnx_expand.equivalence import CheckOptions
from onnx_expand.passes import Expand, Fold
from onnx_expand.passes.registry import find_pass, named_passes
from onnx_expand.workflow.pipeline import Pipeline, read_pipeline

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return smallnet.build(kernel=3, stages=3, classes=4)


class Spoil(ir.passes.InPlacePass):
    """Changes a weight, as a faulty pass would."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Double the first weight."""
        value = next(v for v in model.graph.initializers.values() if "weight" in (v.name or ""))
        assert value.const_value is not None
        value.const_value = ir.Tensor(2 * value.const_value.numpy(), name=value.name)
        return ir.passes.PassResult(model, True)


def test_steps_run_in_order(model: onnx.ModelProto) -> None:
    """What is expanded and folded is what it was, and each step says what it did."""
    text = "expand:strategy=cl,rate=2,seed=3,fold,check:samples=2,fold:policy=cheapest,clean,check"
    result, done = onnx_expand.run(model, text, report=True)
    assert [d.name for d in done] == ["expand", "fold", "check", "fold", "clean", "check"]
    assert [d.modified for d in done] == [True, True, False, True, False, False]
    assert isinstance(result, onnx.ModelProto)
    assert "BatchNormalization" not in {node.op_type for node in result.graph.node}


def test_check_catches_a_faulty_pass(model: onnx.ModelProto, tmp_path: Path) -> None:
    """A step that changes numbers is found by the check behind it, and nothing is written."""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    onnx_expand.run(source, [Spoil()], target)
    target.unlink()
    with pytest.raises(DifferentError, match="check"):
        onnx_expand.run(source, ["fold", Spoil(), "check"], target)
    assert not target.exists()


def test_steps_that_are_meant_to_change_numbers_are_no_fault(model: onnx.ModelProto) -> None:
    """Preprocessing and random starts become what later steps are compared with."""
    onnx_expand.run(model, "preprocess:mean=[0.5,0.4,0.3],swap_rb=true,fold,check")
    with pytest.raises(DifferentError):
        onnx_expand.run(model, ["expand:strategy=cl", Spoil(), "check"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one step"),
        ("fold,squeeze", "no pass 'squeeze'"),
        ("fold:polcy=auto", "no option 'polcy'; it has policy"),
        ("fold:policy=fast", "policy 'fast' is none of"),
        ("fold:measure=yes", "measure is 'yes'"),
        ("expand:rate=wide", "rate is 'wide'"),
        ("fold:policy", "write name=value"),
        ("fold:", "step 'fold': '' is not an option"),
        ("check: ,fold", "step 'check': '' is not an option"),
        ("fold:policy=auto,", "has no name"),
        ("fold:policy=auto,,border=map", "has no name"),
        ("fold:policy=", "'policy=' is not an option"),
        ("fold:policy=auto,policy=always", "sets an option twice"),
        ("fold:=auto", "'=auto' is not an option"),
        (":policy=auto", "step ':policy=auto' has no name"),
        ("fold,,check", "has no name"),
        ("fold,", "has no name"),
        (" ", "at least one step"),
        ('expand:ops=""', "ops"),
        ("expand:ops=[Conv,]", "ops"),
        ("check:samples=0", "samples is 0"),
        ("check:tolerance=1", "check has no option 'tolerance'"),
        ("strip-nonlinear:a=1", "it has none"),
        ("preprocess:std=[0]", "std"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    text: str, message: str, model: onnx.ModelProto, tmp_path: Path, capsys: Any
) -> None:
    """Every wrong step is refused by name before anything runs."""
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        Pipeline.of(text)
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    assert main(["run", str(source), str(target), "--passes", text]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not target.exists()


PLAIN = ("^conv", "a=b", "3")
SCALARS = st.one_of(
    st.tuples(st.just("rate"), st.floats(0.25, 8)),
    st.tuples(st.just("seed"), st.integers(0, 99)),
    st.tuples(st.just("include"), st.sampled_from([*PLAIN, "[ab],c", "x{2,3}", 'a"],b', "\\\\"])),
    st.tuples(st.just("ops"), st.sampled_from([("Conv",), ("Conv", "Gemm")])),
    st.tuples(st.just("depthwise"), st.booleans()),
)


@given(st.lists(SCALARS, unique_by=lambda pair: pair[0]))
def test_text_and_mapping_are_one_pass(options: list[tuple[str, Any]]) -> None:
    """Options written as a text come back with the types that the pass declares."""
    written = ",".join(
        f"{name}={value if value in PLAIN else json.dumps(value)}" for name, value in options
    )
    text = f"fold,expand:{written},check" if options else "fold,expand,check"
    steps = [step for _, step in Pipeline.of(text).steps]
    assert steps == [Fold(), Expand(**dict(options)), CheckOptions(samples=1)]


def test_a_toml_file_is_the_same(tmp_path: Path) -> None:
    """Names, tables and both together; what is no pipeline is refused with the file's name."""
    path = tmp_path / "pipeline.toml"
    path.write_text('passes = ["fold:border=map", {name = "fold", policy = "always"}, "check"]')
    expected = Pipeline.of("fold:border=map,fold:policy=always,check")
    assert read_pipeline(path) == expected
    path.write_text('[[passes]]\nname = "fold"\n[[passes]]\nname = "check"\nsamples = 2\n')
    assert read_pipeline(path) == Pipeline.of("fold,check:samples=2")
    for wrong in ("passes = 3", "steps = []", "passes = [", 'passes = [{policy = "auto"}]'):
        path.write_text(wrong)
        with pytest.raises(UsageError, match=r"pipeline\.toml"):
            read_pipeline(path)


def test_passes_are_listed(capsys: Any) -> None:
    """`onnx-expand passes` names every pass with its options, as text and as JSON."""
    assert main(["passes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in listed} >= {"clean", "expand", "fold", "preprocess"}
    fold = next(entry for entry in listed if entry["name"] == "fold")
    policy = next(option for option in fold["options"] if option["name"] == "policy")
    assert policy["default"] == "auto"
    assert "cheapest" in policy["takes"]
    assert main(["passes"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{named.name} ({named.origin})" in printed for named in named_passes())
    assert find_pass("fold").kind is Fold
    assert "kernels          list of integers or texts or lists of integers\n" in printed
    assert policy["help"] not in printed
    assert main(["passes", "-v"]) == 0
    assert policy["help"] in capsys.readouterr().out


PLUGIN = """
    from dataclasses import dataclass

    import numpy as np
    import onnx_ir as ir

    from onnx_expand import AffineConv
    from onnx_expand.lift import Linear
    from onnx_expand.factorize import Layer, strategy
    from onnx_expand.runtimes import OnnxRuntime


    @dataclass(frozen=True)
    class Tidy(ir.passes.InPlacePass):
        '''Name the graph.'''

        name: str = "tidy"

        def call(self, model):
            model.graph.name = self.name
            return ir.passes.PassResult(model, True)


    @strategy("twice")
    def twice(layer, options):
        '''The layer twice, in a sum.'''
        return [(Layer(layer),), (Layer(layer),)]


    def scale(node, facts):
        '''`com.tiny.Scale`: y = factor * x.'''
        affine = AffineConv.per_channel(np.array([node.attributes["factor"].as_float()]))
        return Linear(node, 0, affine.geometry, None, lambda: affine)


    class Other(OnnxRuntime):
        @property
        def name(self):
            return "another runtime"


    def broken():
        raise AssertionError
"""
POINTS = """
    [onnx_expand.passes]
    tidy = tiny_plugin:Tidy
    nothing = tiny_plugin:missing
    function = tiny_plugin:broken

    [onnx_expand.strategies]
    twice = tiny_plugin:twice

    [onnx_expand.linear_ops]
    com.tiny.Scale = tiny_plugin:scale

    [onnx_expand.runtimes]
    other = tiny_plugin:Other
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that registers a pass, a strategy and a runtime."""
    site = tmp_path_factory.mktemp("site")
    (site / "tiny_plugin.py").write_text(textwrap.dedent(PLUGIN))
    info = site / "tiny_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(POINTS))
    onnx.save(smallnet.build(kernel=3, stages=3, classes=4), site / "in.onnx")
    return site


def run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process that finds the plugin."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from onnx_expand.cli import main; "
    code += f"sys.exit(main({list(words)!r}))"
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, cwd=site)


def test_packages_add_passes_strategies_and_runtimes(site: Path) -> None:
    """What an installed package registers works from the command line by its name."""
    steps = 'tidy:name="my, net",expand:strategy=twice,fold:policy=cheapest,check'
    done = run(site, "run", "in.onnx", "out.onnx", "--passes", steps)
    assert done.returncode == 0, done.stderr
    assert onnx.load(site / "out.onnx").graph.name == "my, net"
    done = run(site, "check", "in.onnx", "in.onnx", "--providers", "other")
    assert done.returncode == 0, done.stderr
    assert "(other)" in done.stdout


def test_packages_add_linear_ops(site: Path) -> None:
    """A node of an op that a package knows to be linear goes into the layer before it."""
    h = onnx.helper
    weight = np.random.default_rng(0).normal(size=(3, 2, 1, 1)).astype(np.float32)
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], "conv"),
        h.make_node("Scale", ["c"], ["y"], "scale", domain="com.tiny", factor=0.25),
    ]
    value = h.make_tensor_value_info
    shapes = value("x", 1, [1, 2, 4, 4]), value("y", 1, [1, 3, 4, 4])
    graph = h.make_graph(
        nodes, "g", shapes[:1], shapes[1:], [onnx.numpy_helper.from_array(weight, "w")]
    )
    opsets = [h.make_opsetid("", 17), h.make_opsetid("com.tiny", 1)]
    onnx.save(h.make_model(graph, opset_imports=opsets, ir_version=8), site / "scaled.onnx")
    done = run(site, "fold", "scaled.onnx", "plain.onnx")
    assert done.returncode == 0, done.stderr
    folded = onnx.load(site / "plain.onnx")
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    (found,) = map(onnx.numpy_helper.to_array, folded.graph.initializer)
    np.testing.assert_array_equal(found, weight / 4)


def test_faulty_plugins_are_one_line(site: Path) -> None:
    """What cannot be imported, or is no pass, is refused with the package's name."""
    for name, message in (("nothing", "tiny-plugin 1.0"), ("function", "must be a subclass")):
        done = run(site, "run", "in.onnx", "out.onnx", "--passes", name)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = run(site, "check", "in.onnx", "in.onnx", "--providers", "nowhere")
    assert done.returncode == 2
    assert "other" in done.stderr
