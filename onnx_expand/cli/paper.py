"""`onnx-expand paper`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_expand.cli import render
from onnx_expand.cli.options import Command, Listed, given
from onnx_expand.errors import UsageError
from onnx_expand.recipes import RECIPES, scaled

if TYPE_CHECKING:
    from onnx_expand.experiment.paper import Executor, Setting, Study

__all__ = ["paper", "with_arms"]


@click.command(cls=Command)
@click.argument("name", metavar="NAME", required=False)
@click.option("--list", "listing", is_flag=True, help="List the studies.")
@click.option(
    "--data",
    metavar="DIR|FILE|PACKAGE:FUNCTION",
    help="Train on this, as for `train`, by the study's recipe, instead of the embedded digits.",
)
@click.option(
    "--recipe",
    type=click.Choice([*RECIPES]),
    help="Settings of training on --data. [default: the study's own]",
)
@click.option("--out", type=Path, default=Path("paper"), show_default=True, help="Output folder.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each arm."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the setting's.")
@click.option("--images", type=click.IntRange(min=1), help="Train on this many, of all classes.")
@click.option("--batch", type=click.IntRange(min=1), help="Instead of the setting's.")
@click.option("--schedule", help="Instead of the setting's, as for `train`.")
@click.option("--size", type=click.IntRange(min=1), help="Height and width of the images.")
@click.option("--classes", type=click.IntRange(min=2), help="Classes of the data. [default: 10]")
@click.option("--width", type=click.IntRange(min=1), help="Channels of U-Net's first level.")
@click.option("--ignore-label", type=int, help="As for `train`.")
@click.option(
    "--lr",
    type=Listed(float),
    metavar="R,..",
    help="Learning rates, of which each arm uses its best on held-out data; a single one is used "
    "directly.",
)
@click.option(
    "--arms", metavar="NAME,..", help="Only these rows of the table, by their full names."
)
@click.option(
    "--executor",
    type=click.Choice(["process", "pool", "ray", "slurm"]),
    default="process",
    show_default=True,
    help="process: one run at a time. pool: --jobs runs at a time, each with one thread. ray: "
    "the workers of a Ray cluster. slurm: an array of Slurm jobs. For ray and slurm all machines "
    "must see OUT under the same path.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Parallel runs in a pool.",
)
@click.option("--address", help="Address of the Ray cluster. [default: a local one]")
@click.option("--partition", help="Partition of Slurm.")
@click.option(
    "--minutes",
    type=click.IntRange(min=1),
    default=240,
    show_default=True,
    help="Time limit of a Slurm job; a run that takes longer is queued again and resumes.",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "local", "debug"]),
    default="slurm",
    show_default=True,
    help="For --executor slurm: local and debug run the same jobs without Slurm.",
)
def paper(name: str | None, listing: bool, out: Path, **options: Any) -> None:
    """Run the study NAME of the ExpandNets paper, or the rest of it.

    OUT/NAME.md gets its table beside the paper's figures, with NAME.json and NAME.png. OUT/runs
    stores each run by the hash of its settings, data and code, so that none is repeated and an
    interrupted run resumes. Each arm's learning rate is chosen on held-out training data.

    \b
    Examples:
      onnx-expand paper --list
      onnx-expand paper table1 --executor pool
      onnx-expand paper table9 --data cifar-10-python.tar.gz --epochs 30 --images 25000
    """
    from onnx_expand import train as _needs_torch  # noqa: F401  (reports what to install)
    from onnx_expand.experiment.paper import (
        STUDIES,
        run_study,
        study_of,
        write,
    )

    screen = render.console()
    if listing or name is None:
        rows = [(s.name, s.source, s.title, f"{len(s.arms)} arms") for s in STUDIES.values()]
        render.print_table(screen, ("", "", "", ""), rows)
        return
    study = with_arms(study_of(name), options.pop("arms"))
    slurm = {name: options.pop(name) for name in ("minutes", "partition", "cluster")}
    kind, jobs, address = (options.pop(name) for name in ("executor", "jobs", "address"))
    engine = _executor(out, kind, jobs, address, slurm)
    seeds = range(options.pop("seeds"))
    setting = _setting(study, **options)
    findings = run_study(study, setting, seeds, out / "runs", executor=engine, tell=screen.print)
    written = write(findings, out)
    for line in written[0].read_text(encoding="utf-8").splitlines():
        screen.print(line)
    screen.print(f"wrote {', '.join(map(str, written))}")


def _executor(
    out: Path, executor: str, jobs: int, address: str | None, slurm: Mapping[str, Any]
) -> Executor:
    from onnx_expand.experiment.paper import by_slurm, in_pool, in_process, in_ray

    if executor == "pool":
        return in_pool(jobs)
    if executor == "ray":
        return in_ray(address)
    if executor == "slurm":
        chosen = {"timeout_min": slurm["minutes"], "slurm_partition": slurm["partition"]}
        return by_slurm(out / "slurm", given(chosen), slurm["cluster"])
    return in_process


def with_arms(study: Study, names: str | None) -> Study:
    """Return a study with these arms only, and those that they are compared with."""
    if names is None:
        return study
    known = {arm.name.lower(): arm for arm in study.arms}
    wanted = _split(names.lower(), known)
    bases = {base.name for name in wanted if (base := study.against(known[name])) is not None}
    arms = [arm for arm in study.arms if arm.name.lower() in wanted or arm.name in bases]
    return replace(study, arms=tuple(arms))


def _split(text: str, known: Collection[str]) -> list[str]:
    """Split a list of names at its commas, although names contain commas too.

    Raises:
        UsageError: A part is not the name of an arm.
    """
    parts, found = [part.strip() for part in text.split(",")], []
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if ", ".join(parts[:end]) in known), None)
        if end is None:
            raise UsageError(f"--arms: '{parts[0]}' is none of {'; '.join(known)}")
        found.append(", ".join(parts[:end]))
        parts = parts[end:]
    return found


def _setting(
    study: Study, data: str | None, recipe: str | None, lr: tuple[float, ...] | None, **own: Any
) -> Setting:
    """Return the setting of a study with the user's own options, which are None if not given."""
    from onnx_expand.experiment.paper import EMBEDDED, published

    if data is not None:
        setting = published(recipe or study.recipe, data)
    elif recipe is not None:
        raise UsageError("--recipe needs --data; the embedded data have their own settings")
    else:
        setting = study.embedded or EMBEDDED
    if lr is not None and not all(0 < rate < float("inf") for rate in lr):
        text = ",".join(map(str, lr))
        raise UsageError(f"--lr: '{text}' is not a list of rates; write one such as 0.01,0.03")

    def given_of(*names: str) -> dict[str, Any]:
        return given({name: own[name] for name in names})

    train = given_of("epochs", "batch", "schedule")
    return replace(
        setting,
        options={**setting.options, **given_of("ignore_label")},
        train={**setting.train, **scaled(setting.train, train), **train},
        build={**setting.build, **given_of("size", "classes", "width")},
        images=own["images"],
        rates=lr or setting.rates,
    )
