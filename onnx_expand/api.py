"""The public functions of `onnx_expand`, which return a model of the kind that they are given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from onnx_expand.errors import UsageError

if TYPE_CHECKING:
    from onnx_ir import Model

    from onnx_expand.cost import Inspection
    from onnx_expand.equivalence import Verdict
    from onnx_expand.keywords import CheckKeywords, ExpandCall, FoldCall, Shapes
    from onnx_expand.model import ModelLike
    from onnx_expand.passes import ExpandReport, FoldReport, Verification
    from onnx_expand.workflow.pipeline import Done, StepLike

    # A result is of the type of the model, which for a file is the type of its path.
    Kind = TypeVar("Kind", bound=ModelLike)
    FilePath = str | os.PathLike[str]

__all__ = ["check", "expand", "fold", "inspect", "run", "strip_nonlinear"]


@overload
def expand(
    model: Kind,
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[ExpandCall],
) -> Kind: ...
@overload
def expand(
    model: Kind,
    output: FilePath | None = None,
    *,
    report: Literal[True],
    **options: Unpack[ExpandCall],
) -> tuple[Kind, ExpandReport]: ...
def expand(
    model: ModelLike,
    output: FilePath | None = None,
    *,
    verify: bool | int = False,
    shapes: Shapes | None = None,
    assume_constant_initializers: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Replace linear layers by chains or sums of linear layers that can be folded after training.

    Args:
        model: A model of any kind that `fold` accepts; it is not modified.
        output: For a path, the file to write; by default `<stem>.expanded.onnx` beside it.
        verify: As for `fold`; if `init` does not preserve the function, only check that the model
            runs.
        shapes: As for `fold`.
        assume_constant_initializers: As for `fold`.
        report: Return the report as well.
        options: The options of `onnx_expand.passes.Expand`: `strategy`, `rate`, `init` and others;
            `onnx-expand expand --help` explains them.

    Returns:
        The expanded model, of the kind given as `model`; for a path, the path written. With
        `report`, a pair of the model and the `onnx_expand.passes.ExpandReport`.

    Raises:
        UsageError: An option has an invalid value, or there is no such plan.
        ModelError: The model cannot be read, or is invalid.
        DifferentError: Verification found that the expanded model does not compute what it should.
        UnsupportedError: `verify` is a number, and the model does not run here.
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


def strip_nonlinear(model: Kind, output: FilePath | None = None) -> Kind:
    """Remove the activations that `expand(..., nonlinear=...)` put between layers.

    The linear expansion that remains keeps the weights of its non-linear counterpart.

    Args:
        model: A model of any kind that `fold` accepts; it is not modified.
        output: For a path, the file to write; by default `<stem>.linear.onnx` beside it.

    Returns:
        The model without them, of the kind given as `model`; for a path, the path written.

    Raises:
        ModelError: The model cannot be read, or is invalid.
    """
    from onnx_expand.model import visit
    from onnx_expand.passes import StripNonlinear

    guest = visit(model, output, suffix="linear")
    left: Kind = guest.leave(StripNonlinear()(guest.model).model)
    return left


@overload
def fold(
    model: Kind,
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
    **options: Unpack[FoldCall],
) -> Kind: ...
@overload
def fold(
    model: Kind,
    output: FilePath | None = None,
    *,
    report: Literal[True],
    **options: Unpack[FoldCall],
) -> tuple[Kind, FoldReport]: ...
def fold(
    model: ModelLike,
    output: FilePath | None = None,
    *,
    verify: bool | int = False,
    shapes: Shapes | None = None,
    assume_constant_initializers: bool = False,
    report: bool = False,
    **options: Any,
) -> Any:
    """Merge linear nodes into the fewest and cheapest nodes that compute the same function.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not modified.
        output: For a path, the file to write; by default `<stem>.folded.onnx` beside it.
        verify: Compare both models in onnxruntime before returning the result. True compares if
            onnxruntime can run the model. A number sets the inputs of each kind; a model that does
            not run is then an error. False runs nothing, and the report states that.
        shapes: Extents of the inputs, by name, for verification and for the measurements of the
            policy `latency`; a string is a symbolic extent.
        assume_constant_initializers: Assume that callers do not override initializers that are
            also graph inputs, as all were before IR version 4, and remove them from the inputs.
        report: Return the report as well.
        options: The options of `onnx_expand.passes.Fold` (`policy`, `border`, `inline`, `clean`,
            `provenance`, `provider`) and of `onnx_expand.passes.Preprocess` (`mean`, `std`,
            `swap_rb`, `input`); `onnx-expand fold --help` explains them.

    Returns:
        The folded model, of the kind given as `model`; for a path, the path written. With
        `report`, a pair of the model and the `onnx_expand.passes.FoldReport`: what was folded, why
        the rest was not, and whether the result was verified.

    Raises:
        UsageError: An option has an invalid value.
        ModelError: The model cannot be read, or is invalid.
        DifferentError: Verification found that the folded model computes something else, or does
            not run although the model does. Nothing was written.
        UnsupportedError: `verify` is a number, and the model does not run here.
    """
    from onnx_expand.model import rare_collections, visit
    from onnx_expand.options import split
    from onnx_expand.passes import Fold, Preprocess, assume_constant

    merging, imaging = split("fold", options, Fold, Preprocess)
    run = Fold(**merging, measure=report, shapes=shapes)
    preprocess = Preprocess.asked(**imaging)
    with rare_collections():
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
    """Verify the result of a pass against its source model."""
    from onnx_expand.passes import Verification

    if asked is False:
        return Verification()
    if not isinstance(asked, int) or asked < 1:
        raise UsageError(f"verify is {asked!r}; give True, False or a number of inputs")
    from onnx_expand.workflow.verification import require_equal, verify

    samples = None if asked is True else asked
    found = verify(before, after, samples=samples, shapes=shapes, exact=exact)
    return require_equal(found, f"{label}: the {what} model differs")


@overload
def run(
    model: Kind,
    passes: str | Sequence[StepLike],
    output: FilePath | None = None,
    *,
    report: Literal[False] = False,
) -> Kind: ...
@overload
def run(
    model: Kind,
    passes: str | Sequence[StepLike],
    output: FilePath | None = None,
    *,
    report: Literal[True],
) -> tuple[Kind, list[Done]]: ...
def run(
    model: ModelLike,
    passes: str | Sequence[StepLike],
    output: FilePath | None = None,
    *,
    report: bool = False,
) -> Any:
    """Run passes in sequence.

    Args:
        model: A model of any kind that `fold` accepts; it is not modified.
        passes: The steps: a text such as `"fold:policy=always,check:samples=3"`, or a list of
            such steps, of mappings `{"name": "fold", "policy": "always"}` and of passes of
            onnx_ir. `check` compares the model with the one that was given.
        output: For a path, the file to write; by default `<stem>.out.onnx` beside it.
        report: Return the record of each step as well.

    Returns:
        The result, of the kind given as `model`; for a path, the path written. With `report`, a
        pair of the model and a list of `onnx_expand.workflow.pipeline.Done`.

    Raises:
        UsageError: There is no such pass or option, or an option has an invalid value.
        ModelError: The model cannot be read, or is invalid.
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
        model: A model of any kind that `fold` accepts; it is not modified.
        shapes: Extents of inputs that are not static, by name.

    Raises:
        ModelError: The model cannot be read, or is invalid.
        UsageError: There is no such input, or it has other extents.
    """
    from onnx_expand.cost import inspect_model
    from onnx_expand.model import read

    own = read(model)
    if shapes:
        from onnx_expand.equivalence.inputs.extents import fix_extents

        fix_extents(own, shapes)
    return inspect_model(own)


def check(a: ModelLike, b: ModelLike, **options: Unpack[CheckKeywords]) -> Verdict:
    """Compare the outputs of two models in onnxruntime, up to the rounding error of the first.

    Args:
        a: The reference model, of any kind that `fold` accepts.
        b: The model to compare with it.
        options: The fields of `onnx_expand.equivalence.CheckOptions`: `samples`, `seed`,
            `providers`, `rtol`, `inputs`, `shapes` and others; `onnx-expand check --help`
            explains them.

    Returns:
        The verdict, which is true if the models compute the same function.

    Raises:
        UsageError: An option has an invalid value.
        ModelError: A model cannot be read, or is invalid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    from onnx_expand.equivalence import CheckOptions
    from onnx_expand.equivalence import check as run
    from onnx_expand.options import split

    (own,) = split("check", options, CheckOptions)
    return run(a, b, CheckOptions(**own))
