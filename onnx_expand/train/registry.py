"""The registry of translations: the torch function that computes each ONNX operator.

A translation is one module-level function. Its positional parameters are the node's inputs, and
its other parameters are the node's attributes, by ONNX's names. Therefore an attribute that became
an input in some opset needs no second function. Two parameter names are special: `outputs` is the
number of outputs of the node (the function then returns a tuple), and `like` is the graph's first
input, for functions that create tensors and need a device.

A translation whose state depends on `.training` is an `nn.Module` without parameters: its
constructor takes the attributes, and `forward` takes the inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

__all__ = [
    "COMPUTED",
    "STANDARDIZED",
    "Attributes",
    "Translation",
    "find",
    "op",
    "plain",
    "registered",
]

Attributes = Mapping[str, Any]
Check = Callable[[Attributes], str]
Target = TypeVar("Target", bound="Callable[..., Any] | type[torch.nn.Module]")


@dataclass(frozen=True)
class Translation:
    """The translation of one operator, from one opset on.

    Attributes:
        target: The function, or the class of the module.
        since: The first opset with this definition.
        weights: Input slots of weights, which are trained even if they have one element.
        frozen: Input slots that are never trained.
        static: Input slots of sizes, axes or other settings. Constants are passed there as Python
            numbers and lists, and are never trained.
        host_rank: The rank of the result, for functions that return Python numbers.
        allowed: The supported values of some attributes.
        check: Returns why attributes cannot be translated, or an empty text.
        preset: Arguments of the function that tell operators of one family apart.
        parameters: The names of the function's parameters.
    """

    target: Callable[..., Any]
    since: int = 1
    weights: frozenset[int] = frozenset()
    frozen: frozenset[int] = frozenset()
    static: frozenset[int] = frozenset()
    host_rank: int | None = None
    allowed: Mapping[str, Collection[Any]] = field(default_factory=dict)
    check: Check | None = None
    preset: Attributes = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()

    @property
    def is_module(self) -> bool:
        """Whether the target is a class of modules."""
        return isinstance(self.target, type)

    @property
    def is_function(self) -> bool:
        """Whether the target is a function of tensors and attributes that returns one tensor."""
        special = self.parameters & {"outputs", "like"}
        return not self.is_module and self.host_rank is None and not special

    def problem(self, attributes: Attributes) -> str:
        """Return why a node with these attributes cannot be translated, or an empty text."""
        for name, value in attributes.items():
            if name not in self.parameters:
                return f"attribute '{name}' is not supported"
            if value not in self.allowed.get(name, (value,)):
                return f"{name}={value!r} is not supported"
        return self.check(attributes) if self.check is not None else ""


COMPUTED = "onnx_expand.computed"
"""The domain of translations for nodes that compute values that are normally state."""

STANDARDIZED = "onnx_expand.standardized"
"""The domain of translations for normalizations of weights by their own statistics."""

_TABLE: dict[tuple[str, str], list[Translation]] = {}


def op(
    name: str,
    *,
    domain: str = "",
    since: int = 1,
    weights: tuple[int, ...] = (),
    frozen: tuple[int, ...] = (),
    static: tuple[int, ...] = (),
    host_rank: int | None = None,
    allowed: Mapping[str, Collection[Any]] | None = None,
    check: Check | None = None,
    **preset: Any,
) -> Callable[[Target], Target]:
    """Register the decorated function or module class as an operator's translation.

    Domain and name are ONNX's; all else is an attribute of `Translation`.
    """

    def register(target: Target) -> Target:
        entry = Translation(
            target, since, frozenset(weights), frozenset(frozen), frozenset(static), host_rank,
            allowed or {}, check, preset, frozenset(inspect.signature(target).parameters),
        )  # fmt: skip
        _add(domain, name, entry)
        return target

    return register


def plain(
    *,
    since: int = 1,
    weights: tuple[int, ...] = (),
    frozen: tuple[int, ...] = (),
    **functions: Callable[..., torch.Tensor],
) -> None:
    """Register torch functions, by the names of operators without attributes."""
    for name, function in functions.items():
        _add("", name, Translation(function, since, frozenset(weights), frozenset(frozen)))


def find(domain: str, name: str, opset: int) -> Translation | None:
    """Return the translation of an operator in an opset, or None."""
    domain = "" if domain == "ai.onnx" else domain
    entries = [entry for entry in _TABLE.get((domain, name), []) if entry.since <= opset]
    return max(entries, key=lambda entry: entry.since, default=None)


def registered() -> list[tuple[str, str]]:
    """Return the operators that have a translation, as (domain, name)."""
    return sorted(_TABLE)


def _add(domain: str, name: str, entry: Translation) -> None:
    _TABLE.setdefault((domain, name), []).append(entry)
