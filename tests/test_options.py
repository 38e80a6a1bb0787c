"""Options are declared once: commands, functions and their typed keywords follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import click
import onnx
import pytest

import onnx_expand
from onnx_expand import keywords
from onnx_expand.cli.check import check as check_command
from onnx_expand.cli.expand import expand as expand_command
from onnx_expand.cli.fold import fold as fold_command
from onnx_expand.equivalence import CheckOptions
from onnx_expand.errors import UsageError
from onnx_expand.options import explain
from onnx_expand.passes import Expand, Fold, Preprocess

FACES: Mapping[str, tuple[tuple[type[Any], ...], type[Any], click.Command]] = {
    "fold": ((Fold, Preprocess), keywords.FoldKeywords, fold_command),
    "expand": ((Expand,), keywords.ExpandKeywords, expand_command),
    "check": ((CheckOptions,), keywords.CheckKeywords, check_command),
}


@pytest.mark.parametrize("name", FACES)
def test_all_faces_have_the_same_options(name: str) -> None:
    """What a dataclass declares is a keyword in Python and an option of the command."""
    kinds, typed, command = FACES[name]
    declared = {option for kind in kinds for option in explain(kind)}
    assert set(typed.__annotations__) == declared
    # How many times the rounding is too fine a matter for the command line.
    assert declared - {p.name for p in command.params} <= {"factor"}


@pytest.mark.parametrize("name", FACES)
def test_options_say_what_they_do(name: str) -> None:
    """The help of each is one or more sentences, and its default is one that it takes."""
    for kind in FACES[name][0]:
        kind()
        hints = get_type_hints(kind)
        for option, (field, _) in explain(kind).items():
            assert field.metadata["help"].endswith("."), option
            assert option in hints


@pytest.mark.parametrize("name", ["fold", "expand", "check"])
def test_an_unknown_keyword_is_refused_by_name(name: str) -> None:
    """The message names the keyword and those that there are."""
    graph = onnx.parser.parse_graph("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    models = [model] * (2 if name == "check" else 1)
    with pytest.raises(UsageError, match=f"{name} has no option 'polcy'; it has "):
        getattr(onnx_expand, name)(*models, polcy="auto")
