"""The builders of `models/`: their structure, their weights and their command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import mobilenetv2, networks, smallnet
from models.__main__ import main
from models.layers import Network, parameter_count
from models.registry import network
from onnx_expand.errors import UsageError

ROOT = Path(__file__).parents[1]
SMALLEST: dict[str, dict[str, Any]] = {
    "smallnet": {"kernel": 3, "size": 24},
    "mobilenetv2": {"size": 32, "width": 0.25},
}


@pytest.fixture(params=sorted(networks()))
def tiny(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Each registered network in turn, small where it can be."""
    name = request.param
    return networks()[name].build(**SMALLEST.get(name, {}), classes=5)


@pytest.mark.parametrize(
    ("build", "options", "count"),
    [
        (smallnet.build, {}, 66_186),
        (smallnet.build, {"stages": 4}, 150_346),
        (mobilenetv2.build, {}, 3_504_872),
        (mobilenetv2.build, {"width": 0.5}, 1_968_680),
    ],
)
def test_parameter_counts_are_the_published_ones(
    build: Callable[..., onnx.ModelProto], options: dict[str, Any], count: int
) -> None:
    """The networks have exactly as many parameters as their papers and torchvision report."""
    assert parameter_count(build(**options)) == count


@pytest.mark.parametrize(
    ("options", "width"),
    [({}, 512), ({"stages": 4}, 256), ({"kernel": 5}, 512), ({"kernel": 3}, 128)],
)
def test_smallnet_fc1_fits_the_pooled_image(options: dict[str, int], width: int) -> None:
    """The input width of fc1 follows from kernel, stages and padding (none for kernel 3)."""
    shapes = {t.name: list(t.dims) for t in smallnet.build(**options).graph.initializer}
    assert shapes["fc1.weight"] == [64, width]


def test_every_network_is_valid_and_typed(tiny: onnx.ModelProto) -> None:
    """Every network passes ONNX's full check and knows the type and shape of each value."""
    onnx.checker.check_model(tiny, full_check=True)
    graph = tiny.graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    known = {value.name: value.type.tensor_type for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        shape = known[node.output[0]].shape.dim
        assert shape[0].dim_param == "batch"
        assert all(axis.dim_value > 0 for axis in shape[1:])


def test_every_network_runs_on_any_batch(tiny: onnx.ModelProto) -> None:
    """Every network runs in onnxruntime, and the batch does not change a sample's result."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[2]
    x = np.random.default_rng(1).standard_normal((3, 3, size, size), dtype=np.float32)
    (three,) = session.run(["output"], {"input": x})
    (one,) = session.run(["output"], {"input": x[:1]})
    assert three.shape == (3, 5)
    assert np.isfinite(three).all()
    np.testing.assert_allclose(one, three[:1], rtol=1e-4, atol=1e-6)


def test_names_are_those_of_torch_modules() -> None:
    """Nodes are named as torch modules, and weights as the keys of a state dict."""
    small = smallnet.build().graph
    assert [node.name for node in small.node][-6:] == [
        *("relu3", "pool3", "flatten", "fc1", "relu_fc1", "fc2")
    ]
    assert list(small.node[1].input)[1:] == [
        *("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    ]
    mobile = mobilenetv2.build(size=32).graph
    convs = {node.name: list(node.input)[1:] for node in mobile.node if node.op_type == "Conv"}
    assert len(convs) == 52
    assert convs["features.1.conv.0.0"] == ["features.1.conv.0.0.weight"]
    assert convs["features.17.conv.2"] == ["features.17.conv.2.weight"]
    assert convs["features.18.0"] == ["features.18.0.weight"]
    assert sum(node.op_type == "Add" for node in mobile.node) == 10
    assert list(mobile.node[-1].input)[1:] == ["classifier.1.weight", "classifier.1.bias"]


def test_weights_start_as_in_pytorch_and_follow_the_seed() -> None:
    """One seed gives one file; weights and biases fill the range of PyTorch's default."""
    first, again, other = (smallnet.build(seed=seed) for seed in (3, 3, 4))
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()
    values = {t.name: onnx.numpy_helper.to_array(t) for t in first.graph.initializer}
    bound = (8 * 7 * 7) ** -0.5
    assert values["conv2.weight"].dtype == np.float32
    assert 0.99 * bound < np.abs(values["conv2.weight"]).max() <= bound
    assert 0.5 * bound < np.abs(values["conv2.bias"]).max() <= bound


def test_opset_sets_the_operators_and_the_ir_version() -> None:
    """The default is opset 17 in IR version 8, and another opset gives a valid model too."""
    default = smallnet.build()
    assert (default.opset_import[0].version, default.ir_version) == (17, 8)
    older = smallnet.build(opset=13)
    assert older.opset_import[0].version == 13
    onnx.checker.check_model(older, full_check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("smallnet --kernel 4", "kernel is 4"),
        ("smallnet --kernel -1", "kernel is -1"),
        ("smallnet --kernel x", "'x' is not a valid integer"),
        ("smallnet --stages 5", "stages is 5"),
        ("smallnet --classes 0", "classes is 0"),
        ("smallnet --kernel 3 --stages 4", "conv4: a 3x3 window does not fit on its 2x2 input"),
        ("smallnet --size 7", "pool3: a 2x2 window does not fit on its 1x1 input"),
        ("smallnet --seed -1", "seed is -1"),
        ("smallnet --opset 99", "opset is 99"),
        ("mobilenetv2 --width nan", "width is nan"),
        ("mobilenetv2 --size 0", "size is 0"),
        ("mobilenetv2 --classes 1000000000", "exceed 2 GiB"),
        ("resnet", "No such command 'resnet'"),
    ],
)
def test_a_bad_option_is_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad value ends the command with exit code 2 and one line, and writes nothing."""
    assert main([*arguments.split(), "-o", str(tmp_path / "net.onnx")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_the_listing_names_networks_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    """`list` shows every network with each of its options and default values."""
    assert main(["list"]) == 0
    listing = capsys.readouterr().out
    for entry in networks().values():
        assert f"{entry.name}: {entry.summary}\n" in listing
    assert "  --width 1.0 " in listing


def test_the_command_writes_a_model(tmp_path: Path) -> None:
    """`python -m models` writes the file, and an absent directory is a one-line error."""
    command = [sys.executable, "-m", "models", "smallnet", "--classes", "100", "-o"]
    path = tmp_path / "net.onnx"
    subprocess.run([*command, path], cwd=ROOT, check=True)
    assert onnx.load(path) == smallnet.build(classes=100)
    absent = tmp_path / "absent" / "net.onnx"
    failed = subprocess.run([*command, absent], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"error: {absent}: the directory ")
    assert failed.stderr.count("\n") == 1


def test_registration_refuses_what_the_command_cannot_offer() -> None:
    """A name registers once, and only with described keywords that have defaults."""

    def plain(classes: int) -> onnx.ModelProto:
        """Take an option that is neither keyword nor described."""
        raise NotImplementedError

    with pytest.raises(TypeError, match="two networks are called smallnet"):
        network("smallnet")(smallnet.build)
    with pytest.raises(TypeError, match="write the parameter classes as a keyword"):
        network("plain")(plain)
    assert "plain" not in networks()


def test_a_convolution_refuses_groups_that_do_not_divide() -> None:
    """Groups must divide both channel counts of a convolution."""
    net = Network("net", 8, seed=0, opset=17)
    with pytest.raises(UsageError, match="conv: 2 groups do not divide 3 and 4 channels"):
        net.conv("conv", net.input, 4, 3, group=2)
