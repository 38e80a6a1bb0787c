"""Errors in a user's loss, dataset or module are reported in one line with their position."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.cli import main  # noqa: E402
from onnx_expand.errors import ModelError, UsageError  # noqa: E402
from onnx_expand.experiment import load_data  # noqa: E402
from onnx_expand.experiment.data.feed import Feed  # noqa: E402
from onnx_expand.experiment.data.samples import ItemSamples  # noqa: E402
from onnx_expand.experiment.training.parallel import World  # noqa: E402
from onnx_expand.experiment.user_code import user_errors  # noqa: E402
from tests.support.networks import network  # noqa: E402

MODULE = """\
import numpy as np
import torch
from torch.nn import functional as F


class Items:
    def __init__(self, count, shape=(1, 6, 6), target=lambda i: i % 3, bad=None):
        self.count, self.shape, self.target, self.bad = count, shape, target, bad

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i == self.bad:
            raise ValueError("sample is broken\\nin two lines")
        shape = self.shape(i) if callable(self.shape) else self.shape
        return torch.full(shape, float(i % 3)), self.target(i)


def raises(): return {}["nothing"]
def wants(something): return something
def items(): return Items(30), Items(9)
def late(): return Items(30, bad=17), Items(9)
def late_test(): return Items(30), Items(9, bad=8)
def label(): return Items(30, target=lambda i: 3 if i == 17 else 0), Items(9)
def negative(): return Items(30), Items(9, target=lambda i: -1)
def mixed(): return Items(30, shape=lambda i: (1, 6, 6 + (i == 17))), Items(9)
def word(): return Items(30, target=lambda i: "cat"), Items(9)
def single(): return [torch.zeros(1, 6, 6)] * 9, [torch.zeros(1, 6, 6)] * 9
def empty(): return Items(0), Items(9)
def half(): return Items(30, target=lambda i: 0.5), Items(9, target=lambda i: 0.5)


def inside(outputs, targets):
    wrong = torch.zeros(7)
    return F.cross_entropy(outputs, wrong)


def detached(outputs, targets): return F.cross_entropy(outputs, targets).detach()
def counted(outputs, targets): return (outputs.argmax(1) == targets).sum()


calls = 0


def fifth(outputs, targets):
    global calls
    calls += 1
    if calls == 5:
        raise RuntimeError("on the fifth call")
    return F.cross_entropy(outputs, targets)
