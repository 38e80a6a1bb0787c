"""Distillation follows its published methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812

from onnx_expand.errors import UnsupportedError, UsageError  # noqa: E402
from onnx_expand.experiment import (  # noqa: E402
    Dataset,
    Distiller,
    DistillOptions,
    TrainOptions,
    load_data,
    train,
)
from onnx_expand.experiment.data.samples import ArraySamples  # noqa: E402
from onnx_expand.experiment.training.distill import with_output  # noqa: E402
from onnx_expand.train import to_torch, write_back  # noqa: E402
from tests.support.networks import network, write_stripes  # noqa: E402
from tests.support.torch_graphs import images, parse, with_weights  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Draw stripes in three directions, with noise."""
    path = write_stripes(tmp_path_factory.mktemp("data") / "stripes.npz")
    return load_data(path, channels=1, size=(6, 6), classes=3)


@pytest.fixture(scope="module")
def teacher(data: Dataset) -> onnx.ModelProto:
    """Train a wider network on the stripes; its outputs are probabilities."""
    model = parse(
        "c = Conv(x, w) inner = Relu(c) p = GlobalAveragePool(inner) f = Flatten(p)"
        "z = Gemm(f, g) y = Softmax(z)",
        "(float[n, 1, 6, 6] x) => (float[n, 3] y)",
    )
    model = with_weights(model, w=images(8, 1, 3, 3), g=images(8, 3, seed=1))
    module = to_torch(model)
    train(module, data, TrainOptions(epochs=15, lr=0.1, batch=16))
    return write_back(module, model)


def follow(teacher: Any, data: Dataset, options: TrainOptions, **settings: Any) -> Any:
    """Train a student; return the module and the trained model."""
    distiller = Distiller(teacher, DistillOptions(teacher="given", **settings))
    student = distiller.student(network())
    history = train(student, data, options, teacher=distiller)
    return history, write_back(student, network())


def test_the_divergence_is_hintons(teacher: onnx.ModelProto) -> None:
    """T^2 KL of the softmaxes at T, from logits on one side and probabilities on the other."""
    distiller = Distiller(teacher, DistillOptions(teacher="given", temperature=3.0))
    x = torch.randn(5, 1, 6, 6)
    student = torch.randn(5, 3, requires_grad=True)
    loss = distiller(x, student.log_softmax(1))
    goal = (to_torch(teacher)(x).log() / 3).softmax(1)
    wanted = 9 * (goal * (goal.log() - (student / 3).log_softmax(1))).sum()
    torch.testing.assert_close(loss, wanted)
    combined = distiller.combine(torch.tensor(2.0), torch.tensor(1.0))
    assert float(combined) == pytest.approx(0.1 * 2 + 0.9 * 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"distill": "hint", "student_layer": "r", "teacher_layer": "inner", "teacher_weight": 1.0},
        {"distill": "pkt", "student_layer": "f", "teacher_layer": "f", "teacher_weight": 10.0},
        {"distill": "pkt"},
    ],
)
def test_students_learn_and_keep_their_form(
    teacher: onnx.ModelProto, data: Dataset, settings: dict[str, Any]
) -> None:
    """The student learns, differs from one without a teacher, and has only its own weights."""
    options = TrainOptions(epochs=8, lr=0.1, batch=16)
    history, model = follow(teacher, data, options, **settings)
    assert history.score > 0.9
    assert [t.name for t in model.graph.initializer] == [
        t.name for t in network().graph.initializer
    ]
    assert [(n.op_type, *n.output) for n in model.graph.node] == [
        (n.op_type, *n.output) for n in network().graph.node
    ]
    assert [output.name for output in model.graph.output] == ["y"]
    alone = to_torch(network())
    train(alone, data, options)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[-2])
    assert not np.allclose(weight, alone.state_dict()["w"].numpy())


def test_a_teachers_labels_alone_make_the_student_agree(
    teacher: onnx.ModelProto, data: Dataset
) -> None:
    """With all weight on the teacher and wrong labels, the student follows the teacher."""
    wrong = Dataset(
        ArraySamples(data.x_train, (data.y_train + 1) % 3), data.test, data.classes, ""
    )
    options = TrainOptions(epochs=20, lr=0.1, batch=16)
    history, _ = follow(teacher, wrong, options, teacher_weight=1.0, temperature=1.0)
    assert history.score > 0.9  # the test labels are right


def test_the_teacher_does_not_change(teacher: onnx.ModelProto, data: Dataset) -> None:
    """Neither weights nor statistics of the teacher change."""
    source = network()  # with batch normalization
    distiller = Distiller(source, DistillOptions(teacher="given"))
    before = {k: v.clone() for k, v in distiller.teacher.state_dict().items()}
    train(distiller.student(network()), data, TrainOptions(epochs=1), teacher=distiller)
    for name, tensor in distiller.teacher.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_similarities_are_those_of_the_paper() -> None:
    """Cosines shifted to 0..1 and normalized by row; equal features have zero loss."""
    from onnx_expand.experiment.training.distill import _pkt

    a, b = torch.randn(6, 4), torch.randn(6, 9)
    every = slice(0, 6)
    assert float(_pkt(a, a * 3, every)) == pytest.approx(0, abs=1e-6)

    def rows(x: Any) -> Any:
        alike = (F.cosine_similarity(x[:, None], x[None], dim=2) + 1) / 2
        return alike / alike.sum(1, keepdim=True)

    p, q = rows(b), rows(a)
    whole = _pkt(a, b, every)
    torch.testing.assert_close(whole, 6 * (p * (p / q).log()).mean(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(_pkt(a, b, slice(0, 2)) + _pkt(a, b, slice(2, 6)), whole)


def test_an_inner_tensor_becomes_the_last_output() -> None:
    """By name; an existing output is repeated, and an unknown name is an error."""
    module = to_torch(with_output(network(), "r"))
    first, inner = module(torch.zeros(2, 1, 6, 6))
    assert (tuple(first.shape), tuple(inner.shape)) == ((2, 3), (2, 4, 4, 4))
    again = to_torch(with_output(network(), "y"))(torch.zeros(2, 1, 6, 6))
    assert torch.equal(again[0], again[1])
    with pytest.raises(UsageError, match="no inner tensor 'zz'"):
        with_output(network(), "zz")


def test_teachers_that_do_not_match_are_refused(teacher: onnx.ModelProto, data: Dataset) -> None:
    """Other classes, other images, one name of two, a task without classes."""
    options = TrainOptions(epochs=1)
    other = with_weights(
        parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 1, 6, 6] x) => (float[n, 2] y)"),
        g=images(36, 2),
    )
    with pytest.raises(UnsupportedError, match=r"returns \[2, 2\], the student \[2, 3\]"):
        follow(other, data, options)
    larger = with_weights(
        parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 3, 6, 6] x) => (float[n, 3] y)"),
        g=images(108, 3),
    )
    with pytest.raises(UnsupportedError, match=r"teacher does not run on a batch of"):
        follow(larger, data, options)
    with pytest.raises(UsageError, match="go together"):
        DistillOptions(teacher="t", distill="pkt", student_layer="r")
    with pytest.raises(UsageError, match="needs the names of two tensors"):
        DistillOptions(teacher="t", distill="hint")
    with pytest.raises(UsageError, match="between 0 and 1"):
        DistillOptions(teacher="t", teacher_weight=1.5)
