"""The plans included in the package: those of papers, and some other useful ones."""

from __future__ import annotations

from typing import Literal

from onnx_expand.passes.plans import How, Plan, Rule, Select

__all__ = ["PLANS"]

PLANS: dict[str, Plan] = {}
"""The plans included in the package, by name."""


def _named(name: str, summary: str, *rules: Rule) -> None:
    PLANS[name] = Plan(name, summary, rules)


_CONVS = Select(ops=("Conv",), exclude=None)
_THREE = Select(ops=("Conv",), kernels=((3,),))
_HIDDEN_FC = Select(ops=("Gemm", "MatMul"), place="inner")


def _smallnets() -> None:
    """Register the plans of SmallNet with 7x7 kernels: every convolution, the hidden FC layer."""
    fc = Rule(_HIDDEN_FC, How("fc", layers=3))
    first: Literal["keep", "expand"]
    for first, tables, prefix in (
        ("keep", "tables 1 and 9", "paper:smallnet"),
        ("expand", "table 6", "paper:smallnet-wide"),
    ):
        for name in ("cl", "ck"):
            # A 3x3 kernel cannot be composed of smaller ones, so the 3x3 network has CL only.
            conv = Rule(_CONVS, How(name, first_width=first))
            text = f"SmallNet of {tables}: {name.upper()} on every convolution"
            _named(f"{prefix}-{name}", text, conv)
            if first == "keep":
                _named(f"{prefix}-{name}+fc", f"{text}, FC before the classifier", conv, fc)
    _named("paper:smallnet-fc", "SmallNet: FC before the classifier, three layers", fc)
    _named(
        "paper:smallnet-acnet",
        "SmallNet with ACNet's branches, the rival expansion",
        Rule(_CONVS, How("acnet", norm="bn")),
    )


def _mobile_networks() -> None:
    # On ImageNet the authors' stem also expands its input width, unlike SmallNet's on CIFAR.
    cl = How("cl", first_width="expand")
    every = Rule(_THREE, cl)
    _named("paper:mobilenet", "MobileNet: CL on every 3x3 convolution, depthwise by group", every)
    _named("paper:shufflenetv2", "ShuffleNetV2: CL on every 3x3 convolution", every)
    stem = Rule(Select(ops=("Conv",), kernels=((3,),), place="first"), cl)
    halving = Select(ops=("Conv",), kernels=((3,),), strides=(2,), depthwise=True)
    _named(
        "paper:mobilenetv2",
        "MobileNetV2 as the authors' code: CL on the stem and the stride-2 depthwise 3x3",
        stem,
        Rule(halving, cl),
    )
    _named(
        "paper:mobilenetv2-nonresidual",
        "MobileNetV2 as the paper's text: CL on every 3x3 outside residual blocks",
        Rule(Select(ops=("Conv",), kernels=((3,),), residual=False), cl),
    )


def _dense_prediction() -> None:
    backbone = Select(ops=("Conv",), kernels=((3,),), limit=5)
    _named(
        "paper:yolo-lite",
        "YOLO-LITE: CL on the 5 convolutions of the backbone",
        Rule(backbone, How("cl")),
    )
    down = Select(ops=("Conv",), kernels=((3,),), path="contracting")
    _named("paper:unet", "U-Net: CL on the contracting path", Rule(down, How("cl")))


def _large_kernels() -> None:
    large = tuple((k,) for k in (5, 7, 9, 11))
    rules = (
        Rule(Select(ops=("Conv",), kernels=large), How("ck")),
        Rule(_THREE, How("cl")),
    )
    _named("alexnet", "AlexNet: CK on the 11x11 and 5x5 kernels, CL on 3x3", *rules)
    _named(
        "finetune-lowrank",
        "A low-rank side path on every layer, the base kept",
        Rule(Select(), How("lowrank")),
    )


_smallnets()
_mobile_networks()
_dense_prediction()
_large_kernels()
