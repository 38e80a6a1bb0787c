"""The tables of ExpandNets (Guo, Alvarez, Salzmann, NeurIPS 2020) as studies.

Figures of the paper are top-1 accuracies in %, averaged over five runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnx_expand.errors import UsageError
from onnx_expand.experiment.paper.settings import BOXES, MASKS
from onnx_expand.experiment.paper.study import Arm, Setting, Study, Teacher
from onnx_expand.factorize import CHAIN_STARTS

__all__ = ["STUDIES", "study_of"]

# The paper's teacher, at the learning rate of its recipe for larger networks.
_RESNET = Teacher("resnet18", {"stem": "cifar"}, {"lr": 0.05, "weight_decay": 5e-4})
_KD = {"distill": "kd"}

_CK = {"strategy": "ck", "rate": 4.0}
_CL = {"strategy": "cl", "rate": 4.0}
# The paper expands the fully connected layer before the classifier, but not the classifier.
_CK_FC = {"plan": "paper:smallnet-ck+fc"}
_CL_FC = {"plan": "paper:smallnet-cl+fc"}


def _figures(cifar10: float, cifar100: float) -> dict[str, float]:
    return {"CIFAR-10": cifar10, "CIFAR-100": cifar100}


_TABLE_1 = Study(
    "table1",
    "Which expansion makes SmallNet with 7x7 kernels better?",
    "Table 1",
    "smallnet",
    (
        Arm("compact", paper=_figures(78.63, 46.63)),
        Arm("FC", {"plan": "paper:smallnet-fc"}, paper=_figures(78.64, 46.59)),
        Arm("ACNet", {"plan": "paper:smallnet-acnet"}, paper=_figures(79.37, 47.18)),
        Arm("CL", _CL, paper=_figures(78.47, 46.90)),
        Arm("CL+FC", _CL_FC, paper=_figures(79.11, 46.66)),
        Arm("CK", _CK, paper=_figures(80.27, 48.55)),
        Arm("CK+FC", _CK_FC, paper=_figures(80.31, 48.62)),
        Arm("compact + KD", paper=_figures(78.97, 47.04), distill=_KD),
        Arm("CL+FC + KD", _CL_FC, paper=_figures(79.60, 47.41), distill=_KD),
        Arm("CK+FC + KD", _CK_FC, paper=_figures(80.63, 49.13), distill=_KD),
    ),
    _RESNET,
)


def _corrupted(share: float) -> tuple[Arm, ...]:
    """Return the arms of table 7 at a share of random labels, with the paper's figures at 0.5."""
    paper = {"compact": 71.36, "CL": 72.58, "CK": 77.23} if share == 0.5 else {}
    arms = []
    for name, expand in (("compact", None), ("CL", _CL), ("CK", _CK)):
        figures = {"CIFAR-10, best epoch": paper[name]} if paper else {}
        arms.append(
            Arm(
                f"{name}, {share:.0%} random labels",
                expand,
                noise=share,
                against=f"compact, {share:.0%} random labels",
                paper=figures,
            )
        )
    return tuple(arms)


# For the expanded network: parameters in training, and the relative time of an epoch.
_COSTS = {
    "FC": ((339_402, 1.01), (675_914, 0.97), (1_742_154, 0.99)),
    "CL": ((562_954, 1.02), (2_171_554, 1.14), (8_578_066, 2.32)),
    "CK": ((237_722, 1.01), (653_250, 1.02), (2_070_098, 1.36)),
}


def _costs() -> Iterator[Arm]:
    """Yield the arms of table 6: each expansion at three rates, layer by layer and composed."""
    yield Arm("compact", paper={"parameters": 150_346, "epoch time": 1.0})
    for name, figures in _COSTS.items():
        for rate, (parameters, time) in zip((2.0, 4.0, 8.0), figures, strict=True):
            expand = {"strategy": name.lower(), "rate": rate, "first_width": "expand"}
            if name == "FC":
                expand["include"] = "fc1"
            paper = {"parameters": parameters, "epoch time": time}
            for execution in ("layerwise", "composed"):
                yield Arm(
                    f"{name}, r = {rate:g}, {execution}",
                    expand,
                    train={"execution": execution},
                    paper=paper,
                )


