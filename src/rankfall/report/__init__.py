"""Figures and pages from finished Datasets and verdicts; nothing here runs a simulation."""

from rankfall.report._learning import learning
from rankfall.report.check_page import render_check_page
from rankfall.report.figures import overview, reproduction
from rankfall.report.page import Page, VerdictTable, render_page
from rankfall.report.style import render_figure

__all__ = [
    "Page",
    "VerdictTable",
    "learning",
    "overview",
    "render_check_page",
    "render_figure",
    "render_page",
    "reproduction",
]