"""
WRONG = [
    ("raises", "", 2, r"data 'ownx:raises' raised KeyError: 'nothing' \(ownx\.py:20\)"),
    ("wants", "", 2, r"raised TypeError: .*'something'"),
    ("late", "", 2, r"'ownx:late', sample 17, raised ValueError: sample is broken in two lines "
     r"\(ownx\.py:15\)"),
    ("late", "--workers 1", 2, r"sample 17, raised ValueError: .*\(ownx\.py:15\)"),
    ("late_test", "", 2, r"'ownx:late_test', sample 8, raised ValueError"),
    ("label", "", 3, r"the data has the label 3, which is not in 0\.\.2, the model's classes"),
    ("negative", "", 3, r"the data has the label -1, which is not in 0\.\.2"),
    ("mixed", "", 3, r"inputs are \[1, 6, 6\] and \[1, 6, 7\]|\[1, 6, 7\] and \[1, 6, 6\]"),
    ("word", "", 3, r"sample 0 is not a tensor"),
    ("single", "", 3, r"sample 0 is a Tensor; it must be a pair"),
    ("empty", "", 3, r"0 training and 9 test samples are too few"),
    ("half", "", 4, r"the targets are torch\.float32; classification needs integers"),
    ("items", "--loss ownx:inside", 2, r"loss 'ownx:inside' raised \w+: .*\(ownx\.py:36\)"),
    ("items", "--loss ownx:detached", 4, r"'ownx:detached' returned a torch\.float32 without a g"),
    ("items", "--loss ownx:counted", 4, r"'ownx:counted' returned a torch\.int64 without a grad"),
    ("items", "--loss ownx:fifth", 2, r"raised RuntimeError: on the fifth call \(ownx\.py:50\)"),
    ("items", "--loss broken_x:f", 2, r"importing broken_x raised SyntaxError: .*\(broken_x\.py"),
    ("items", "--loss halfway_x:f", 2, r"importing halfway_x raised ZeroDivisionError: .*_x\.py"),
    ("items", "--loss ownx:", 2, r"give package\.module:function"),
    ("items", "--loss :f", 2, r"give package\.module:function"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a folder with a network and user modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    onnx.save(network(), "net.onnx")
    Path("ownx.py").write_text(MODULE)
    Path("broken_x.py").write_text("x = = 1\n")
    Path("halfway_x.py").write_text("x = 1 / 0\n")
    yield tmp_path
    for name in ("ownx", "broken_x", "halfway_x"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("data", "words", "code", "message"), WRONG)
def test_one_line_names_function_exception_and_place(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    data: str,
    words: str,
    code: int,
    message: str,
) -> None:
    """The exit code is that of its kind, for any origin, and OUT is not written."""
    command = ["train", "net.onnx", "out.onnx", "--data", f"ownx:{data}", "--batch", "8"]
    found = main([*command, "--epochs", "1", "--no-fold-check", *words.split()])
    err = capsys.readouterr().err
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", err), err
    assert re.search(message, err), err
    assert found == code
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_debug_shows_the_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    """It precedes the line and includes the user's function, in this or another process."""
    command = ["train", "net.onnx", "out.onnx", "--data", "ownx:late", "--workers", workers]
    assert main([*command, "--batch", "8", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ownx.py" in err
    assert err.splitlines()[-1].startswith("onnx-expand: error: data 'ownx:late', sample 17")


def test_own_errors_are_not_attributed_to_users() -> None:
    """Errors of the package, and a lack of memory, pass unchanged."""
    for error in (ModelError("a"), MemoryError("b")):
        with pytest.raises(type(error), match=str(error)), user_errors("x"):
            raise error
    place = r"^x raised OSError \(.*test_user_code\.py:\d+\)$"
    with pytest.raises(UsageError, match=place), user_errors("x"):
        raise OSError


def test_targets_of_any_numbers_go_with_a_loss(folder: Path) -> None:
    """They come from arrays, are refused without a loss, and are not augmented."""
    rng = np.random.default_rng(0)
    x = rng.random((40, 1, 6, 6)).astype(np.float32)
    np.savez("mean.npz", x=x, y=x.mean((1, 2, 3)))
    np.savez("map.npz", x=x, y=x[:, 0] * 2)
    with Path("ownx.py").open("a") as stream:
        stream.write("def square(o, t): return F.mse_loss(o[:, 0], t)\n")
    command = ["train", "net.onnx", "out.onnx", "--epochs", "2", "--data"]
    assert main([*command, "mean.npz", "--loss", "ownx:square", "--no-fold-check"]) == 0
    data = load_data("mean.npz", channels=1, numbers=True)
    assert data.y_train.dtype == np.float32
    assert (len(data.train), len(data.test)) == (32, 8)
    with pytest.raises(ModelError, match="other targets need --loss"):
        load_data("mean.npz", channels=1)
    assert load_data("map.npz", channels=1, numbers=True).y_train.shape == (32, 6, 6)
    assert main([*command, "map.npz", "--loss", "ownx:square", "--augment", "flip"]) == 2


class Drawing:
    """A dataset that augments by the global random generators."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Any, int]:
        drawn = [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor([index, *drawn]), index % 3


def test_random_values_of_a_dataset_are_repeatable() -> None:
    """They depend on seed, epoch and index only, not on the process or earlier draws."""

    def seen(epoch: int, workers: int, size: int = 1) -> Any:
        torch.rand(3)
        order = [np.arange(12)[::-1].copy()]
        shares = []
        for rank in range(size):
            feed = Feed(ItemSamples(Drawing()), 5, World(rank, size), workers=workers)
            shares += [part.inputs for parts in feed.epoch(order, epoch, 0) for part in parts]
        return torch.cat(shares)

    state = torch.get_rng_state()
    first = seen(0, 0)
    assert torch.equal(torch.rand(4), torch.rand(4, generator=_after(state, 3)))
    assert len(first[:, 1:].unique()) == 36
    for other in (seen(0, 0), seen(0, 2), seen(0, 0, size=2)):
        assert torch.equal(other, first)
    assert not torch.equal(seen(1, 0), first)


def _after(state: Any, count: int) -> Any:
    generator = torch.Generator()
    generator.set_state(state)
    torch.rand(count, generator=generator)
    return generator
