"""Rewrite the linear algebra of ONNX models: expand to train better, fold to deploy cheaper.

`expand`, `fold`, `check` and `inspect` take a path, an `onnx.ModelProto`, an `onnx_ir.Model` or an
`onnx_graphsurgeon.Graph`. Training is in `onnx_expand.train`, which needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnx_expand.affine import AffineConv
from onnx_expand.errors import (
    ModelError,
    OnnxExpandError,
    Reason,
    Refusal,
    RefusedError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from onnx_expand.cost import Inspection
    from onnx_expand.equivalence import Verdict
    from onnx_expand.model import ModelLike
    from onnx_expand.plans import Plan

__all__ = [
    "AffineConv",
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
    plan: str | Plan | None = None,
    assume_constant_initializers: bool = False,
    **options: Any,
) -> Any:
    """Replace linear layers by chains or sums of linear layers, to be trained and folded back.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; it is not
            changed.
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
        assume_constant_initializers: As for `fold`.
        plan: Which layers to expand and how: the name of a plan, a file, or a `Plan`.
        options: The other fields of `onnx_expand.passes.Expand`: nonlinear, norm, branches, rank,
            ops, kernels, strides, depthwise, residual, place, path, max_params_mult,
            max_residual. The pass returns a report too.

    Returns:
        The expanded model, of the kind that was handed in; for a path, the path written.

    Raises:
        UsageError: An option has a value that makes no sense, or there is no such option or plan.
        ModelError: The model cannot be read, or is not valid.
    """
    from dataclasses import fields

    from onnx_expand.model import visit
    from onnx_expand.passes import Expand, assume_constant

    known = [field.name for field in fields(Expand) if field.init]
    for name in options:
        if name not in known:
            raise UsageError(f"expand has no option '{name}'; it has {', '.join(known)}")
    first = (strategy, rate, first_width, include, exclude, layers, seed)
    run = Expand(*first, init=init, plan=plan, **options)
    guest = visit(model, output, suffix="expanded")
    if assume_constant_initializers:
        assume_constant(guest.model)
    return guest.leave(run(guest.model).model)


def strip_nonlinear(model: ModelLike, output: str | os.PathLike[str] | None = None) -> Any:
    """Remove the activations that `expand(..., nonlinear=...)` put between layers.

    The linear expansion that is left starts from the weights of its non-linear counterpart.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; it is not
            changed.
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
    assume_constant_initializers: bool = False,
) -> Any:
    """Merge linear nodes into the fewest, cheapest ones that compute the same.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; it is not
            changed.
        output: For a path, the file to write; `<stem>.folded.onnx` beside it when missing.
        policy: `cheapest` never adds a multiply-accumulate; `always` merges whatever is exact;
            `marked` undoes expansions only; `auto` is `marked` for a model with expansions and
            `cheapest` for any other. `onnx_expand.passes.Fold` returns the reasons too.
        assume_constant_initializers: Nobody replaces weights that are also inputs of the graph,
            as all were before IR version 4: take them out of the inputs.

    Returns:
        The folded model, of the kind that was handed in; for a path, the path written.

    Raises:
        UsageError: There is no such policy.
        ModelError: The model cannot be read, or is not valid.
    """
    from onnx_expand.model import visit
    from onnx_expand.passes import Fold, Policy, assume_constant

    if policy not in set(Policy):
        raise UsageError(f"policy '{policy}' is none of {', '.join(Policy)}")
    guest = visit(model, output, suffix="folded")
    if assume_constant_initializers:
        assume_constant(guest.model)
    return guest.leave(Fold(Policy(policy))(guest.model).model)


def inspect(model: ModelLike) -> Inspection:
    """Count parameters, multiply-accumulates and nodes of a model of any kind.

    Raises:
        ModelError: The model cannot be read, or is not valid.
    """
    from onnx_expand.cost import inspect_model
    from onnx_expand.model import read

    return inspect_model(read(model))


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
) -> Verdict:
    """Compare what two models compute, in onnxruntime, against the rounding of the first.

    Args:
        a: The model that is right by definition, of any of the four kinds.
        b: The model to compare with it.
        samples: How many inputs of each kind (normal, uniform, large) to try, besides zeros and
            denormal numbers.
        seed: Decides the inputs.
        providers: Of `cpu`, `cuda`, `tensorrt` and `reference`; what works on this machine of the
            first two when missing.
        rtol: Overrides the measured tolerance: |a - b| <= atol + rtol * |a|.
        atol: As `rtol`.
        inputs: What to run on instead of random inputs: an `.npz` file, a folder of such, or
            mappings from input names to arrays.
        ranges: Smallest and largest number of random inputs, by name; "" is all inputs.
        shapes: Extents of random inputs, by name; a string is a symbolic extent.
        providers_b: Where B runs, one for each of `providers`; the same when missing.
        as_deployed: Let onnxruntime optimize both graphs.

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
    )
