"""What the networks and their expansions cost: `python -m benchmarks.networks docs/networks.md`.

Every row is counted on models that are really built, expanded and folded. The U-Net at rate 4
needs some 6 GiB of memory; all rows together take three minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import onnx_expand
from models import networks
from onnx_expand.cost import Inspection
from onnx_expand.errors import UsageError

__all__ = ["CASES", "NETWORKS", "Case", "Published", "document", "expansion_rows", "network_row"]


@dataclass(frozen=True)
class Published:
    """A network, and what others print for it.

    Attributes:
        network: Its name.
        parameters: The count and its source.
        macs: The products in millions, and their source.
        options: Options of the builder.
    """

    network: str
    parameters: str
    macs: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A choice of layers to expand.

    Attributes:
        network: The network's name.
        choice: What is expanded, in words.
        expand: Options of `onnx_expand.expand`.
        options: Options of the builder.
        paper: By rate: parameters and, in millions, multiply-accumulates that the paper prints.
        rates: The expansion rates.
    """

    network: str
    choice: str
    expand: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    paper: dict[float, tuple[int, float | None]] = field(default_factory=dict)
    rates: tuple[float, ...] = (2, 4)


_TV, _KERAS, _TABLE_6 = "torchvision", "Keras", "ExpandNets, table 6"
_FILE = "authors' weight file"
_SHUFFLE, _MOBILE = "ShuffleNetV2 paper", "MobileNet paper"
NETWORKS = (
    Published("smallnet", "66,186 (ExpandNets, table 9)", ""),
    Published(
        "smallnet", f"150,346 ({_TABLE_6})", f"6.12 with elementwise ({_TABLE_6})", {"stages": 4}
    ),
    Published("mobilenet", f"4,231,976 ({_KERAS}); 4.2 M ({_MOBILE})", f"569 ({_MOBILE})"),
    Published(
        "mobilenet",
        f"1,331,592 (Gluon); 1.3 M ({_MOBILE})",
        f"149 ({_MOBILE})",
        {"width": 0.5},
    ),
    Published(
        "mobilenetv2",
        f"3,504,872 ({_TV}); 3.4 M (MobileNetV2 paper)",
        f"301 ({_TV}); 300 (MobileNetV2 paper)",
    ),
    Published("shufflenetv2", f"1,366,792 ({_TV})", f"40 ({_TV}); 41 ({_SHUFFLE})"),
    Published(
        "shufflenetv2", f"2,278,604 ({_TV})", f"145 ({_TV}); 146 ({_SHUFFLE})", {"width": 1.0}
    ),
    Published("alexnet", f"61,100,840 ({_TV})", f"714 ({_TV})"),
    Published("yololite", f"572,317 ({_FILE})", "241, as 482 M FLOPs (YOLO-LITE paper)"),
    Published("yololite", f"649,417 ({_FILE})", "", {"classes": 80}),
    Published("unet", "31,037,698 (PyTorch versions)", ""),
    Published(
        "unet",
        "31,030,658 (PyTorch and Keras versions)",
        "",
        {"channels": 1, "norm": False, "padding": "valid", "size": 572},
    ),
    Published("resnet18", f"11,689,512 ({_TV})", f"1814 ({_TV})"),
    Published(
        "resnet18",
        "11,173,962 (PyTorch versions for CIFAR)",
        "",
        {"stem": "cifar", "classes": 10, "size": 32},
    ),
)

