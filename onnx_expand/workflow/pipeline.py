"""Pipelines: passes in order, from a text, a TOML file or a list.

`fold:policy=latency,border=map,check:samples=3` is a pipeline of two steps. The step `check`
compares the model with the input of the pipeline, or with the result of the last step that is
meant to change what the model computes: preprocessing, an expansion with random weights, or the
removal of activations.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from onnx_expand.equivalence import CheckOptions, Verdict, check
from onnx_expand.errors import DifferentError, UsageError
from onnx_expand.options import parse, split
from onnx_expand.passes import Expand, Preprocess, StripNonlinear
from onnx_expand.passes.expand import ExpandResult
from onnx_expand.passes.registry import find_pass

__all__ = ["Done", "Pipeline", "Step", "StepLike", "read_pipeline"]


_SAMPLES = 1  # inputs of each kind, fewer than the command draws

Step: TypeAlias = "tuple[str, ir.passes.PassBase | CheckOptions]"
StepLike: TypeAlias = "str | Mapping[str, Any] | ir.passes.PassBase | CheckOptions"


@dataclass(frozen=True)
class Done:
    """The result of one step.

    Attributes:
        name: The name of the step.
        modified: Whether it changed the model.
        seconds: Its duration.
        report: The report of the pass, if it has one.
        verdict: The verdict of a check.
    """

    name: str
    modified: bool
    seconds: float
    report: Any = None
    verdict: Verdict | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON types."""
        as_dict = getattr(self.report, "as_dict", None)
        return {
            "step": self.name,
            "modified": self.modified,
            "seconds": self.seconds,
            "report": None if as_dict is None else as_dict(),
            "verdict": None if self.verdict is None else self.verdict.as_dict(),
        }


@dataclass(frozen=True)
class Pipeline:
    """Steps to run in order.

    Attributes:
        steps: The name of each step, and its pass or check.
    """

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, steps: str | Sequence[StepLike]) -> Pipeline:
        """Create a pipeline from a text or from a list of names, mappings and passes.

        Args:
            steps: Steps separated by commas, each a name, or a name, a colon and options
                `name=value` separated by commas; or a list of such steps, of mappings with `name`
                and options, and of passes.

        Raises:
            UsageError: There is no such pass or option, or an option has an invalid value.
        """
        parts: list[StepLike] = [*_split(steps)] if isinstance(steps, str) else [*steps]
        if not parts or parts == [""]:
            raise UsageError("a pipeline needs at least one step, such as 'fold'")
        return cls(tuple(map(_step, parts)))

    def run(
        self, model: ir.Model, progress: Callable[[Done], None] | None = None
    ) -> tuple[ir.Model, list[Done]]:
        """Run the steps on a model, which they may modify in place.

        Returns:
            The model after the last step, and the result of each step.

        Raises:
            DifferentError: A check found a difference.
            UnsupportedError: A check cannot run the model here.
        """
        checks = any(isinstance(step, CheckOptions) for _, step in self.steps)
        reference = model.clone() if checks else model
        done: list[Done] = []
        for name, step in self.steps:
            start = time.perf_counter()
            if isinstance(step, CheckOptions):
                verdict = check(reference, model, step)
                if not verdict:
                    raise DifferentError(f"step '{name}': {verdict.differences[0]}")
                found = Done(name, False, time.perf_counter() - start, verdict=verdict)
            else:
                result = step(model)
                model = result.model
                if checks and _changes_result(step, result):
                    reference = model.clone()
                report = getattr(result, "report", None)
                found = Done(name, result.modified, time.perf_counter() - start, report)
            done.append(found)
            if progress is not None:
                progress(found)
        return model, done


def read_pipeline(path: str | os.PathLike[str]) -> Pipeline:
    """Read a pipeline from a TOML file, whose `passes` is a list of names and tables.

    Raises:
        UsageError: The file cannot be read or is not a pipeline.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    passes = data.pop("passes", None)
    if data:
        raise UsageError(f"{path} has '{next(iter(data))}'; a pipeline has only 'passes'")
    if not isinstance(passes, list):
        raise UsageError(f'{path} needs a list \'passes\', such as passes = ["fold", "check"]')
    try:
        return Pipeline.of(passes)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _step(given: StepLike) -> Step:
    if isinstance(given, ir.passes.PassBase):
        return type(given).__name__, given
    if isinstance(given, CheckOptions):
        return "check", given
    if isinstance(given, str):
        name, colon, rest = given.partition(":")
        name = name.strip()
        if not name:
            raise UsageError(f"step '{given}' has no name; write NAME or NAME:option=value")
        pairs = [_option(name, text) for text in _pieces(rest)] if colon else []
        texts = dict(pairs)
        if len(texts) < len(pairs):
            raise UsageError(f"step '{given}' sets an option twice; set each once")
        return _named(name, texts, are_texts=True)
    if not isinstance(given, Mapping):
        raise UsageError(f"{given!r} is not a step; give a name, a mapping or a pass")
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"the step {dict(given)} needs a 'name'")
    return _named(name, options, are_texts=False)


def _named(name: str, options: Mapping[str, Any], *, are_texts: bool) -> Step:
    if name != "check":
        named = find_pass(name)
        return name, named.make(parse(named.kind, options) if are_texts else options)
    (given,) = split("check", parse(CheckOptions, options) if are_texts else options, CheckOptions)
    return name, CheckOptions(**{"samples": _SAMPLES, **given})


def _option(step: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise UsageError(f"step '{step}': '{text}' is not an option; write name=value")
    return name.strip(), value.strip()


def _split(text: str) -> Iterator[str]:
    """Split a text into steps; a piece with '=' and no ':' before it belongs to the last step."""
    current: list[str] = []
    for piece in _pieces(text):
        head = piece.partition("=")[0]
        if any(current) and "=" in piece and ":" not in head:
            current.append(piece)
            continue
        if current:
            yield ",".join(current)
        current = [piece]
    yield ",".join(current)


def _pieces(text: str) -> Iterator[str]:
    """Split a text at its commas, except those inside brackets or quotes."""
    depth, start, quoted, escaped = 0, 0, False, False
    for i, character in enumerate(text):
        if quoted:
            quoted, escaped = escaped or character != '"', character == "\\" and not escaped
            continue
        quoted = character == '"'
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth <= 0:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()


def _changes_result(step: ir.passes.PassBase, result: ir.passes.PassResult) -> bool:
    """Return whether a step is meant to change what the model computes."""
    if isinstance(step, Expand):
        return isinstance(result, ExpandResult) and not result.report.is_exact
    return isinstance(step, Preprocess | StripNonlinear)
