"""Experiments: one file per figure, each with its settings, its runs, its figure and its verdicts."""

from rankfall.experiments._target import Part, Target, Work

__all__ = ["Part", "Target", "Work"]
