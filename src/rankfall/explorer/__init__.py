"""`rankfall explore`: a page on which the effect can be seen. The only room with bokeh, entered when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rankfall.explorer._server import Explorer

__all__ = ["Explorer"]


def __getattr__(name: str) -> object:
    if name != "Explorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise ImportError("the page is drawn by bokeh; install it with: pip install 'rankfall[explore]'") from None
    from rankfall.explorer._server import Explorer

    return Explorer
