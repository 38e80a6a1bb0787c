"""Polygraphy: loaders that fold a model or compare it with another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from polygraphy.backend.base import BaseLoader
from polygraphy.exception import PolygraphyException

import onnx_expand
from onnx_expand.errors import OnnxExpandError

__all__ = ["CheckOnnx", "FoldOnnx"]

Loadable = onnx.ModelProto | Callable[[], onnx.ModelProto]


class FoldOnnx(BaseLoader):  # type: ignore[misc]  # polygraphy has no types
    """Folds the model that it loads.

    Args:
        model: A model, or a loader of one, such as `OnnxFromPath`.
        options: Options of `onnx_expand.fold`.
    """

    def __init__(self, model: Loadable, **options: Any) -> None:
        self._model = model
        self._options = options

    def call_impl(self) -> onnx.ModelProto:
        """Return the folded model."""
        try:
            folded: onnx.ModelProto = onnx_expand.fold(_loaded(self._model), **self._options)
        except OnnxExpandError as error:
            raise PolygraphyException(str(error)) from error
        return folded


class CheckOnnx(BaseLoader):  # type: ignore[misc]  # polygraphy has no types
    """Loads a model and compares it with the model that it was made from.

    Args:
        model: The reference model, or a loader of it.
        other: The model to load, or a loader of it.
        options: Options of `onnx_expand.check`.
    """

    def __init__(self, model: Loadable, other: Loadable, **options: Any) -> None:
        self._model, self._other = model, other
        self._options = options

    def call_impl(self) -> onnx.ModelProto:
        """Return the second model; raise a `PolygraphyException` if the two differ."""
        made = _loaded(self._other)
        try:
            verdict = onnx_expand.check(_loaded(self._model), made, **self._options)
        except OnnxExpandError as error:
            raise PolygraphyException(str(error)) from error
        if not verdict:
            raise PolygraphyException(f"the models differ: {verdict.differences[0]}")
        return made


def _loaded(model: Loadable) -> onnx.ModelProto:
    return model() if callable(model) else model
