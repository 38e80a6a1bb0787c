"""`onnx-expand run` and `onnx-expand passes`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING

import click
from rich.console import Console

from onnx_expand.cli import render
from onnx_expand.cli.options import Command, assume_constant_option, check_outputs, quiet_option
from onnx_expand.cli.progress import working
from onnx_expand.equivalence.options import CheckOptions
from onnx_expand.errors import DifferentError, UsageError
from onnx_expand.model import load, save
from onnx_expand.passes import assume_constant
from onnx_expand.passes.registry import Option, named_passes, options_of
from onnx_expand.workflow.pipeline import Done, Pipeline, read_pipeline

__all__ = ["passes", "run"]


@click.command(cls=Command)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--passes", metavar="STEP,...", help="The steps, as in the examples above.")
@click.option("--config", metavar="F.toml", help="Read the steps from `passes` in this file.")
@click.option("--report", metavar="F.json", help="Write the steps' reports as JSON; - is stdout.")
@assume_constant_option
@quiet_option
def run(
    source: str,
    target: str,
    passes: str | None,
    config: str | None,
    report: str | None,
    assume_constant_initializers: bool,
    quiet: bool,
) -> None:
    """Run passes on IN, in order, and write OUT.

    A step is the name of a pass, with options after a colon; `onnx-expand passes` lists both.
    The step `check` compares the model with IN, or with the result of the last step that is
    meant to change what the model computes; if they differ, nothing is written.

    \b
    Examples:
      onnx-expand run IN.onnx OUT.onnx --passes fold,check
      onnx-expand run IN.onnx OUT.onnx --passes fold:policy=always,border=map,check:samples=3
      onnx-expand run IN.onnx OUT.onnx --config pipeline.toml

    \b
    pipeline.toml:
      passes = ["strip-nonlinear", { name = "fold", policy = "latency" }, "check"]
    """
    if (passes is None) == (config is None):
        raise UsageError("give either --passes or --config")
    pipeline = Pipeline.of(passes) if passes is not None else read_pipeline(config or "")
    check_outputs(report, model=target, reads=(source, config))
    model = load(source)
    if assume_constant_initializers:
        assume_constant(model)
    out = render.console(quiet=quiet or report == "-")
    lines: list[str] = []
    try:
        with working("running passes", quiet=quiet):
            model, done = pipeline.run(model, lambda step: lines.append(_line(step)))
    except DifferentError as error:
        raise DifferentError(f"{source}: {error}; {target} was not written") from error
    finally:
        for line in lines:
            out.print(line)
    save(model, target)
    if report:
        render.write_json({"schema": 1, "steps": [step.as_dict() for step in done]}, report)


def _line(done: Done) -> str:
    """Return what a step did as one line."""
    if done.verdict is not None:
        what = done.verdict.summary()
    else:
        what = "changed the model" if done.modified else "changed nothing"
    return f"{done.name}: {what} ({done.seconds:.1f} s)"


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Describe each option.")
def passes(as_json: bool, verbose: bool) -> None:
    """List the passes of `run` and their options, including those of installed packages."""
    found = named_passes()
    if as_json:
        listed = [
            {
                "name": named.name,
                "package": named.origin,
                "summary": named.summary,
                "options": [
                    {
                        "name": option.name,
                        "takes": option.kind,
                        "help": option.help,
                        "required": option.default is MISSING,
                        "default": None if option.default is MISSING else option.default,
                    }
                    for option in named.options
                ],
            }
            for named in found
        ]
        click.echo(json.dumps(listed, indent=2, default=str, skipkeys=True))
        return
    out = render.console()
    for named in found:
        out.print(f"{named.name} ({named.origin}): {named.summary}")
        _print_options(out, named.options, verbose=verbose)
    out.print("check (onnx-expand): Compare the model with the input of the pipeline.")
    _print_options(out, options_of(CheckOptions), verbose=verbose)


def _print_options(out: Console, options: Sequence[Option], *, verbose: bool) -> None:
    rows = [(f"  {o.name}", o.kind, _shown(o.default)) for o in options]
    width = max((len(row[0]) for row in rows), default=0)
    for (name, kind, default), option in zip(rows, options, strict=True):
        out.print(f"{name.ljust(width)}  {kind}{default}")
        if verbose and option.help:
            render.print_line(out, f"      {option.help}", 0)


def _shown(default: object) -> str:
    if default is MISSING:
        return " (required)"
    text = json.dumps(default, default=str, skipkeys=True)
    return "" if text in {"null", "[]", '""'} else f" [{text.strip(chr(34))}]"
