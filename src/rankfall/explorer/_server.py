"""The server behind the page: who may ask for what, how many visitors, what every answer carries."""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.routing import Router
from tornado.web import OutputTransform, RequestHandler, StaticFileHandler

from rankfall.errors import InvalidInput
from rankfall.explorer._page import Page
from rankfall.explorer._plots import NAMES
from rankfall.explorer._presets import PRESETS
from rankfall.explorer._settings import CHOICES, CONTROLS, Settings
from rankfall.explorer._visit import FILES
from rankfall.explorer._warm import Warmth
from rankfall.explorer._words import TITLES

__all__ = ["Explorer"]

MOST_VISITORS = 8
# A page whose browser went away is forgotten after so many milliseconds, and looked for as often.
_LIFETIME = 10_000
_LONGEST_MESSAGE = 64 * 1024
_ASSETS = Path(__file__).parent / "assets"
_GROUPS = {
    "Method": ("method", "integrator"),
    "Noise and step": ("delta", "eta", "b"),
    "Network": ("p", "k", "l", "scale"),
    "Teacher": ("rank",),
    "Run": ("duration", "replicates", "seed"),
}
# All that the page needs; Bokeh's other addresses are not served.
_OPEN = ("/", "/ws", "/static/js/bokeh.min.js", "/assets/explore.js", "/assets/explore.css", "/favicon.ico")


class Explorer:
    """A server of the page, not yet running.

    Args:
        port: Where to listen; 0 takes a free one.
        address: Network address to listen on; loopback unless told.
        origins: Hosts (host:port) besides loopback under whose name the page may be opened.

    Attributes:
        port: The port that is taken.
        pages: Open pages by their secret token.
    """

    def __init__(self, port: int = 0, address: str = "127.0.0.1", origins: Sequence[str] = ()) -> None:
        listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        try:
            hosts = {f"{name}:{self.port}" for name in ("localhost", "127.0.0.1", "[::1]")} | set(origins)
            self.pages: dict[str, Page] = {}
            self.warmth = Warmth()
            environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True)
            self._template = environment.get_template("page.html.j2")
            self._tornado = BokehTornado(
                {"/": Application(FunctionHandler(self._open))},
                extra_websocket_origins=sorted(hosts),
                extra_patterns=[
                    (r"/assets/(explore\.(?:js|css))", StaticFileHandler, {"path": str(_ASSETS)}),
                    (r"/download/([\w-]{20,60})/([\w.-]{1,40})", _Download, {"pages": self.pages}),
                ],
                secret_key=secrets.token_bytes(32),
                sign_sessions=True,
                include_headers=[],
                include_cookies=[],
                unused_session_lifetime_milliseconds=_LIFETIME,
                check_unused_sessions_milliseconds=_LIFETIME // 2,
                websocket_max_message_size_bytes=_LONGEST_MESSAGE,
                transforms=[_headers_for(hosts)],
            )
            http = HTTPServer(_Guard(self._tornado, hosts, self._visitors), max_buffer_size=1 << 20)
            http.add_sockets([listener])
            self._server = BaseServer(IOLoop.current(), self._tornado, http)
        except BaseException:
            listener.close()
            raise

    def start(self) -> None:
        """Answer requests on this thread's event loop, and begin to compile the kernels."""
        self.warmth.start()
        self._server.start()

    def stop(self) -> None:
        """Stop answering, close all pages and end the compiling process."""
        self._server.stop(wait=False)
        for page in list(self.pages.values()):
            page.close()
        self.pages.clear()
        self.warmth.close()

    def _visitors(self) -> int:
        return len(self._tornado.get_sessions("/"))

    def _open(self, document: Document) -> None:
        """Make the document of a new visitor."""
        given = document.session_context.request.arguments
        settings, preset, problem = _requested(
            {name: [v.decode("utf-8", "replace") for v in values] for name, values in given.items()}
        )
        token = secrets.token_urlsafe(24)
        page = Page(document, token, settings, preset, self.warmth)
        page.problem = problem
        self.pages[token] = page

        def leave(context: Any) -> None:
            self.pages.pop(token, None)
            page.close()

        document.on_session_destroyed(leave)
        document.title = "rankfall explore"
        document.template = self._template
        document.template_variables.update(
            presets=PRESETS,
            groups=_GROUPS,
            choices=CHOICES,
            controls={name: _slider(name) for name in CONTROLS},
            names=NAMES,
            titles=TITLES,
            setup={
                "controls": {name: _slider(name) for name in CONTROLS},
                "choices": list(CHOICES),
                "values": settings.to_values(),
                "preset": preset,
                "presets": {name: {"sentences": each.sentences, "plot": each.plot} for name, each in PRESETS.items()},
            },
        )


