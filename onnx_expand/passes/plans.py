"""Plans: which layers to expand, and how.

A plan is a list of rules, of which the first that selects a layer decides, and entries for single
nodes, which go before the rules. `expand --plan-out` writes the entries of what it expanded; plans
that come with the package are named, among them the choices of the ExpandNets paper, written as
rules so that they hold for any export of a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from onnx_expand.documents import parse_json, parse_yaml, yaml_module
from onnx_expand.errors import UsageError
from onnx_expand.factorize import Options, parse_strategy

__all__ = ["PLANS", "How", "Plan", "Rule", "Select", "load_plan", "plan_text"]

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PLACES = ("first", "inner", "last")
_PATHS = ("contracting", "expanding")
_WIDTHS = ("keep", "expand")
_NORMS = ("auto", "none", "bn")


@dataclass(frozen=True)
class Select:
    """Which layers are meant; what is left out does not matter.

    Attributes:
        ops: Op types.
        kernels: Extents of the kernel, such as (7, 1); a single one holds for every axis.
        strides: Strides, equal on every axis.
        depthwise: Whether every channel is a group of its own.
        residual: Whether the layer lies in a residual block, beside a shortcut.
        place: `first` (no linear layer precedes), `last` (none follows) or `inner`; several are
            joined with `+`.
        path: `contracting` (nothing was upsampled before) or `expanding`.
        include: A regular expression that has a match in the name.
        exclude: A regular expression that has none.
        limit: Only so many, in the order of the graph.

    Raises:
        UsageError: A value makes no sense.
    """

    ops: tuple[str, ...] = ()
    kernels: tuple[tuple[int, ...], ...] = ()
    strides: tuple[int, ...] = ()
    depthwise: bool | None = None
    residual: bool | None = None
    place: str | None = None
    path: str | None = None
    include: str | None = None
    exclude: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for op in self.ops:
            _check_choice("ops", op, OPS)
        for place in [] if self.place is None else self.place.split("+"):
            _check_choice("place", place, PLACES)
        if self.path is not None:
            _check_choice("path", self.path, _PATHS)
        for kernel in self.kernels:
            if not kernel or min(kernel) < 1:
                raise UsageError(f"kernel {list(kernel)}: extents are 1 or more, as in 7x1")
        if min(self.strides, default=1) < 1:
            raise UsageError(f"strides are {list(self.strides)}; they are 1 or more")
        if self.limit is not None and self.limit < 0:
            raise UsageError(f"limit is {self.limit}; it must not be negative")
        for name in ("include", "exclude"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern or "")
            except re.error as error:
                message = f"{name}: '{pattern}' is no regular expression: {error}"
                raise UsageError(message) from None


@dataclass(frozen=True)
class How:
    """How a layer is expanded; what is left out is as the options of expand say.

    Attributes:
        strategy: `cl`, `ck`, `fc`, ... or a combination such as `ck+fc`.
        rate: The expansion rate.
        layers: Layers that replace a fully connected one, 2 or 3.
        first_width: `keep` or `expand` the input width of the first convolutions.
        norm: Batch normalization in the branches of a sum: `none`, `bn` or `auto`.
        branches: Copies of the layer that `mobileone` adds up.
        rank: Inner width of the side path of `lowrank`.

    Raises:
        UsageError: A value makes no sense.
    """

    strategy: str | None = None
    rate: float | None = None
    layers: int | None = None
    first_width: str | None = None
    norm: str | None = None
    branches: int | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.strategy is not None:
            parse_strategy(self.strategy)
        if self.first_width is not None and self.first_width not in _WIDTHS:
            raise UsageError(f"first_width is '{self.first_width}'; give keep or expand")
        if self.norm is not None:
            _check_choice("norm", self.norm, _NORMS)
        given = {
            name: value
            for name in ("rate", "layers", "branches", "rank")
            if (value := getattr(self, name)) is not None
        }
        Options(**given)

    def over(self, other: How) -> How:
        """This one, with what it leaves out taken from another."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return How(**{k: getattr(other, k) if v is None else v for k, v in own.items()})


@dataclass(frozen=True)
class Rule:
    """Layers, and how they are expanded."""

    select: Select = Select()
    how: How = How()


