"""Tables, figures and the self-contained report page."""

from openmm_mlbench.report.page import build_report

__all__ = ["build_report"]
