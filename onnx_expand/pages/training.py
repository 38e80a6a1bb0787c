"""Build the page of training runs: curves, the paired difference, samples."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_expand.pages.reports import Rows, page_of

if TYPE_CHECKING:
    from onnx_expand.experiment.gallery import Gallery

__all__ = ["Curve", "Difference", "png", "training_page"]


@dataclass(frozen=True)
class Curve:
    """The values of one run by epoch; None if not measured."""

    seed: int
    loss: Sequence[float | None]
    train: Sequence[float | None]
    test: Sequence[float | None]


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


def training_page(
    kind: str,
    text: str,
    metric: str,
    arms: Mapping[str, Sequence[Curve]],
    origin: Rows,
    *,
    good: bool | None = None,
    lines: Sequence[str] = (),
    cards: Sequence[tuple[str, str, str]] = (),
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
    difference: Difference | None = None,
    gallery: Gallery | None = None,
    settings: Rows = (),
) -> str:
    """Return the page of training runs.

    Args:
        kind: `train` or `demo`.
        text: The result in one line.
        metric: The name of the score; all but losses are fractions of one.
        arms: The runs of each model, by its name.
        origin: The origin of the report, from `provenance`.
        good: Whether the result is as expected; None if nothing was expected.
        lines: Further results, in sentences.
        cards: Figures, each with its name, value and note.
        tables: Tables, each with its title, header and rows.
        difference: The first model minus the second.
        gallery: Samples to show.
        settings: The options, by name.
    """
    training = {
        "metric": metric,
        "share": "loss" not in metric,
        "arms": [
            {"name": name, "curves": [_finite(asdict(curve)) for curve in curves]}
            for name, curves in arms.items()
        ],
        "difference": None if difference is None else _finite(asdict(difference)),
        "samples": [] if gallery is None else _samples(gallery),
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


def _finite(value: Any) -> Any:
    """Replace NaN and infinite numbers, which JSON cannot represent, by None."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _samples(gallery: Gallery) -> list[Mapping[str, Any]]:
    return [
        {
            "image": f"data:image/png;base64,{base64.b64encode(png(image)).decode()}",
            "truth": gallery.truth[i] if gallery.truth else None,
            "predicted": gallery.predicted[i] if gallery.predicted else None,
        }
        for i, image in enumerate(gallery.images)
    ]
