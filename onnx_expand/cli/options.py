"""What several commands do with their options."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from onnx_expand.errors import UsageError
from onnx_expand.model import check_output
from onnx_expand.recipes import explain

__all__ = [
    "assume_constant_option",
    "check_option",
    "check_outputs",
    "html_option",
    "options_of",
    "parse_shape",
    "quiet_option",
    "shape_option",
    "verbose_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])

assume_constant_option = click.option(
    "--assume-constant-initializers",
    is_flag=True,
    help="Nobody replaces weights that are also inputs of the graph, as all were before IR "
    "version 4: take them out of the inputs.",
)

html_option = click.option(
    "--html",
    "html",
    metavar="F.html",
    help="Write a page that shows all of it: graphs, costs, figures and provenance, in one file.",
)

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print every site and reason.")

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")

check_option = click.option(
    "--check",
    "checks",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare IN and OUT on N inputs of each kind before OUT is written, and write nothing "
    "if they differ or OUT does not run; 0 does not. [default: 1, where onnxruntime can run IN]",
)


def parse_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """An input's name and extents from `NAME:1,3,H,W`; raises `UsageError`."""
    name, colon, extents = text.rpartition(":")
    parts = [part.strip() for part in extents.split(",")]
    if not colon or not all(parts):
        raise UsageError(f"--shape: '{text}' is no shape such as image:1,3,H,W")
    return name, tuple(int(p) if p.isascii() and p.isdigit() else p for p in parts)


def _shapes(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, tuple[int | str, ...]] | None:
    return dict(map(parse_shape, given)) or None


shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME:1,3,H,W",
    callback=_shapes,
    help="Extents of an input, where models run or figures need them; what is no number stays as "
    "the model has it. May be given for each input.",
)


def check_outputs(*paths: str | None) -> None:
    """Find out before the work begins that a result could not be written."""
    written: set[Path] = set()
    for path in paths:
        if path and path != "-":
            place = check_output(path).resolve()
            if place in written:
                raise UsageError(f"{path}: two results would be written there; name another file")
            written.add(place)
        elif path == "":
            raise UsageError("an output path is empty; name a file")


if TYPE_CHECKING:
    _Parameter = click.ParamType[tuple[Any, ...]]
else:
    _Parameter = click.ParamType  # generic in recent versions only


class _Listed(_Parameter):
    """Values of one kind, with commas between.

    Args:
        kind: The kind.
    """

    name = "list"

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The values of a text."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"'{value}' is no list of {self.kind.__name__} with commas", param, ctx)


def options_of(*kinds: type[Any]) -> Callable[[Command], Command]:
    """One option for each field of some dataclasses, as `recipes.fields.option` declared it.

    What is not said comes as None, so that a recipe can be stronger than the defaults.
    """

    def decorate(command: Command) -> Command:
        entries = [entry for kind in kinds for entry in explain(kind).items()]
        for name, (declared, kind) in reversed(entries):
            command = _option(name, declared, kind)(command)
        return command

    return decorate


def _option(name: str, declared: Any, kind: Any) -> Callable[[Command], Command]:
    flag = "--" + name.replace("_", "-")
    text = declared.metadata["help"]
    default = declared.default
    if kind is bool:
        # What a recipe switches on can be switched off.
        flag = f"{flag}/--no-{flag[2:]}"
    if "[default" not in text and not _silent(default):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "on" if shown is True else f"{shown:g}" if isinstance(shown, float) else shown
        text += f" [default: {shown}]"
    settings: dict[str, Any] = {"help": text, "default": None}
    if declared.metadata["metavar"]:
        settings["metavar"] = declared.metadata["metavar"]
    if kind is bool:
        return click.option(flag, name, is_flag=True, **settings)
    return click.option(flag, name, type=_type(kind), **settings)


def _silent(default: Any) -> bool:
    """Whether a default says nothing."""
    return default is None or default is False or default == ()


def _type(kind: Any) -> Any:
    """What click calls a field's type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return _type(next(part for part in inner if part is not type(None)))
    if origin is Literal:
        return click.Choice(inner)
    if origin is tuple:
        return _Listed(inner[0])
    return kind
