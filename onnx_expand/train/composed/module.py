"""The chains of a module, and how they run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from onnx_expand.errors import Reason, UsageError
from onnx_expand.train.composed.chain import Chain
from onnx_expand.train.composed.cost import EXECUTIONS
from onnx_expand.train.composed.unit import ChainPlan, ComposedChain, Sharing
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.names import COMPOSED

__all__ = ["chains_of", "composed", "execution_of", "plans_of", "sharing_kernels", "summary"]


def units_of(module: torch.nn.Module) -> list[ComposedChain]:
    """Return the submodules that run its chains."""
    return [unit for unit in module.modules() if isinstance(unit, ComposedChain)]


def chains_of(module: torch.nn.Module) -> list[Chain]:
    """Return the chains of a module, however they run."""
    return [unit.chain for unit in units_of(module)]


def summary(module: OnnxModule) -> str:
    """List what in a module can be composed and what cannot, one line each."""
    lines = [f"{chain.label}: {len(chain)} layers" for chain in chains_of(module)]
    lines += [f"{a.first}, {a.second}: layerwise: {a.refusal}" for a in module.apart]
    return "\n".join(lines)


def composed(module: torch.nn.Module, execution: str = "auto") -> torch.nn.Module:
    """Return a module with the same parameters that runs chains of linear layers in a given way.

    Args:
        module: The result of `to_torch`, or a module with one as `inner`; any other module is
            returned unchanged.
        execution: `composed`, as one layer each; `layerwise`; or `auto`: for each chain and
            forward pass, whichever takes fewer multiply-accumulates.

    Raises:
        UsageError: There is no such execution.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"execution '{execution}' is none of {', '.join(EXECUTIONS)}")
    inner = getattr(module, "inner", None)
    if isinstance(module, OnnxModule):
        return _running(module, execution)
    if isinstance(inner, OnnxModule):
        module.inner = _running(inner, execution)
    return module


def _running(module: OnnxModule, execution: str) -> OnnxModule:
    if all(unit.execution == execution for unit in units_of(module)):
        return module
    result = module.sharing()
    others = torch.nn.Module()
    for name, unit in module.get_submodule(COMPOSED).named_children():
        assert isinstance(unit, ComposedChain)
        others.add_module(name, ComposedChain(unit.chain, unit.first, execution))
    result._modules[COMPOSED] = others.train(module.training)
    return result


def execution_of(module: torch.nn.Module, execution: str, x: torch.Tensor) -> str:
    """Describe in one line how the chains of a module are trained on an input; empty if none.

    Args:
        module: The module.
        execution: See `composed`.
        x: An input of the size of a training step.
    """
    if not isinstance(module, OnnxModule):
        return ""
    count, parts = len(chains_of(module)), []
    if execution == "layerwise" and count:
        parts.append(f"{count} chains run layer by layer")
    elif count:
        plans = plans_of(composed(module, execution), x)
        pieces = [any(piece.whole for piece in plan.pieces) for plan in plans.values()]
        parts.append(f"{sum(pieces)} of {count} chains run composed")
        now, apart = (sum(getattr(p, n) for p in plans.values()) for n in ("products", "apart"))
        if any(pieces):
            parts[0] += f", {now / 1e6:,.1f} instead of {apart / 1e6:,.1f} M products a step"
    pairs = sum(a.refusal.reason is Reason.ACTIVATION for a in module.apart)
    if pairs:
        noun = "pair" if pairs == 1 else "pairs"
        parts.append(f"batch normalization keeps {pairs} {noun} of linear layers apart")
    return "; ".join(parts)


@contextlib.contextmanager
def sharing_kernels(module: torch.nn.Module, part: int, parts: int) -> Iterator[None]:
    """Compose kernels once for all parts of a batch whose gradients are accumulated.

    Both the forward and the backward pass of a part belong in the block. Gradients accumulate in
    the composed kernels until the backward pass of the last part propagates them to the weights,
    which must not change in between. Under torch.compile each part composes its own kernels.

    Args:
        module: The result of `composed`, or a module that contains it.
        part: The index of the part, from 0.
        parts: The number of parts.
    """
    if parts < 2:
        yield
        return
    units = units_of(module)
    sharings = []
    for unit in units:
        if part == 0 or unit.sharing is None:
            unit.sharing = Sharing(parts)
        unit.sharing.last = part == parts - 1
        sharings.append(unit.sharing)
    done = False
    try:
        for sharing in sharings:
            sharing.active = True
        yield
        if part == parts - 1:
            for sharing in sharings:
                sharing.settle()
        done = True
    finally:
        for unit, sharing in zip(units, sharings, strict=True):
            sharing.active = False
            if part == parts - 1 or not done:
                unit.sharing = None


def plans_of(module: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, ChainPlan]:
    """Return how each chain of a module would be trained on some inputs, by its label.

    With layerwise execution there is nothing to plan.
    """
    plans: dict[str, ChainPlan] = {}

    def note(unit: torch.nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(unit, ComposedChain)
        with torch.enable_grad():
            x = args[0].detach().requires_grad_(not unit.first)
            plans[unit.chain.label] = unit.planned(x, args[1:])

    units = [unit for unit in units_of(module) if unit.execution != "layerwise"]
    handles = [unit.register_forward_pre_hook(note) for unit in units]
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes:
            part.training = training
    return plans
