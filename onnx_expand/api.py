"""The functions of `onnx_expand`: a model comes in, and leaves as the kind that it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from onnx_expand.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    import onnx_graphsurgeon as gs
    from onnx_ir import Model
    from torch.onnx import ONNXProgram

    from onnx_expand.cost import Inspection
    from onnx_expand.equivalence import Verdict
    from onnx_expand.keywords import CheckKeywords, ExpandCall, FoldCall, Shapes
    from onnx_expand.model import ModelLike
    from onnx_expand.passes import ExpandReport, FoldReport, Verification
    from onnx_expand.workflow.pipeline import Done, StepLike

    # What is held in memory comes back as the kind that it was; a file comes back as a path.
    Held = TypeVar("Held", onnx.ModelProto, Model, gs.Graph, ONNXProgram)
    FilePath = str | os.PathLike[str]

__all__ = ["check", "expand", "fold", "inspect", "run", "strip_nonlinear"]


@overload
def expand(
    model: Held,
    output: None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[ExpandCall],
) -> Held: ...
@overload
def expand(
    model: Held,
    output: None = None,
    *,
    report: Literal[True],
    **options: Unpack[ExpandCall],
) -> tuple[Held, ExpandReport]: ...
@overload
def expand(
    model: FilePath,
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[ExpandCall],
) -> Path: ...
@overload
def expand(
    model: FilePath,
    output: FilePath | None = None,
    *,
    report: Literal[True],
    **options: Unpack[ExpandCall],
) -> tuple[Path, ExpandReport]: ...
def expand(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    verify: bool | int = False,
    shapes: Shapes | None = None,
    assume_constant_initializers: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Replace linear layers by chains or sums of linear layers, to be trained and folded back.

    Args:
        model: Of any of the kinds that `fold` takes; it is not changed.
        output: For a path, the file to write; `<stem>.expanded.onnx` beside it when missing.
        verify: As for `fold`; where `init` claims no equality, only that the expanded model runs.
        shapes: As for `fold`.
        assume_constant_initializers: As for `fold`.
        report: Return the report as well.
        options: The options of `onnx_expand.passes.Expand`: `strategy`, `rate`, `init` and others;
            `onnx-expand expand --help` explains them.

    Returns:
        The expanded model, of the kind that was handed in; for a path, the path written. With
        `report` a pair of it and the `onnx_expand.passes.ExpandReport`.

    Raises:
        UsageError: An option has a value that makes no sense, or there is no such plan.
        ModelError: The model cannot be read, or is not valid.
        DifferentError: The expanded model is verified and does not compute what it should.
        UnsupportedError: A number of inputs is to be verified, and the model does not run here.
    """
    from onnx_expand.model import visit
    from onnx_expand.options import split
    from onnx_expand.passes import Expand, assume_constant

    (own,) = split("expand", options, Expand)
    run = Expand(**own)
    guest = visit(model, output, suffix="expanded")
    if assume_constant_initializers:
        assume_constant(guest.model)
    before = guest.model.clone()
    result = run.call(guest.model)
    exact = result.report.is_exact
    found = _verified(
        verify, before, result.model, guest.label, "expanded", exact=exact, shapes=shapes
    )
    left = guest.leave(result.model)
    return (left, replace(result.report, verification=found)) if report else left


@overload
def strip_nonlinear(model: Held, output: None = None) -> Held: ...
@overload
def strip_nonlinear(model: FilePath, output: FilePath | None = None) -> Path: ...
def strip_nonlinear(model: ModelLike, output: str | os.PathLike[str] | None = None) -> Any:
    """Remove the activations that `expand(..., nonlinear=...)` put between layers.

    The linear expansion that is left starts from the weights of its non-linear counterpart.

    Args:
        model: Of any of the kinds that `fold` takes; it is not changed.
        output: For a path, the file to write; `<stem>.linear.onnx` beside it when missing.

    Returns:
        The model without them, of the kind that was handed in; for a path, the path written.

    Raises:
        ModelError: The model cannot be read, or is not valid.
    """
    from onnx_expand.model import visit
    from onnx_expand.passes import StripNonlinear

    guest = visit(model, output, suffix="linear")
    return guest.leave(StripNonlinear()(guest.model).model)


