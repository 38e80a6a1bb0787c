"""Names from models and files as text that is safe to show.

A model may call a node what it likes: escape sequences that clear the screen or rewrite what
stands there, line ends that begin another message, marks that turn the reading direction around.
"""

from __future__ import annotations

import unicodedata

__all__ = ["plain"]

# Control characters, invisible format characters such as those of direction, halves of pairs,
# line and paragraph ends, and code points that are no characters, which XML cannot hold either.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn"})


def plain(text: str) -> str:
    """A text with every character that does more than to be read written as an escape.

    The result is one line, and neither a terminal nor XML takes any of it for more than text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _UNSAFE
        else character
        for character in text
    )
