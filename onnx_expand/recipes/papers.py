"""The settings of published training runs, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_expand.errors import UsageError

__all__ = ["RECIPES", "Recipe", "recipe"]

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Recipe:
    """The settings of one published training run.

    Attributes:
        name: Its name on the command line.
        network: The networks and data that it was published for.
        train: Fields of `TrainOptions`.
        data: Fields of `DataOptions`.
        notes: What the publication leaves open, or what its code does in addition.
    """

    name: str
    network: str
    train: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""


_ALL = (
    Recipe(
        "cifar-smallnet",
        "SmallNet on CIFAR-10 and CIFAR-100 (ExpandNets)",
        {
            "epochs": 150,
            "batch": 128,
            "lr": 0.01,
            "momentum": 0.9,
            "schedule": "step",
            "milestones": (50, 100),
        },
        {"augment": ("crop:4", "flip")},
        "the authors' code also resets the momentum each epoch and keeps the best test epoch; "
        "--reset-momentum --keep best does the same",
    ),
    Recipe(
        "cifar-mobilenet",
        "MobileNet, MobileNetV2 and ShuffleNetV2 on CIFAR-10 and CIFAR-100 (ExpandNets)",
        {
            "epochs": 350,
            "batch": 128,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (150, 250),
        },
        {"augment": ("crop:4", "flip")},
    ),
    Recipe(
        "imagenet-mobilenet",
        "MobileNet and MobileNetV2 on ImageNet (ExpandNets)",
        {
            "epochs": 90,
            "batch": 256,
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (30, 60),
        },
        {"augment": ("resized-crop", "flip"), "center_crop": 0.875, **_IMAGENET},
    ),
    Recipe(
        "imagenet-shufflenet",
        "ShuffleNetV2 0.5x on ImageNet (ExpandNets)",
        {
            "epochs": 250,
            "batch": 1024,
            "lr": 0.5,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 4e-5,
            "schedule": "poly",
        },
        {"augment": ("resized-crop", "flip"), "center_crop": 0.875, **_IMAGENET},
    ),
    Recipe(
        "voc-yolo-lite",
        "YOLO-LITE on PASCAL VOC 2007 (ExpandNets)",
        {
            "task": "detect",
            "epochs": 200,
            "batch": 32,
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (100, 150),
            "warmup": 1.0,
        },
        {"augment": ("resized-crop:0.5", "flip", "jitter:0.4")},
        "its settings are not published in full; rate, momentum and decay are Darknet's for tiny "
        "YOLOv2, the others are chosen by this project",
    ),
    Recipe(
        "cityscapes-unet",
        "U-Net on Cityscapes (ExpandNets)",
        {
            "task": "segment",
            "epochs": 200,
            "batch": 8,
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "poly",
            "power": 0.9,
        },
        {"augment": ("zoom:1:2", "flip"), **_IMAGENET},
        "its settings are not published in full; these are common ones for Cityscapes, chosen by "
        "this project",
    ),
)

RECIPES: Mapping[str, Recipe] = {entry.name: entry for entry in _ALL}


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UsageError: There is no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"recipe '{name}' is none of {', '.join(RECIPES)}")
    return RECIPES[name]