@dataclass(frozen=True)
class Plan:
    """What to expand and how.

    Attributes:
        name: Its name, or the file it was read from.
        summary: One line that describes it.
        rules: The first that selects a layer decides.
        nodes: Single nodes by name; they go before the rules.
    """

    name: str
    summary: str = ""
    rules: tuple[Rule, ...] = ()
    nodes: Mapping[str, How] = field(default_factory=dict)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}: '{value}' is none of {', '.join(choices)}")


# -- Files ------------------------------------------------------------------------------------


def load_plan(source: str) -> Plan:
    """A plan that comes with the package, by name, or one from a JSON or YAML file.

    Raises:
        UsageError: There is no such plan, or the file is not one.
    """
    if source in PLANS:
        return PLANS[source]
    path = Path(source)
    if not path.is_file():
        near = "; see expand --list-plans" if ":" in source else ""
        raise UsageError(f"plan '{source}': there is no such file, nor a plan of this name{near}")
    try:
        data = _parsed(path)
        if not isinstance(data, dict):
            raise UsageError("a plan is a mapping with 'nodes' or 'rules'")
        return _plan_from(source, data)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"plan '{source}' cannot be read: {error}") from None
    except UsageError as error:
        raise UsageError(f"plan '{source}': {error}") from None


def plan_text(nodes: Mapping[str, How], *, yaml: bool) -> str:
    """The text of a plan file with entries for single nodes; JSON is YAML too.

    Raises:
        UsageError: YAML was asked for and PyYAML is missing.
    """
    entries = {name: _given(how) for name, how in nodes.items()}
    data = {"schema": 1, "nodes": entries}
    if yaml:
        return str(yaml_module().safe_dump(data, sort_keys=False, allow_unicode=True))
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() in {".yaml", ".yml"}:
        return parse_yaml(text)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UsageError(f"not JSON: {error} (name a YAML file .yaml)") from None


def _given(how: How) -> dict[str, Any]:
    return {key: value for key, value in asdict(how).items() if value is not None}


def _plan_from(name: str, data: dict[str, Any]) -> Plan:
    _check_keys("the plan", data, ("schema", "summary", "rules", "nodes"))
    if data.get("schema", 1) != 1:
        raise UsageError(f"schema is {data['schema']!r}; this version reads schema 1")
    rules = [] if data.get("rules") is None else data["rules"]
    nodes = {} if data.get("nodes") is None else data["nodes"]
    if not isinstance(rules, list) or not isinstance(nodes, dict):
        raise UsageError("'rules' is a list and 'nodes' a mapping from node names")
    return Plan(
        name,
        str(data.get("summary", "")),
        tuple(_rule_from(f"rule {i + 1}", rule) for i, rule in enumerate(rules)),
        {
            str(node): _how_from(f"node '{node}'", {} if how is None else how)
            for node, how in nodes.items()
        },
    )


def _rule_from(where: str, data: Any) -> Rule:
    _check_keys(where, data, (*_names(Select), *_names(How)))
    chosen = {key: data[key] for key in _names(Select) if data.get(key) is not None}
    for key in ("ops", "strides"):
        if key in chosen:
            chosen[key] = tuple(_listed(chosen[key]))
    if "kernels" in chosen:
        chosen["kernels"] = tuple(map(parse_kernel, _listed(chosen["kernels"])))
    for key, kind in _KINDS.items():
        values = chosen.get(key, ())
        for value in values if isinstance(values, tuple) else (values,):
            _check_kind(f"{where}: {key}", value, kind)
    try:
        select = Select(**chosen)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return Rule(select, _how_from(where, {k: v for k, v in data.items() if k in _names(How)}))


def _how_from(where: str, data: Any) -> How:
    _check_keys(where, data, _names(How))
    for key, value in data.items():
        if value is not None:
            _check_kind(f"{where}: {key}", value, _KINDS[key])
    try:
        return How(**data)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def parse_kernel(value: Any) -> tuple[int, ...]:
    """The extents of a kernel such as 3 or 7x1.

    Raises:
        UsageError: They are no numbers.
    """
    if isinstance(value, list):
        value = "x".join(map(str, value))
    try:
        return tuple(int(part) for part in str(value).lower().split("x"))
    except ValueError:
        raise UsageError(f"kernel '{value}' is not like 3 or 7x1") from None


_KINDS: dict[str, type] = {
    **dict.fromkeys(("strategy", "first_width", "norm", "ops", "place", "path"), str),
    **dict.fromkeys(("include", "exclude"), str),
    **dict.fromkeys(("layers", "branches", "rank", "strides", "limit"), int),
    **dict.fromkeys(("depthwise", "residual"), bool),
    "rate": float,
}


