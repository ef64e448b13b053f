"""Text from files of anybody, before it is shown."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""A text without what could act on a terminal or break a line.

    Example:
        >>> printable("a\x1b[31m")
        'a?[31m'
    """
    return "".join(character if character.isprintable() else "?" for character in text)
