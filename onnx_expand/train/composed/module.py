"""A module that runs each chain of linear layers as whatever is cheaper for its input."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx

from onnx_expand.contraction import splits
from onnx_expand.errors import UsageError
from onnx_expand.geometry import Geometry
from onnx_expand.train.composed import kernels
from onnx_expand.train.composed.plan import Choice, choose, measure
from onnx_expand.train.composed.terms import (
    Layer,
    Sum,
    Term,
    geometry_of,
    layers,
    normalized,
    runs,
)
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.convolution import conv

__all__ = ["Composed", "composed", "execution_of", "once_per_step"]

EXECUTIONS = ("auto", "composed", "layerwise")
_HOME = "_composed"


def composed(module: torch.nn.Module, execution: str = "auto") -> torch.nn.Module:
    """A module of the same function and parameters that composes chains where that is cheaper.

    Args:
        module: What `to_torch` makes, or a module with such a one as `inner`; any other comes
            back as it is.
        execution: `layerwise` for the module itself; `composed` for every chain that composes;
            `auto` for those that take fewer products composed, at the input's size.

    Raises:
        UsageError: There is no such execution.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"execution is '{execution}'; it is one of {', '.join(EXECUTIONS)}")
    if execution == "layerwise":
        return module
    if isinstance(module, OnnxModule):
        return Composed(module, always=execution == "composed")
    inner = getattr(module, "inner", None)
    if isinstance(inner, OnnxModule):
        module.inner = Composed(inner, always=execution == "composed")
    return module


def execution_of(module: torch.nn.Module, execution: str, x: torch.Tensor) -> str:
    """One line that says how the chains of a module run on an input, empty if it has none."""
    if not isinstance(module, OnnxModule):
        return ""
    whole = Composed(module, always=True)
    if execution == "layerwise":
        found = [choice for choice in whole.choices([x]) if choice.composes]
        return f"{len(found)} chains run layer by layer" if found else ""
    runner = whole if execution == "composed" else Composed(module)
    chosen = [choice for choice in runner.choices([x]) if choice.composes]
    chains = max(len(chosen), sum(choice.composes for choice in whole.choices([x])))
    parts = []
    if chains:
        now, before = (sum(getattr(c, n) for c in chosen) for n in ("products", "otherwise"))
        parts.append(f"{len(chosen)} of {chains} chains run composed")
        if chosen:
            parts[-1] += f", {now / 1e6:,.1f} instead of {before / 1e6:,.1f} M products a step"
    between = normalized(module)
    if between:
        parts.append(f"batch normalization between layers keeps {between} pairs apart")
    return "; ".join(parts)


class Composed(torch.nn.Module):
    """An imported graph that is rewritten for each size of its input.

    Parameters, buffers and submodules are those of the module; `state_dict` has them under
    `module.`.

    Args:
        module: The module.
        always: Compose every chain that composes, whatever it costs.
    """

    def __init__(self, module: OnnxModule, *, always: bool = False) -> None:
        super().__init__()
        self.module = module
        self.always = always
        self.holding: bool = False
        self.training = module.training
        self._runs = runs(module)
        # Not submodules: they hold nothing of their own, and share all that the module has.
        self._variants: dict[tuple[tuple[Term, ...], ...], OnnxModule] = {}
        self._known: dict[tuple[tuple[int, ...], ...], OnnxModule] = {}

    def forward(self, *inputs: torch.Tensor) -> Any:
        """As the module."""
        key = tuple(tuple(x.shape) for x in inputs)
        variant = self._known.get(key)
        if variant is None:
            variant = self._known[key] = self.variant(inputs)
        return variant(*inputs)

    def choices(self, inputs: Sequence[torch.Tensor]) -> list[Choice]:
        """What becomes of each chain for inputs of these shapes, with its products."""
        sizes = measure(self.module, self._runs, inputs)
        return [choice for run in self._runs for choice in choose(run, sizes, always=self.always)]

    def variant(self, inputs: Sequence[torch.Tensor]) -> OnnxModule:
        """The module that runs for inputs of these shapes, for those who compile or export it."""
        key = tuple(choice.terms for choice in self.choices(inputs) if choice.composes)
        if key not in self._variants:
            self._variants[key] = _rewritten(self.module, key)
            for composer in _composers(self._variants[key]):
                composer.hold(self.holding)
        return self._variants[key]

    def hold(self, on: bool) -> None:
        """Begin to compose once for several passes, or end it."""
        self.holding = on
        for variant in self._variants.values():
            for composer in _composers(variant):
                composer.hold(on)

    def __reduce__(self) -> Any:
        return _again, (self.module, self.always)

    def __deepcopy__(self, memo: dict[int, Any]) -> Composed:
        return Composed(copy.deepcopy(self.module, memo), always=self.always)


