"""Losses and scores equal their definitions."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812

from onnx_expand.errors import UnsupportedError, UsageError  # noqa: E402
from onnx_expand.experiment import Dataset, TrainOptions, evaluate, train  # noqa: E402
from onnx_expand.experiment.data.samples import ArraySamples, ItemSamples  # noqa: E402
from onnx_expand.experiment.data.targets import Labels  # noqa: E402
from onnx_expand.experiment.training.parallel import World  # noqa: E402
from onnx_expand.experiment.training.tasks.boxes import (  # noqa: E402
    anchors_of,
    average_precision,
    iou,
    nms,
)
from onnx_expand.experiment.training.tasks.classify import Classify  # noqa: E402
from onnx_expand.experiment.training.tasks.custom import CustomLoss  # noqa: E402
from onnx_expand.experiment.training.tasks.detect import Detect  # noqa: E402
from onnx_expand.experiment.training.tasks.segment import Segment  # noqa: E402
from onnx_expand.train import to_torch  # noqa: E402
from tests.support.networks import network, stripes  # noqa: E402
from tests.support.torch_graphs import images, parse, with_weights  # noqa: E402


def test_the_loss_of_classes_is_torchs() -> None:
    """The sum over a batch, with and without smoothing."""
    scores, labels = torch.randn(8, 5), torch.arange(8) % 5
    logs = scores.log_softmax(1)
    for smoothing in (0.0, 0.2):
        wanted = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="sum")
        torch.testing.assert_close(Classify(smoothing).loss(logs, labels), wanted)


def test_the_loss_of_pixels_is_torchs() -> None:
    """Ignored pixels do not count; the output may have a lower resolution."""
    scores, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    masks[0, :2] = 255
    for smoothing in (0.0, 0.1):
        task = Segment(smoothing, 255)
        mean = task.loss(scores.log_softmax(1), masks) / task.weight(masks)
        wanted = F.cross_entropy(scores, masks, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(mean, wanted)
    assert Segment(ignore=255).loss(scores[:, :, ::2, ::2].log_softmax(1), masks).isfinite()


def test_the_mean_intersection_over_union_by_hand() -> None:
    """Only classes that occur count, and parts give the same as all at once."""
    masks = torch.tensor([[[0, 0, 1, 1, 255]]])
    found = torch.tensor([[[0, 1, 1, 1, 0]]])
    scores = F.one_hot(found, 4).permute(0, 3, 1, 2).float()
    meter = Segment(ignore=255).meter()
    meter.update(scores, masks)
    meter.update(scores, masks)
    meter.merge(World())
    figures = meter.figures()
    assert figures["mIoU"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures["pixel accuracy"] == pytest.approx(3 / 4)


class Two(World):
    """Two processes of which the other has equal results."""

    def sum(self, tensor: Any) -> Any:
        """Double the tensor in place."""
        return tensor.mul_(2)

    def gather(self, value: Any) -> list[Any]:
        """Return both values."""
        return [value, value]


def test_processes_combine_their_results() -> None:
    """Twice the same data gives the same figures, for all tasks."""
    objects = targets((0, 0.1, 0.1, 0.32, 0.28, 0), (1, 0.3, 0.4, 0.9, 0.95, 0))
    tasks: list[tuple[Any, Any, Any]] = [
        (Classify(), torch.randn(6, 4), torch.arange(6) % 4),
        (Segment(ignore=255), torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))),
        (Detect(ANCHORS, 2, ItemSamples([])), perfect(objects), objects),
        (CustomLoss(lambda a, b: (a - b).square().mean(), "own"), torch.ones(3), torch.zeros(3)),
    ]
    for task, outputs, wanted in tasks:
        figures = []
        for world in (World(), Two(0, 2)):
            meter = task.meter()
            meter.update(outputs, wanted)
            meter.merge(world)
            figures.append(meter.figures())
        assert figures[0] == pytest.approx(figures[1])


def test_the_five_best_are_counted_where_there_are_many_classes() -> None:
    """Top-5 accuracy, by hand."""
    scores = torch.arange(20.0).repeat(4, 1)
    meter = Classify().meter()
    meter.update(scores, torch.tensor([19, 18, 15, 3]))
    meter.merge(World())
    assert meter.figures() == {"accuracy": 0.25, "top-5 accuracy": 0.75}


corner = st.floats(0, 1, width=32)
box = st.tuples(corner, corner, corner, corner)


@given(a=box, b=box)
@settings(max_examples=100, deadline=None)
def test_overlap_is_symmetric_and_a_share(a: Any, b: Any) -> None:
    """It is between 0 and 1, 1 for equal nonempty boxes, and symmetric."""
    first, second = torch.tensor(a).double(), torch.tensor(b).double()
    value = float(iou(first, second))
    assert 0 <= value <= 1
    assert value == float(iou(second, first))
    own = float(iou(first, first))
    assert own == pytest.approx(1 if a[2] > a[0] and a[3] > a[1] else 0)


def test_overlap_by_hand() -> None:
    """A common quarter of each is a seventh of the union."""
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    assert float(iou(a, b)) == pytest.approx(1 / 7)


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_suppression_keeps_the_best_of_each_cluster(seed: int, count: int) -> None:
    """Kept boxes overlap little, and each removed one overlaps a better kept one."""
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + rng.random((count, 2))], axis=1))
    scores = torch.from_numpy(rng.random(count))
    stays = nms(boxes, scores, 0.3).tolist()
    for i, j in itertools.combinations(stays, 2):
        assert float(iou(boxes[i], boxes[j])) <= 0.3
    for gone in set(range(count)) - set(stays):
        assert any(
            float(iou(boxes[gone], boxes[i])) > 0.3 and scores[i] >= scores[gone] for i in stays
        )


def test_average_precision_by_hand() -> None:
    """Hit, miss, hit of three objects: precision 1 and 2/3 at recall 1/3 and 2/3."""
    area, points = average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
    assert area == pytest.approx((1 + 2 / 3) / 3)
    assert points == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert average_precision(np.array([]), np.array([], dtype=bool), 2) == (0, 0)


def test_anchors_are_the_shapes_of_the_boxes() -> None:
    """Boxes of two shapes have two anchors, in any order."""
    shapes = np.array([[0.1, 0.2]] * 5 + [[0.6, 0.5]] * 3)
    assert anchors_of(shapes[::-1].copy(), 2) == [(0.1, 0.2), (0.6, 0.5)]


ANCHORS = [(0.2, 0.2), (0.6, 0.5)]


def targets(*rows: tuple[float, ...]) -> Any:
    """Return the objects of one image, and one empty row."""
    return torch.tensor([[*rows, (-1.0,) * 6]])


def perfect(objects: Any, size: int = 4) -> Any:
    """Return an output that predicts some objects exactly."""
    output = torch.full((1, 2, 7, size, size), -12.0)
    for label, x0, y0, x1, y1, _ in objects[0].tolist():
        if label < 0:
            continue
        column, row = (x0 + x1) / 2 * size, (y0 + y1) / 2 * size
        fits = [
            min(x1 - x0, w) * min(y1 - y0, h) / max(x1 - x0, w) / max(y1 - y0, h)
            for w, h in ANCHORS
        ]
        anchor = int(np.argmax(fits))
        inside = torch.tensor([column % 1, row % 1]).logit()
        shape = torch.tensor([(x1 - x0) / ANCHORS[anchor][0], (y1 - y0) / ANCHORS[anchor][1]])
        cell = output[0, anchor, :, int(row), int(column)]
        cell[:2], cell[2:4], cell[4], cell[5 + int(label)] = inside, shape.log(), 12, 12
    return output.reshape(1, 14, size, size)


def detection(objects: Any) -> tuple[Detect, Any]:
    """Return the task for two classes."""
    return Detect(ANCHORS, 2, ItemSamples([])), objects


def test_the_right_boxes_have_no_loss_and_the_best_score() -> None:
    """An exact output has zero loss and score 1; each error costs something."""
    objects = targets((0, 0.1, 0.1, 0.32, 0.28, 0), (1, 0.3, 0.4, 0.9, 0.95, 0))
    task, _ = detection(objects)
    output = perfect(objects)
    task.probe(output, objects)
    assert float(task.loss(output, objects)) < 1e-3
    meter = task.meter()
    meter.update(output, objects)
    meter.merge(World())
    assert meter.figures()["mAP@0.5"] == pytest.approx(1)
    other = targets((1, 0.1, 0.1, 0.32, 0.28, 0), (1, 0.3, 0.4, 0.9, 0.95, 0))
    assert float(task.loss(output, other)) > 5
    moved = targets((0, 0.6, 0.1, 0.82, 0.28, 0), (1, 0.3, 0.4, 0.9, 0.95, 0))
    assert float(task.loss(output, moved)) > 5
    meter = task.meter()
    meter.update(output, moved)
    assert meter.figures()["mAP@0.5"] == pytest.approx(0.5)


def test_difficult_objects_do_not_count() -> None:
    """Found or not, they change neither the loss's objects nor the score."""
    objects = targets((0, 0.1, 0.1, 0.32, 0.28, 0), (0, 0.3, 0.4, 0.9, 0.95, 1))
    task, _ = detection(objects)
    for output in (perfect(objects), perfect(objects[:, [0, 2, 2]])):
        meter = task.meter()
        meter.update(output, objects)
        assert meter.figures()["mAP@0.5"] == pytest.approx(1)
    assert float(task.loss(perfect(objects[:, [0, 2, 2]]), objects)) < 1e-3


