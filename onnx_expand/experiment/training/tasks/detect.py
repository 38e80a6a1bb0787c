"""Detection as in YOLOv2: a grid of cells, each with boxes of a few shapes.

The output is [N, anchors (5 + classes), rows, columns]; for each anchor these are the box's x, y,
width and height, the objectness, and the classes. The loss is that of Darknet's region layer:
squared errors of the box (weighted up to 2 for small boxes), of the objectness against the overlap
of the box with its object (weight 5), and of the objectness without an object (weight 1), and the
cross-entropy of the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError
from onnx_expand.experiment.data.samples import Samples
from onnx_expand.experiment.training.parallel import World
from onnx_expand.experiment.training.tasks.base import Meter, Task, check_labels, first_output
from onnx_expand.experiment.training.tasks.boxes import (
    anchors_of,
    average_precision,
    iou,
    nms,
)

__all__ = ["Detect"]

_OBJECT = 5.0
_IGNORED_ABOVE = 0.6
_HIT = 0.5
_SAME = 0.45
_LEAST = 0.005
_MOST = 100
_MEASURED = 512
# The exponential of a larger value exceeds any box in an image, and its square may overflow.
_LARGEST = 8.0


class Detect(Task):
    """Labelled boxes.

    Args:
        anchors: The shapes of boxes as shares of the image; found by k-means if empty.
        classes: The number of classes.
        samples: The training data, from which anchors are found.
    """

    metric = "mAP@0.5"

    def __init__(
        self, anchors: Sequence[tuple[float, float]], classes: int, samples: Samples
    ) -> None:
        self.anchors = list(anchors)
        self.classes = classes
        self.samples = samples

    def probe(self, outputs: Any, targets: Any) -> None:
        """See `Task`; also finds the anchors if none are given."""
        first = first_output(outputs)
        each = 5 + self.classes
        fits = first.ndim == 4 and first.shape[0] == len(targets) and first.shape[1] % each == 0
        if not fits or not first.is_floating_point():
            raise UnsupportedError(
                f"the first output of a batch of {len(targets)} is {list(first.shape)}; detection "
                f"of {self.classes} classes needs [N, anchors x {each}, rows, columns]"
            )
        count = first.shape[1] // each
        if not self.anchors:
            self.anchors = self._anchors(count)
        if len(self.anchors) != count:
            raise UnsupportedError(
                f"the output has {count} anchors of {self.classes} classes, and "
                f"{len(self.anchors)} are given"
            )

    def _anchors(self, count: int) -> list[tuple[float, float]]:
        picks = np.linspace(0, len(self.samples) - 1, min(len(self.samples), _MEASURED))
        boxes = self.samples.fetch(np.unique(picks.astype(np.int64)), None).targets
        boxes = boxes[boxes[..., 0] >= 0].double().numpy()
        if len(boxes) < count:
            raise UnsupportedError(f"{len(boxes)} boxes are too few for {count} anchors")
        return anchors_of(boxes[:, 3:5] - boxes[:, 1:3], count)

    def inspect(self, targets: Any) -> None:
        """See `Task`; rows of label -1 are unused."""
        check_labels(targets[..., 0], self.classes, -1)

    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """See `Task`."""
        grid = _Grid(first_output(outputs), self.anchors, self.classes)
        counted = (targets[..., 0] >= 0) & (targets[..., 5] == 0)
        with torch.no_grad():
            everything = iou(grid.boxes.flatten(1, 3)[:, :, None], targets[:, None, :, 1:5])
            known = (targets[..., 0] >= 0)[:, None]
            near = torch.where(known, everything, 0).amax(dim=2).reshape(grid.confidence.shape)
        empty = near <= _IGNORED_ABOVE
        batch, row = torch.nonzero(counted, as_tuple=True)
        boxes = targets[batch, row]
        place = (batch, *grid.place(boxes))
        empty[place] = False
        nothing = (grid.confidence.square() * empty).sum()
        if not len(batch):
            return nothing
        raw, goal, small = grid.raw[place], grid.goal(boxes, place), grid.smallness(boxes)
        box = (torch.cat([raw[:, :2].sigmoid(), raw[:, 2:4]], dim=1) - goal).square().sum(dim=1)
        met = iou(grid.boxes[place], boxes[:, 1:5].to(raw.dtype)).detach()
        something = (grid.confidence[place] - met).square()
        kind = F.cross_entropy(raw[:, 5:], boxes[:, 0].long(), reduction="sum")
        return (small * box).sum() + _OBJECT * something.sum() + nothing + kind

    def meter(self) -> Meter:
        """See `Task`."""
        return _Precision(self)


class _Grid:
    """The predictions of a model for every cell and anchor.

    Attributes:
        raw: [N, rows, columns, anchors, 5 + classes].
        confidence: [N, rows, columns, anchors], from 0 to 1.
        boxes: [N, rows, columns, anchors, 4], corners as shares of the image.
    """

    def __init__(
        self, output: torch.Tensor, anchors: Sequence[tuple[float, float]], classes: int
    ) -> None:
        count, _, rows, columns = output.shape
        # Half precision is too coarse for the corners of boxes.
        output = output.float() if output.dtype in {torch.float16, torch.bfloat16} else output
        self.rows, self.columns = rows, columns
        shaped = output.reshape(count, len(anchors), 5 + classes, rows, columns)
        self.raw = shaped.permute(0, 3, 4, 1, 2)
        self.anchors = output.new_tensor(anchors)
        self.confidence = self.raw[..., 4].sigmoid()
        corner = torch.stack(
            torch.meshgrid(
                torch.arange(columns, device=output.device),
                torch.arange(rows, device=output.device),
                indexing="xy",
            ),
            dim=-1,
        )[:, :, None]
        extents = output.new_tensor([columns, rows])
        middle = (self.raw[..., :2].sigmoid() + corner) / extents
        half = self.raw[..., 2:4].clamp(max=_LARGEST).exp() * self.anchors / 2
        self.boxes = torch.cat([middle - half, middle + half], dim=-1)

    def place(self, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return image, row, column and anchor that are responsible for boxes [M, 6]."""
        middle = (boxes[:, 1:3] + boxes[:, 3:5]) / 2
        column = (middle[:, 0] * self.columns).long().clamp(0, self.columns - 1)
        row = (middle[:, 1] * self.rows).long().clamp(0, self.rows - 1)
        shape = boxes[:, 3:5] - boxes[:, 1:3]
        nothing = torch.zeros_like(shape)
        fit = iou(
            torch.cat([nothing, shape], dim=1)[:, None],
            torch.cat([torch.zeros_like(self.anchors), self.anchors], dim=1)[None],
        )
        return row, column, fit.argmax(dim=1)

    def goal(self, boxes: torch.Tensor, place: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the targets of the box's values: position in the cell, logarithms of extents."""
        _, row, column, anchor = place
        middle = (boxes[:, 1:3] + boxes[:, 3:5]) / 2
        inside = torch.stack(
            [middle[:, 0] * self.columns - column, middle[:, 1] * self.rows - row], dim=1
        )
        extents = ((boxes[:, 3:5] - boxes[:, 1:3]) / self.anchors[anchor]).log()
        return torch.cat([inside, extents], dim=1).to(self.raw.dtype)

    @staticmethod
    def smallness(boxes: torch.Tensor) -> torch.Tensor:
        """Return a weight from 1 for a box as large as the image to 2 for a point."""
        return 2 - (boxes[:, 3:5] - boxes[:, 1:3]).prod(dim=1)


# One image's detections [D, 6]: label, score, corners; and its objects [M, 6].
Record = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class _Precision(Meter):
    def __init__(self, task: Detect) -> None:
        self.task = task
        self.records: list[Record] = []

    def update(self, outputs: Any, targets: Any) -> None:
        grid = _Grid(first_output(outputs), self.task.anchors, self.task.classes)
        chances = grid.raw[..., 5:].softmax(dim=-1) * grid.confidence[..., None]
        for image in range(len(targets)):
            boxes = grid.boxes[image].flatten(0, 2).clamp(0, 1)
            found = _detections(boxes, chances[image].flatten(0, 2))
            objects = targets[image][targets[image][:, 0] >= 0]
            self.records.append((found, objects.double().cpu().numpy()))

    def merge(self, world: World) -> None:
        self.records = [record for part in world.gather(self.records) for record in part]

    def figures(self) -> Mapping[str, float]:
        """Return the figures over the classes of which the test data has objects."""
        areas = [
            result
            for label in range(self.task.classes)
            if (result := self._class(label)) is not None
        ]
        means = np.mean(areas, axis=0) if areas else (0.0, 0.0)
        return {"mAP@0.5": float(means[0]), "mAP@0.5, 11 points": float(means[1])}

    def _class(self, label: int) -> tuple[float, float] | None:
        scores: list[float] = []
        hits: list[bool] = []
        positives = 0
        for found, objects in self.records:
            mine = objects[objects[:, 0] == label]
            positives += int((mine[:, 5] == 0).sum())
            for score, hit in _matches(found[found[:, 0] == label], mine):
                scores.append(score)
                hits.append(hit)
        if not positives:
            return None
        return average_precision(np.array(scores), np.array(hits, dtype=bool), positives)


def _detections(boxes: torch.Tensor, chances: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the detections of one image [D, 6], by decreasing score."""
    rows = []
    for label in range(chances.shape[1]):
        likely = torch.nonzero(chances[:, label] > _LEAST).flatten()
        if not len(likely):
            continue
        stays = likely[nms(boxes[likely], chances[likely, label], _SAME)]
        scores = chances[stays, label]
        labels = torch.full_like(scores, float(label))
        rows.append(torch.cat([torch.stack([labels, scores], dim=1), boxes[stays]], dim=1))
    if not rows:
        return np.zeros((0, 6))
    everything = torch.cat(rows)
    best = everything[:, 1].argsort(descending=True, stable=True)[:_MOST]
    result: npt.NDArray[np.float64] = everything[best].double().cpu().numpy()
    return result


def _matches(
    found: npt.NDArray[np.float64], objects: npt.NDArray[np.float64]
) -> list[tuple[float, bool]]:
    """Return for each detection its score, and whether it is the first to find an object.

    As in VOC's own evaluation, a detection of a difficult object is not counted.
    """
    taken: set[int] = set()
    results = []
    for row in found:
        best, at = 0.0, -1
        if len(objects):
            met = iou(torch.from_numpy(row[None, 2:]), torch.from_numpy(objects[:, 1:5]))
            at = int(met.argmax())
            best = float(met[at])
        if best < _HIT:
            results.append((float(row[1]), False))
        elif objects[at, 5] == 0:
            results.append((float(row[1]), at not in taken))
            taken.add(at)
    return results
