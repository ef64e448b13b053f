"""Experiments: one file per figure, each with its settings, its runs, its figure and its verdicts."""