def _check_kind(where: str, value: Any, kind: type) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    fits = number if kind is int else isinstance(value, kind) or (kind is float and number)
    if not fits:
        raise UsageError(f"{where} is {value!r}, not {_CALLED[kind]}")


_CALLED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _check_keys(where: str, data: Any, known: tuple[str, ...]) -> None:
    if not isinstance(data, dict):
        raise UsageError(f"{where} is {data!r}, not a mapping")
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: '{key}' is none of {', '.join(known)}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


# -- Plans by name ----------------------------------------------------------------------------

PLANS: dict[str, Plan] = {}
"""The plans that come with the package."""


def _named(name: str, summary: str, *rules: Rule) -> None:
    PLANS[name] = Plan(name, summary, rules)


_CONVS = Select(ops=("Conv",), exclude=None)
_THREE = Select(ops=("Conv",), kernels=((3,),))
_HIDDEN_FC = Select(ops=("Gemm", "MatMul"), place="inner")


def _smallnets() -> None:
    """SmallNet with 7x7 kernels: every convolution, the fully connected layer before the last."""
    fc = Rule(_HIDDEN_FC, How("fc", layers=3))
    for first, tables, prefix in (
        ("keep", "tables 1 and 9", "paper:smallnet"),
        ("expand", "table 6", "paper:smallnet-wide"),
    ):
        for name in ("cl", "ck"):
            # A 3x3 kernel is not made of smaller ones: the 3x3 network has CL only.
            conv = Rule(_CONVS, How(name, first_width=first))
            text = f"SmallNet of {tables}: {name.upper()} on every convolution"
            _named(f"{prefix}-{name}", text, conv)
            if first == "keep":
                _named(f"{prefix}-{name}+fc", f"{text}, FC before the classifier", conv, fc)
    _named("paper:smallnet-fc", "SmallNet: FC before the classifier, three layers", fc)
    _named(
        "paper:smallnet-acnet",
        "SmallNet with ACNet's branches, the rival expansion",
        Rule(_CONVS, How("acnet", norm="bn")),
    )


def _mobile_networks() -> None:
    # On ImageNet the authors' stem grows its input's width too, unlike SmallNet's on CIFAR.
    cl = How("cl", first_width="expand")
    every = Rule(_THREE, cl)
    _named("paper:mobilenet", "MobileNet: CL on every 3x3 convolution, depthwise by group", every)
    _named("paper:shufflenetv2", "ShuffleNetV2: CL on every 3x3 convolution", every)
    stem = Rule(Select(ops=("Conv",), kernels=((3,),), place="first"), cl)
    halving = Select(ops=("Conv",), kernels=((3,),), strides=(2,), depthwise=True)
    _named(
        "paper:mobilenetv2",
        "MobileNetV2 as the authors' code: CL on the stem and the stride-2 depthwise 3x3",
        stem,
        Rule(halving, cl),
    )
    _named(
        "paper:mobilenetv2-nonresidual",
        "MobileNetV2 as the paper's text: CL on every 3x3 outside residual blocks",
        Rule(Select(ops=("Conv",), kernels=((3,),), residual=False), cl),
    )


def _dense_prediction() -> None:
    backbone = Select(ops=("Conv",), kernels=((3,),), limit=5)
    _named(
        "paper:yolo-lite",
        "YOLO-LITE: CL on the 5 convolutions of the backbone",
        Rule(backbone, How("cl")),
    )
    down = Select(ops=("Conv",), kernels=((3,),), path="contracting")
    _named("paper:unet", "U-Net: CL on the contracting path", Rule(down, How("cl")))


def _large_kernels() -> None:
    large = tuple((k,) for k in (5, 7, 9, 11))
    rules = (
        Rule(Select(ops=("Conv",), kernels=large), How("ck")),
        Rule(_THREE, How("cl")),
    )
    _named("alexnet", "AlexNet: CK on the 11x11 and 5x5 kernels, CL on 3x3", *rules)
    _named(
        "finetune-lowrank",
        "A low-rank side path on every layer, the base kept",
        Rule(Select(), How("lowrank")),
    )


_smallnets()
_mobile_networks()
_dense_prediction()
_large_kernels()
