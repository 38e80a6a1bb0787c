"""Fill the page template with styles, scripts and data."""

from __future__ import annotations

import html
import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from onnx_expand.workflow.certificate import versions

__all__ = ["provenance", "render_page"]


def render_page(title: str, data: Mapping[str, Any]) -> str:
    """Return one HTML file that shows data without network requests.

    Args:
        title: The title of the page.
        data: Plain JSON types, as `assets/page.js` expects them.
    """
    assets = resources.files(__package__) / "assets"
    texts = {name: (assets / name).read_text(encoding="utf-8") for name in _ASSETS}
    page = texts.pop("page.html")
    fields = {
        "TITLE": html.escape(title),
        "STYLE": texts["page.css"],
        "LAYOUT": texts["dagre.min.js"],
        "SCRIPT": texts["graph.js"] + texts["training.js"] + texts["page.js"],
        # Names come from the model and must not end the script element.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    # All at once, so that no inserted text is searched for further placeholders.
    return re.sub("<!--([A-Z]+)-->", lambda found: fields[found[1]], page)


_ASSETS = ("page.html", "page.css", "page.js", "graph.js", "training.js", "dagre.min.js")


def provenance(
    command: Sequence[str], hashes: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, str]]:
    """Return the origin of a report: the command that repeats it, versions and hashes."""
    rows = [("command", shlex.join(command))]
    rows += [
        (f"{what}: {name}", f"sha256 {digest}")
        for what, files in hashes.items()
        for name, digest in files.items()
    ]
    rows += [(package, version) for package, version in versions().items()]
    rows += [
        ("Python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    return rows
