"""The command line, `onnx-expand`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnx_expand.cli.app import cli
from onnx_expand.cli.text import plain
from onnx_expand.errors import OnnxExpandError, UnsupportedError

__all__ = ["main"]

_OURS = str(Path(__file__).parent.parent)
_INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The arguments after the program name; by default those of the process.

    Returns:
        The exit code: 0 success, 1 the models differ, 2 wrong usage, 3 an unreadable or invalid
        model, 4 a valid model that cannot be handled. Errors are one line on standard error.
    """
    # `load` checks for the problems that onnx_ir warns about, and reports them in one line.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        show, shown = warnings.showwarning, set[str]()

        def warn(message: Any, category: Any, filename: str, *place: Any, **more: Any) -> None:
            if category is UserWarning and _OURS in filename:
                line = f"onnx-expand: warning: {_line(str(message))}"
                if line not in shown:  # Python shows it again after filters change
                    shown.add(line)
                    click.echo(line, err=True)
            else:
                show(plain(str(message)), category, filename, *place, **more)

        warnings.filterwarnings("always", category=UserWarning, module=r"onnx_expand\b")
        warnings.showwarning = warn
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # click's standalone mode would print several lines for one error.
        words = sys.argv[1:] if arguments is None else list(arguments)
        code = cli.main(
            args=words,
            obj=words,  # reports record the command that made them
            prog_name="onnx-expand",
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the whole help
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "onnx-expand"
        return _fail(f"{error.format_message()} See '{command} --help'.", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        return _fail("interrupted", _INTERRUPTED)
    except MemoryError as error:
        return _fail(f"not enough memory: {error}", UnsupportedError.exit_code)
    except OnnxExpandError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader closed the pipe: give Python another file to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"onnx-expand: error: {_line(message)}", err=True)
    return code


def _line(message: str) -> str:
    """Return a message as one line without characters that control a terminal."""
    return plain(" ".join(message.split()))
