"""`rankfall explore`: a page on which the effect can be seen. The only room with bokeh, entered when it is asked for."""

from rankfall.explorer._server import Explorer

__all__ = ["Explorer"]
