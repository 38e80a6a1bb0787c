"""Options and checks that commands share, and options derived from dataclasses."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click

from onnx_expand.errors import ModelError, UnsupportedError, UsageError
from onnx_expand.model import check_output, keep_weights, load
from onnx_expand.options import CALLED, alternatives, explain

__all__ = [
    "Command",
    "Listed",
    "assume_constant_option",
    "check_option",
    "check_outputs",
    "given",
    "html_option",
    "options_of",
    "parse_shape",
    "quiet_option",
    "require_both",
    "shape_option",
    "verbose_option",
]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that refuses empty option values, such as those of unset shell variables."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments of the command, as click does."""
        parsed, _, _ = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        for option in (p for p in self.params if isinstance(p, click.Option)):
            value = parsed.get(option.name or "")
            if value == "" or (isinstance(value, list) and "" in value):
                flag = max(option.opts, key=len)
                raise click.UsageError(
                    f"{flag} is empty; give a value, or leave the option out.", ctx
                )
        return rest


assume_constant_option = click.option(
    "--assume-constant-initializers",
    is_flag=True,
    help="Remove weights from the graph inputs, where IR versions before 4 list them all, so that "
    "they are constants.",
)

html_option = click.option(
    "--html",
    "html",
    metavar="F.html",
    help="Write a self-contained page with graphs, costs, figures and provenance.",
)

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print each site and reason.")

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")

check_option = click.option(
    "--check",
    "checks",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare IN and OUT on N inputs of each kind before OUT is written, and write nothing "
    "if they differ or OUT does not run; 0 turns this off. [default: 1, where IN runs here]",
)


def parse_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """Parse `NAME:1,3,H,W` into a name and extents; raises `UsageError`."""
    name, colon, extents = text.rpartition(":")
    parts = [part.strip() for part in extents.split(",")]
    if not colon or not all(parts):
        raise UsageError(f"--shape: '{text}' is not a shape; write one such as image:1,3,H,W")
    return name, tuple(map(_extent, parts))


def _extent(text: str) -> int | str:
    """Return a number, or the name of a symbolic extent."""
    if text.isascii() and text.isdigit():
        return int(text)
    if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text):
        raise UsageError(f"--shape: '{text}' is neither a whole number above 0 nor a name")
    return text


def _shapes(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, tuple[int | str, ...]] | None:
    return dict(map(parse_shape, texts)) or None


shape_option = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME:1,3,H,W",
    callback=_shapes,
    help="Extents of an input for running and counting; names keep the model's extents. Repeat "
    "it for further inputs.",
)


def check_outputs(
    *paths: str | None, model: str | None = None, reads: Iterable[str | None] = ()
) -> None:
    """Check before the work begins that all results can be written.

    Args:
        paths: Output files; the first one, the report, may be `-`, stdout.
        model: Output file of the model, which may replace a file that is read.
        reads: The files that the command reads.

    Raises:
        UsageError: A file cannot be written, or would replace a file that is read, or its weights.
    """
    if model == "-":
        raise UsageError("a model is not written to stdout; name a file (or ./-)")
    if "-" in paths[1:]:
        raise UsageError("only a report in JSON is written to stdout; name a file (or ./-)")
    read = {Path(path).resolve() for path in reads if path}
    written: set[Path] = set()
    for path in (model, *paths):
        if path and path != "-":
            place = check_output(path, is_model=path is model).resolve()
            if place in written:
                raise UsageError(f"{path}: two results would be written there; name another file")
            if place in read and path is not model:
                raise UsageError(f"{path}: this command reads the file; name another file")
            written.add(place)
        elif path == "":
            raise UsageError("an output path is empty; name a file")
    if model is not None and (data := Path(f"{model}.data").resolve()) in written:
        raise UsageError(f"{data.name}: the weights of {model} may be written there; name another")
    existing = [place for place in written if place.exists()]
    for source in read if existing else ():
        if _may_refer(source):
            with contextlib.suppress(ModelError, UnsupportedError):
                keep_weights(load(source), *existing)


def _may_refer(path: Path) -> bool:
    """Return whether a file contains the key of references to external data."""
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"location") >= 0
    except (OSError, ValueError):  # unreadable, or empty
        return False


def require_both(source: str, target: str | None) -> None:
    """Refuse to document two models if the target would replace the source."""
    if target is not None and Path(target).resolve() == Path(source).resolve():
        raise UsageError("a certificate or page needs both models; name an OUT other than IN")


if TYPE_CHECKING:
    _Parameter = click.ParamType[tuple[Any, ...]]
else:
    _Parameter = click.ParamType  # generic in recent versions only


class Listed(_Parameter):
    """A list of values of one type, separated by commas."""

    name = "list"

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Convert a text to its values."""
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
    """Add one option for each field that `onnx_expand.options.option` declared.

    Options that are not given are None, so that a recipe can override the defaults.

    Args:
        kinds: The dataclasses with the fields.
        without: Names of fields for which the command declares an option itself.
    """

    def decorate(command: Decorated) -> Decorated:
        entries = [e for kind in kinds for e in explain(kind).items() if e[0] not in without]
        for name, (declared, hint) in reversed(entries):
            command = _option(name, declared, hint)(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _option(name: str, declared: Any, kind: Any) -> Callable[[Decorated], Decorated]:
    flags = (declared.metadata["flag"] or "--" + name.replace("_", "-")).split()
    text = declared.metadata["help"]
    default = declared.default
    is_switch = bool in alternatives(kind)
    if is_switch:
        # The negative form overrides a recipe that switches the option on.
        flags[-1] = f"{flags[-1]}/--no-{flags[-1][2:]}"
    if "[default" not in text and default is not None and default is not False and default != ():
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "on" if shown is True else f"{shown:g}" if isinstance(shown, float) else shown
        text += f" [default: {shown}]"
    settings: dict[str, Any] = {"help": text, "default": None}
    if declared.metadata["metavar"]:
        settings["metavar"] = declared.metadata["metavar"]
    if is_switch:
        return click.option(*flags, name, is_flag=True, **settings)
    return click.option(*flags, name, type=_type(kind), **settings)


def _type(kind: Any) -> Any:
    """Return click's type for a field; `str` where the dataclass parses the text itself."""
    kind = next(part for part in alternatives(kind) if part is not type(None))
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return click.Choice(inner)
    if origin in {tuple, Sequence} and inner[0] in CALLED:
        return Listed(inner[0])
    if origin is not None:
        return str
    return click.Choice([str(member) for member in kind]) if issubclass(kind, StrEnum) else kind
