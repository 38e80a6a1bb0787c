"""Small jobs of studies, and executors that count their runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_expand.experiment.paper import Arm, Job, Setting, Study
from tests.support.networks import stripes

HERE = "tests.support.jobs"


TOY = Setting(
    f"{HERE}:squares",
    build={"size": 8, "classes": 3},
    train={"epochs": 1, "batch": 64, "schedule": "cosine"},
)


def squares(size: tuple[int, int] = (8, 8)) -> tuple[Any, Any, Any, Any]:
    """Draw stripes in a frame: a function for `--data`."""
    x, y = stripes(120)
    edge = (size[0] - 6) // 2
    x = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    x = np.rint(255 * (x - x.min()) / (x.max() - x.min())).astype(np.uint8)
    return x[:90], y[:90], x[90:], y[90:]


def pair(**more: Any) -> Study:
    """Return a study of the compact network against CK."""
    arms = (Arm("compact"), Arm("CK", {"strategy": "ck", "rate": 1.0}))
    return Study("pair", "?", "Table 0", "smallnet", arms, **more)


def job(**more: Any) -> Job:
    """Return a small run."""
    return Job("smallnet", TOY.build, None, TOY.data, TOY.options, {"epochs": 1}, **more)
