"""Training lowers the loss, is repeatable, and stops with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.errors import UnsupportedError, UsageError  # noqa: E402
from onnx_expand.experiment import (  # noqa: E402
    DataOptions,
    Dataset,
    DivergedError,
    EpochResult,
    TrainOptions,
    evaluate,
    load_data,
    train,
)
from onnx_expand.experiment.data.samples import Batch  # noqa: E402
from onnx_expand.experiment.training.steps import to_device  # noqa: E402
from onnx_expand.train import to_torch, write_back  # noqa: E402
from tests.support.networks import network, plain, write_stripes  # noqa: E402
from tests.support.torch_graphs import images, parse, reference, with_weights  # noqa: E402

HEADS = ["y = Identity(z)", "y = Softmax(z)", "y = LogSoftmax(z)"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Draw stripes in three directions, with noise."""
    path = write_stripes(tmp_path_factory.mktemp("data") / "stripes.npz")
    return load_data(path, channels=1, size=(6, 6), classes=3)


@dataclass
class Recorder:
    """Records progress."""

    batches: list[tuple[int, int]] = field(default_factory=list)
    epochs: list[EpochResult] = field(default_factory=list)

    def on_batch(self, done: int, total: int) -> None:
        """Keeps it."""
        self.batches.append((done, total))

    def on_epoch(self, result: EpochResult) -> None:
        """Keeps it."""
        self.epochs.append(result)


@pytest.mark.parametrize("head", HEADS)
def test_training_learns(data: Dataset, head: str) -> None:
    """The loss falls for any final op, and onnxruntime confirms the accuracy."""
    model = network(head)
    module = to_torch(model)
    history = train(module, data, TrainOptions(epochs=8, lr=0.1, batch=16))
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert history.score > 0.9
    assert evaluate(module, data) == history.score
    (scores,) = reference(write_back(module, model), data.x_test)
    assert np.mean(scores.argmax(axis=1) == data.y_test) == history.score


def test_the_head_does_not_change_the_losses(data: Dataset) -> None:
    """Logits, probabilities and their logarithms give equal losses, also in old opsets."""
    options = TrainOptions(epochs=2, lr=0.05, batch=32)
    losses = [
        [epoch.loss for epoch in train(to_torch(network(head, opset)), data, options).epochs]
        for head, opset in [(HEADS[0], 17), (HEADS[1], 17), (HEADS[2], 17), (HEADS[1], 11)]
    ]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)


