"""Visits end: their threads, their memory, and there are only so many of them."""

import asyncio
import threading
import urllib.error
import urllib.request

import pytest
from typer.testing import CliRunner

from rankfall.cli import app
from rankfall.explorer import Explorer, _server


def get(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("rankfall-visit")}


def test_visits_are_counted_and_cleaned_up(monkeypatch):
    monkeypatch.setattr(_server, "MOST_VISITORS", 2)
    monkeypatch.setattr(_server, "_LIFETIME", 4000)

    async def visit():
        explorer = Explorer()
        monkeypatch.setattr(explorer.warmth, "start", lambda: None)
        explorer.start()
        address = f"http://127.0.0.1:{explorer.port}/"
        try:
            answers = [await asyncio.to_thread(get, address) for _ in range(3)]
            assert answers == [200, 200, 503]
            assert len(explorer.pages) == 2
            for page in explorer.pages.values():
                page.pool.submit(int).result()
            assert len(threads()) == 2
            for _ in range(300):  # nobody connects: the visits end by themselves
                await asyncio.sleep(0.1)
                if not explorer.pages and not threads():
                    break
            assert not explorer.pages and not threads()
            assert await asyncio.to_thread(get, address) == 200
        finally:
            explorer.stop()
        await asyncio.sleep(0)
        assert not explorer.pages

    asyncio.run(visit())


def test_other_computers_only_when_told():
    result = CliRunner().invoke(app, ["explore", "--host", "0.0.0.0", "--no-browser"])
    assert result.exit_code == 2
    assert "--allow-websocket-origin" in result.output


def test_a_port_that_is_taken_is_said(monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(app, ["explore", "--no-browser", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 74
    assert "in use" in result.output


def test_without_bokeh_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ImportError, match=r"pip install 'rankfall\[explore\]'"):
        __import__("rankfall.explorer", fromlist=["Explorer"]).Explorer  # noqa: B018
    result = CliRunner().invoke(app, ["explore", "--no-browser"])
    assert result.exit_code == 2
    assert "pip install 'rankfall[explore]'" in result.output