def test_only_responsible_cells_learn_a_class() -> None:
    """The gradient of class scores is zero except in the cells that contain an object."""
    objects = targets((0, 0.1, 0.1, 0.32, 0.28, 0), (1, 0.3, 0.4, 0.9, 0.95, 0)).double()
    task, _ = detection(objects)
    output = torch.randn(1, 14, 3, 3, dtype=torch.float64, requires_grad=True)
    task.loss(output, objects).backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert output.grad.isfinite().all()
    scores = output.grad.reshape(2, 7, 3, 3)[:, 5:]
    assert int((scores.abs().sum(1) > 0).sum()) == 2
    torch.testing.assert_close(scores.sum(), torch.zeros((), dtype=torch.float64))


def test_outputs_of_another_shape_are_refused() -> None:
    """The error states the required shape."""
    task = Detect(ANCHORS, 2, ItemSamples([]))
    with pytest.raises(UnsupportedError, match="anchors x 7"):
        task.probe(torch.zeros(1, 13, 3, 3), torch.zeros(1, 1, 6))
    with pytest.raises(UnsupportedError, match="3 anchors of 2 classes, and 2 are given"):
        task.probe(torch.zeros(1, 21, 3, 3), torch.zeros(1, 1, 6))
    with pytest.raises(UnsupportedError, match=r"needs \[N, classes, H, W\]"):
        Segment(ignore=255).probe(torch.zeros(2, 3), torch.zeros(2, 4, 4))
    with pytest.raises(UnsupportedError, match="one for each sample"):
        Classify().probe(torch.zeros(2, 3), torch.zeros(2, 4, 4))