def test_a_seed_fixes_the_result(data: Dataset) -> None:
    """Equal seeds give equal weights, and torch's global generator does not change."""

    def run(seed: int) -> dict[str, Any]:
        module = to_torch(network())
        train(module, data, TrainOptions(epochs=2, batch=32, seed=seed))
        return module.state_dict()

    state = torch.random.get_rng_state()
    first, second, third = run(1), run(1), run(2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_progress_is_reported(data: Dataset) -> None:
    """Each step and epoch is reported, and a last batch of one sample is omitted."""
    recorder = Recorder()
    count = len(data.y_train)
    module = to_torch(network())
    history = train(module, data, TrainOptions(epochs=2, batch=count - 1), recorder)
    assert recorder.batches == [(1, 1), (1, 1)]
    assert tuple(recorder.epochs) == history.epochs
    assert [epoch.epoch for epoch in recorder.epochs] == [1, 2]
    assert not module.training
    recorder = Recorder()
    train(module, data, TrainOptions(epochs=1, batch=count - 2), recorder)
    assert recorder.batches == [(1, 2), (2, 2)]


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_is_an_error_with_advice(data: Dataset) -> None:
    """If the loss is not finite, the error names the epoch and the step."""
    with pytest.raises(DivergedError, match=r"lower the learning rate .* of node '.+' \(\w+\) is"):
        train(to_torch(network()), data, TrainOptions(epochs=50, lr=1e30))


def test_the_first_node_without_a_finite_result_is_named(data: Dataset) -> None:
    """If all weights are finite, the error names the logarithm that is not, once."""
    model = parse(
        "c = Conv(x, w) l = Log(c) p = GlobalAveragePool(l) y = Flatten(p)",
        "(float[n, 1, 6, 6] x) => (float[n, 4] y)",
    )
    module = to_torch(with_weights(model, w=images(4, 1, 3, 3)))
    with pytest.raises(DivergedError, match=r"epoch 1, step 1; .*first node .* is 'l' \(Log\)$"):
        train(module, data)


def test_a_model_without_weights_is_refused(data: Dataset) -> None:
    """A model without trainable weights is refused."""
    model = parse(
        "p = GlobalMaxPool(x) y = Flatten(p)", "(float[n, 1, 6, 6] x) => (float[n, 1] y)"
    )
    with pytest.raises(UnsupportedError, match="nothing to train"):
        train(to_torch(model), data)


def test_statistics_that_overflow_end_the_run(data: Dataset) -> None:
    """Training stops even if the loss stays finite, since the model would be useless."""
    model = network()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    # The squares overflow float32; normalization by an infinite deviation gives zero.
    large = onnx.numpy_helper.to_array(weight) * np.float32(3e19)
    weight.CopyFrom(onnx.numpy_helper.from_array(large, "w"))
    with pytest.raises(DivergedError, match=r"epoch 1 the tensor 'v' of node 'b' \(Batch"):
        train(to_torch(model), data, TrainOptions(lr=1e-30, batch=16))


def test_infinite_constants_are_not_divergence(data: Dataset) -> None:
    """Masks contain infinity from the beginning."""
    flat = parse(
        "f = Flatten(x) z = Gemm(f, g) y = Max(z, low)", "(float[n, 1, 6, 6] x) => (float[n, 3] y)"
    )
    low = np.full(3, -np.inf, np.float32)
    module = to_torch(with_weights(flat, g=images(36, 3), low=low), freeze="low")
    assert train(module, data, TrainOptions(epochs=1)).score > 0


def test_statistics_need_two_numbers(data: Dataset) -> None:
    """A single sample has no variance; the error states what to change."""
    flat = parse(
        "f = Flatten(x) z = Gemm(f, g) y = BatchNormalization(z, s, t, m, v)",
        "(float[n, 1, 6, 6] x) => (float[n, 3] y)",
        "float[3] s = {1, 1, 1}, float[3] t = {0, 0, 0}, float[3] m = {0, 0, 0},"
        "float[3] v = {1, 1, 1}",
    )
    model = with_weights(flat, g=images(36, 3))
    for options in (TrainOptions(batch=1), TrainOptions(batch=4, accumulate=4)):
        with pytest.raises(UnsupportedError, match="raise batch, lower accumulate"):
            train(to_torch(model), data, options)


def test_data_and_model_must_fit(data: Dataset) -> None:
    """A fixed batch, an output without classes, and too few classes are distinguished."""
    for batch in (1, 2, 16):
        fixed = parse(
            f"s = Constant<value_ints=[{batch}, 36]>() f = Reshape(x, s) y = Gemm(f, g)",
            f"(float[{batch}, 1, 6, 6] x) => (float[{batch}, 3] y)",
        )
        with pytest.raises(UnsupportedError, match=r"does not run on a batch of .*dynamic batch"):
            train(to_torch(with_weights(fixed, g=images(36, 3))), data)
    best = parse(
        "f = Flatten(x) z = Gemm(f, g) y = ReduceMean<axes=[1], keepdims=0>(z)",
        "(float[n, 1, 6, 6] x) => (float[n] y)",
    )
    with pytest.raises(UnsupportedError, match=r"is \[2\]; classification needs \[N, classes\]"):
        train(to_torch(with_weights(best, g=images(36, 3))), data)
    spatial = parse("y = Conv(x, w)", "(float[n, 1, 6, 6] x) => (float[n, 3, 4, 4] y)")
    with pytest.raises(UnsupportedError, match=r"is \[2, 3, 4, 4\]"):
        train(to_torch(with_weights(spatial, w=images(3, 1, 3, 3))), data)
    small = parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 1, 6, 6] x) => (float[n, 2] y)")
    with pytest.raises(UnsupportedError, match="2 classes, and the data has a label 2"):
        train(to_torch(with_weights(small, g=images(36, 2))), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"schedule": "linear"}, "none of constant, step, cosine"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """Invalid values are refused by name."""
    with pytest.raises(UsageError, match=message):
        TrainOptions(**options)


def test_schedules() -> None:
    """The rate stays, falls tenfold after each third, or follows a cosine."""
    assert TrainOptions(lr=0.1).rate(9) == 0.1
    step = TrainOptions(epochs=150, lr=0.01, schedule="step")
    assert [step.rate(e) for e in (0, 49, 50, 99, 100, 149)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )
    cosine = TrainOptions(epochs=4, lr=1.0, schedule="cosine")
    assert [cosine.rate(e) for e in (0, 2)] == pytest.approx([1.0, 0.5])


def test_without_torch_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    import importlib
    import sys

    for name in [n for n in sys.modules if n.startswith("onnx_expand.train")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedError, match=r"onnx-expand\[train\]"):
        importlib.import_module("onnx_expand.train")


def weights(model: Any, data: Dataset, **settings: Any) -> dict[str, Any]:
    """Return the weights after a run."""
    module = to_torch(model)
    train(module, data, TrainOptions(**settings))
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def without_dropout() -> onnx.ModelProto:
    """Build a network in which the parts of a batch are independent."""
    model = plain()
    model.graph.node[2].op_type = "Identity"
    return model


