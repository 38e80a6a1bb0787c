"""Expansions: which layers replace one layer, and their initial values.

A strategy is a decorated function from the geometry of a layer to a `Unit`: a sum of branches,
each a chain of steps. The map of a unit has exactly the layer's geometry, so that fold can
contract it again. The initial values are either the framework's defaults or values with which the
unit computes the same as the layer.
"""

# Importing a module registers its strategies.
from onnx_expand.factorize import branches, chains
from onnx_expand.factorize.base import (
    STRATEGIES,
    Average,
    Branch,
    Layer,
    Norm,
    Options,
    Start,
    Step,
    Unit,
    factorize,
    parse_strategy,
    strategy,
)
from onnx_expand.factorize.initial import (
    Filled,
    Statistics,
    as_affine,
    preserve,
    random_init,
    random_unit,
)
from onnx_expand.factorize.starts import CHAIN_STARTS

__all__ = [
    "CHAIN_STARTS",
    "STRATEGIES",
    "Average",
    "Branch",
    "Filled",
    "Layer",
    "Norm",
    "Options",
    "Start",
    "Statistics",
    "Step",
    "Unit",
    "as_affine",
    "branches",
    "chains",
    "factorize",
    "parse_strategy",
    "preserve",
    "random_init",
    "random_unit",
    "strategy",
]
