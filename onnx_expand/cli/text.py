"""Escape names from models and files so that they are safe to show.

The name of a node may contain any characters: escape sequences that clear or overwrite the
screen, line ends that start another message, and marks that reverse the reading direction.
"""

from __future__ import annotations

import unicodedata

__all__ = ["plain"]

# Control characters, invisible format characters (such as directional marks), surrogates, line
# and paragraph separators, and unassigned code points, which XML cannot represent either.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn"})


def plain(text: str) -> str:
    """Return a text with all characters escaped that are not plain printable ones.

    The result is one line, which terminals and XML show literally.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in text
    )
