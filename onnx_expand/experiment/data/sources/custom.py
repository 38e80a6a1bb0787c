"""Data from a user's function."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from onnx_expand.errors import UsageError
from onnx_expand.experiment.user_code import user_errors

__all__ = ["call", "find_function"]


def find_function(spec: str, what: str) -> Callable[..., Any]:
    """Import the function that `package.module:function` names, also from the current directory.

    Raises:
        UsageError: There is no such function, or importing its module raises an exception.
    """
    module_name, _, name = spec.partition(":")
    if not (module_name and name):
        raise UsageError(f"{what} '{spec}': give package.module:function")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    with user_errors(f"{what} '{spec}': importing {module_name}"):
        module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{what} '{spec}': {module_name} has no function '{name}'")
    found: Callable[..., Any] = function
    return found


def call(spec: str, request: Any) -> Any:
    """Call a user's function and return its result.

    It is called with those of the keyword arguments `channels`, `size` and `classes` that it has.
    It returns a `Dataset`, a mapping of arrays named as in an .npz file, four arrays in the order
    x_train, y_train, x_test, y_test, or two torch datasets.

    Raises:
        UsageError: There is no such function, or it raises an exception.
    """
    function = find_function(spec, "data")
    known = {
        "channels": request.channels, "size": request.size, "classes": request.classes
    }  # fmt: skip
    with user_errors(f"data '{spec}'"):
        parameters = inspect.signature(function).parameters
        result = function(**{name: value for name, value in known.items() if name in parameters})
    if isinstance(result, tuple | list) and len(result) == 4:
        names = ("x_train", "y_train", "x_test", "y_test")
        return {name: np.asarray(a) for name, a in zip(names, result, strict=True)}
    return result
