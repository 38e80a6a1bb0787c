"""Computations on boxes: overlap, suppression, average precision, anchors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["anchors_of", "average_precision", "iou", "nms"]

Floats = npt.NDArray[np.float64]


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute the intersection over union of boxes (left, top, right, bottom) along the last axis.

    The other axes are broadcast. Boxes without extent have no overlap.
    """
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    inner = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b)]
    return inner / (areas[0] + areas[1] - inner).clamp(min=torch.finfo(inner.dtype).tiny)


def nms(boxes: torch.Tensor, scores: torch.Tensor, limit: float) -> torch.Tensor:
    """Select boxes by non-maximum suppression: each removes overlapping ones of lower score.

    Returns:
        The indices of the selected boxes, by decreasing score.
    """
    order = scores.argsort(descending=True, stable=True)
    mutual = iou(boxes[order][:, None], boxes[order][None])
    above = (mutual > limit).cpu().numpy()
    stays = np.ones(len(order), dtype=bool)
    for row in range(len(order)):
        if stays[row]:
            stays[row + 1 :] &= ~above[row, row + 1 :]
    return order[torch.from_numpy(stays).to(order.device)]


def average_precision(
    scores: Floats, hits: npt.NDArray[np.bool_], positives: int
) -> tuple[float, float]:
    """Return the area under precision over recall, and its mean at 11 recalls as in VOC 2007."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(hits[order])
    recall = found / positives
    precision = found / np.arange(1, len(order) + 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    area = float(np.sum(np.diff(np.concatenate([[0.0], recall])) * best))
    points = [best[recall >= r - 1e-12].max(initial=0.0) for r in np.linspace(0, 1, 11)]
    return area, float(np.mean(points))


def anchors_of(shapes: Floats, count: int) -> list[tuple[float, float]]:
    """Find representative shapes of boxes, by k-means on overlap (YOLOv2, section 2).

    Args:
        shapes: Widths and heights, [N, 2].
        count: The number of anchors.
    """
    areas = shapes.prod(axis=1)
    order = np.argsort(areas, kind="stable")
    places = (np.arange(count) + 0.5) * len(shapes) / count
    centers: Any = shapes[order[places.astype(np.int64)]]
    for _ in range(100):
        inner = np.minimum(shapes[:, None], centers[None]).prod(axis=2)
        nearest = (inner / (areas[:, None] + centers.prod(axis=1) - inner)).argmax(axis=1)
        moved = np.array(
            [
                np.median(shapes[nearest == k], axis=0) if (nearest == k).any() else centers[k]
                for k in range(count)
            ]
        )
        if np.array_equal(moved, centers):
            break
        centers = moved
    centers = centers[np.argsort(centers.prod(axis=1), kind="stable")]
    return [(float(width), float(height)) for width, height in centers]