def _requested(arguments: dict[str, list[str]]) -> tuple[Settings, str | None, str]:
    """Settings and preset that an address asks for, and what is wrong with it."""
    first = "noise"
    try:
        names = arguments.pop("preset", [])
        if names and (len(names) > 1 or names[0] not in PRESETS):
            raise InvalidInput(f"preset must be one of {', '.join(PRESETS)}, got {', '.join(names)[:60]}.")
        if not names and not arguments:
            return PRESETS[first].settings, first, ""
        base = PRESETS[names[0]].settings if names else Settings()
        settings = Settings.from_query(arguments, base)
        settings.begin()
        return settings, names[0] if names and not arguments else None, ""
    except InvalidInput as error:
        return PRESETS[first].settings, first, f"The address of this page asks for something that cannot be: {error}"


def _slider(name: str) -> dict[str, Any]:
    control = CONTROLS[name]
    ends = [math.log10(end) if control.scale == "log" else end for end in (control.low, control.high)]
    return {
        "field": control.field, "symbol": control.symbol, "words": control.words, "scale": control.scale,
        "low": control.low, "high": control.high, "step": control.step,
        "slider_low": round(ends[0], 6), "slider_high": round(ends[1], 6),
    }  # fmt: skip


class _Guard(Router):
    """Refuses what the page does not need, foreign hosts and origins, and more visitors than the machine serves."""

    def __init__(self, application: BokehTornado, hosts: set[str], visitors: Callable[[], int]) -> None:
        self._application, self._hosts, self._visitors = application, hosts, visitors

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> HTTPMessageDelegate | None:
        """The application's handler, or a refusal."""
        status, words = self._refusal(request)
        if status:
            return self._application.get_handler_delegate(request, _Refusal, {"status": status, "words": words})
        return self._application.find_handler(request, **more)

    def _refusal(self, request: HTTPServerRequest) -> tuple[int, str]:
        if request.host.lower() not in self._hosts:
            return 403, "This server answers only under its own address; see rankfall explore --allow-websocket-origin."
        if request.path not in _OPEN and not request.path.startswith("/download/"):
            return 404, "There is nothing here."
        if request.method not in ("GET", "HEAD"):
            return 405, "This page is only read."
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() not in self._hosts:
            return 403, "Another site may not talk to this server."
        if request.path == "/ws" and origin is None:
            return 403, "A websocket needs an origin."
        if request.path == "/":
            if any(name.startswith("bokeh-") for name in request.arguments) or "Bokeh-Session-Id" in request.headers:
                return 403, "A visit belongs to one visitor."
            if self._visitors() >= MOST_VISITORS:
                return 503, f"{MOST_VISITORS} pages are open already; close one of them and reload in ten seconds."
        return 0, ""


class _Refusal(RequestHandler):
    """A short answer in plain text."""

    def initialize(self, status: int, words: str) -> None:
        self._status, self._words = status, words

    def prepare(self) -> None:
        self.set_status(self._status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(self._words + "\n")


class _Download(RequestHandler):
    """Files of a visit, for whoever knows its secret."""

    def initialize(self, pages: dict[str, Page]) -> None:
        self._pages = pages

    async def get(self, token: str, name: str) -> None:
        page = self._pages.get(token)
        if page is None or name not in FILES or (page.visit.moment is None and not name.endswith(".py")):
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish("There is no such file; the page may have been closed or not begun.\n")
            return
        contents = await asyncio.get_running_loop().run_in_executor(page.pool, page.visit.file, name)
        self.set_header("Content-Type", FILES[name])
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("Cache-Control", "no-store")
        self.finish(contents)


def _headers_for(hosts: set[str]) -> type[OutputTransform]:
    sockets = " ".join(f"ws://{host} wss://{host}" for host in sorted(hosts) if not host.startswith("["))
    fixed = {
        # Bokeh sets styles of its elements; scripts are ours and Bokeh's file only, none inline, none evaluated.
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' {sockets}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }

    class Headers(OutputTransform):
        """Adds them to every answer, static files and errors included."""

        def transform_first_chunk(
            self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
        ) -> tuple[int, HTTPHeaders, bytes]:
            for name, value in fixed.items():
                headers[name] = value
            headers["Server"] = "rankfall"
            return status_code, headers, chunk

    return Headers
