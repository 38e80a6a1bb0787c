"""The smallest sizes of the builders of models."""

from __future__ import annotations

from typing import Any

SMALLEST: dict[str, dict[str, Any]] = {
    "alexnet": {"size": 63, "hidden": 32},
    "mobilenet": {"size": 32, "width": 0.25},
    "mobilenetv2": {"size": 32, "width": 0.25},
    "resnet18": {"size": 32},
    "shufflenetv2": {"size": 32},
    "smallnet": {"kernel": 3, "size": 24},
    "unet": {"size": 16, "width": 4},
    "yololite": {"size": 32, "anchors": 1},
}
