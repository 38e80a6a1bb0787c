"""Write the pages of train and of the demo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnx_expand.cli.pages import command_words, write_page
from onnx_expand.pages.page import provenance
from onnx_expand.pages.training import Curve, Difference, training_page
from onnx_expand.workflow.certificate import digests

if TYPE_CHECKING:
    from pathlib import Path

    from onnx_expand.experiment import Report
    from onnx_expand.experiment.demo import DemoResult
    from onnx_expand.recipes import Setup

__all__ = ["write_demo", "write_training"]


def write_training(path: str, report: Report, setup: Setup, files: Mapping[str, str]) -> None:
    """Write the page of a training run.

    Args:
        path: The output file.
        report: The report of the run.
        setup: The settings.
        files: The models that were read and written, by their role.
    """
    from onnx_expand.experiment.messages import conclusion

    lines = conclusion(report, setup)
    text, difference = lines[-1], None
    if (found := report.comparison) is not None:
        text = found.summary()
        seeds = tuple(dict.fromkeys(seed for _, seed, _ in report.runs))
        difference = Difference(found.names, seeds, found.differences, found.interval, text)
    hashes = {what: digests(file) for what, file in files.items()}
    verdict = None if report.folded is None else report.folded.report.verification
    page = training_page(
        "train",
        text,
        report.history.metric,
        _arms(report),
        [*provenance(command_words(), hashes), _torch(), ("data", report.data)],
        good=None if verdict is None else verdict.equal,
        lines=[
            *(line for line in lines if line != text),
            *([] if report.folded is None else [f"folded: {report.folded.summary()}"]),
        ],
        tables=[_runs(report)],
        difference=difference,
        gallery=report.gallery,
        settings=list(_flat(report.settings)),
    )
    write_page(path, page)


def write_demo(path: Path, found: DemoResult, files: Mapping[str, str]) -> None:
    """Write the page of a demo; its arguments are as for `write_training`."""
    from onnx_expand.experiment.demo import sentences, table

    report = found.report
    gain, runs = report["comparison"], report["runs"]
    arms = {
        kind: [Curve(run["seed"], *zip(*run[kind]["curve"], strict=True)) for run in runs]
        for kind in ("expanded", "compact")
    }
    shares = [value / 100 for value in gain["per_seed"]]
    difference = Difference(
        ("folded", "compact"),
        tuple(run["seed"] for run in runs),
        tuple(shares),
        (gain["low"] / 100, gain["high"] / 100),
        gain["summary"],
    )
    wins = gain["better"] == "expanded"
    origin = provenance(command_words(), {what: digests(file) for what, file in files.items()})
    page = training_page(
        "demo",
        "A better compact network, at no cost when deployed"
        if wins
        else "Expanded, trained, folded, checked",
        "accuracy",
        arms,
        [*origin, _torch(), ("data", report["data"]), ("cores", report["machine"])],
        good=True if wins and report["equal"] else None,
        lines=[_ABOUT.format(seeds=len(runs)), *sentences(report)],
        cards=_cards(report),
        tables=[("The three models", *table(report)), _seeds(report)],
        difference=difference,
        gallery=found.gallery,
        settings=list(_flat(report["options"])),
    )
    write_page(str(path), page)


def _torch() -> tuple[str, str]:
    import torch

    return "torch", torch.__version__


_ABOUT = (
    "SmallNet with 7x7 kernels on distorted handwritten digits, trained unchanged and expanded by "
    "onnx-expand, from the same {seeds} seeds and with the same settings, which were chosen on "
    "training digits alone. No digit, in any copy, is in both parts of the data. Folding gives "
    "the expanded network the compact one's shape, size and speed."
)


def _cards(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    gain, models = report["comparison"], report["models"]
    folded = models["folded"]
    return [
        (
            "test accuracy",
            f"{gain['mean']:+.2f} points",
            f"95 % interval {gain['low']:+.2f} to {gain['high']:+.2f}",
        ),
        ("parameters", f"{folded['parameters']:,}", "as the compact network"),
        ("multiply-accumulates", f"{folded['macs']:,}", "as the compact network"),
        ("latency", f"{folded['latency_ms']:.3f} ms", f"{folded['latency_ratio']:.2f} x compact"),
    ]


def _seeds(report: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    header = ["seed", "compact %", "folded %", "difference", "training loss, compact", "expanded"]
    rows = [
        [
            str(run["seed"]),
            f"{100 * run['accuracy']['compact']:.2f}",
            f"{100 * run['accuracy']['folded']:.2f}",
            f"{gain:+.2f}",
            f"{run['compact']['loss']:.4f}",
            f"{run['expanded']['loss']:.4f}",
        ]
        for run, gain in zip(report["runs"], report["comparison"]["per_seed"], strict=True)
    ]
    return "Seed by seed", header, rows


def _arms(report: Report) -> dict[str, list[Curve]]:
    arms: dict[str, list[Curve]] = {}
    for name, seed, history in report.runs:
        figures = ((e.loss, e.train_score, e.test_score) for e in history.epochs)
        arms.setdefault(name, []).append(Curve(seed, *zip(*figures, strict=True)))
    return arms


def _runs(report: Report) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for name, seed, history in report.runs:
        kept = history.epochs[history.kept - 1]
        figures = [f"{value:.4g}" for value in kept.figures.values()]
        seconds = sum(epoch.seconds for epoch in history.epochs)
        rows.append([name, str(seed), str(kept.epoch), f"{kept.loss:.4f}", *figures,
                     f"{seconds:.0f}"])  # fmt: skip
    named = list(report.history.epochs[report.history.kept - 1].figures)
    return "Runs", ["model", "seed", "epoch kept", "loss", *named, "seconds"], rows


def _flat(settings: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, str]]:
    """Yield the options by their full names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{stem}{name}.")
        elif value is not None:
            listed = value if isinstance(value, (list, tuple)) else [value]
            yield f"{stem}{name}", ", ".join(map(str, listed))