_B = {"stages": 4}
_WIDE = {"first_width": "expand", "exclude": "fc2"}
_TABLE_9: dict[float, tuple[int, float | None]] = {
    0.25: (37_912, None),
    0.5: (42_810, None),
    0.75: (48_428, None),
    1: (54_766, None),
    2: (87_318, None),
    4: (186_982, None),
}
CASES = (
    Case("smallnet", "CL", {"strategy": "cl"}),
    Case("smallnet", "CK", {"strategy": "ck"}, paper=_TABLE_9, rates=tuple(_TABLE_9)),
    Case("smallnet", "CK + FC (fc1)", {"strategy": "ck+fc", "exclude": "fc2"}),
    Case(
        "smallnet",
        "FC (fc1)",
        {"strategy": "fc", **_WIDE},
        _B,
        {2: (339_402, 6.30), 4: (675_914, 6.64), 8: (1_742_154, 7.70)},
        (2, 4, 8),
    ),
    Case(
        "smallnet",
        "CL, the first width too",
        {"strategy": "cl", **_WIDE},
        _B,
        {2: (562_954, 25.16), 4: (2_171_554, 98.39), 8: (8_578_066, 389.35)},
        (2, 4, 8),
    ),
    Case(
        "smallnet",
        "CK, the first width too",
        {"strategy": "ck", **_WIDE},
        _B,
        {2: (237_722, 14.38), 4: (653_250, 42.64), 8: (2_070_098, 141.10)},
        (2, 4, 8),
    ),
    Case("mobilenet", "CL, every 3x3", {"strategy": "cl", "first_width": "expand"}),
    Case(
        "mobilenetv2",
        "CL, first 3x3 and those of stride 2",
        {
            "strategy": "cl",
            "first_width": "expand",
            "include": r"^features\.(0|(2|4|7|14)\.conv\.1)\.0$",
        },
    ),
    Case("shufflenetv2", "CL, every 3x3", {"strategy": "cl", "first_width": "expand"}),
    Case("alexnet", "CK on 11x11 and 5x5, CL on 3x3", {"strategy": "ck+cl"}),
    Case("yololite", "CL, backbone", {"strategy": "cl", "exclude": "conv[67]"}),
    Case("unet", "CL, contracting path", {"strategy": "cl", "include": "^down"}),
    Case(
        "resnet18",
        "CL, every 3x3",
        {"strategy": "cl"},
        {"stem": "cifar", "classes": 10, "size": 32},
    ),
)


def network_row(entry: Published) -> str:
    """One line of the table of networks."""
    model = networks()[entry.network].build(**entry.options)
    own = onnx_expand.inspect(model)
    return _row(
        _label(entry.network, entry.options),
        f"{own.parameters:,}",
        entry.parameters,
        _millions(own.macs),
        _millions(own.macs_with_elementwise),
        entry.macs,
    )


def expansion_rows(case: Case) -> Iterator[str]:
    """The lines of a choice in the table of expansions, one for each rate.

    Raises:
        RuntimeError: Folding does not give back the network.
    """
    model = networks()[case.network].build(**case.options)
    compact = onnx_expand.inspect(model)
    for rate in case.rates:
        expanded = onnx_expand.expand(model, rate=rate, **case.expand)
        large, small = onnx_expand.inspect(expanded), _folded(model, expanded)
        yield _row(
            _label(case.network, case.options),
            case.choice,
            f"{rate:g}",
            f"{large.parameters:,}",
            _published(case, rate, 0),
            _millions(large.macs),
            _millions(large.macs_with_elementwise),
            _published(case, rate, 1),
            f"{large.parameters / compact.parameters:.2f}x",
            f"{(large.macs or 0) / (compact.macs or 1):.2f}x",
            f"{small.parameters:,}",
            _millions(small.macs),
        )


def _folded(model: onnx.ModelProto, expanded: onnx.ModelProto) -> Inspection:
    folded = onnx_expand.fold(expanded)
    if list(folded.graph.node) != list(model.graph.node):
        raise RuntimeError(f"{model.graph.name}: folding does not give back the nodes")
    return onnx_expand.inspect(folded)


def _published(case: Case, rate: float, index: int) -> str:
    figure = case.paper.get(rate, (None, None))[index]
    return "" if figure is None else f"{figure:,}" if index == 0 else f"{figure:.2f}"


def _millions(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.2f}"


