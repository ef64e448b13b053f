"""The studies that come with rankfall, as the text of their TOML files."""

from __future__ import annotations

from importlib import resources

from rankfall.errors import InvalidInput
from rankfall.sweep._settings import hint

__all__ = ["EXAMPLES", "example"]

# Name → what it is about. The first one has a comment at every setting and runs in seconds.
EXAMPLES = {
    "example": "surviving rank over noise and teacher rank, with comments, runs in seconds",
    "phase-noise": "surviving rank over noise and teacher rank, in half a minute",
    "phase-width": "surviving rank over width and shape, across width = inputs + outputs, in a minute",
    "phase-step": "discrete steps against the flow, in half a minute",
}


def example(name: str = "example") -> str:
    """The text of a study that comes with rankfall.

    Raises:
        InvalidInput: There is none of that name.

    Example:
        >>> from rankfall.sweep._example import example
        >>> print(example().splitlines()[0])
        # A study for rankfall. Run it with
    """
    if name not in EXAMPLES:
        raise InvalidInput(f"there is no example {name!r}; there are {', '.join(EXAMPLES)}.{hint(name, EXAMPLES)}")
    return (resources.files("rankfall.sweep") / "studies" / f"{name}.toml").read_text(encoding="utf-8")
