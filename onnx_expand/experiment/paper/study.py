"""Declarations of the paper's tables as studies, and their execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.experiment.compare import Comparison
from onnx_expand.experiment.paper.executors import Executor, in_process
from onnx_expand.experiment.paper.job import Job, Part

__all__ = ["Arm", "Findings", "Row", "Setting", "Study", "Teacher", "run_study"]

# Rates are chosen on runs with this seed, which is not among the reported ones.
_TUNING_SEED = 1_000_000


@dataclass(frozen=True)
class Setting:
    """The data, and the training settings for it.

    Attributes:
        data: As for `load_data`.
        build: Keyword arguments of every network's builder, such as the image size.
        options: Fields of `DataOptions`.
        train: Fields of `TrainOptions`.
        rates: Learning rates, of which each arm uses its best on held-out data; a single one is
            used without trials.
        images: The number of training samples; None for all.
    """

    data: str
    build: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = (0.01,)
    images: int | None = None


@dataclass(frozen=True)
class Teacher:
    """The network that is distilled, trained once on the same data.

    Attributes:
        network: The name of a network in `models`.
        build: Keyword arguments of its builder, in addition to the setting's.
        train: Fields of `TrainOptions`, in addition to the setting's.
    """

    network: str
    build: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        name: The label of the row.
        expand: Keyword arguments of `onnx_expand.expand`; None for the compact network.
        build: Keyword arguments of the network's builder, in addition to the setting's.
        train: Fields of `TrainOptions`, in addition to the setting's.
        noise: The share of training labels that are replaced by random ones.
        against: The name of the arm to compare with; by default the first one.
        paper: The paper's figures in %, by column.
        distill: Fields of `DistillOptions`, if the study's teacher is distilled.
        nonlinear: Activations with which to train first, between the layers of the expansion,
            for the same time and at the same rate; afterwards training continues without them.
    """

    name: str
    expand: Mapping[str, Any] | None = None
    build: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.0
    against: str | None = None
    paper: Mapping[str, float] = field(default_factory=dict)
    distill: Mapping[str, Any] | None = None
    nonlinear: str | None = None


@dataclass(frozen=True)
class Study:
    """The comparison of a table or figure of the paper.

    Attributes:
        name: The name on the command line.
        title: The question.
        source: The place in the paper.
        network: The name of a network in `models`.
        arms: The rows of the table.
        teacher: The teacher of arms with `distill`.
        gradients: See `Job`; for the reported runs.
        landscape: See `Job`; for the reported runs.
        timed: Whether the time of an epoch is reported; parallel runs disturb it.
        recipe: The recipe for data other than the built-in data.
        embedded: Built-in data and its schedule; None for the distorted digits.
    """

    name: str
    title: str
    source: str
    network: str
    arms: tuple[Arm, ...]
    teacher: Teacher | None = None
    gradients: int = 0
    landscape: int = 0
    timed: bool = False
    recipe: str = "cifar-smallnet"
    embedded: Setting | None = None

    def against(self, arm: Arm) -> Arm | None:
        """Return the arm to compare an arm with; None for that arm itself."""
        wanted = arm.against or self.arms[0].name
        other = next(a for a in self.arms if a.name == wanted)
        return None if other is arm else other


@dataclass(frozen=True)
class Row:
    """The result of one arm.

    Attributes:
        arm: The arm.
        lr: Its learning rate.
        tried: The held-out score at each tried rate; None where the run diverged.
        results: The result of each seed.
        comparison: The comparison with another arm, on the seeds that both finished.
    """

    arm: Arm
    lr: float
    tried: Mapping[float, float | None]
    results: tuple[Mapping[str, Any], ...]
    comparison: Comparison | None = None

    @property
    def scores(self) -> tuple[float, ...]:
        """The scores of the seeds that did not diverge."""
        return tuple(r["score"] for r in self.results if r["score"] is not None)


@dataclass(frozen=True)
class Findings:
    """The results of a study."""

    study: Study
    setting: Setting
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


Tell = Callable[[str], None]


