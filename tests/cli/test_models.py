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
from onnx.reference import ReferenceEvaluator

import onnx_expand
from models import (
    alexnet,
    mobilenet,
    mobilenetv2,
    networks,
    resnet18,
    shufflenetv2,
    smallnet,
    unet,
    yololite,
)
from models.__main__ import main
from models.layers import Network, parameter_count
from models.registry import network
from onnx_expand.errors import UsageError
from tests.support.smallest import SMALLEST

ROOT = Path(__file__).parents[2]
# What the networks that do not classify images give for 5 classes at these sizes.
MAPS = {"unet": (5, 16, 16), "yololite": (10, 1, 1)}


@pytest.fixture(params=sorted(networks()))
def tiny(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Each registered network in turn, small where it can be."""
    name = request.param
    return networks()[name].build(**SMALLEST.get(name, {}), classes=5)


@pytest.mark.parametrize(
    ("build", "options", "count", "millions"),
    [
        # Parameters, and products where a source has them: torchvision, or the network's paper.
        (smallnet.build, {}, 66_186, None),
        (smallnet.build, {"stages": 4}, 150_346, None),
        (alexnet.build, {}, 61_100_840, 714),
        (mobilenet.build, {}, 4_231_976, 569),
        (mobilenet.build, {"width": 0.75}, 2_585_560, 325),
        (mobilenet.build, {"width": 0.5, "size": 32}, 1_331_592, None),
        (mobilenet.build, {"width": 0.25}, 470_072, 41),
        (mobilenet.build, {"size": 192}, 4_231_976, 418),
        (mobilenet.build, {"size": 128}, 4_231_976, 186),
        (mobilenetv2.build, {}, 3_504_872, 301),
        (mobilenetv2.build, {"width": 0.5}, 1_968_680, None),
        (resnet18.build, {}, 11_689_512, 1814),
        (resnet18.build, {"stem": "cifar", "classes": 10, "size": 32}, 11_173_962, None),
        (shufflenetv2.build, {}, 1_366_792, 40),
        (shufflenetv2.build, {"width": 1.0}, 2_278_604, 145),
        (shufflenetv2.build, {"width": 1.5}, 3_503_624, 296),
        (shufflenetv2.build, {"width": 2.0}, 7_393_996, 583),
        (unet.build, {}, 31_037_698, None),
        (unet.build, {"channels": 1, "norm": False}, 31_030_658, None),
        # 480 million floating-point operations; the paper counts 482.
        (yololite.build, {}, 572_317, 240),
        (yololite.build, {"classes": 80}, 649_417, None),
        (yololite.build, {"norm": True}, 572_941, None),
    ],
)
def test_parameters_and_products_are_the_published_ones(
    build: Callable[..., onnx.ModelProto],
    options: dict[str, Any],
    count: int,
    millions: int | None,
) -> None:
    """Widths, kernels, strides and paddings are right: the counts are those of the sources."""
    model = build(**options)
    assert parameter_count(model) == count
    if millions is not None:
        figures = onnx_expand.inspect(model)
        assert figures.parameters == count
        assert round((figures.macs or 0) / 1e6) == millions


def test_unpadded_unet_is_that_of_the_paper() -> None:
    """From 572 pixels the network of the paper's figure 1 gives 388, by 28 at the bottom."""
    model = unet.build(size=572, width=2, channels=1, padding="valid", norm=False)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
        for value in [*model.graph.value_info, *model.graph.output]
    }
    assert shapes["output"] == [2, 388, 388]
    assert shapes["down4.relu2.output"] == [32, 28, 28]
    assert shapes["up0.cat.output"] == [4, 392, 392]


def test_the_shuffle_takes_groups_in_turn() -> None:
    """Channels of the two halves alternate after the shuffle, as in torchvision."""
    net = Network("net", 1, channels=6, batch=1, seed=0, opset=17)
    model = net.finish(net.shuffle("shuffle", net.input, 2))
    x = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    (y,) = ReferenceEvaluator(model).run(None, {"input": x})
    assert np.asarray(y).ravel().tolist() == [0, 3, 1, 4, 2, 5]


def test_the_crop_takes_the_middle() -> None:
    """A cropped image has lost as much on either side."""
    net = Network("net", 7, channels=1, batch=1, seed=0, opset=17)
    model = net.finish(net.crop("crop", net.input, 3))
    x = np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7)
    (y,) = ReferenceEvaluator(model).run(None, {"input": x})
    np.testing.assert_array_equal(y, x[:, :, 2:5, 2:5])


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


@pytest.mark.parametrize("name", sorted(networks()))
@pytest.mark.parametrize("opset", [13, 21])
def test_every_network_has_a_fixed_batch_and_other_opsets(name: str, opset: int) -> None:
    """With a batch every shape is static, and old and new operators are used rightly."""
    model = networks()[name].build(**SMALLEST[name], batch=2, opset=opset)
    onnx.checker.check_model(model, full_check=True)
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_value == 2
        assert all(dim.dim_value > 0 for dim in dims)