@overload
def fold(
    model: Held,
    output: None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[FoldCall],
) -> Held: ...
@overload
def fold(
    model: Held,
    output: None = None,
    *,
    report: Literal[True],
    **options: Unpack[FoldCall],
) -> tuple[Held, FoldReport]: ...
@overload
def fold(
    model: FilePath,
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[FoldCall],
) -> Path: ...
@overload
def fold(
    model: FilePath,
    output: FilePath | None = None,
    *,
    report: Literal[True],
    **options: Unpack[FoldCall],
) -> tuple[Path, FoldReport]: ...
def fold(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    verify: bool | int = False,
    shapes: Shapes | None = None,
    assume_constant_initializers: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Merge linear nodes into the fewest, cheapest ones that compute the same.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
        output: For a path, the file to write; `<stem>.folded.onnx` beside it when missing.
        verify: Compare both models in onnxruntime before the folded one is handed over. True
            does so where onnxruntime can run the model; a number is the inputs of each kind, and
            it is an error if the model does not run. False runs nothing, and the report says so.
        shapes: Extents of the inputs to verify on, and at which the policy `latency` measures, by
            name; a string is a symbolic extent.
        assume_constant_initializers: Nobody replaces weights that are also inputs of the graph,
            as all were before IR version 4: take them out of the inputs.
        report: Return the report as well.
        options: The options of `onnx_expand.passes.Fold` (`policy`, `border`, `inline`, `clean`,
            `provenance`, `provider`) and of `onnx_expand.passes.Preprocess` (`mean`, `std`,
            `swap_rb`, `input`); `onnx-expand fold --help` explains them.

    Returns:
        The folded model, of the kind that was handed in; for a path, the path written. With
        `report` a pair of it and the `onnx_expand.passes.FoldReport`: what was folded, why the
        rest was not, and whether the result was verified.

    Raises:
        UsageError: An option has a value that makes no sense.
        ModelError: The model cannot be read, or is not valid.
        DifferentError: The folded model is verified and does not compute the same, or does not
            run where the model does. Nothing was written.
        UnsupportedError: A number of inputs is to be verified, and the model does not run here.
    """
    from onnx_expand.model import visit
    from onnx_expand.options import split
    from onnx_expand.passes import Fold, Preprocess, assume_constant

    merging, imaging = split("fold", options, Fold, Preprocess)
    run = Fold(**merging, measure=report, shapes=shapes)
    preprocess = Preprocess.asked(**imaging)
    guest = visit(model, output, suffix="folded")
    if assume_constant_initializers:
        assume_constant(guest.model)
    if preprocess is not None:
        run = replace(run, image=preprocess.find_input(guest.model).name)
        preprocess.call(guest.model)
    before = guest.model if verify is False else guest.model.clone()
    result = run.call(guest.model)
    found = _verified(verify, before, result.model, guest.label, "folded", shapes=shapes)
    left = guest.leave(result.model)
    return (left, replace(result.report, verification=found)) if report else left


def _verified(
    asked: bool | int,
    before: Model,
    after: Model,
    label: str,
    what: str,
    *,
    exact: bool = True,
    shapes: Shapes | None = None,
) -> Verification:
    """Whether a model was compared with what a pass was given, and is the same."""
    from onnx_expand.passes import Verification

    if asked is False:
        return Verification()
    if not isinstance(asked, int) or asked < 1:
        raise UsageError(f"verify is {asked!r}; give True, False or a number of inputs")
    from onnx_expand.workflow.verification import require_equal, verify, verify_runs

    samples = None if asked is True else asked
    if exact:
        found = verify(before, after, samples=samples, shapes=shapes)
    else:
        found = verify_runs(before, after, shapes=shapes)
    return require_equal(found, f"{label}: the {what} model differs")


@overload
def run(
    model: Held,
    passes: str | Sequence[StepLike],
    output: None = None,
    *,
    report: Literal[False] = False,
) -> Held: ...
@overload
def run(
    model: Held,
    passes: str | Sequence[StepLike],
    output: None = None,
    *,
    report: Literal[True],
) -> tuple[Held, list[Done]]: ...
@overload
def run(
    model: FilePath,
    passes: str | Sequence[StepLike],
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
) -> Path: ...
@overload
def run(
    model: FilePath,
    passes: str | Sequence[StepLike],
    output: FilePath | None = None,
    *,
    report: Literal[True],
) -> tuple[Path, list[Done]]: ...
def run(
    model: ModelLike,
    passes: str | Sequence[StepLike],
    output: str | os.PathLike[str] | None = None,
    *,
    report: bool = False,
) -> Any:
    """Run passes one after the other.

    Args:
        model: Of any of the kinds that `fold` takes; it is not changed.
        passes: The steps: a text such as `"fold:policy=always,check:samples=3"`, or a list of
            such steps, of mappings `{"name": "fold", "policy": "always"}` and of passes of
            onnx_ir. `check` compares the model with the one that was given.
        output: For a path, the file to write; `<stem>.out.onnx` beside it when missing.
        report: Return what each step did as well.

    Returns:
        The model, of the kind that was handed in; for a path, the path written. With `report` a
        pair of it and a list of `onnx_expand.workflow.pipeline.Done`.

    Raises:
        UsageError: There is no such pass or option, or an option's value makes no sense.
        ModelError: The model cannot be read, or is not valid.
        DifferentError: A check found a difference. Nothing was written.
        UnsupportedError: A check cannot run the model here.
    """
    from onnx_expand.model import visit
    from onnx_expand.workflow.pipeline import Pipeline

    pipeline = Pipeline.of(passes)
    guest = visit(model, output)
    result, done = pipeline.run(guest.model)
    left = guest.leave(result)
    return (left, done) if report else left


def inspect(model: ModelLike, *, shapes: Shapes | None = None) -> Inspection:
    """Count parameters, multiply-accumulates and nodes of a model of any kind.

    Args:
        model: Of any of the kinds that `fold` takes; it is not changed.
        shapes: Extents of inputs that are not static, by name.

    Raises:
        ModelError: The model cannot be read, or is not valid.
        UsageError: There is no such input, or it has other extents.
    """
    from onnx_expand.cost import inspect_model
    from onnx_expand.model import read

    own = read(model)
    if shapes:
        from onnx_expand.equivalence.extents import fix_extents

        fix_extents(own, shapes)
    return inspect_model(own)


def check(a: ModelLike, b: ModelLike, **options: Unpack[CheckKeywords]) -> Verdict:
    """Compare what two models compute, in onnxruntime, against the rounding of the first.

    Args:
        a: The model that is right by definition, of any of the kinds that `fold` takes.
        b: The model to compare with it.
        options: The fields of `onnx_expand.equivalence.CheckOptions`: `samples`, `seed`,
            `providers`, `rtol`, `inputs`, `shapes` and others; `onnx-expand check --help`
            explains them.

    Returns:
        The verdict, which is true when they compute the same.

    Raises:
        UsageError: An option has a value that makes no sense.
        ModelError: A model cannot be read, or is not valid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    from onnx_expand.equivalence import CheckOptions
    from onnx_expand.equivalence import check as run
    from onnx_expand.options import split

    (own,) = split("check", options, CheckOptions)
    return run(a, b, CheckOptions(**own))
