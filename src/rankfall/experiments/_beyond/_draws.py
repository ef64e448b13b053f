"""Random numbers of every step, each seed from its own stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rankfall.experiments._beyond._training import generator

__all__ = ["Draws"]

# Steps that are drawn at once; the numbers depend on it, so it never changes.
_AHEAD = 512


class Draws:
    """What is drawn afresh at every step, for all seeds beside each other.

    Args:
        seeds: The seeds; each one's numbers are the same whatever runs beside it.
        purpose: Name of the stream.
        draw: Gets a generator and how many steps; returns what they need, step first.

    Example:
        >>> import torch
        >>> from rankfall.experiments._beyond._draws import Draws
        >>> batches = Draws([0, 1], "batches", lambda source, steps: torch.randint(100, (steps, 4), generator=source))
        >>> batches.at(0).shape
        torch.Size([2, 4])
    """

    def __init__(
        self, seeds: Sequence[int], purpose: str, draw: Callable[[torch.Generator, int], torch.Tensor]
    ) -> None:
        self._sources = [generator(seed, purpose) for seed in seeds]
        self._draw = draw
        self._drawn = 0
        self._ahead: torch.Tensor

    def at(self, step: int) -> torch.Tensor:
        """The numbers of this step, seed first; steps must be asked for in order, some may be left out.

        Raises:
            ValueError: A step that lies too far back.
        """
        while step >= self._drawn:
            # Step first in memory: what one step needs lies together.
            self._ahead = torch.stack([self._draw(source, _AHEAD) for source in self._sources], dim=1)
            self._drawn += _AHEAD
        if step < self._drawn - _AHEAD:
            raise ValueError(f"step {step} was drawn long ago")
        return self._ahead[step % _AHEAD]
