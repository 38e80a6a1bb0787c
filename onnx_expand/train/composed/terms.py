"""The linear layers of an fx graph as terms: layers, sums of branches, and runs of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from onnx_expand.contraction import splits, work
from onnx_expand.errors import Refusal, UsageError
from onnx_expand.geometry import Geometry
from onnx_expand.train.module import OnnxModule
from onnx_expand.train.ops.convolution import conv
from onnx_expand.train.ops.elementwise import add
from onnx_expand.train.ops.linear import gemm, matmul

__all__ = ["Layer", "Run", "Sum", "Term", "geometry_of", "normalized", "products", "runs"]


@dataclass(frozen=True)
class Layer:
    """A convolution or a matrix product with weights of its own.

    Attributes:
        nodes: The fx nodes: the product, and an addition of its bias where that is apart.
        source: What it reads.
        weight: The node that holds its weight.
        bias: The node that holds its bias, if it has one.
        geometry: Its map.
        transposed: Whether the weight is stored as [m, n].
        scales: What weight and bias are multiplied with.
    """

    nodes: tuple[fx.Node, ...]
    source: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    geometry: Geometry
    transposed: bool = False
    scales: tuple[float, float] = (1.0, 1.0)

    @property
    def output(self) -> fx.Node:
        """The node that computes the result."""
        return self.nodes[-1]


@dataclass(frozen=True)
class Sum:
    """Branches of one input that are added; a branch without terms is the input itself.

    Attributes:
        output: The node that adds.
        source: What the branches read.
        branches: The runs.
    """

    output: fx.Node
    source: fx.Node
    branches: tuple[tuple[Term, ...], ...]


Term: TypeAlias = "Layer | Sum"


@dataclass(frozen=True)
class Run:
    """Terms one after the other, each the only reader of the one before."""

    terms: tuple[Term, ...]


def runs(module: OnnxModule) -> list[Run]:
    """The longest runs of linear layers of a module."""
    ending: dict[fx.Node, tuple[Term, ...]] = {}
    inner: set[fx.Node] = set()
    for node in module.graph.nodes:
        term: Term | None = _layer(module, node) or _sum(node, ending)
        if term is None:
            _take_bias(module, node, ending, inner)
            continue
        if isinstance(term, Sum):
            inner.update(a for a in node.args if isinstance(a, fx.Node))
        before = ending.get(term.source, ()) if _is_alone(term) else ()
        if before and isinstance(_then(before[-1], term), Refusal):
            before = ()
        if before:
            inner.add(term.source)
        ending[node] = (*before, term)
    return [Run(terms) for node, terms in ending.items() if node not in inner]


def normalized(module: OnnxModule) -> int:
    """How many pairs of layers have a normalization between them, and nothing else.

    Its batch statistics depend on what the first layer computes.
    """
    layers_of = {node: _layer(module, node) for node in module.graph.nodes}
    count = 0
    for node in module.graph.nodes:
        if node.op != "call_module" or len(node.users) != 1 or not node.args:
            continue
        inner = module.get_submodule(str(node.target))
        (reader,), source = node.users, node.args[0]
        is_norm = type(inner).__name__ == "BatchNormalization"
        linear = isinstance(source, fx.Node) and layers_of[source] and layers_of[reader]
        count += bool(is_norm and linear)
    return count


def _is_alone(term: Term) -> bool:
    """Whether nothing outside a term reads its input."""
    if isinstance(term, Layer):
        return len(term.source.users) == 1
    readers = {
        branch[0].nodes[0] for branch in term.branches if branch and isinstance(branch[0], Layer)
    }
    readers.add(term.output)
    return set(term.source.users) <= readers


def _then(first: Term, second: Term) -> Geometry | Refusal:
    one, two = geometry_of((first,)), geometry_of((second,))
    if isinstance(one, Refusal):
        return one
    return two if isinstance(two, Refusal) else one.then(two)


def geometry_of(terms: tuple[Term, ...]) -> Geometry | Refusal:
    """The map of terms one after the other, or why it is not one."""
    total: Geometry | Refusal | None = None
    for term in terms:
        own = term.geometry if isinstance(term, Layer) else _sum_geometry(term)
        total = own if total is None else total
        if isinstance(own, Refusal) or isinstance(total, Refusal):
            return own if isinstance(own, Refusal) else total
        if total is not own:
            total = total.then(own)
    assert total is not None
    return total


def _sum_geometry(term: Sum) -> Geometry | Refusal:
    found = [geometry_of(branch) if branch else None for branch in term.branches]
    refusal = next((g for g in found if isinstance(g, Refusal)), None)
    if refusal is not None:
        return refusal
    known = [g for g in found if isinstance(g, Geometry)]
    m = known[0].in_channels
    total: Geometry | None = None
    for g in found:
        own = g if isinstance(g, Geometry) else Geometry(m, m, group=m)
        joined = own if total is None else total.plus(own)
        if isinstance(joined, Refusal):
            return joined
        total = joined
    assert total is not None
    return total


def products(terms: tuple[Term, ...]) -> int:
    """Products of composing the kernels of some terms, in the best order."""
    total, geometries = 0, list[Geometry]()
    for term in terms:
        own = geometry_of((term,))
        assert isinstance(own, Geometry)
        geometries.append(own)
        if isinstance(term, Sum):
            total += sum(products(branch) for branch in term.branches if branch)
            total += own.parameters * len(term.branches)
    if len(geometries) > 1:
        total += work(geometries, splits(geometries))
    return total


# -- Reading nodes ----------------------------------------------------------------------------


def _layer(module: OnnxModule, node: fx.Node) -> Layer | None:
    if node.op != "call_function" or node.target not in (conv, gemm, matmul):
        return None
    args = [*node.args, None, None]
    source, weight, bias = args[:3]
    if not isinstance(source, fx.Node) or source is weight:
        return None
    shape = _shape(module, weight)
    if shape is None or (bias is not None and _shape(module, bias) is None):
        return None
    assert isinstance(weight, fx.Node)
    own = bias if isinstance(bias, fx.Node) else None
    try:
        if node.target is conv:
            return _convolution(module, node, source, weight, own, shape)
        return _matrix(module, node, source, weight, own, shape)
    except UsageError:
        return None  # shapes that contradict each other fail when the module runs


def _convolution(
    module: OnnxModule,
    node: fx.Node,
    source: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    shape: tuple[int, ...],
) -> Layer | None:
    named: dict[str, Any] = dict(node.kwargs)
    rank = len(shape) - 2
    if named.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID", ""} or rank not in {1, 2, 3}:
        return None
    explicit = named.get("auto_pad", "NOTSET") != "VALID"
    group = int(named.get("group", 1))
    geometry = Geometry(
        shape[1] * group,
        shape[0],
        shape[2:],
        tuple(named.get("strides") or ()),
        tuple(named.get("dilations") or ()),
        tuple(named.get("pads") or ()) if explicit else (),
        group,
        bias=bias is not None,
    )
    if min(geometry.pads, default=0) < 0:
        return None
    return Layer((node,), source, weight, bias, geometry)


def _matrix(
    module: OnnxModule,
    node: fx.Node,
    source: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None,
    shape: tuple[int, ...],
) -> Layer | None:
    if len(shape) != 2 or node.kwargs.get("transA", 0):
        return None
    transposed = node.target is matmul or not node.kwargs.get("transB", 0)
    n, m = shape[::-1] if transposed else shape
    if bias is not None and _shape(module, bias) not in {(n,), (1, n)}:
        return None
    scales = (float(node.kwargs.get("alpha", 1.0)), float(node.kwargs.get("beta", 1.0)))  # type: ignore[arg-type]
    bias = bias if scales[1] else None
    geometry = Geometry(m, n, bias=bias is not None)
    return Layer((node,), source, weight, bias, geometry, transposed, scales)


def _take_bias(
    module: OnnxModule,
    node: fx.Node,
    ending: dict[fx.Node, tuple[Term, ...]],
    inner: set[fx.Node],
) -> None:
    """Count the addition of a vector behind a matrix product as its bias."""
    if node.op != "call_function" or node.target is not add:
        return
    nodes = [a for a in node.args if isinstance(a, fx.Node)]
    for x, vector in (nodes, nodes[::-1]) if len(nodes) == 2 else ():
        terms, shape = ending.get(x), _shape(module, vector)
        last = terms[-1] if terms else None
        if not isinstance(last, Layer) or last.geometry.rank or last.bias is not None:
            continue
        if len(x.users) != 1 or shape != (last.geometry.out_channels,):
            continue
        assert terms is not None
        geometry = Geometry(last.geometry.in_channels, last.geometry.out_channels, bias=True)
        taken = Layer(
            (*last.nodes, node),
            last.source,
            last.weight,
            vector,
            geometry,
            last.transposed,
            (last.scales[0], 1.0),
        )
        inner.add(x)
        ending[node] = (*terms[:-1], taken)
        return


def _sum(node: fx.Node, ending: dict[fx.Node, tuple[Term, ...]]) -> Sum | None:
    """An addition of two branches of one input."""
    if node.op != "call_function" or node.target is not add or len(node.args) != 2:
        return None
    parts = [a for a in node.args if isinstance(a, fx.Node)]
    if len(parts) != 2 or parts[0] is parts[1]:
        return None
    known = [ending.get(p, ()) if len(p.users) == 1 else () for p in parts]
    sources = [terms[0].source if terms else p for terms, p in zip(known, parts, strict=True)]
    if not any(known):
        return None
    if sources[0] is not sources[1]:
        # A branch may begin further down, where the other one forks off.
        for i, other in ((0, 1), (1, 0)):
            cut = [t for t in range(len(known[i])) if known[i][t].source is sources[other]]
            if cut:
                known[i], sources[i] = known[i][cut[0] :], sources[other]
                break
    if sources[0] is not sources[1]:
        return None
    found = Sum(node, sources[0], (known[0], known[1]))
    return None if isinstance(_sum_geometry(found), Refusal) else found


def _shape(module: OnnxModule, node: Any) -> tuple[int, ...] | None:
    """The shape of a tensor that the module holds; None for what is computed."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    tensor = getattr(module.get_submodule(path), name, None)
    return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else None


def layers(terms: tuple[Term, ...]) -> Iterator[Layer]:
    """All layers of some terms, in order."""
    for term in terms:
        if isinstance(term, Layer):
            yield term
        else:
            for branch in term.branches:
                yield from layers(branch)
