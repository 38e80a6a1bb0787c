"""What a training run is asked for: its settings, and the paper's by name. Neither needs torch."""

from onnx_expand.recipes.options import (
    DataOptions,
    DistillOptions,
    RunOptions,
    TrainOptions,
)
from onnx_expand.recipes.papers import RECIPES, Recipe, recipe
from onnx_expand.recipes.setup import GROUPS, Setup, scaled

__all__ = [
    "GROUPS",
    "RECIPES",
    "DataOptions",
    "DistillOptions",
    "Recipe",
    "RunOptions",
    "Setup",
    "TrainOptions",
    "recipe",
    "scaled",
]