def test_segmentation_is_learnt() -> None:
    """A 1x1 convolution finds the bright pixels, with any final op."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1, 6, 6)).astype(np.float32)
    y = (x[:, 0] > 0.3).astype(np.int64)
    y[:, 0, 0] = 255
    data = Dataset(
        ArraySamples(x[:30], y[:30]), ArraySamples(x[30:], y[30:]), (), "bright", "segment"
    )
    losses = []
    for end in ("y = Identity(c)", "y = Softmax<axis=1>(c)"):
        model = parse(
            f"c = Conv(x, w, b) {end}", "(float[n, 1, h, v] x) => (float[n, 2, h, v] y)",
            "float[2] b = {0, 0}",
        )  # fmt: skip
        module = to_torch(with_weights(model, w=images(2, 1, 1, 1)))
        history = train(module, data, TrainOptions(epochs=20, lr=2.0, batch=10))
        assert history.metric == "mIoU"
        assert history.score > 0.9
        assert evaluate(module, data) == history.score
        losses.append(history.epochs[-1].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_detection_is_learnt() -> None:
    """A bright square in noise is found."""
    rng = np.random.default_rng(0)
    items = []
    for _ in range(60):
        image = rng.normal(0, 0.1, (1, 16, 16)).astype(np.float32)
        row, column = rng.integers(0, 11, 2)
        image[0, row : row + 5, column : column + 5] += 2
        found = [0, column / 16, row / 16, (column + 5) / 16, (row + 5) / 16, 0]
        items.append((image, np.array([found], dtype=np.float32)))
    model = parse(
        "a = Conv<pads=[2, 2, 2, 2], strides=[2, 2]>(x, w1, b1) r = Relu(a)"
        "c = Conv<pads=[2, 2, 2, 2], strides=[2, 2]>(r, w2) q = Relu(c) y = Conv(q, w3, b3)",
        "(float[n, 1, 16, 16] x) => (float[n, 6, 4, 4] y)",
    )
    model = with_weights(
        model, w1=images(8, 1, 5, 5) / 5, b1=images(8) / 5, w2=images(16, 8, 5, 5) / 14,
        w3=images(6, 16, 1, 1) / 4, b3=np.array([0, 0, 0, 0, -2, 0], np.float32),
    )  # fmt: skip
    data = Dataset(
        ItemSamples(items[:50]), ItemSamples(items[50:]), ("square",), "squares", "detect"
    )
    history = train(
        to_torch(model), data, TrainOptions(epochs=25, lr=0.01, batch=10, optimizer="adamw")
    )
    assert history.metric == "mAP@0.5"
    assert history.score > 0.8
    assert history.epochs[-1].train_score is None


def test_a_custom_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is minimized, and its mean over the test data is the score, where less is better."""
    module = types.ModuleType("own_loss")
    functions: dict[str, Any] = {
        "square": lambda outputs, y: (outputs - F.one_hot(y, 3)).square().sum(1).mean(),
        "words": lambda outputs, y: "loss", "rows": lambda outputs, y: outputs,
    }  # fmt: skip
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "own_loss", module)
    x, y = stripes()
    data = Dataset(ArraySamples(x[:120], y[:120]), ArraySamples(x[120:], y[120:]), (), "")
    options = TrainOptions(epochs=6, lr=0.05, batch=16, loss="own_loss:square", keep="best")
    net = to_torch(network())
    history = train(net, data, options)
    assert (history.metric, history.greater) == ("test loss", False)
    assert history.score == min(epoch.test_score for epoch in history.epochs)
    assert history.score < history.epochs[0].loss
    with torch.no_grad():
        outputs = net(torch.from_numpy(x[120:]))
    wanted = float(functions["square"](outputs, torch.from_numpy(y[120:])))
    assert history.score == pytest.approx(wanted, rel=1e-5)
    for name in ("words", "rows"):
        with pytest.raises(UnsupportedError, match="it must be a tensor of one number"):
            train(to_torch(network()), data, TrainOptions(loss=f"own_loss:{name}"))
    with pytest.raises(UsageError, match="no function 'absent'"):
        train(to_torch(network()), data, TrainOptions(loss="own_loss:absent"))


def test_a_task_must_fit_the_labels(tmp_path: Path) -> None:
    """Detection cannot train on classes."""
    x, y = stripes()
    samples = ArraySamples(x, y)
    data = Dataset(samples, samples, ("a", "b", "c"), "")
    with pytest.raises(UsageError, match="task is detect, but the data is labelled to classify"):
        train(to_torch(network()), data, TrainOptions(task="detect"))
    assert Labels(y).values is y
