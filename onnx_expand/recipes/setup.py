"""All settings of a run together: the defaults, changed by a recipe, changed by what was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnx_expand.errors import UsageError
from onnx_expand.options import explain
from onnx_expand.recipes.options import DataOptions, DistillOptions, RunOptions, TrainOptions
from onnx_expand.recipes.papers import recipe as find

__all__ = ["GROUPS", "Setup", "scaled"]

GROUPS: Mapping[str, type[Any]] = {
    "train": TrainOptions,
    "data": DataOptions,
    "distill": DistillOptions,
    "run": RunOptions,
}

# Where data and teacher are, and how they are kept; what they hold is compared by itself.
_FREE = {"cache", "layout", "strict", "teacher"}


@dataclass(frozen=True)
class Setup:
    """The settings of a run.

    Attributes:
        train: How the module is trained.
        data: How data becomes what the model takes.
        distill: How a teacher is followed.
        run: What is written, and how often the whole is done.
        notes: What the recipe has to say.
    """

    train: TrainOptions = field(default_factory=TrainOptions)
    data: DataOptions = field(default_factory=DataOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    run: RunOptions = field(default_factory=RunOptions)
    notes: str = ""

    @classmethod
    def of(cls, recipe: str | None = None, **said: Any) -> Setup:
        """A plan of a recipe and of fields of any group, by name; the latter are stronger.

        Fields that are None were not said.

        Raises:
            UsageError: There is no such recipe or field, or a value makes no sense.
        """
        base = find(recipe) if recipe is not None else None
        said = {name: value for name, value in said.items() if value is not None}
        groups = {}
        moved: tuple[int, ...] = ()
        for group, kind in GROUPS.items():
            names = explain(kind)
            values = dict(getattr(base, group, {})) if base is not None else {}
            given = {name: said.pop(name) for name in names if name in said}
            moves = scaled(values, given)
            values.update(moves)
            values.update(given)
            moved = moves.get("milestones", moved)
            groups[group] = kind(**values)
        if said:
            raise UsageError(f"there is no option {', '.join(sorted(said))}")
        notes = ""
        if base is not None:
            notes = f"{base.name}: as for {base.network}"
            notes += f"; {base.notes}" if base.notes else ""
            if moved:
                notes += f"; its milestones are scaled to {', '.join(map(str, moved))}"
        return cls(**groups, notes=notes)

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings of data and teacher that decide a run's numbers, by name."""
        found = {**asdict(self.data), **asdict(self.distill)}
        return {name: value for name, value in found.items() if name not in _FREE}

    def as_dict(self) -> dict[str, Any]:
        """These settings as plain JSON types."""
        return asdict(self)


def scaled(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's milestones at the same shares of another number of epochs."""
    wanted, old, milestones = given.get("epochs"), recipe.get("epochs"), recipe.get("milestones")
    if not milestones or not old or wanted in {None, old} or "milestones" in given:
        return {}
    return {"milestones": tuple(max(1, round(m * wanted / old)) for m in milestones)}