def _again(module: OnnxModule, always: bool) -> Composed:
    return Composed(module, always=always)


def _composers(variant: OnnxModule) -> Iterator[Composer]:
    for part in variant.get_submodule(_HOME).children():
        assert isinstance(part, Composer)
        yield part


@contextlib.contextmanager
def once_per_step(module: torch.nn.Module) -> Iterator[None]:
    """Compose the kernels once for several forward and backward passes.

    The gradients of all passes are gathered at the composed kernels and go through the
    composition when the block ends; only then are those of the layers complete.
    """
    found = [part for part in module.modules() if isinstance(part, Composed)]
    for part in found:
        part.hold(True)
    try:
        yield
    finally:
        for part in found:
            part.hold(False)


class Composer(torch.nn.Module):
    """Composes the kernels of one chain."""

    def __init__(self, recipe: _Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.held: kernels.Kernel | None = None
        self._made: kernels.Kernel | None = None
        self._holds = False

    def forward(self, *tensors: torch.Tensor) -> kernels.Kernel:
        """The kernel, from the weights and biases of the layers, in order."""
        if self.held is not None:
            return self.held
        with torch.autocast(tensors[0].device.type, enabled=False):
            made = _follow(self.recipe, tensors)
        if self._holds:
            self._made = made
            weight, bias = made
            self.held = (
                weight.detach().requires_grad_(weight.requires_grad),
                None if bias is None else bias.detach().requires_grad_(bias.requires_grad),
            )
            return self.held
        return made

    def hold(self, on: bool) -> None:
        """Begin to hand out one kernel, or let its gradients through to the layers."""
        self._holds = on
        if on or self._made is None or self.held is None:
            return
        pairs = [
            (made, held.grad)
            for made, held in zip(self._made, self.held, strict=True)
            if made is not None and held is not None and held.grad is not None
        ]
        self._made = self.held = None
        if pairs:
            torch.autograd.backward([made for made, _ in pairs], [grad for _, grad in pairs])


# -- Recipes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recipe:
    """How to compose a kernel, without anything of the graph in it.

    Attributes:
        layers: For each layer whether it has a bias, whether its weight is stored as [m, n], and
            what both are multiplied with.
        steps: What to do with a stack of kernels: push a layer, push the input itself, compose
            the last two, add the last few.
    """

    layers: tuple[tuple[bool, bool, float, float], ...]
    steps: tuple[tuple[str, Any], ...]


def _recipe(terms: tuple[Term, ...]) -> _Recipe:
    steps: list[tuple[str, Any]] = []
    own = list(layers(terms))
    place = {layer.output: i for i, layer in enumerate(own)}

    def follow(run: Sequence[Term]) -> None:
        geometries = [_geometry((term,)) for term in run]
        split = splits(geometries)

        def contract(i: int, j: int) -> Geometry:
            if i == j:
                term = run[i]
                if isinstance(term, Layer):
                    steps.append(("layer", place[term.output]))
                else:
                    add(term)
                return geometries[i]
            k = split.get((i, j), j - 1)
            one, two = contract(i, k), contract(k + 1, j)
            steps.append(("compose", kernels.meeting(one, two)))
            joined = one.then(two)
            assert isinstance(joined, Geometry)
            return joined

        contract(0, len(run) - 1)

    def add(term: Sum) -> None:
        total = _geometry((term,))
        places = []
        for branch in term.branches:
            if branch:
                follow(branch)
                places.append(kernels.place(_geometry(branch), total))
            else:
                m = total.in_channels
                steps.append(("identity", m))
                places.append(kernels.place(Geometry(m, m, group=m), total))
        steps.append(("add", tuple(places)))

    follow(terms)
    traits = tuple((x.bias is not None, x.transposed, *x.scales) for x in own)
    return _Recipe(traits, tuple(steps))


def _geometry(terms: tuple[Term, ...]) -> Geometry:
    geometry = geometry_of(terms)
    assert isinstance(geometry, Geometry)
    return geometry


def _follow(recipe: _Recipe, tensors: Sequence[torch.Tensor]) -> kernels.Kernel:
    own: list[kernels.Kernel] = []
    at = 0
    for has_bias, transposed, alpha, beta in recipe.layers:
        weight = tensors[at].t() if transposed else tensors[at]
        bias = tensors[at + 1].reshape(-1) if has_bias else None
        at += 1 + has_bias
        weight = weight if alpha == 1 else weight * alpha
        own.append((weight, bias if bias is None or beta == 1 else bias * beta))
    stack: list[kernels.Kernel] = []
    for kind, what in recipe.steps:
        if kind == "layer":
            stack.append(own[what])
        elif kind == "identity":
            stack.append((tensors[0].new_ones(what, 1), None))
        elif kind == "compose":
            second, first = stack.pop(), stack.pop()
            stack.append(kernels.composed_kernel(first, second, what))
        else:
            parts = stack[-len(what) :]
            del stack[-len(what) :]
            stack.append(kernels.summed(parts, what))
    return stack[0]


# -- Rewriting --------------------------------------------------------------------------------


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product of [..., m] with a matrix [n, m], and a bias."""
    return F.linear(x, weight, bias)


def part_of(kernel: kernels.Kernel, index: int) -> torch.Tensor | None:
    """The weight or the bias of a kernel."""
    return kernel[index]


def _rewritten(module: OnnxModule, chains: Sequence[tuple[Term, ...]]) -> OnnxModule:
    """The module with some chains run as one layer each."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    home = torch.nn.Module()
    for number, terms in enumerate(chains):
        _insert(graph, copies, terms, f"{_HOME}.c{number}")
        home.add_module(f"c{number}", Composer(_recipe(terms)))
    for node in reversed(graph.nodes):
        if not node.users and node.op in {"call_function", "get_attr"}:
            graph.erase_node(node)
    variant = module.sharing(graph)
    variant.add_module(_HOME, home)
    return variant


def _insert(
    graph: fx.Graph, copies: Mapping[fx.Node, fx.Node], terms: tuple[Term, ...], path: str
) -> None:
    geometry = _geometry(terms)
    last = copies[terms[-1].output]
    x = copies[terms[0].source]
    with graph.inserting_before(last):
        tensors: list[fx.Node] = []
        for layer in layers(terms):
            held = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            tensors += [graph.get_attr(str(node.target)) for node in held]
        kernel = graph.call_module(path, tuple(tensors))
        weight = graph.call_function(part_of, (kernel, 0))
        bias = graph.call_function(part_of, (kernel, 1)) if geometry.bias else None
        if geometry.rank:
            settings: dict[str, Any] = {
                "dilations": list(geometry.dilations),
                "group": geometry.group,
                "pads": list(geometry.pads),
                "strides": list(geometry.strides),
            }
            result = graph.call_function(conv, (x, weight, bias), settings)
        else:
            result = graph.call_function(linear, (x, weight, bias))
    last.replace_all_uses_with(result)
