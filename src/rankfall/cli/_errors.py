"""Exit codes, and errors as one sentence on standard error instead of a traceback."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

import typer

__all__ = ["EPILOG", "FAILED_LAW", "INTERRUPTED", "SYSTEM", "USAGE", "guarded", "say"]

FAILED_LAW = 1
USAGE = 2
BUG = 70
SYSTEM = 74
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 all well; 1 a law, a claim or a cell of a sweep failed, or weights are not finite; 2 wrong usage or "
    "input; 70 an error in rankfall itself; 74 the system failed (cannot write, disk full, no memory, no scheduler); "
    "130 stopped by Ctrl-C, what was finished is kept."
)


def say(message: str) -> None:
    """Print to standard error, where nothing that reads the results sees it."""
    typer.echo(message, err=True)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what a command raises into a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> None:
        from rankfall import errors

        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command(*args, **options)
        except typer.Exit:
            raise
        except (errors.OutputError, errors.ExecutionError) as error:
            _fail(_sentence(error), SYSTEM)
        except (errors.InvalidInput, errors.NotARun, errors.LawNotApplicable) as error:
            _fail(_sentence(error), USAGE)
        except errors.SimulationInterrupted as error:
            _fail(_sentence(error), INTERRUPTED)
        except KeyboardInterrupt:
            _fail("stopped", INTERRUPTED)
        except BrokenPipeError:
            # The reader went away, as in `rankfall check run.nc | head`; keep Python from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(SYSTEM) from None
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}", SYSTEM)
        except MemoryError:
            _fail("out of memory; ask for fewer replicates or save points, or leave out --weights", SYSTEM)
        except Exception:
            import traceback

            traceback.print_exc()
            _fail("this is an error in rankfall itself; please report it with the lines above", BUG)

    return wrapped


def _fail(message: str, code: int) -> None:
    say(f"rankfall: {message}")
    raise typer.Exit(code) from None


def _sentence(error: BaseException) -> str:
    # str() of an OSError starts with "[Errno 28]", which helps nobody.
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"rankfall: warning: {message}")
