"""The demo's page: one HTML file with everything in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.figures import sentences, table
from onnx_expand.model import replacing

__all__ = ["write_page"]

_STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7b; --blue: #3b6ea5; --orange: #b5672c; --line: #dfe5ea }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; background: #fcfcfb }
h1 { font-size: 1.7rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem }
p { margin: .5rem 0; max-width: 46rem } .soft { color: var(--soft) }
.gain { display: flex; flex-wrap: wrap; gap: 1.2rem 2.5rem; align-items: center; margin: 1.6rem 0;
  padding: 1.2rem 1.5rem; background: #fff; border: 1px solid var(--line); border-radius: 10px }
.gain b { font-size: 2.6rem; line-height: 1.1; color: var(--orange); white-space: nowrap }
table { border-collapse: collapse; width: 100%; background: #fff; font-size: .93rem }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 600 }
.scroll { overflow-x: auto } img, svg { max-width: 100%; height: auto }
img.digits { image-rendering: pixelated; width: 100%; border-radius: 6px }
"""
_COLUMNS, _ROWS = 24, 3


def write_page(
    path: Path, report: Mapping[str, Any], curves: bytes, test: tuple[Any, Any]
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: Where.
        report: What the demo found.
        curves: A PNG of the curves.
        test: The test images [N, 3, H, W] and their labels.
    """
    header, rows = table(report)
    gain = report["comparison"]
    lines = sentences(report)
    title = "A better compact network, at no cost when deployed"
    if gain["better"] != "expanded":
        title = "Expanded, trained, folded, checked"
    body = f"""
<h1>{title}</h1>
<p class="soft">SmallNet with 7x7 kernels on distorted handwritten digits: trained as it is, and
expanded by onnx-expand, from the same {len(report["runs"])} seeds and with the same settings.
Folding gives the expanded network the compact one's shape, size and speed.</p>
<div class="gain"><div><b>{gain["mean"]:+.2f} points</b><br><span class="soft">test accuracy,
95&nbsp;% interval {gain["low"]:+.2f} to {gain["high"]:+.2f}</span></div>
{_dots(gain)}</div>
<img class="digits" alt="Some test images" src="{_data(_digits(test[0]))}">
<h2>The three models</h2>
<div class="scroll">{_table(header, rows)}</div>
<h2>Test accuracy while training</h2>
<img alt="Test accuracy over the epochs" src="{_data(curves)}">
<h2>Seed by seed</h2>
<div class="scroll">{_table(*_seeds(report))}</div>
<h2>What was found</h2>
{"".join(f"<p>{html.escape(line)}</p>" for line in lines)}
<h2>How</h2>
<p>{html.escape(report["data"])}. {html.escape(_settings(report["options"]))}.
{html.escape(report["machine"])}, {report["seconds"]:.0f} seconds. Settings were chosen on training
digits alone, before this was measured. No digit is in both parts, in whatever copy. All numbers
are in report.json, the models of seed 0 beside this page.</p>
"""
    text = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>onnx-expand: the demo</title><style>{_STYLE}</style><body>{body}</body></html>\n"
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _seeds(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["seed", "compact %", "folded %", "difference", "training loss, compact", "expanded"]
    rows = [
        [
            str(run["seed"]),
            f"{100 * run['accuracy']['compact']:.2f}",
            f"{100 * run['accuracy']['folded']:.2f}",
            f"{gain:+.2f}",
            f"{run['compact']['loss']:.4f}",
            f"{run['expanded']['loss']:.4f}",
        ]
        for run, gain in zip(report["runs"], report["comparison"]["per_seed"], strict=True)
    ]
    return header, rows


def _settings(options: Mapping[str, Any]) -> str:
    return (
        f"Expanded by {options['strategy'].upper()}, rate {options['rate']:g}; "
        f"{options['epochs']} epochs, batch 64, SGD of momentum 0.9, learning rate "
        f"{options['lr']:g}, cosine"
    )


def _dots(gain: Mapping[str, Any]) -> str:
    """The differences of the seeds, their mean and its interval, on a line with zero."""
    values = [*gain["per_seed"], gain["low"], gain["high"], 0.0]
    low, high = min(values), max(values)
    reach = (high - low) or 1.0

    def place(value: float) -> float:
        return float(20 + 380 * (value - low) / reach)

    dots = "".join(
        f'<circle cx="{place(value):.1f}" cy="26" r="5" fill="#b5672c" fill-opacity=".45"/>'
        for value in gain["per_seed"]
    )
    bar = f'x="{place(gain["low"]):.1f}" width="{place(gain["high"]) - place(gain["low"]):.1f}"'
    return (
        '<svg width="420" height="64" role="img" aria-label="Differences seed by seed">'
        f'<line x1="10" x2="410" y1="44" y2="44" stroke="#dfe5ea"/>'
        f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="8" y2="50" stroke="#5b6b7b"/>'
        f'<text x="{place(0):.1f}" y="62" font-size="11" text-anchor="middle" '
        'fill="#5b6b7b">0</text>'
        f'<rect {bar} y="41" height="6" rx="3" fill="#b5672c"/>{dots}</svg>'
    )


def _digits(x: Any) -> bytes:
    """Some images side by side, as a PNG."""
    from PIL import Image

    picks = np.linspace(0, len(x) - 1, _COLUMNS * _ROWS).astype(np.int64)
    grey = x[picks, 0]
    grey = 255 - np.rint(255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-9))
    height, width = grey.shape[1:]
    tiled = grey.reshape(_ROWS, _COLUMNS, height, width).transpose(0, 2, 1, 3)
    picture = Image.fromarray(tiled.reshape(_ROWS * height, -1).astype(np.uint8))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