def test_parts_of_a_batch_make_the_same_step(data: Dataset) -> None:
    """Gradients of parts, even unequal ones, add up to that of the batch."""
    common = {"epochs": 2, "batch": 32, "lr": 0.05}
    whole = weights(without_dropout(), data, **common)
    for parts in (2, 5, 32):
        other = weights(without_dropout(), data, accumulate=parts, **common)
        for name, tensor in whole.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Weights are bitwise equal, whatever process reads and augments the images."""
    path = write_stripes(tmp_path / "data.npz")
    options = DataOptions(augment=("flip", "crop:1"))
    data = load_data(path, channels=1, size=(6, 6), classes=3, options=options)
    alone = weights(plain(), data, epochs=2, batch=32)
    helped = weights(plain(), data, epochs=2, batch=32, workers=2)
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns(data: Dataset, amp: Any) -> None:
    """Mixed precision reaches the results of float32; the weights stay float32."""
    module = to_torch(network())
    history = train(module, data, TrainOptions(epochs=8, lr=0.1, batch=16, amp=amp))
    assert history.score > 0.9
    assert all(p.dtype is torch.float32 for p in module.parameters())


def test_the_average_is_that_of_the_weights(data: Dataset) -> None:
    """Each step updates the average by its decay, faster at first; it is the result."""
    steps: list[dict[str, Any]] = []

    class Watch:
        def on_batch(self, done: int, total: int) -> None:
            steps.append({k: t.clone() for k, t in module.state_dict().items()})

        def on_epoch(self, result: EpochResult) -> None:
            assert evaluate(module, data) == result.test_score  # the average is tested

    module = to_torch(network())
    average = {k: t.clone() for k, t in module.state_dict().items()}
    train(module, data, TrainOptions(epochs=2, batch=30, lr=0.05, ema=0.8), Watch())
    for number, state in enumerate(steps):
        decay = min(0.8, (1 + number) / (10 + number))
        average = {k: decay * t + (1 - decay) * state[k] for k, t in average.items()}
    for name, tensor in average.items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_together(data: Dataset) -> None:
    """A clipped step without momentum has the length of the rate times the largest norm."""
    before = to_torch(network())
    after = weights(network(), data, epochs=1, batch=120, lr=1.0, momentum=0.0, clip=0.01)
    trained = [name for name, _ in before.named_parameters()]
    change = torch.cat([(after[n] - before.get_parameter(n)).flatten() for n in trained])
    assert float(change.detach().norm()) == pytest.approx(0.01, rel=1e-3)


def test_arrays_are_data_too(data: Dataset) -> None:
    """Arrays give the same weights as the same values in a file."""
    arrays = Dataset.of(data.x_train, data.y_train, data.x_test, data.y_test, ("a", "b", "c"))
    first, second = (weights(network(), d, epochs=1, batch=16) for d in (data, arrays))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_epoch_may_be_kept(data: Dataset) -> None:
    """Weights and score are those of the first best epoch."""
    module = to_torch(network())
    history = train(module, data, TrainOptions(epochs=6, lr=0.3, batch=16, keep="best"))
    scores = [epoch.test_score for epoch in history.epochs]
    assert history.kept == scores.index(max(scores)) + 1
    assert evaluate(module, data) == history.score == max(scores)


def test_momentum_may_be_reset(data: Dataset) -> None:
    """Two epochs with momentum reset equal two runs of one epoch."""
    common: dict[str, Any] = {"batch": 120, "lr": 0.05}
    module = to_torch(network())
    for seed in (0, 0):
        train(module, data, TrainOptions(epochs=1, seed=seed, **common))
    # One batch is the whole data, so that its order only matters to rounding.
    other = weights(network(), data, epochs=2, reset_momentum=True, **common)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_decay_pulls_every_weight(data: Dataset) -> None:
    """For SGD, decay is the gradient of half the squared norm."""
    options = {"epochs": 1, "batch": 120, "lr": 0.1, "momentum": 0.0}
    start = to_torch(network()).state_dict()
    free = weights(network(), data, **options)
    pulled = weights(network(), data, weight_decay=0.2, **options)
    for name in ("w", "g", "s"):
        torch.testing.assert_close(pulled[name], free[name] - 0.1 * 0.2 * start[name])


def test_images_have_their_channels_last_in_memory() -> None:
    """This holds on a CPU in training, tests and rehearsals; other inputs do not change."""
    squares, rows = torch.randn(2, 3, 4, 5), torch.randn(2, 3)
    for inputs in (squares, rows, squares.to(torch.int64)):
        batch = Batch(inputs, torch.zeros(2), 2)
        found, _ = to_device(batch, torch.device("cpu"), torch.float32)
        assert torch.equal(found, inputs)
        last = inputs.ndim == 4 and inputs.is_floating_point()
        assert found.is_contiguous() != last
        assert not last or found.is_contiguous(memory_format=torch.channels_last)
