"""The analysis of gradients and of the loss around the weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from onnx_expand.experiment import Dataset
from onnx_expand.experiment.paper.analysis import landscape, similarities
from onnx_expand.experiment.paper.runner import key_of, perform
from onnx_expand.train import to_torch
from tests.support.jobs import job
from tests.support.networks import network, stripes


@pytest.fixture
def data() -> Dataset:
    """Stripes."""
    x, y = stripes()
    return Dataset.of(x[:120], y[:120], x[120:], y[120:], ("a", "b", "c"))


def test_similarities_are_cosines_of_gradients(data: Dataset) -> None:
    """They equal autograd on a copy in training mode, 1 for equal samples, and change nothing."""
    module = to_torch(network())
    before = copy.deepcopy(module.state_dict())
    found = similarities(module, data, pairs=3, batch=20, seed=4)
    assert all((before[k] == v).all() for k, v in module.state_dict().items())
    assert not module.training
    random = np.random.default_rng(4)
    for value in found:
        picks = random.choice(120, 40, replace=False)
        sides = []
        for part in (picks[:20], picks[20:]):
            own = copy.deepcopy(module).train()
            batch = data.train.fetch(part, None)
            loss = torch.nn.functional.cross_entropy(own(batch.inputs), batch.targets)
            parts = torch.autograd.grad(loss, list(own.parameters()))
            sides.append(torch.cat([part.flatten() for part in parts]))
        wanted = sides[0] @ sides[1] / (sides[0].norm() * sides[1].norm())
        assert value == pytest.approx(float(wanted), abs=1e-5)
    same = Dataset.of(
        np.repeat(data.x_train[:1], 8, axis=0), np.repeat(data.y_train[:1], 8),
        data.x_test, data.y_test, ("a", "b", "c"),
    )  # fmt: skip
    assert similarities(module, same, pairs=2, batch=4, seed=0) == pytest.approx([1, 1])


def test_the_middle_of_the_landscape_is_the_loss(data: Dataset) -> None:
    """The corners are the losses at weights that differ by the length of their filters."""
    module = to_torch(network())
    before = copy.deepcopy(module.state_dict())
    loss = np.array(landscape(module, data, points=3, seed=1))
    assert all((before[k] == v).all() for k, v in module.state_dict().items())
    every = data.train.fetch(np.arange(120), None)
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(module(every.inputs), every.targets)
    assert loss.shape == (3, 3)
    assert loss[1, 1] == pytest.approx(float(wanted), rel=1e-5)
    assert len(np.unique(loss.round(6))) > 5
    assert (np.array(landscape(module, data, points=3, seed=1)) == loss).all()


def test_a_resumed_run_has_the_similarities_of_all_epochs(tmp_path: Path) -> None:
    """Those of earlier epochs are in its checkpoint, and training is not disturbed."""

    class Stop:
        def on_batch(self, done: int, total: int) -> None: ...

        def on_epoch(self, result: Any) -> None:
            if result.epoch == 2:
                raise KeyboardInterrupt

    plain = replace(job(), train={"epochs": 3, "schedule": "cosine"})
    watched = replace(plain, gradients=4, landscape=3)
    whole = perform(watched, tmp_path / "whole")
    assert [len(pairs) for pairs in whole["similarities"]] == [4, 4, 4]
    assert np.shape(whole["landscape"]) == (3, 3)
    assert perform(plain, tmp_path / "plain")["curve"] == whole["curve"]
    with pytest.raises(KeyboardInterrupt):
        perform(watched, tmp_path / "runs", Stop())
    again = perform(watched, tmp_path / "runs")
    assert again["similarities"] == whole["similarities"]
    assert [*(tmp_path / "runs" / key_of(watched)).glob("checkpoint*")] == []
