"""One HTML file that shows what a run found: the verdict, its witness, what happened around it, and everything else."""

from harness.report.page import render

__all__ = ["render"]
