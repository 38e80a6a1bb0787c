"""The README as package indexes show it: they have none of the files that it links to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["Readme", "standing_alone"]


def standing_alone(text: str, base: str = "") -> str:
    """A page whose links all lead somewhere from anywhere.

    Args:
        text: Markdown.
        base: Where the project's files are, with a slash at the end; without it links to files
            become their text, and pictures go.
    """
    local = r"\((?!https?:|#)([^)\s]+)\)"
    if base:
        return re.sub(rf"\]{local}", lambda found: f"]({base}{found[1]})", text)
    text = re.sub(rf"^!\[[^\]]*\]{local}\n\n?", "", text, flags=re.MULTILINE)
    return re.sub(rf"\[([^\]]*)\]{local}", lambda found: found[1], text)


class Readme(MetadataHookInterface):
    """Gives the package its long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the page into the metadata; `Source` among the project's URLs is its base."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        base = metadata.get("urls", {}).get("Source", "")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": standing_alone(text, f"{base.rstrip('/')}/blob/main/" if base else ""),
        }
