"""Data from a function of one's own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from onnx_expand.errors import UsageError
from onnx_expand.experiment.foreign import blamed

__all__ = ["call", "find_function"]


def find_function(spec: str, what: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; the current directory is searched too.

    Args:
        spec: The name.
        what: What wants it, for errors.

    Raises:
        UsageError: There is no such function, or its module raises something.
    """
    module_name, _, name = spec.partition(":")
    if not (module_name and name):
        raise UsageError(f"{what} '{spec}': wanted is package.module:function")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    with blamed(f"{what} '{spec}': importing {module_name}"):
        module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{what} '{spec}': {module_name} has no function '{name}'")
    found: Callable[..., Any] = function
    return found


def call(spec: str, request: Any) -> Any:
    """What a function of one's own returns.

    It is called with the keyword arguments that it has of `channels`, `size` and `classes`. It
    returns a `Dataset`, a mapping of arrays named as in an .npz file, the four arrays of one in
    the order x_train, y_train, x_test, y_test, or two datasets of torch's kind.

    Raises:
        UsageError: There is no such function, or it raises something.
    """
    function = find_function(spec, "data")
    known = {
        "channels": request.channels, "size": request.size, "classes": request.classes
    }  # fmt: skip
    with blamed(f"data '{spec}'"):
        parameters = inspect.signature(function).parameters
        result = function(**{name: value for name, value in known.items() if name in parameters})
    if isinstance(result, tuple | list) and len(result) == 4:
        names = ("x_train", "y_train", "x_test", "y_test")
        return {name: np.asarray(a) for name, a in zip(names, result, strict=True)}
    return result
