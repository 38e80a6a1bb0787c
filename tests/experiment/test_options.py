"""Settings: invalid ones are refused by name, recipes are as published, schedules exact."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_expand.cli.train import train as command
from onnx_expand.errors import UsageError
from onnx_expand.options import explain
from onnx_expand.recipes import (
    GROUPS,
    RECIPES,
    DataOptions,
    DistillOptions,
    RunOptions,
    Setup,
    TrainOptions,
    recipe,
)

WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (TrainOptions, {"epochs": 0}, "epochs"),
    (TrainOptions, {"batch": 0}, "batch"),
    (TrainOptions, {"lr": 0.0}, "lr"),
    (TrainOptions, {"lr": float("nan")}, "lr"),
    (TrainOptions, {"lr": float("inf")}, "lr"),
    (TrainOptions, {"momentum": 1.0}, "momentum"),
    (TrainOptions, {"weight_decay": -1.0}, "weight_decay"),
    (
        TrainOptions,
        {"schedule": "linear"},
        "none of constant, step, cosine, poly, restarts, one-cycle",
    ),
    (TrainOptions, {"optimizer": "adam"}, "none of sgd, adamw"),
    (TrainOptions, {"amp": "fp8"}, "none of off, bf16, fp16"),
    (TrainOptions, {"betas": (0.9,)}, "two numbers"),
    (TrainOptions, {"betas": (0.9, 1.0)}, "two numbers"),
    (TrainOptions, {"milestones": (0,)}, "epochs count from 1"),
    (TrainOptions, {"nesterov": True, "momentum": 0.0}, "nesterov needs"),
    (TrainOptions, {"accumulate": 4, "batch": 2}, "more than the batch"),
    (TrainOptions, {"ema": 1.0}, "ema"),
    (TrainOptions, {"clip": 0.0}, "clip"),
    (TrainOptions, {"label_smoothing": 1.0}, "label_smoothing"),
    (TrainOptions, {"seed": -1}, "seed"),
    (DataOptions, {"mean": (0.5,)}, "go together"),
    (DataOptions, {"mean": (0.5,), "std": (0.0,)}, "std"),
    (DataOptions, {"center_crop": 0.0}, "center_crop"),
    (DataOptions, {"image_size": (3,)}, "a height and a width"),
    (DataOptions, {"anchors": (0.1,)}, "pairs"),
    (DataOptions, {"anchors": (float("inf"), 0.1)}, "pairs"),
    (DataOptions, {"layout": "coco"}, "none of auto"),
    (DistillOptions, {"temperature": 0.0}, "temperature"),
    (DistillOptions, {"distill": "attention"}, "none of kd"),
    (RunOptions, {"device": "tpu"}, "none of auto"),
    (RunOptions, {"repeat": 0}, "repeat"),
    (RunOptions, {"checkpoint_every": 0}, "checkpoint_every"),
]


@pytest.mark.parametrize(("kind", "values", "message"), WRONG)
def test_invalid_values_are_refused(kind: type[Any], values: dict[str, Any], message: str) -> None:
    """The error has the name of the field."""
    with pytest.raises(UsageError, match=message):
        kind(**values)


def test_options_and_fields_correspond() -> None:
    """One declaration serves Python and the command line, and names are unique."""
    declared = [name for kind in GROUPS.values() for name in explain(kind)]
    assert len(declared) == len(set(declared))
    for kind in GROUPS.values():
        assert list(explain(kind)) == [field.name for field in fields(kind)]
    shown = {parameter.name for parameter in command.params}
    own = {"source", "target", "data", "recipe", "report", "html", "quiet", "debug"}
    assert shown == {*declared, *own}
    for parameter in command.params:
        if parameter.name in declared:
            assert parameter.default is None, parameter.name


def test_schedules_have_their_rates() -> None:
    """Constant, at thirds, at milestones, along a cosine, along a power."""
    assert TrainOptions(lr=0.1).rate(9.5) == 0.1
    thirds = TrainOptions(epochs=150, lr=0.01, schedule="step")
    assert [thirds.rate(e) for e in (0, 49.9, 50, 99, 100, 149.99)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )
    chosen = TrainOptions(epochs=9, lr=1.0, schedule="step", milestones=(2, 5), gamma=0.5)
    assert [chosen.rate(e) for e in (1.9, 2, 4.9, 5, 8)] == [1, 0.5, 0.5, 0.25, 0.25]
    cosine = TrainOptions(epochs=4, lr=1.0, schedule="cosine")
    assert [cosine.rate(e) for e in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0])
    poly = TrainOptions(epochs=10, lr=2.0, schedule="poly", power=0.9)
    assert [poly.rate(e) for e in (0, 5)] == pytest.approx([2, 2 * 0.5**0.9])


@given(
    schedule=st.sampled_from(["constant", "step", "cosine", "poly", "restarts", "one-cycle"]),
    warmup=st.floats(0, 3),
    epoch=st.floats(0, 10),
)
def test_a_rate_is_between_zero_and_the_first(schedule: Any, warmup: float, epoch: float) -> None:
    """Warm-up included; the first step of a warm-up has a positive rate."""
    options = TrainOptions(epochs=10, lr=0.5, schedule=schedule, warmup=warmup)
    assert 0 <= options.rate(epoch, 100) <= 0.5
    assert options.rate(0, 100) > 0


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@settings(deadline=None)
@given(epochs=st.integers(1, 6), steps=st.integers(1, 9))
def test_rates_are_those_of_torchs_schedulers(epochs: int, steps: int) -> None:
    """One-cycle and cosine with restarts, step by step."""
    torch = pytest.importorskip("torch")
    schedulers = torch.optim.lr_scheduler
    total = epochs * steps
    for name in ("one-cycle", "restarts"):
        if name == "one-cycle" and 0.3 * total <= 1:
            continue  # torch divides by zero, or starts beyond the maximum
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        if name == "one-cycle":
            torchs = schedulers.OneCycleLR(optimizer, 0.4, total, cycle_momentum=False)
        else:
            torchs = schedulers.CosineAnnealingWarmRestarts(optimizer, 2 * steps)
        ours = TrainOptions(epochs=epochs, lr=0.4, schedule=name, period=2.0)
        for step in range(total):
            wanted = optimizer.param_groups[0]["lr"]
            assert ours.rate(step / steps, steps) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
            if step < total - 1:
                optimizer.step()
                torchs.step()


def test_a_recipes_milestones_follow_the_epochs() -> None:
    """They keep their shares and are noted; given ones and the recipe's own do not change."""
    setup = Setup.of("cifar-smallnet", epochs=12)
    assert setup.train.milestones == (4, 8)
    assert setup.notes.endswith("its milestones are scaled to 4, 8")
    assert Setup.of("cifar-smallnet", epochs=1).train.milestones == (1, 1)
    assert Setup.of("cifar-smallnet", epochs=12, milestones=(9,)).train.milestones == (9,)
    assert Setup.of("cifar-smallnet", epochs=150).train.milestones == (50, 100)
    assert "scaled" not in Setup.of("cifar-smallnet", epochs=150).notes
    assert "scaled" not in Setup.of("imagenet-shufflenet", epochs=2).notes


