"""What several commands do with their options."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click

from onnx_expand.errors import UsageError
from onnx_expand.model import check_output
from onnx_expand.options import CALLED, alternatives, explain

__all__ = [
    "Command",
    "assume_constant_option",
    "check_option",
    "check_outputs",
    "html_option",
    "options_of",
    "parse_shape",
    "quiet_option",
    "require_both",
    "said",
    "shape_option",
    "verbose_option",
]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses empty option values, such as those of unset shell variables."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments of the command, as click does."""
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        for option in (p for p in self.params if isinstance(p, click.Option)):
            value = given.get(option.name or "")
            if value == "" or (isinstance(value, list) and "" in value):
                flag = max(option.opts, key=len)
                raise click.UsageError(
                    f"{flag} is empty; give a value, or leave the option out.", ctx
                )
        return rest


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


def check_outputs(
    *paths: str | None, model: str | None = None, reads: Iterable[str | None] = ()
) -> None:
    """Find out before the work begins that a result could not be written.

    Args:
        paths: Where results go; `-` is stdout.
        model: Where the model goes, which may take the place of one that is read.
        reads: The files that the command reads.

    Raises:
        UsageError: A file cannot be written, or what is there is still needed.
    """
    if model == "-":
        raise UsageError("a model is not written to stdout; name a file (or ./-)")
    read = {Path(path).resolve() for path in reads if path}
    written: set[Path] = set()
    for path in (model, *paths):
        if path and path != "-":
            place = check_output(path).resolve()
            if place in written:
                raise UsageError(f"{path}: two results would be written there; name another file")
            if place in read and path is not model:
                raise UsageError(f"{path}: is read by this command; name another file")
            written.add(place)
        elif path == "":
            raise UsageError("an output path is empty; name a file")


def require_both(source: str, target: str | None) -> None:
    """Refuse a document about two models one of which would take the place of the other."""
    if target is not None and Path(target).resolve() == Path(source).resolve():
        raise UsageError("a certificate or page is about two models; name an OUT other than IN")


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
        parts = [part.strip() for part in value.split(",")]
        try:
            if all(parts):
                return tuple(map(self.kind, parts))
        except ValueError:
            pass
        names = {int: "whole numbers", float: "numbers"}.get(self.kind, "names")
        self.fail(f"'{value}' is not a list of {names} separated by commas.", param, ctx)


def options_of(
    *kinds: type[Any], without: Container[str] = ()
) -> Callable[[Decorated], Decorated]:
    """One option for each field of some dataclasses, as `onnx_expand.options.option` declared it.

    What is not said comes as None, so that a recipe can be stronger than the defaults.

    Args:
        kinds: The dataclasses.
        without: Names of fields for which the command has an option of its own.
    """

    def decorate(command: Decorated) -> Decorated:
        entries = [e for kind in kinds for e in explain(kind).items() if e[0] not in without]
        for name, (declared, hint) in reversed(entries):
            command = _option(name, declared, hint)(command)
        return command

    return decorate


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _option(name: str, declared: Any, kind: Any) -> Callable[[Decorated], Decorated]:
    flags = (declared.metadata["flag"] or "--" + name.replace("_", "-")).split()
    text = declared.metadata["help"]
    default = declared.default
    is_switch = bool in alternatives(kind)
    if is_switch:
        # What a recipe switches on can be switched off.
        flags[-1] = f"{flags[-1]}/--no-{flags[-1][2:]}"
    if "[default" not in text and not _silent(default):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "on" if shown is True else f"{shown:g}" if isinstance(shown, float) else shown
        text += f" [default: {shown}]"
    settings: dict[str, Any] = {"help": text, "default": None}
    if declared.metadata["metavar"]:
        settings["metavar"] = declared.metadata["metavar"]
    if is_switch:
        return click.option(*flags, name, is_flag=True, **settings)
    return click.option(*flags, name, type=_type(kind), **settings)


def _silent(default: Any) -> bool:
    """Whether a default says nothing."""
    return default is None or default is False or default == ()


def _type(kind: Any) -> Any:
    """What click calls a field's type; text where the field reads it by itself."""
    kind = next(part for part in alternatives(kind) if part is not type(None))
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return click.Choice(inner)
    if origin in {tuple, Sequence} and inner[0] in CALLED:
        return _Listed(inner[0])
    if origin is not None:
        return str
    return click.Choice([str(member) for member in kind]) if issubclass(kind, StrEnum) else kind
