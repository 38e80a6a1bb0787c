"""Rewrite the linear algebra of ONNX models: expand to train better, fold to deploy cheaper.

`expand`, `fold`, `run`, `check` and `inspect` take a path, an `onnx.ModelProto`, an
`onnx_ir.Model`, an `onnx_graphsurgeon.Graph` or a `torch.onnx.ONNXProgram`. Training is in
`onnx_expand.train`, which needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import (
    DifferentError,
    ModelError,
    OnnxExpandError,
    Reason,
    Refusal,
    RefusedError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from onnx_ir import Model

    from onnx_expand.cost import Inspection
    from onnx_expand.equivalence import Verdict
    from onnx_expand.model import ModelLike
    from onnx_expand.passes import Verification
    from onnx_expand.passes.plans import Plan
    from onnx_expand.workflow.pipeline import StepLike

__all__ = [
    "AffineConv",
    "DifferentError",
    "ModelError",
    "OnnxExpandError",
    "Reason",
    "Refusal",
    "RefusedError",
    "UnsupportedError",
    "UsageError",
    "check",
    "expand",
    "fold",
    "inspect",
    "run",
    "strip_nonlinear",
]

__version__ = "0.1.0"


def expand(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    strategy: str = "auto",
    rate: float = 4.0,
    first_width: str = "keep",
    include: str | None = None,
    exclude: str | None = None,
    layers: int = 3,
    seed: int = 0,
    init: str = "random",
    nonlinear: str | None = None,
    norm: str = "auto",
    branches: int = 4,
    rank: int = 8,
    plan: str | Plan | None = None,
    ops: Sequence[str] = (),
    kernels: Sequence[int | str | tuple[int, ...]] = (),
    strides: Sequence[int] = (),
    depthwise: bool | None = None,
    residual: bool | None = None,
    place: str | None = None,
    path: str | None = None,
    max_params_mult: float | None = None,
    max_residual: float = 0.0,
    assume_constant_initializers: bool = False,
    verify: bool | int = False,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    report: bool = False,
    **unknown: Any,
) -> Any:
    """Replace linear layers by chains or sums of linear layers, to be trained and folded back.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
        output: For a path, the file to write; `<stem>.expanded.onnx` beside it when missing.
        strategy: `cl`, `ck`, `fc`, `acnet`, `repvgg`, `dbb`, `mobileone`, `lowrank`, a
            combination such as `ck+fc`, or `auto`.
        rate: Inner widths are so many times the layer's own.
        first_width: `keep` or `expand` the input width of the first convolutions.
        include: A regular expression; only nodes with a match in their name are expanded.
        exclude: A regular expression; nodes with a match in their name are not expanded.
        layers: How many layers replace a fully connected one, 2 or 3.
        seed: Decides the random numbers that the new layers start from.
        init: `random`; `preserve` for a model that computes the same; `contracted` for the model
            itself with the weights of a random expansion contracted at once.
        nonlinear: `relu` or `prelu` puts activations between the layers of each chain.
        norm: Batch normalization in the branches of a sum: `bn`, `none` or `auto`.
        branches: Copies of the layer in `mobileone`.
        rank: Inner width of the side path of `lowrank`.
        plan: Which layers to expand and how: the name of a plan, a file, or a `Plan`.
        ops: Op types to expand; all when empty.
        kernels: Kernels to expand, such as `3` or `7x1`; all when empty.
        strides: Strides to expand; all when empty.
        depthwise: Whether to expand depthwise convolutions only, or none of them.
        residual: Whether to expand layers in residual blocks only, or none of them.
        place: `first`, `inner`, `last` or several joined with `+`.
        path: `contracting` or `expanding`: before or after the first upsampling.
        max_params_mult: The expanded model has at most so many times the parameters.
        max_residual: The largest relative residual that `preserve` may leave in a layer.
        assume_constant_initializers: As for `fold`.
        verify: As for `fold`; where `init` claims no equality, only that the expanded model runs.
        shapes: As for `fold`.
        report: Return the report as well.
        unknown: Refused by name.

    Returns:
        The expanded model, of the kind that was handed in; for a path, the path written. With
        `report` a pair of it and the `onnx_expand.passes.ExpandReport`.

    Raises:
        UsageError: An option has a value that makes no sense, or there is no such plan.
        ModelError: The model cannot be read, or is not valid.
        DifferentError: The expanded model is verified and does not compute what it should.
        UnsupportedError: A number of inputs is to be verified, and the model does not run here.
    """
    from dataclasses import fields

    from onnx_expand.model import visit
    from onnx_expand.passes import Expand, assume_constant

    for name in unknown:
        known = ", ".join(field.name for field in fields(Expand) if field.init)
        raise UsageError(f"expand has no option '{name}'; it has {known}")
    run = Expand(
        strategy, rate, first_width, include, exclude, layers, seed, init, nonlinear, norm,
        branches, rank, plan, ops, kernels, strides, depthwise, residual, place, path,
        max_params_mult, max_residual,
    )  # fmt: skip
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


def strip_nonlinear(model: ModelLike, output: str | os.PathLike[str] | None = None) -> Any:
    """Remove the activations that `expand(..., nonlinear=...)` put between layers.

    The linear expansion that is left starts from the weights of its non-linear counterpart.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
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


