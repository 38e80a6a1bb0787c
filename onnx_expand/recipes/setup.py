"""All settings of a run: the defaults, overridden by a recipe, overridden by given options."""

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

# Where data and teacher are stored does not affect results; their contents are compared.
_FREE = {"cache", "layout", "strict", "teacher"}


@dataclass(frozen=True)
class Setup:
    """The settings of a run.

    Attributes:
        train: The optimizer, the schedule and the loop.
        data: How data is read, augmented and normalized.
        distill: Knowledge distillation.
        run: Outputs, checkpoints and repetitions.
        notes: The notes of the recipe.
    """

    train: TrainOptions = field(default_factory=TrainOptions)
    data: DataOptions = field(default_factory=DataOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    run: RunOptions = field(default_factory=RunOptions)
    notes: str = ""

    @classmethod
    def of(cls, recipe: str | None = None, **options: Any) -> Setup:
        """Combine a recipe with fields of any group by name, which override it.

        Fields that are None are not set.

        Raises:
            UsageError: There is no such recipe or field, or a value is invalid.
        """
        base = find(recipe) if recipe is not None else None
        options = {name: value for name, value in options.items() if value is not None}
        groups = {}
        moved: tuple[int, ...] = ()
        for group, kind in GROUPS.items():
            names = explain(kind)
            values = dict(getattr(base, group, {})) if base is not None else {}
            given = {name: options.pop(name) for name in names if name in options}
            moves = scaled(values, given)
            values.update(moves)
            values.update(given)
            moved = moves.get("milestones", moved)
            groups[group] = kind(**values)
        if options:
            raise UsageError(f"there is no option {', '.join(sorted(options))}")
        notes = ""
        if base is not None:
            notes = f"{base.name}: as for {base.network}"
            notes += f"; {base.notes}" if base.notes else ""
            if moved:
                notes += f"; its milestones are scaled to {', '.join(map(str, moved))}"
        return cls(**groups, notes=notes)

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings of data and teacher that affect the results of a run, by name."""
        found = {**asdict(self.data), **asdict(self.distill)}
        return {name: value for name, value in found.items() if name not in _FREE}

    def as_dict(self) -> dict[str, Any]:
        """Return these settings as plain JSON types."""
        return asdict(self)


def scaled(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's milestones at the same fractions of another number of epochs."""
    wanted, old, milestones = given.get("epochs"), recipe.get("epochs"), recipe.get("milestones")
    if not milestones or not old or wanted in {None, old} or "milestones" in given:
        return {}
    return {"milestones": tuple(max(1, round(m * wanted / old)) for m in milestones)}