def run_study(
    study: Study,
    setting: Setting,
    seeds: Sequence[int],
    place: Path,
    *,
    executor: Executor = in_process,
    tell: Tell = lambda line: None,
) -> Findings:
    """Execute the runs of a study that are not done yet.

    If the setting has several rates, each arm is first trained once at each of them without the
    last fifth of the training data, on which it is scored. Then it is trained with its best rate,
    from each seed, on all training data. Compared arms have the same seeds.

    Args:
        study: The study.
        setting: Data and schedule.
        seeds: The seeds of the reported runs.
        place: The folder of the runs.
        executor: Executes the runs.
        tell: Called with a line for each run that ends.

    Raises:
        UsageError: There is no seed or no rate.
        UnsupportedError: An arm diverges at every rate.
    """
    if not seeds or not setting.rates:
        raise UsageError("a study needs at least one seed and one rate")
    tried = _tuned(study, setting, place, executor, tell)
    rates = {arm.name: _best(arm, tried[arm.name], setting) for arm in study.arms}
    jobs = [
        (arm, _job(study, setting, arm, rates[arm.name], seed, "test"))
        for seed in seeds
        for arm in study.arms
    ]
    results = _done(jobs, place, executor, tell)
    found: dict[str, list[Mapping[str, Any]]] = {arm.name: [] for arm in study.arms}
    for (arm, _), result in zip(jobs, results, strict=True):
        found[arm.name].append(result)
    rows = [
        Row(arm, rates[arm.name], tried[arm.name], tuple(found[arm.name])) for arm in study.arms
    ]
    compared = [replace(row, comparison=_compared(study, row, rows)) for row in rows]
    return Findings(study, setting, tuple(seeds), tuple(compared))


def _job(study: Study, setting: Setting, arm: Arm, lr: float, seed: int, part: Part) -> Job:
    alone = Job(
        study.network,
        {**setting.build, **arm.build},
        arm.expand,
        setting.data,
        setting.options,
        {**setting.train, **arm.train, "lr": lr},
        seed,
        part,
        setting.images,
        arm.noise,
    )
    teacher = start = None
    if arm.nonlinear is not None:
        start = replace(alone, expand={**(arm.expand or {}), "nonlinear": arm.nonlinear})
    if arm.distill is not None:
        assert study.teacher is not None
        teacher = replace(
            alone,
            network=study.teacher.network,
            build={**setting.build, **study.teacher.build},
            expand=None,
            train={**setting.train, **study.teacher.train},
            seed=0,
        )
    job = replace(alone, teacher=teacher, distill=arm.distill or {}, start=start)
    if part == "held-out":
        return job
    return replace(job, gradients=study.gradients, landscape=study.landscape)


def _tuned(
    study: Study, setting: Setting, place: Path, executor: Executor, tell: Tell
) -> dict[str, dict[float, float | None]]:
    """Return the held-out score of each arm at each rate; empty if there is only one rate."""
    tried: dict[str, dict[float, float | None]] = {arm.name: {} for arm in study.arms}
    if len(setting.rates) == 1:
        return tried
    jobs = [
        (arm, _job(study, setting, arm, lr, _TUNING_SEED, "held-out"))
        for arm in study.arms
        for lr in setting.rates
    ]
    for (arm, job), result in zip(jobs, _done(jobs, place, executor, tell), strict=True):
        tried[arm.name][job.train["lr"]] = result["score"]
    return tried


def _best(arm: Arm, tried: Mapping[float, float | None], setting: Setting) -> float:
    if not tried:
        return setting.rates[0]
    finished = {lr: score for lr, score in tried.items() if score is not None}
    if not finished:
        listed = ", ".join(f"{lr:g}" for lr in tried)
        raise UnsupportedError(f"{arm.name} diverges at each rate of {listed}; try lower ones")
    return max(finished, key=lambda lr: finished[lr])


def _done(
    jobs: Sequence[tuple[Arm, Job]], place: Path, executor: Executor, tell: Tell
) -> list[Mapping[str, Any]]:
    """Execute jobs after the jobs that they need; return the results in order."""
    needed: list[tuple[str, Job]] = []
    for arm, job in jobs:
        for other in job.needs:
            if all(other != known for _, known in needed):
                who = "teacher" if other is job.teacher else f"{arm.name}, non-linear"
                needed.append((who, other))
    _run(needed, place, executor, tell)
    return _run([(arm.name, job) for arm, job in jobs], place, executor, tell)


def _run(
    jobs: Sequence[tuple[str, Job]], place: Path, executor: Executor, tell: Tell
) -> list[Mapping[str, Any]]:
    results: list[Mapping[str, Any]] = [{}] * len(jobs)
    for count, (number, result) in enumerate(executor([job for _, job in jobs], place), start=1):
        results[number] = result
        name, job = jobs[number]
        score = "diverged" if result["score"] is None else f"{result['score']:.2%}"
        what = f"rate {job.train['lr']:g}, held out" if job.part != "test" else f"seed {job.seed}"
        tell(f"{count}/{len(jobs)}  {name}, {what}: {score}  ({result['seconds']:.0f} s)")
    return results


def _compared(study: Study, row: Row, rows: Sequence[Row]) -> Comparison | None:
    other = study.against(row.arm)
    if other is None:
        return None
    base = next(r for r in rows if r.arm is other)
    pairs = [
        (a["score"], b["score"])
        for a, b in zip(row.results, base.results, strict=True)
        if a["score"] is not None and b["score"] is not None
    ]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    metric = row.results[0].get("metric", "accuracy")
    return Comparison(metric, True, (row.arm.name, other.name), first, second)