def test_warm_up_grows_by_the_step() -> None:
    """Over one epoch of four steps, the rate grows by a quarter in each."""
    options = TrainOptions(epochs=3, lr=1.0, warmup=1.0)
    assert [options.rate(step / 4, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_recipes_are_the_published_settings() -> None:
    """The values are those of the paper; the last rate is that of its last third."""
    small = Setup.of("cifar-smallnet")
    assert (small.train.epochs, small.train.batch, small.train.weight_decay) == (150, 128, 0)
    assert [small.train.rate(e) for e in (49, 50, 100)] == pytest.approx([0.01, 0.001, 0.0001])
    assert small.data.augment == ("crop:4", "flip")
    mobile = Setup.of("imagenet-mobilenet")
    assert (mobile.train.batch, mobile.train.nesterov, mobile.train.weight_decay) == (
        256, True, 1e-4,
    )  # fmt: skip
    assert [mobile.train.rate(e) for e in (29, 30, 60, 89)] == pytest.approx(
        [0.1, 0.01, 0.001, 0.001]
    )
    cifar = Setup.of("cifar-mobilenet").train
    assert (cifar.epochs, cifar.milestones, cifar.weight_decay) == (350, (150, 250), 5e-4)
    shuffle = Setup.of("imagenet-shufflenet").train
    assert (shuffle.epochs, shuffle.batch, shuffle.lr) == (250, 1024, 0.5)
    assert (shuffle.weight_decay, shuffle.schedule, shuffle.nesterov) == (4e-5, "poly", True)
    assert Setup.of("voc-yolo-lite").train.task == "detect"
    assert Setup.of("cityscapes-unet").train.task == "segment"
    assert "not published in full" in Setup.of("cityscapes-unet").notes


@pytest.mark.parametrize("name", RECIPES)
def test_given_options_override_a_recipe(name: str) -> None:
    """Given options replace a recipe's, and only those."""
    setup = Setup.of(name, epochs=7, augment=(), lr=None)
    assert setup.train.epochs == 7
    assert setup.data.augment == ()
    assert setup.train.lr == recipe(name).train["lr"]
    assert setup.as_dict()["train"]["epochs"] == 7


def test_unknown_names_are_refused() -> None:
    """Unknown recipes and unknown options."""
    with pytest.raises(UsageError, match="none of cifar-smallnet, cifar-mobilenet"):
        Setup.of("mnist")
    with pytest.raises(UsageError, match="there is no option speed"):
        Setup.of(speed=3)
    assert Setup.of(compare_baseline="fold").run.seeds == 3
    assert Setup.of(compare_baseline="fold", repeat=2).run.seeds == 2
