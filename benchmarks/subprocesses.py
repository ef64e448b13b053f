"""Runs a snippet in a fresh interpreter and reads one JSON line from it: for memory and for compilation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def run_snippet(source: str, *, cache_folder: str | None = None, **values: Any) -> dict[str, Any]:
    """Run `source` with `values` as its global names; the last line it prints is JSON."""
    environment = dict(os.environ)
    if cache_folder is not None:
        environment["RANKFALL_CACHE_DIR"] = cache_folder
    head = f"import json; globals().update(json.loads({json.dumps(values)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", head + source], env=environment, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))
