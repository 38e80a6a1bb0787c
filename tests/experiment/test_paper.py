"""Studies: each one runs on built-in data, and no run is executed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import onnx_expand
from models import smallnet
from onnx_expand.cli import main
from onnx_expand.cli.paper import with_arms
from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment import ImageInput
from onnx_expand.experiment.data.samples import ArraySamples
from onnx_expand.experiment.paper import (
    STUDIES,
    Arm,
    Job,
    Study,
    Teacher,
    datasets,
    in_pool,
    in_process,
    run_study,
    runner,
    study_of,
    write,
)
from onnx_expand.experiment.paper.runner import key_of, perform
from tests.support.jobs import TOY, job, pair, squares

# For studies with many arms of a few kinds: one arm of each kind, and the baseline.
_KINDS = {
    "table1": ("ACNet", "CK+FC", "CL+FC + KD"),
    "mobilenet": ("CL + KD",),
    "mobilenetv2": ("CL",),
    "shufflenetv2": ("ACNet",),
    "table7": ("CK, 20% random labels", "CL, 80% random labels"),
    "table6": ("FC, r = 2, layerwise", "CK, r = 4, composed", "CL, r = 2, composed"),
    "starts": ("CK", "CL, orthogonal", "FC at the compact layer's own random numbers"),
    "lr-on": ("CK, product", "CL", "CK+FC, product"),
    "decay": ("CK, layer 0.0005", "CK, product 0.005", "compact, 0.0005"),
}
# The smallest data for networks of other tasks, and of four stages.
_SMALL = {
    "table6": {"size": 16, "classes": 3},
    "yololite": {"size": 32, "classes": 10, "norm": True},
    "unet": {"size": 32, "classes": 11, "channels": 1, "width": 2},
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_on_toy_data(name: str, tmp_path: Path) -> None:
    """Each kind of arm trains, folds to the compact network, and has a row in the table."""
    study, setting = study_of(name), TOY
    if name in _KINDS:
        study = with_arms(study, ",".join(_KINDS[name]))
    study = replace(study, gradients=min(study.gradients, 4), landscape=min(study.landscape, 5))
    if name in _SMALL:
        own = study.embedded or TOY
        images = None if own is TOY else 32
        setting = replace(TOY, data=own.data, build=_SMALL[name], images=images)
    findings = run_study(study, setting, (0,), tmp_path / "runs")
    written = write(findings, tmp_path)
    table = (tmp_path / f"{name}.md").read_text()
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert [row["arm"] for row in found["rows"]] == [arm.name for arm in study.arms]
    for arm in study.arms:
        assert table.count(f"| {arm.name} |") == 1
    assert written[0] == tmp_path / f"{name}.md"
    for row in findings.rows:
        assert (row.comparison is None) == (study.against(row.arm) is None)


def test_a_table_of_several_networks_names_its_studies() -> None:
    """A table that is one study for each network is refused with their names."""
    with pytest.raises(UsageError, match=r"give one of mobilenet, mobilenetv2, shufflenetv2$"):
        study_of("table2")
    with pytest.raises(UsageError, match="study 'table3' is none of table1"):
        study_of("table3")


@pytest.mark.parametrize("name", STUDIES)
def test_arms_are_chosen_by_names_with_commas(name: str) -> None:
    """Arms are selected alone, or all in one list, in any case."""
    study = study_of(name)
    for arm in study.arms:
        base = study.against(arm)
        chosen = [a.name for a in with_arms(study, arm.name.upper()).arms]
        assert sorted(chosen) == sorted({arm.name} | ({base.name} if base else set()))
    assert with_arms(study, ",".join(arm.name for arm in study.arms)).arms == study.arms


def test_a_stopped_study_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished runs are not repeated, and the results are equal."""
    whole = run_study(pair(), TOY, (0, 1), tmp_path / "whole")
    trained: list[str] = []
    real = runner._trained

    def counted(job: Job, *rest: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(f"{job.expand} {job.seed}")
        return real(job, *rest)

    monkeypatch.setattr(runner, "_trained", counted)
    with pytest.raises(KeyboardInterrupt):
        run_study(pair(), TOY, (0, 1), tmp_path / "runs")
    first, trained = trained, []
    gone_on = run_study(pair(), TOY, (0, 1), tmp_path / "runs")
    assert len(first) == len(trained) == 2
    assert not set(first) & set(trained)
    for row, other in zip(whole.rows, gone_on.rows, strict=True):
        assert row.scores == other.scores


def test_a_stopped_run_resumes_from_its_epoch(tmp_path: Path) -> None:
    """The checkpoint is used, and removed when the run has ended."""

    class Stop:
        def on_batch(self, done: int, total: int) -> None: ...

        def on_epoch(self, result: Any) -> None:
            if result.epoch == 2:
                raise KeyboardInterrupt

    long = replace(job(), train={"epochs": 3, "schedule": "cosine"})
    whole = perform(long, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        perform(long, tmp_path / "runs", Stop())
    folder = tmp_path / "runs" / key_of(long)
    assert (folder / "checkpoint.pt").exists()
    again = perform(long, tmp_path / "runs")
    assert [*folder.glob("checkpoint*")] == []
    assert again["curve"] == whole["curve"]


def test_a_pool_equals_one_process(tmp_path: Path) -> None:
    """Two processes give the same scores at the same positions."""
    one = run_study(pair(), TOY, (0, 1), tmp_path / "one", executor=in_process)
    two = run_study(pair(), TOY, (0, 1), tmp_path / "two", executor=in_pool(2))
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row.scores == other.scores


def test_a_key_depends_on_everything_that_affects_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each field of a run, the data and the code change the key."""
    changes: tuple[dict[str, Any], ...] = (
        {}, {"seed": 1}, {"noise": 0.5}, {"images": 30}, {"part": "held-out"},
        {"train": {"epochs": 2}}, {"expand": {"strategy": "ck"}},
        {"options": {"augment": ["flip"]}}, {"build": {**TOY.build, "kernel": 5}},
    )  # fmt: skip
    keys = {key_of(replace(job(), **change)) for change in changes}
    assert len(keys) == len(changes)
    x, y, *test = squares()
    np.savez(tmp_path / "d.npz", x_train=x[:60], y_train=y[:60], x_test=test[0], y_test=test[1])
    assert key_of(replace(job(), data=str(tmp_path / "d.npz"))) not in keys
    own = replace(job(), network=str(tmp_path / "net.onnx"))
    for kernel in (5, 7):
        onnx.save(smallnet.build(kernel=kernel, size=8, classes=3), own.network)
        keys.add(key_of(own))
    assert len(keys) == len(changes) + 2
    monkeypatch.setattr("onnx_expand.experiment.paper.job.code_version", lambda: "other")
    assert key_of(job()) not in keys


def test_rates_are_chosen_on_held_out_samples(tmp_path: Path) -> None:
    """Each arm has its best held-out rate; test data is not used, and one rate is not tried."""
    told: list[str] = []
    setting = replace(TOY, rates=(1e-6, 0.05), train={**TOY.train, "epochs": 6, "batch": 16})
    findings = run_study(pair(), setting, (0,), tmp_path, tell=told.append)
    for row in findings.rows:
        assert set(row.tried) == {1e-6, 0.05}
        assert row.lr == max(row.tried, key=lambda lr: row.tried[lr] or 0.0)
    assert sum("held out" in line for line in told) == 4
    assert run_study(pair(), TOY, (0,), tmp_path).rows[0].tried == {}


def test_an_arm_that_diverges_has_no_score(tmp_path: Path) -> None:
    """A rate that diverges loses; if all do, the study reports it."""
    setting = replace(TOY, rates=(1e30, 0.01))
    findings = run_study(pair(), setting, (0,), tmp_path)
    assert {row.lr for row in findings.rows} == {0.01}
    with pytest.raises(UnsupportedError, match="compact diverges at each rate"):
        run_study(pair(), replace(TOY, rates=(1e30, 1e29)), (0,), tmp_path)
    timed = pair(timed=True, gradients=2, landscape=3)
    alone = run_study(timed, replace(TOY, rates=(1e30,)), (0,), tmp_path)
    assert alone.rows[1].comparison is None
    assert "(1 diverged)" in write(alone, tmp_path)[0].read_text()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(0, 100), st.sampled_from(["test", "held-out"]), st.data())
def test_subsets_and_label_noise_are_as_declared(
    images: int, percent: int, part: Any, drawn: st.DataObject
) -> None:
    """Classes stay balanced, parts are disjoint, and labels change at the given rate."""
    seed = drawn.draw(st.integers(0, 5))
    wanted = ImageInput(3, (8, 8), 3)
    clean = datasets.data_of(job(seed=seed, part=part, images=images), wanted)
    noisy = datasets.data_of(job(seed=seed, part=part, images=images, noise=percent / 100), wanted)
    labels = clean.y_train
    assert len(labels) == min(images, 90 if part == "test" else 72)
    assert np.ptp(np.bincount(labels, minlength=3)) <= 1
    assert (clean.x_train == noisy.x_train).all()
    assert (clean.y_test == noisy.y_test).all()
    if percent == 0:
        assert (labels == noisy.y_train).all()
    train = {image.tobytes() for image in clean.x_train}
    assert not train & {image.tobytes() for image in clean.x_test}


def test_half_the_labels_of_many_are_noise() -> None:
    """One third of the redrawn labels equal the former class."""
    x, y = np.zeros((3000, 1, 1, 1), np.uint8), np.arange(3000) % 3
    samples = ArraySamples(x, y)
    changed = np.mean(datasets._corrupted(samples, 0.6, 3, seed=0).y != y)
    assert abs(changed - 0.4) < 0.03


def test_prerequisites_of_runs_are_executed_once_and_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One teacher for all seeds and arms, and the counterpart of each seed; then without it."""
    trained: list[Job] = []
    real = runner._trained

    def noted(job: Job, *rest: Any) -> Any:
        trained.append(job)
        return real(job, *rest)

    monkeypatch.setattr(runner, "_trained", noted)
    expand = {"strategy": "ck", "rate": 1.0}
    arms = (
        Arm("compact", distill={"distill": "kd"}),
        Arm("CK", expand, distill={"distill": "kd"}),
        Arm("CK, non-linear first", expand, nonlinear="relu"),
    )
    study = Study("needs", "?", "", "smallnet", arms, Teacher("smallnet", {"kernel": 5}))
    run_study(study, TOY, (0, 1), tmp_path)
    assert sum(job.build.get("kernel") == 5 for job in trained) == 1
    assert sum("nonlinear" in (job.expand or {}) for job in trained) == 2
    assert len(trained) == 1 + 2 + 6
    places = {id(own): place for place, own in enumerate(trained)}
    for own in trained:
        for other in own.needs:
            earlier = next(done for done in trained if done == other)
            assert places[id(earlier)] < places[id(own)]


def test_a_run_begins_where_its_counterpart_ended(tmp_path: Path) -> None:
    """At a rate near zero it has the counterpart's weights, and is linear."""
    expand = {"strategy": "ck", "rate": 1.0}
    first = replace(job(), expand={**expand, "nonlinear": "relu"})
    then = replace(job(), expand=expand, start=first, train={"epochs": 1, "lr": 1e-30})
    result = perform(then, tmp_path)
    before, after = (
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
        for path in (
            tmp_path / key_of(first) / "trained.onnx",
            tmp_path / result["key"] / "trained.onnx",
        )
    )
    assert before.keys() == after.keys()
    weights = [name for name in before if "running" not in name]
    assert weights
    assert all((before[name] == after[name]).all() for name in weights)
    folded = onnx_expand.inspect(tmp_path / result["key"] / "folded.onnx")
    assert folded.parameters == result["compact"]["parameters"]


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown studies, arms, networks and values."""
    for words, reason in (
        ("nothing", "study 'nothing' is none of table1"),
        ("table1 --arms CK,XX", "'xx' is none of compact; fc; acnet"),
        ("table1 --lr 0.1,-1", "is not a list of rates"),
        ("table1 --data nowhere", "nowhere: no such file"),
    ):
        assert main(["paper", *words.split(), "--out", str(tmp_path)]) in {2, 3}
        assert reason in capsys.readouterr().err
    with pytest.raises(UsageError, match="must be between 0 and 1"):
        job(noise=1.5)
    with pytest.raises(UsageError, match="network 'none'"):
        perform(Job("none", data=TOY.data), tmp_path)


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has only the given arms, compared with the compact network, which is always included."""
    words = f"table1 --arms CK --images 40 --epochs 1 --seeds 2 --lr 0.01 --out {tmp_path}"
    assert (
        main(["paper", *words.split(), "--data", TOY.data, "--classes", "3", "--size", "8"]) == 0
    )
    out = capsys.readouterr().out
    assert "| CK |" in out
    assert "| compact |" in out
    assert "trained on 40, tested on 30" in out
    assert main(["paper", "--list"]) == 0
    assert "table9" in capsys.readouterr().out
