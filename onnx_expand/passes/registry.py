"""The registry of passes by name, with checked options, for command lines and config files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import onnx_ir as ir

from onnx_expand import plugins
from onnx_expand.errors import UsageError
from onnx_expand.options import alternatives
from onnx_expand.passes.clean import Clean
from onnx_expand.passes.expand import Expand
from onnx_expand.passes.fold import Fold
from onnx_expand.passes.preprocess import Preprocess
from onnx_expand.passes.strip import StripNonlinear

__all__ = ["NamedPass", "Option", "find_pass", "named_passes", "options_of"]

_OWN: Mapping[str, type[ir.passes.PassBase]] = {
    "clean": Clean,
    "expand": Expand,
    "fold": Fold,
    "preprocess": Preprocess,
    "strip-nonlinear": StripNonlinear,
}


@dataclass(frozen=True)
class Option:
    """One option of a pass."""

    name: str
    kind: str
    default: Any
    help: str = ""


@dataclass(frozen=True)
class NamedPass:
    """A pass that can be named in a pipeline."""

    name: str
    kind: type[ir.passes.PassBase]
    origin: str

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.kind.__doc__ or "").strip().split("\n", maxsplit=1)[0]

    @property
    def options(self) -> tuple[Option, ...]:
        """Its options, in the order in which its class declares them."""
        return options_of(self.kind)

    def make(self, options: Mapping[str, Any]) -> ir.passes.PassBase:
        """Create the pass with these options.

        Raises:
            UsageError: It has no such option, or an option has an invalid value.
        """
        known = [field.name for field, _ in _declared(self.kind)]
        for name in options:
            if name not in known:
                offered = f"it has {', '.join(known)}" if known else "it has none"
                raise UsageError(f"pass '{self.name}' has no option '{name}'; {offered}")
        missing = [o.name for o in self.options if o.default is MISSING and o.name not in options]
        if missing:
            raise UsageError(f"pass '{self.name}' needs the option '{missing[0]}'")
        try:
            return self.kind(**options)
        except UsageError as error:
            raise UsageError(f"pass '{self.name}': {error}") from None
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"pass '{self.name}' does not take {dict(options)}: {error}"
            ) from error


def named_passes() -> tuple[NamedPass, ...]:
    """Return all registered passes: those of this package, then those of installed packages.

    Raises:
        UsageError: An installed package registers an object that is not a pass, or a name twice.
    """
    own = tuple(NamedPass(name, kind, "onnx-expand") for name, kind in _OWN.items())
    return own + tuple(map(_foreign, plugins.names(plugins.PASSES)))


def find_pass(name: str) -> NamedPass:
    """Return the pass of a name.

    Raises:
        UsageError: There is no such pass.
    """
    if name in _OWN:
        return NamedPass(name, _OWN[name], "onnx-expand")
    if name not in plugins.names(plugins.PASSES):
        known = ", ".join([*_OWN, *plugins.names(plugins.PASSES)])
        raise UsageError(f"there is no pass '{name}'; there are {known}")
    return _foreign(name)


def _foreign(name: str) -> NamedPass:
    kind = plugins.load(plugins.PASSES, name)
    if not (isinstance(kind, type) and issubclass(kind, ir.passes.PassBase)):
        raise UsageError(
            f"'{name}' in {plugins.PASSES} is a {type(kind).__name__}; it must be a subclass of "
            "onnx_ir.passes.PassBase"
        )
    return NamedPass(name, kind, kind.__module__.split(".", maxsplit=1)[0])


def options_of(kind: Any) -> tuple[Option, ...]:
    """Return the options that an option dataclass, or a pass, declares."""
    return tuple(
        Option(f.name, _words(hint), _default(f), f.metadata.get("help", ""))
        for f, hint in _declared(kind)
    )


def _declared(kind: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the init fields of a class with their types."""
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.init:
            yield field, hints[field.name]


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


_CALLED = {bool: "true or false", int: "integer", float: "number", str: "text"}  # as JSON has them


def _plural(kind: Any) -> str:
    words = _words(kind)
    return words.replace("list", "lists", 1) if words.startswith("list") else f"{words}s"


def _words(hint: Any) -> str:
    """Describe a type in words."""
    found = []
    for kind in alternatives(hint):
        if kind is type(None):
            continue
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            found.append(", ".join(kind))
        elif get_origin(kind) is Literal:
            found.append(", ".join(map(str, get_args(kind))))
        elif get_origin(kind) in {dict, Mapping}:
            found.append("table")
        elif get_origin(kind) is not None:
            inner = alternatives(next(iter(get_args(kind)), str))
            found.append("list of " + " or ".join(map(_plural, inner)))
        else:
            found.append(_CALLED.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(dict.fromkeys(found))
