"""`rankfall explore`."""

from __future__ import annotations

from typing import Annotated

import typer

from rankfall.cli._errors import say

__all__ = ["explore"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 5006,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need --allow-websocket-origin.")
    ] = "127.0.0.1",
    allow_websocket_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Name under which others open the page; again for several."),
    ] = None,
) -> None:
    r"""Open a page on which the effect can be seen: drag the noise and watch the small singular values die.

    Runs are simulated while they are drawn, each law has its light, and what you see can be downloaded: the run, the
    figure, the Python. Needs the extra: pip install 'rankfall\[explore]'. The first time kernels are compiled, a
    minute or two. Only this computer can open the page, unless told otherwise. Ctrl-C ends it.

    [bold]Examples[/bold]

        rankfall explore
        rankfall explore --port 0 --no-browser
        rankfall explore --host 0.0.0.0 --allow-websocket-origin lecture.example.org:5006
    """
    import rankfall as rf

    if host not in _LOOPBACK and not allow_websocket_origin:
        raise rf.InvalidInput(
            f"--host {host} lets other computers in: say under which name they open the page, with "
            "--allow-websocket-origin NAME:PORT."
        )
    try:
        from rankfall.explorer import Explorer
    except ImportError as error:
        raise rf.InvalidInput(str(error)) from None
    _serve(Explorer, port, host, allow_websocket_origin or [], not no_browser)


def _serve(make: type, port: int, host: str, origins: list[str], browser: bool) -> None:
    import logging
    import webbrowser

    from tornado.ioloop import IOLoop

    for noisy in ("bokeh", "tornado.access"):  # a closed page and a refused request are no news
        logging.getLogger(noisy).setLevel(logging.ERROR)
    server = make(port, host, origins)
    server.start()
    address = f"http://localhost:{server.port}/" if host in _LOOPBACK else f"http://{(origins or [host])[0]}/"
    typer.echo(f"rankfall explore: {address}")
    say("Ctrl-C ends it.")
    if browser:
        webbrowser.open(address)
    try:
        IOLoop.current().start()
    except KeyboardInterrupt:
        say("stopped")
    finally:
        server.stop()