def _label(name: str, options: dict[str, Any]) -> str:
    words = (f"--{key} {str(value).lower()}" for key, value in options.items())
    return f"`{' '.join([name, *words])}`"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def document() -> Iterator[str]:
    """The lines of docs/networks.md."""
    yield from _INTRODUCTION.strip().splitlines()
    yield from ["", *_COMPACT.strip().splitlines()]
    yield from map(network_row, NETWORKS)
    yield from ["", *_EXPANDED.strip().splitlines()]
    for case in CASES:
        yield from expansion_rows(case)
    yield from ["", *_NOTES.strip().splitlines()]


_INTRODUCTION = """
# Networks

The networks of the ExpandNets paper (Guo, Alvarez, Salzmann, NeurIPS 2020), built with onnx-graphsurgeon: `python -m models list` names them, `python -m models NAME --help` shows their options, `python -m models NAME -o FILE` writes one. This page is written by `python -m benchmarks.networks docs/networks.md`: every figure without a source is counted on a model that was built, expanded or folded.

| network | source of the layout and of the parameter count | initial weights |
|---|---|---|
| `smallnet` | ExpandNets paper, tables 6 and 9 | PyTorch's default |
| `mobilenet` | MobileNet paper, table 1; trainable parameters as Keras counts them | PyTorch's default |
| `mobilenetv2` | MobileNetV2 paper, table 2; torchvision's layout, names and count | torchvision's |
| `shufflenetv2` | ShuffleNetV2 paper, table 5; torchvision's layout, names and count | PyTorch's default |
| `alexnet` | Krizhevsky 2014; torchvision's layout, names and count | PyTorch's default |
| `yololite` | the authors' configuration `tiny-yolov2-trial3-noBatch` and the size of its weights | Darknet's |
| `unet` | U-Net paper, figure 1; the count usually given, as the paper has none | the paper's |
| `resnet18` | ResNet paper, table 1; torchvision's layout, names and count | torchvision's |
"""  # noqa: E501

_COMPACT = """
## Compact

MACs are products of convolutions and fully connected layers, in millions; "with elementwise" is the count of the ExpandNets paper, which adds biases, normalizations, activations and poolings.

| network | parameters | published | MACs | with elementwise | published MACs |
|---|---|---|---|---|---|
"""  # noqa: E501

_EXPANDED = """
What differs: SmallNet's 6.11 million is 6.12 in the paper. The MobileNetV2 paper gives 3.4 million parameters where torchvision has 3.50. ShuffleNetV2's paper counts 41 and 146 million where the products alone are 40.5 and 144.9. YOLO-LITE's paper counts 482 million floating-point operations, two for each of 240 million products and 2 million more.

## Expanded and folded

The paper's choices of what to expand. In each row folding restored the original nodes, and the counts of the last two columns. The paper has figures for expanded SmallNets only. `smallnet` has 3 stages and 7x7 kernels unless its options say otherwise.

| network | expanded | rate | parameters | paper | MACs | with elementwise | paper | parameters, to compact | MACs, to compact | folded: parameters | folded: MACs |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501

_NOTES = """
In MobileNet, MobileNetV2 and ShuffleNetV2 the authors' code also expands the image's channels, as is counted here; in SmallNet of tables 1 and 9 it does not. In their ShuffleNetV2 the stride of the first convolution is on the last 1x1 of its unit; here it is on the 3x3, which has as many parameters and folds to the same layer, with fewer products. The contracting path of the U-Net includes its lowest level. The choices for AlexNet and ResNet-18 follow the same rules and are not the paper's; there, in YOLO-LITE and in U-Net the first factor keeps the image's channels.
"""  # noqa: E501


def main() -> int:
    """Write the page to the file that is named on the command line."""
    if len(sys.argv) != 2:
        raise UsageError("give the file to write, as in docs/networks.md")
    Path(sys.argv[1]).write_text("\n".join(document()) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
