"""Build the page of training runs: curves, the paired difference, samples."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.pages.reports import Rows, page_of

__all__ = ["Curve", "Difference", "ModelRuns", "Sheet", "png", "training_page"]


@dataclass(frozen=True)
class Curve:
    """The values of one run by epoch; None if not measured."""

    seed: int
    loss: Sequence[float | None]
    train: Sequence[float | None]
    test: Sequence[float | None]


@dataclass(frozen=True)
class ModelRuns:
    """The runs of one model."""

    name: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Difference:
    """The difference of the scores of two models, paired by seed.

    Attributes:
        names: The two models; the second is subtracted from the first.
        seeds: The seeds.
        values: The differences.
        interval: 95 % confidence interval of their mean; None for one seed.
        text: The conclusion.
    """

    names: tuple[str, str]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Sheet:
    """Samples to show.

    Attributes:
        images: Bytes [N, H, W, 3].
        truth: The label of each; empty if unknown.
        predicted: The prediction of the model; empty if there is none.
    """

    images: npt.NDArray[np.uint8]
    truth: Sequence[str] = ()
    predicted: Sequence[str] = ()


def training_page(
    kind: str,
    text: str,
    metric: str,
    arms: Sequence[ModelRuns],
    origin: Rows,
    *,
    good: bool | None = None,
    lines: Sequence[str] = (),
    cards: Sequence[tuple[str, str, str]] = (),
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
    difference: Difference | None = None,
    sheet: Sheet | None = None,
    settings: Rows = (),
) -> str:
    """Return the page of training runs.

    Args:
        kind: `train` or `demo`.
        text: The result in one line.
        metric: The name of the score; all but losses are fractions of one.
        arms: The models.
        origin: The origin of the report, from `provenance`.
        good: Whether the result is as expected; None if nothing was expected.
        lines: Further results, in sentences.
        cards: Figures, each with its name, value and note.
        tables: Tables, each with its title, header and rows.
        difference: The first model minus the second.
        sheet: Samples to show.
        settings: The options, by name.
    """
    training = {
        "metric": metric,
        "share": "loss" not in metric,
        "arms": [_arm(arm) for arm in arms],
        "difference": None if difference is None else _difference(difference),
        "samples": [] if sheet is None else _samples(sheet),
        "lines": list(lines),
        "cards": [{"name": name, "value": value, "note": note} for name, value, note in cards],
        "tables": [
            {"title": title, "header": list(header), "rows": [list(row) for row in rows]}
            for title, header, rows in tables
        ],
        "settings": [list(row) for row in settings],
    }
    return page_of(kind, {"text": text, "good": good, "training": training}, origin)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image [H, W, 3] as PNG (ISO/IEC 15948) without filters."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _arm(arm: ModelRuns) -> Mapping[str, Any]:
    return {
        "name": arm.name,
        "curves": [
            {
                "seed": curve.seed,
                "loss": _finite(curve.loss),
                "train": _finite(curve.train),
                "test": _finite(curve.test),
            }
            for curve in arm.curves
        ],
    }


def _finite(values: Sequence[float | None]) -> list[float | None]:
    """Replace NaN and infinite values, which JSON cannot represent, by None."""
    return [v if v is not None and math.isfinite(v) else None for v in values]


def _difference(found: Difference) -> Mapping[str, Any]:
    return {
        "names": list(found.names),
        "seeds": list(found.seeds),
        "values": _finite(found.values),
        "interval": None if found.interval is None else _finite(found.interval),
        "text": found.text,
    }


def _samples(sheet: Sheet) -> list[Mapping[str, Any]]:
    return [
        {
            "image": f"data:image/png;base64,{base64.b64encode(png(image)).decode()}",
            "truth": sheet.truth[i] if sheet.truth else None,
            "predicted": sheet.predicted[i] if sheet.predicted else None,
        }
        for i, image in enumerate(sheet.images)
    ]
