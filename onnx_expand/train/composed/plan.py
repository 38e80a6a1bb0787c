"""Which stretches of a run to compose, at the size of the input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from onnx_expand.errors import Refusal
from onnx_expand.train.composed.terms import Layer, Run, Term, geometry_of, layers, products
from onnx_expand.train.module import OnnxModule

__all__ = ["Choice", "choose", "measure"]

# Forward, the gradient of the input and that of the weight are as many products each.
_PASSES = 3
# Products of composing are of small matrices, and take about twice the time of a convolution's:
# measured on a CPU, where SmallNet's chains break even at a batch of three.
_SMALL = 2
# What the few operations of composing one chain take besides, as so many products.
_FIXED = 25_000_000


@dataclass(frozen=True)
class Choice:
    """What becomes of a stretch of a run.

    Attributes:
        terms: The stretch.
        composes: Whether it is run as one layer.
        products: Products of one training step, as chosen.
        otherwise: The same for the stretch layer by layer.
        price: `products`, with those of composing counted by the time that they take.
    """

    terms: tuple[Term, ...]
    composes: bool
    products: int
    otherwise: int
    price: int


class _Shapes(fx.Interpreter):
    """Runs a module and notes the shapes of some nodes."""

    def __init__(self, module: OnnxModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted and isinstance(result, torch.Tensor):
            self.found[n] = tuple(result.shape)
        return result


def measure(
    module: OnnxModule, runs: Sequence[Run], inputs: Sequence[torch.Tensor]
) -> Mapping[fx.Node, tuple[int, ...]]:
    """The shapes of what the layers of some runs compute, for inputs of these shapes."""
    wanted = {layer.output for run in runs for layer in layers(run.terms)}
    wanted |= {term.output for run in runs for term in run.terms}
    was_training = module.training
    states = torch.random.get_rng_state()
    module.eval()
    shapes = _Shapes(module, wanted)
    try:
        with torch.no_grad():
            shapes.run(*(torch.zeros_like(x) for x in inputs))
    finally:
        module.train(was_training)
        torch.random.set_rng_state(states)
    return shapes.found


def choose(
    run: Run, shapes: Mapping[fx.Node, tuple[int, ...]], *, always: bool
) -> Iterator[Choice]:
    """What becomes of the stretches of a run.

    The fewest layers where they take fewer products than all layers one by one, or `always`; else,
    or where that takes half as many, the stretches of least products.
    """
    few, whole = _partition(run, shapes, always, fewest=True)
    if not always:
        least, cheapest = _partition(run, shapes, always, fewest=False)
        apart = sum(_apart(layer, shapes) for layer in layers(run.terms))
        if few > apart or 2 * least < few:
            whole = cheapest
    for choice in whole:
        term = choice.terms[0]
        if choice.composes or isinstance(term, Layer):
            yield choice
            continue
        for branch in term.branches:
            if branch:
                yield from choose(Run(branch), shapes, always=always)


def _partition(
    run: Run, shapes: Mapping[fx.Node, tuple[int, ...]], always: bool, *, fewest: bool
) -> tuple[int, list[Choice]]:
    """The price of the best stretches, and the stretches."""
    best: list[tuple[tuple[int, int], list[Choice]]] = [((0, 0), [])]
    for last in range(len(run.terms)):
        options = []
        for first in range(last + 1):
            choice = _choice(run.terms[first : last + 1], shapes, always or fewest)
            if choice is None or (len(choice.terms) > 1 and not choice.composes):
                continue
            (count, total), before = best[first]
            kept = [] if not choice.composes and isinstance(choice.terms[0], Layer) else [choice]
            options.append(((count + 1, total + choice.price), [*before, *kept]))
        key = (lambda o: o[0]) if fewest else (lambda o: o[0][::-1])
        best.append(min(options, key=key))
    return best[-1][0][1], best[-1][1]


def _choice(
    terms: tuple[Term, ...], shapes: Mapping[fx.Node, tuple[int, ...]], always: bool
) -> Choice | None:
    """A stretch composed, or a single term as it is if that takes fewer products."""
    apart = sum(_apart(layer, shapes) for layer in layers(terms))
    if len(terms) == 1 and isinstance(terms[0], Layer):
        return Choice(terms, False, apart, apart, apart)
    geometry = geometry_of(terms)
    single = len(terms) == 1
    if isinstance(geometry, Refusal) or terms[-1].output not in shapes:
        return Choice(terms, False, apart, apart, apart) if single else None
    positions = _positions(shapes[terms[-1].output], geometry.rank, geometry.out_channels)
    macs, composing = geometry.macs_per_position * positions, products(terms)
    price = _PASSES * (macs + _SMALL * composing) + _FIXED
    if single and price > apart and not always:
        return Choice(terms, False, apart, apart, apart)
    return Choice(terms, True, _PASSES * (macs + composing), apart, price)


def _apart(layer: Layer, shapes: Mapping[fx.Node, tuple[int, ...]]) -> int:
    shape = shapes.get(layer.output)
    if shape is None:
        return 0
    geometry = layer.geometry
    positions = _positions(shape, geometry.rank, geometry.out_channels)
    return _PASSES * geometry.macs_per_position * positions


def _positions(shape: Sequence[int], rank: int, channels: int) -> int:
    """Output positions of a batch."""
    return math.prod(shape) // max(1, channels)
