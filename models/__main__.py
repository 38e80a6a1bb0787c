"""The command `python -m models`: build a network, or list them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import onnx

from onnx_expand.errors import OnnxExpandError
from onnx_expand.model import check_output, replacing

from .layers import parameter_count
from .registry import Entry, networks

__all__ = ["main"]

_NAME = "python -m models"
# A switch needs no value, and takes one.
_SWITCH: dict[str, Any] = {"is_flag": False, "flag_value": True}


def main(arguments: Sequence[str] | None = None, name: str = _NAME) -> int:
    """Run the command.

    Args:
        arguments: The words after the command's name; those of this process when missing.
        name: The command's name, for its messages.

    Returns:
        The exit code: 0, or 2 after one line `error: ...` on stderr.
    """
    mark = "error: " if name == _NAME else f"{name.split()[0]}: error: "
    try:
        # click's own mode would print its usage lines above each error.
        code = _group(name).main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        message = f"{mark}{error.format_message()} See `{name} --help`."
        return _fail(message, error.exit_code)
    except OnnxExpandError as error:
        return _fail(f"{mark}{error}", error.exit_code)
    except click.Abort:
        return _fail(f"{mark}interrupted", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(" ".join(message.split()), err=True)
    return code


def _group(name: str) -> click.Group:
    group = click.Group(
        help="Build networks as ONNX files with fresh weights.",
        commands=[_command(entry) for entry in networks().values()],
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    listing = functools.partial(_list, name)
    group.add_command(click.Command("list", callback=listing, help="List the networks."))
    return group


def _command(entry: Entry) -> click.Command:
    def write(output: Path, **options: Any) -> None:
        # Building can take seconds; a wrong path need not wait for it.
        check_output(output, is_model=True)
        model = entry.build(**options)
        with replacing(output) as partial:
            partial.write_bytes(model.SerializeToString())
        click.echo(f"{output}: {entry.name}, {parameter_count(model):,} parameters")

    params: list[click.Parameter] = [
        click.Option(
            [f"--{option.name.replace('_', '-')}", option.name],
            type=option.type,
            default=option.default,
            show_default=True,
            help=option.help,
            **(_SWITCH if option.type is bool else {}),
        )
        for option in entry.options
    ]
    path = click.Path(path_type=Path)
    params.append(click.Option(["-o", "--output"], type=path, required=True, help="file to write"))
    return click.Command(entry.name, callback=write, params=params, help=entry.summary + ".")


def _list(name: str) -> None:
    for entry in networks().values():
        model = entry.build()
        count, shape = f"{parameter_count(model):,}", _shape(model.graph.input[0])
        click.echo(f"{entry.name:<13} {count:>10} parameters  {shape:<20}  {entry.summary}")
    click.echo(f"`{name} <name> --help` shows the options of a network.")


def _shape(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(dim.dim_param or str(dim.dim_value) for dim in dims)}]"


if __name__ == "__main__":
    sys.exit(main())
