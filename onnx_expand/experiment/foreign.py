"""Code of one's own: what it raises is said in one line that names the place in it."""

from __future__ import annotations

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from onnx_expand.errors import OnnxExpandError, UsageError

__all__ = ["blamed"]

_OURS = Path(__file__).parents[1]
# Where others' code is: torch's lines would not help the author of a loss.
_OTHERS = tuple(
    Path(path) for key in ("purelib", "platlib", "stdlib") if (path := sysconfig.get_path(key))
)


@contextlib.contextmanager
def blamed(who: str) -> Iterator[None]:
    """Turn what somebody's own code raises while the block runs into an error of usage.

    Args:
        who: What was called, for the message: `loss 'package.module:function'`.

    Raises:
        UsageError: The code raised something. The message has the exception, and the line of that
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
    """File and line of the innermost frame that is neither ours nor a library's."""
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
    """A path from the current directory on, where that is shorter."""
    path = Path(name)
    here = Path(os.getcwd())
    return str(path.relative_to(here)) if path.is_relative_to(here) else name
