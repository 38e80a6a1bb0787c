"""Results become documents: what each type is written as."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import pytest

import onnx_expand
from models import smallnet
from onnx_expand.documents import plain


class Kind(StrEnum):
    """A text of its own type."""

    ONE = "one"


class Pair(NamedTuple):
    """A tuple with names."""

    first: float
    second: Kind


@dataclass
class Inner:
    """A result that says what it is written as."""

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return {"inner": True}


@dataclass
class Outer:
    """A result of fields, of which one is not shown."""

    pair: Pair
    parts: tuple[Inner, ...]
    hidden: int = field(default=0, repr=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.inf, "inf"),
        (math.nan, "nan"),
        (0.5, 0.5),
        (Kind.ONE, "one"),
        ((1, (2,)), [1, [2]]),
        (Pair(-math.inf, Kind.ONE), {"first": "-inf", "second": "one"}),
        (
            Outer(Pair(1.0, Kind.ONE), (Inner(),)),
            {"pair": {"first": 1.0, "second": "one"}, "parts": [{"inner": True}]},
        ),
    ],
)
def test_each_type_is_written_in_one_way(value: Any, written: Any) -> None:
    """The result is strict JSON."""
    assert plain(value) == written
    assert type(plain(value)) is type(written)
    json.dumps(plain(value), allow_nan=False)


def test_the_costs_of_a_site_have_names() -> None:
    """Readers of a report find a site's products by name."""
    model = onnx_expand.expand(smallnet.build(), init="preserve", rate=1)
    _, report = onnx_expand.fold(model, report=True)
    sites = report.as_dict()["folded"]
    assert sites
    assert all(
        {"macs", "parameters"} <= site[when].keys()
        for site in sites
        for when in ("before", "after")
    )
