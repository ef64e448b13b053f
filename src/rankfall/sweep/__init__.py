"""Sweeps: many ensembles over a grid of settings, in one store that survives anything."""
