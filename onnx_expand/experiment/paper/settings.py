"""The data and schedules of studies: built-in ones, and the paper's for other data."""

from __future__ import annotations

from onnx_expand.experiment.paper.study import Setting
from onnx_expand.recipes import recipe

__all__ = ["BOXES", "EMBEDDED", "MASKS", "published"]

# Chosen on training digits alone.
EMBEDDED = Setting(
    "onnx_expand.experiment.distorted:distorted_digits",
    build={"size": 16},
    train={"epochs": 20, "batch": 64, "schedule": "cosine"},
    rates=(0.01, 0.02, 0.05),
)

BOXES = Setting(
    "onnx_expand.experiment.scenes:digits_with_boxes",
    build={"size": 96, "classes": 10, "norm": True},
    train={"epochs": 20, "batch": 16, "schedule": "cosine", "weight_decay": 5e-4},
    rates=(0.003, 0.01),
)

MASKS = Setting(
    "onnx_expand.experiment.scenes:digits_with_masks",
    build={"size": 48, "classes": 11, "channels": 1, "width": 8},
    train={"epochs": 10, "batch": 8, "schedule": "cosine"},
    rates=(0.01, 0.03),
)

# The rates to try, as multiples of a recipe's rate: low ones were chosen for long schedules.
_LOW, _UP, _AROUND = 0.01, (1, 3, 10), (0.3, 1)


def published(name: str, data: str) -> Setting:
    """Return a setting for other data with the settings of a recipe, and rates to choose from.

    Raises:
        UsageError: There is no such recipe.
    """
    found = recipe(name)
    train = {k: v for k, v in found.train.items() if k != "lr"}
    lr = found.train["lr"]
    rates = tuple(float(f"{lr * factor:g}") for factor in (_UP if lr <= _LOW else _AROUND))
    return Setting(data, options=found.data, train=train, rates=rates)