_TABLE_6 = Study(
    "table6",
    "What does expansion cost while training?",
    "Table 6",
    "smallnet",
    tuple(replace(arm, build={"stages": 4}) for arm in _costs()),
    timed=True,
)

_TABLE_7 = Study(
    "table7",
    "Does the expanded network generalise better from random labels?",
    "Table 7",
    "smallnet",
    tuple(replace(a, build={"kernel": 9}) for share in (0.2, 0.5, 0.8) for a in _corrupted(share)),
)

_TABLE_8 = Study(
    "table8",
    "Is it the initial weights alone? An untrained expansion, contracted at once",
    "Table 8",
    "smallnet",
    (
        Arm("compact"),
        Arm("contracted CL", {**_CL, "init": "contracted"}),
        Arm("contracted CK", {**_CK, "init": "contracted"}),
        Arm("CL", _CL),
        Arm("CK", _CK),
    ),
)

_TABLE_9 = Study(
    "table9",
    "How wide must the expansion be?",
    "Table 9",
    "smallnet",
    (
        Arm("compact"),
        *(
            Arm(f"CK, r = {rate:g}", {"strategy": "ck", "rate": rate})
            for rate in (0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
        ),
    ),
)

_NONLINEAR = Study(
    "nonlinear",
    "Does it help to begin with the weights of the trained non-linear counterpart?",
    "Supplement",
    "smallnet",
    (
        Arm("CK", _CK),
        Arm("CK from its non-linear counterpart", _CK, nonlinear="relu"),
        Arm("CL", _CL, against="CL"),
        Arm("CL from its non-linear counterpart", _CL, against="CL", nonlinear="relu"),
    ),
)


def _started(strategy: str) -> Iterator[Arm]:
    """Yield an expansion with each kind of initial values, compared with the default."""
    name = strategy.upper()
    base = {"strategy": strategy, "rate": 4.0, "first_width": "expand"}
    for init in ("random", *CHAIN_STARTS, "preserve"):
        label = {"random": name, "preserve": f"{name} at the compact layer's own random numbers"}
        yield Arm(label.get(init, f"{name}, {init}"), {**base, "init": init}, against=name)


_STARTS = Study(
    "starts",
    "Where should the layers of an expansion start?",
    "Beyond the paper",
    "smallnet",
    (Arm("compact", against="CK"), *_started("ck"), *_started("cl"), *_started("fc")),
)

_DECAY = Study(
    "decay",
    "Should weight decay act on each layer of an expansion, or on their product?",
    "Beyond the paper",
    "smallnet",
    (
        Arm("CK", _CK),
        *(
            Arm(f"CK, {decay} {strength:g}", _CK, train={"weight_decay": strength, "decay": decay})
            for strength in (5e-4, 5e-3)
            for decay in ("layer", "product")
        ),
        *(
            Arm(f"compact, {strength:g}", train={"weight_decay": strength})
            for strength in (0.0, 5e-4, 5e-3)
        ),
    ),
)

_LR_ON = Study(
    "lr-on",
    "Should the learning rate be that of each layer of an expansion, or that of their product?",
    "Beyond the paper",
    "smallnet",
    (
        Arm("compact", against="CK"),
        *(
            arm
            for name, expand in (("CK", _CK), ("CL", _CL), ("CK+FC", _CK_FC))
            for arm in (
                Arm(name, expand, against=name),
                Arm(f"{name}, product", expand, train={"lr_on": "product"}, against=name),
            )
        ),
    ),
)

# The teacher's tensor has the extents of the student's at any image size.
_HINT = {
    "distill": "hint",
    "student_layer": "relu3.output",
    "teacher_layer": "layer3.1.relu2.output",
    "teacher_weight": 0.1,
}

_TRANSFER = Study(
    "transfer",
    "How is knowledge transferred best: outputs, a hint, or similarities?",
    "Supplement",
    "smallnet",
    (
        Arm("compact"),
        Arm("compact + KD", distill=_KD),
        Arm("compact + hint", distill=_HINT),
        Arm("compact + PKT", distill={"distill": "pkt", "teacher_weight": 1.0}),
        Arm("CK", _CK),
        Arm("CK + KD", _CK, distill=_KD),
    ),
    _RESNET,
)


def _larger(
    name: str,
    network: str,
    gains: str,
    recipe: str,
    paper: Mapping[str, tuple[float, float]],
    embedded: Setting | None = None,
    rivals: tuple[float, float, float] | None = None,
) -> Study:
    """Declare the study of a network of the paper, compact and expanded by its plan.

    `rivals` are the paper's figures for ImageNet of ACNet, of the compact network with
    distillation and of the expanded one with it. The paper's teacher there is a ResNet-152; the
    one here is a ResNet-18, as for CIFAR.
    """
    first, second = ({k: v[i] for k, v in paper.items()} for i in (0, 1))
    expand = {"plan": f"paper:{network}"}
    arms = [Arm("compact", paper=first), Arm("CL", expand, paper=second)]
    if rivals is not None:
        acnet, distilled, both = ({"ImageNet": figure} for figure in rivals)
        arms[1:1] = [
            Arm("ACNet", {"strategy": "acnet", "kernels": "3x3"}, paper=acnet),
            Arm("compact + KD", paper=distilled, distill=_KD),
        ]
        arms.append(Arm("CL + KD", expand, paper=both, distill=_KD))
    teacher = None if rivals is None else _RESNET
    built = network.replace("-", "")
    # Guo's repository, github.com/GUOShuxuan/expandnets, names the table of ImageNet.
    source = "Larger networks" if rivals is None else "Table 2"
    return Study(
        name, gains, source, built, tuple(arms), teacher,
        recipe=recipe, embedded=embedded,
    )  # fmt: skip


_LARGER = (
    _larger(
        "mobilenet", "mobilenet", "Does MobileNet gain from expanded 3x3 convolutions?",
        "cifar-mobilenet",
        {"CIFAR-10": (89.61, 91.79), "CIFAR-100": (67.93, 69.75), "ImageNet": (66.48, 69.40)},
        rivals=(67.61, 69.01, 70.47),
    ),
    _larger(
        "mobilenetv2", "mobilenetv2", "Does MobileNetV2 gain from expanded 3x3 convolutions?",
        "cifar-mobilenet",
        {"CIFAR-10": (91.64, 92.58), "CIFAR-100": (71.66, 72.33), "ImageNet": (63.75, 65.62)},
        rivals=(64.29, 65.40, 67.19),
    ),
    _larger(
        "shufflenetv2", "shufflenetv2",
        "Does ShuffleNetV2 0.5x gain from expanded 3x3 convolutions?",
        "imagenet-shufflenet", {"ImageNet": (56.89, 57.38)}, rivals=(52.43, 57.59, 57.68),
    ),
    _larger(
        "yololite", "yolo-lite", "Does a detector gain from an expanded backbone?",
        "voc-yolo-lite", {"VOC2007, mAP": (27.34, 30.97)}, BOXES,
    ),
    _larger(
        "unet", "unet", "Does a segmenter gain from an expanded contracting path?",
        "cityscapes-unet", {"Cityscapes, mIoU": (56.59, 57.85)}, MASKS,
    ),
)  # fmt: skip

_THREE = (Arm("compact"), Arm("CL", _CL), Arm("CK", _CK))
_FIGURE_3 = Study(
    "figure3",
    "Do the gradients of different batches agree more in an expanded network?",
    "Figure 3",
    "smallnet",
    _THREE,
    gradients=100,
)
_FIGURE_4 = Study(
    "figure4",
    "Is the loss around the trained weights flatter?",
    "Figure 4",
    "smallnet",
    _THREE,
    landscape=21,
)

STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        *(_TABLE_1, _TABLE_6, _TABLE_7, _TABLE_8, _TABLE_9, *_LARGER),
        *(_FIGURE_3, _FIGURE_4, _NONLINEAR, _TRANSFER, _STARTS, _DECAY, _LR_ON),
    )
}


def study_of(name: str) -> Study:
    """Return a study by name.

    Raises:
        UsageError: There is no such study.
    """
    if name in STUDIES:
        return STUDIES[name]
    place = name.lower().replace(" ", "")
    parts = [s.name for s in STUDIES.values() if s.source.lower().replace(" ", "") == place]
    if parts:
        raise UsageError(f"'{name}' is one study for each network; give one of {', '.join(parts)}")
    raise UsageError(f"study '{name}' is none of {', '.join(STUDIES)}")
