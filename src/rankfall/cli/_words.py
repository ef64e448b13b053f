"""Commands of two words beside commands of one."""

from __future__ import annotations

import typer.core

__all__ = ["TwoWords"]


class TwoWords(typer.core.TyperGroup):
    """A group where `sweep status` is a command of its own, although `sweep` is one and takes a file.

    Each has its own line in the help and its own options; a file of the name status is ./status.
    """

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]
        """The longest name that the words begin with."""
        if len(args) > 1 and f"{args[0]} {args[1]}" in self.commands:
            args = [f"{args[0]} {args[1]}", *args[2:]]
        return super().resolve_command(ctx, args)
