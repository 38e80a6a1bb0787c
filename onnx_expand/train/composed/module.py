"""The module in which chains are composed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from onnx_expand.errors import Reason, UsageError
from onnx_expand.train.composed.cost import EXECUTIONS
from onnx_expand.train.composed.find import Apart, Found, find
from onnx_expand.train.composed.unit import Plan, Sharing, Unit
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.names import COMPOSED

__all__ = ["Composition", "composed", "execution_of", "plans_of", "sharing_kernels"]


@dataclass(frozen=True)
class Composition:
    """What of a module can be composed.

    Attributes:
        source: The module.
        chains: Its chains.
        apart: Linear layers that stay apart, and why.
    """

    source: OnnxModule
    chains: tuple[Found, ...]
    apart: tuple[Apart, ...]

    @classmethod
    def of(cls, module: OnnxModule) -> Composition:
        """Look at a module, layer by layer whatever way it runs in."""
        if module.layerwise is not None:
            module = module.sharing(module.layerwise)
            del module._modules[COMPOSED]
        chains, apart = find(module)
        return cls(module, tuple(chains), tuple(apart))

    def module(self, execution: str = "auto") -> OnnxModule:
        """A module of the same parameters that runs its chains in some way; see `composed`."""
        if execution not in EXECUTIONS:
            raise UsageError(f"execution '{execution}' is none of {', '.join(EXECUTIONS)}")
        if execution == "layerwise" or not self.chains:
            return self.source
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        graph.output(graph.graph_copy(self.source.graph, copies))
        units = torch.nn.Module()
        results: dict[fx.Node, fx.Node] = {}
        for index, found in enumerate(self.chains):
            # The root may be the end of another chain.
            root = results.get(found.root, copies[found.root])
            unit = Unit(found.chain, execution, found.root.op == "placeholder")
            units.add_module(f"unit_{index}", unit)
            last = copies[found.nodes[-1]]
            with graph.inserting_before(last):
                args = (root, *(graph.get_attr(path) for path in unit.paths))
                call = graph.call_module(f"{COMPOSED}.unit_{index}", args)
            last.replace_all_uses_with(call)
            results[found.nodes[-1]] = call
            for node in reversed(found.nodes):
                graph.erase_node(copies[node])
        for node in reversed(list(graph.nodes)):
            if node.op == "get_attr" and not node.users:
                graph.erase_node(node)
        result = self.source.sharing(graph)
        units.train(result.training)
        result.add_module(COMPOSED, units)
        result.layerwise = self.source.graph
        return result

    def summary(self) -> str:
        """What can be composed and what cannot, a line each."""
        lines = [f"{found.chain.label}: {len(found.chain)} layers" for found in self.chains]
        lines += [f"{a.first}, {a.second}: layerwise: {a.refusal}" for a in self.apart]
        return "\n".join(lines)


def composed(module: torch.nn.Module, execution: str = "auto") -> torch.nn.Module:
    """A module of the same parameters that runs chains of linear layers as one layer each.

    Args:
        module: What `to_torch` makes, or a module with such a one as `inner`; any other comes
            back as it is.
        execution: `composed`, `layerwise`, or `auto`: in each forward pass, for each chain, what
            takes fewer multiply-accumulates.

    Raises:
        UsageError: There is no such execution.
    """
    inner = getattr(module, "inner", None)
    if isinstance(module, OnnxModule):
        return Composition.of(module).module(execution)
    if isinstance(inner, OnnxModule):
        module.inner = Composition.of(inner).module(execution)
    elif execution not in EXECUTIONS:
        raise UsageError(f"execution '{execution}' is none of {', '.join(EXECUTIONS)}")
    return module


def execution_of(module: torch.nn.Module, execution: str, x: torch.Tensor) -> str:
    """One line that says how the chains of a module are trained on an input; empty if it has none.

    Args:
        module: The module, not yet composed.
        execution: See `composed`.
        x: An input of the size that a step has.
    """
    if not isinstance(module, OnnxModule):
        return ""
    composition = Composition.of(module)
    count, parts = len(composition.chains), []
    if execution == "layerwise" and count:
        parts.append(f"{count} chains run layer by layer")
    elif count:
        runner = composition.module(execution)
        plans = plans_of(runner, x)
        pieces = [any(piece.whole for piece in plan.pieces) for plan in plans.values()]
        parts.append(f"{sum(pieces)} of {count} chains run composed")
        now, apart = (sum(getattr(p, n) for p in plans.values()) for n in ("products", "apart"))
        if any(pieces):
            parts[0] += f", {now / 1e6:,.1f} instead of {apart / 1e6:,.1f} M products a step"
    pairs = sum(a.refusal.reason is Reason.ACTIVATION for a in composition.apart)
    if pairs:
        noun = "pair" if pairs == 1 else "pairs"
        parts.append(f"batch normalization keeps {pairs} {noun} of linear layers apart")
    return "; ".join(parts)


@contextlib.contextmanager
def sharing_kernels(module: torch.nn.Module, part: int, parts: int) -> Iterator[None]:
    """Compose once for all parts of a batch whose gradients are added.

    Both passes of a part, forward and backward, belong into the block. Gradients wait in the
    composed kernels until the last part; its backward pass takes them to the weights, which must
    not change in between. Under torch.compile each part composes for itself.

    Args:
        module: What `composed` returned, or a module that contains it.
        part: The number of the part, from 0.
        parts: How many there are.
    """
    if parts < 2:
        yield
        return
    units = [unit for unit in module.modules() if isinstance(unit, Unit)]
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


def plans_of(module: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, Plan]:
    """How each chain of a module would be trained on some inputs, by its label."""
    plans: dict[str, Plan] = {}

    def note(unit: torch.nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(unit, Unit)
        with torch.enable_grad():
            x = args[0].detach().requires_grad_(not unit.first)
            plans[unit.chain.label] = unit.planned(x, args[1:])

    units = [unit for unit in module.modules() if isinstance(unit, Unit)]
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