def fold(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    policy: str = "auto",
    border: str = "exact",
    inline: bool = False,
    clean: bool = True,
    provenance: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    swap_rb: bool = False,
    input: str | None = None,
    assume_constant_initializers: bool = False,
    verify: bool | int = False,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    provider: str | None = None,
    report: bool = False,
) -> Any:
    """Merge linear nodes into the fewest, cheapest ones that compute the same.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
        output: For a path, the file to write; `<stem>.folded.onnx` beside it when missing.
        policy: `cheapest` never adds a multiply-accumulate; `always` merges whatever is exact;
            `marked` undoes expansions only; `latency` is what onnxruntime runs fastest here;
            `auto` is `marked` for a model with expansions and `cheapest` for any other.
        border: What to do where a bias meets a padded border: `exact` leaves the nodes apart;
            `ones`, `map` and `pad` merge them, and add something.
        inline: Put the bodies of local functions in the place of their calls first.
        clean: Also drop what is computed twice, from constants alone or for nobody, and what does
            nothing; `marked` never does.
        provenance: Whether new nodes name those of the source that they stand for, in their
            metadata (`onnx_expand.folded_from`).
        mean: Subtract this from the input image first: one number, or one for each channel.
        std: Then divide it by this.
        swap_rb: The image comes with red and blue swapped.
        input: The input that holds the image; may be left out where there is just one.
        assume_constant_initializers: Nobody replaces weights that are also inputs of the graph,
            as all were before IR version 4: take them out of the inputs.
        verify: Compare both models in onnxruntime before the folded one is handed over. True
            does so where onnxruntime can run the model; a number is the inputs of each kind, and
            it is an error if the model does not run. False runs nothing, and the report says so.
        shapes: Extents of the inputs to verify on, and at which the policy `latency` measures, by
            name; a string is a symbolic extent.
        provider: Where the policy `latency` measures, `cpu` or `cuda`; the first that this machine
            has, when missing.
        report: Return the report as well.

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
    from onnx_expand.passes import Fold, Preprocess, assume_constant

    run = Fold(
        policy,  # type: ignore[arg-type]
        border,  # type: ignore[arg-type]
        input,
        report,
        provider=provider,
        inline=inline,
        shapes=shapes,
        clean=clean,
        provenance=provenance,
    )
    preprocess = Preprocess.asked(mean, std, swap_rb, input)
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
    shapes: Mapping[str, Sequence[int | str]] | None = None,
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


def run(
    model: ModelLike,
    passes: str | Sequence[StepLike],
    output: str | os.PathLike[str] | None = None,
    *,
    report: bool = False,
) -> Any:
    """Run passes one after the other.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
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


def inspect(
    model: ModelLike, *, shapes: Mapping[str, Sequence[int | str]] | None = None
) -> Inspection:
    """Count parameters, multiply-accumulates and nodes of a model of any kind.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model`, `onnx_graphsurgeon.Graph` or
            `torch.onnx.ONNXProgram`; it is not changed.
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


def check(
    a: ModelLike,
    b: ModelLike,
    *,
    samples: int = 3,
    seed: int = 0,
    providers: Sequence[str] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    inputs: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    providers_b: Sequence[str] | None = None,
    as_deployed: bool = False,
    regions: bool = True,
) -> Verdict:
    """Compare what two models compute, in onnxruntime, against the rounding of the first.

    Args:
        a: The model that is right by definition, of any of the kinds that `fold` takes.
        b: The model to compare with it.
        samples: How many inputs of each kind (normal, uniform, large) to try, besides zeros and
            denormal numbers.
        seed: Decides the inputs.
        providers: Of `cpu`, `cuda`, `tensorrt`, `openvino`, `reference` and what installed
            packages register; what works on this machine of the first two when missing.
        rtol: Overrides the measured tolerance: |a - b| <= atol + rtol * |a|.
        atol: As `rtol`.
        inputs: What to run on instead of random inputs: an `.npz` file, a folder of such, or
            mappings from input names to arrays.
        ranges: Smallest and largest number of random inputs, by name; "" is all inputs.
        shapes: Extents of random inputs, by name; a string is a symbolic extent.
        providers_b: Where B runs, one for each of `providers`; the same when missing.
        as_deployed: Let onnxruntime optimize both graphs.
        regions: Hold each part in which the graphs differ to its own forward error bound, too.

    Returns:
        The verdict, which is true when they compute the same.

    Raises:
        UsageError: An option has a value that makes no sense.
        ModelError: A model cannot be read, or is not valid.
        UnsupportedError: onnxruntime or a provider is missing, or onnxruntime cannot run a model.
    """
    from onnx_expand.equivalence import check as run

    return run(
        a,
        b,
        samples=samples,
        seed=seed,
        providers=providers,
        rtol=rtol,
        atol=atol,
        inputs=inputs,
        ranges=ranges,
        shapes=shapes,
        providers_b=providers_b,
        as_deployed=as_deployed,
        regions=regions,
    )
