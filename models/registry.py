"""The networks by name: one decorated function each, whose keywords are the command's options.

A module of this package that holds a function

    @network("tiny")
    def build(
        *, classes: Annotated[int, "number of outputs"] = 10, seed: Seed = 0, opset: Opset = 17
    ) -> onnx.ModelProto:
        '''One line for the listing.'''

adds `python -m models tiny --classes 10 ...`; nothing else has to name it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_type_hints

import onnx

__all__ = ["Batch", "Classes", "Entry", "Opset", "Option", "Seed", "Size", "network", "networks"]

Batch: TypeAlias = Annotated[int, "images in a batch; 0 leaves it open"]
Classes: TypeAlias = Annotated[int, "number of outputs"]
Size: TypeAlias = Annotated[int, "height and width of the images"]
Seed: TypeAlias = Annotated[int, "seed of the initial weights"]
Opset: TypeAlias = Annotated[int, "version of the ONNX operators"]

Build = TypeVar("Build", bound=Callable[..., onnx.ModelProto])

_ENTRIES: dict[str, Entry] = {}


@dataclass(frozen=True)
class Option:
    """One keyword of a builder.

    Attributes:
        name: The keyword.
        type: Its type, which also parses it on the command line.
        default: Its default value.
        help: What it means, in a few words.
    """

    name: str
    type: type
    default: Any
    help: str


@dataclass(frozen=True)
class Entry:
    """A network that can be built.

    Attributes:
        name: Its name on the command line.
        build: Makes it; takes the options as keywords.
        summary: One line that describes it.
        options: The keywords of `build`.
    """

    name: str
    build: Callable[..., onnx.ModelProto]
    summary: str
    options: tuple[Option, ...]


def network(name: str) -> Callable[[Build], Build]:
    """Register the decorated builder.

    Args:
        name: The network's name on the command line.

    Raises:
        TypeError: The name is taken, the builder has no docstring, or one of its parameters is
            not an annotated keyword with a default value.
    """

    def register(build: Build) -> Build:
        if name in _ENTRIES:
            raise TypeError(f"two networks are called {name}")
        if not build.__doc__:
            raise TypeError(f"{name}: the builder needs a docstring, whose first line is listed")
        summary = build.__doc__.strip().splitlines()[0].rstrip(".")
        _ENTRIES[name] = Entry(name, build, summary, _options(name, build))
        return build

    return register


@functools.cache
def networks() -> Mapping[str, Entry]:
    """All networks of this package, by name."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        # Importing the command would import this function's caller a second time.
        if module.name != "__main__":
            importlib.import_module(f"{__package__}.{module.name}")
    return MappingProxyType(dict(sorted(_ENTRIES.items())))


def _options(name: str, build: Callable[..., onnx.ModelProto]) -> tuple[Option, ...]:
    hints = get_type_hints(build, include_extras=True)
    options = []
    for parameter in inspect.signature(build).parameters.values():
        described = get_args(hints.get(parameter.name))
        if (
            parameter.kind is not parameter.KEYWORD_ONLY
            or parameter.default is parameter.empty
            or len(described) != 2
        ):
            raise TypeError(
                f"{name}: write the parameter {parameter.name} as a keyword: "
                f'{parameter.name}: Annotated[<type>, "<meaning>"] = <default>'
            )
        kind, meaning = described
        options.append(Option(parameter.name, kind, parameter.default, meaning))
    return tuple(options)
