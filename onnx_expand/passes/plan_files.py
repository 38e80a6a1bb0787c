"""Plan files in JSON or YAML: bounded parsing, with errors that name the faulty entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from onnx_expand.documents import parse_json, parse_yaml, yaml_module
from onnx_expand.errors import UsageError
from onnx_expand.passes.named_plans import PLANS
from onnx_expand.passes.plans import How, Plan, Rule, Select

__all__ = ["load_plan", "parse_kernel", "plan_text"]


def load_plan(source: str) -> Plan:
    """Return a plan of the package by name, or read one from a JSON or YAML file.

    Raises:
        UsageError: There is no such plan, or the file contains none.
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
    """Return the text of a plan file with entries for single nodes; JSON is YAML too.

    Raises:
        UsageError: YAML is requested and PyYAML is missing.
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
    for key in ("ops", "strides", "kernels"):
        if key in chosen:
            chosen[key] = tuple(_listed(chosen[key]))
    if "kernels" in chosen:
        chosen["kernels"] = tuple(map(parse_kernel, chosen["kernels"]))
    try:
        select = Select(**chosen)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return Rule(select, _how_from(where, {k: v for k, v in data.items() if k in _names(How)}))


def _how_from(where: str, data: Any) -> How:
    _check_keys(where, data, _names(How))
    try:
        return How(**data)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def parse_kernel(value: Any) -> tuple[int, ...]:
    """Parse the extents of a kernel such as 3 or 7x1.

    Raises:
        UsageError: An extent is not a number.
    """
    if isinstance(value, list | tuple):
        value = "x".join(map(str, value))
    try:
        return tuple(int(part) for part in str(value).lower().split("x"))
    except ValueError:
        raise UsageError(f"kernel '{value}' is not like 3 or 7x1") from None


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
