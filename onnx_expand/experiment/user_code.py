"""Report exceptions from user code in one line with file and line number."""

from __future__ import annotations

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from onnx_expand.errors import OnnxExpandError, UsageError

__all__ = ["user_errors"]

_OURS = Path(__file__).parents[1]
# Directories of library code: its line numbers would not help the author of a loss.
_OTHERS = tuple(
    Path(path) for key in ("purelib", "platlib", "stdlib") if (path := sysconfig.get_path(key))
)


@contextlib.contextmanager
def user_errors(who: str) -> Iterator[None]:
    """Convert exceptions that user code raises in the block to usage errors.

    Args:
        who: The name of the code in the message: `loss 'package.module:function'`.

    Raises:
        UsageError: The code raised an exception. The message contains it with the line of user
            code in which it arose; the exception is the cause.
    """
    try:
        yield
    except (OnnxExpandError, MemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if isinstance(error, SyntaxError) and error.filename:
            said = error.msg
        text = type(error).__name__ + (f": {said}" if said else "")
        place = _place(error)
        raise UsageError(f"{who} raised {text}" + (f" ({place})" if place else "")) from error


def _place(error: Exception) -> str:
    """Return file and line of the innermost frame in user code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    return f"{_short(own[-1].filename)}:{own[-1].lineno}" if own else ""


def _is_own(name: str) -> bool:
    if name.startswith("<"):
        return False
    path = Path(name)
    return not any(path.is_relative_to(root) for root in (_OURS, *_OTHERS))


def _short(name: str) -> str:
    """Return a path relative to the current directory if it lies inside."""
    path = Path(name)
    here = Path(os.getcwd())
    return str(path.relative_to(here)) if path.is_relative_to(here) else name
