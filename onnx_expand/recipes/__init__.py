"""The settings of training runs, and those of the paper by name; torch is not imported."""

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