def test_every_network_runs_on_any_batch(tiny: onnx.ModelProto) -> None:
    """Every network runs in onnxruntime, and the batch does not change a sample's result."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(tiny.SerializeToString(), providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[2]
    maps = MAPS.get(tiny.graph.name, (5,))
    x = np.random.default_rng(1).standard_normal((3, 3, size, size), dtype=np.float32)
    (three,) = session.run(["output"], {"input": x})
    (one,) = session.run(["output"], {"input": x[:1]})
    assert three.shape == (3, *maps)
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


@pytest.mark.parametrize(
    ("build", "options", "weight", "spread", "uniform"),
    [
        # sqrt(2 / fan-out): 512 channels, 3 x 3.
        (resnet18.build, {"size": 32}, "layer4.1.conv1", (2 / (512 * 9)) ** 0.5, False),
        (mobilenetv2.build, {"size": 32}, "features.18.0", (2 / 1280) ** 0.5, False),
        (mobilenetv2.build, {"size": 32}, "classifier.1", 0.01, False),
        # sqrt(2 / fan-in): 512 channels, 3 x 3; a stride of 2 leaves 1024 channels, 1 x 1.
        (unet.build, {"size": 16}, "down3.conv2", (2 / (512 * 9)) ** 0.5, False),
        (unet.build, {"size": 16}, "up3.up", (2 / 1024) ** 0.5, False),
        (yololite.build, {}, "conv6", (2 / (128 * 9)) ** 0.5, True),
        (shufflenetv2.build, {"size": 32}, "fc", 1024**-0.5, True),
    ],
)
def test_weights_start_as_the_sources_draw_them(
    build: Callable[..., onnx.ModelProto],
    options: dict[str, Any],
    weight: str,
    spread: float,
    uniform: bool,
) -> None:
    """Each network's weights have its framework's distribution and spread, its biases too."""
    graph = build(**options).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    array = values[f"{weight}.weight"].ravel()
    # The standard error of a mean is deviation / sqrt(n); that of a deviation is smaller.
    deviation = spread / 3**0.5 if uniform else spread
    assert abs(array.std() / deviation - 1) < 6 / len(array) ** 0.5
    assert abs(array.mean()) < 6 * deviation / len(array) ** 0.5
    assert (np.abs(array).max() <= spread * (1 + 1e-6)) == uniform
    if (bias := values.get(f"{weight}.bias")) is not None:
        assert bool(bias.any()) == (build is shufflenetv2.build)


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
        ("mobilenet --width -1", "width is -1"),
        ("mobilenet --stride 3", "stride is 3"),
        ("mobilenet --batch -1", "batch is -1"),
        ("alexnet --size 30", "features.5: a 3x3 window does not fit on its 2x2 input"),
        ("alexnet --last 0", "last is 0"),
        ("resnet18 --stem x", "stem is 'x'; give imagenet or cifar"),
        ("shufflenetv2 --width 0.7", "width is 0.7; it must be one of 0.5, 1, 1.5 and 2"),
        ("unet --size 100", "size is 100: level 2 has 25 pixels"),
        ("unet --padding x", "padding is 'x'; give same or valid"),
        ("yololite --norm maybe", "'maybe' is not a valid boolean"),
        ("yololite --size 20", "pool5: a 2x2 window does not fit on its 1x1 input"),
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


def test_the_listing_has_a_line_for_each_network(capsys: pytest.CaptureFixture[str]) -> None:
    """`list` shows every network with its parameters, its input and what it is."""
    assert main(["list"]) == 0
    *lines, hint = capsys.readouterr().out.splitlines()
    assert "--help" in hint
    assert [line.split()[0] for line in lines] == list(networks())
    for line, entry in zip(lines, networks().values(), strict=True):
        assert line.endswith(entry.summary)
    (mobile,) = [line for line in lines if line.startswith("mobilenetv2 ")]
    assert " 3,504,872 parameters  [batch, 3, 224, 224] " in mobile


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_the_options_of_a_network(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` names each option with its meaning and default value."""
    assert main(["alexnet", flag]) == 0
    text = capsys.readouterr().out
    for option in networks()["alexnet"].options:
        assert f"--{option.name}" in text
    assert "default: 4096" in text


def test_errors_carry_the_name_of_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of all other commands do, and files named like text formats are refused."""
    target = tmp_path / "net.json"
    assert main(["smallnet", "-o", str(target)], "onnx-expand models") == 2
    assert capsys.readouterr().err.startswith(f"onnx-expand: error: {target}: the ending .json")
    assert not target.exists()


def test_the_command_writes_a_model(tmp_path: Path) -> None:
    """`python -m models` writes the file, and an absent directory is a one-line error."""
    command = [sys.executable, "-m", "models", "smallnet", "--classes", "100", "-o"]
    path = tmp_path / "net.onnx"
    subprocess.run([*command, path], cwd=ROOT, check=True)
    assert onnx.load(path) == smallnet.build(classes=100)
    absent = tmp_path / "absent" / "net.onnx"
    failed = subprocess.run([*command, absent], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"error: {absent}: ")
    assert "does not exist" in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "parameters"),
    [("", 572_317), ("--norm", 572_941), ("--norm true", 572_941), ("--norm false", 572_317)],
)
def test_a_switch_needs_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, parameters: int
) -> None:
    assert main(["yololite", *words.split(), "-o", str(tmp_path / "net.onnx")]) == 0
    assert f"{parameters:,} parameters" in capsys.readouterr().out


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
