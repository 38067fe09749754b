"""Judges of histories. They read a History and nothing else, so a saved run can be judged again years later."""

from checkers.registry import CHECKERS, UnknownChecker, check_all
from checkers.verdict import Anomaly, Checker, Edge, Valid, Verdict, compose

__all__ = [
    "CHECKERS",
    "Anomaly",
    "Checker",
    "Edge",
    "UnknownChecker",
    "Valid",
    "Verdict",
    "check_all",
    "compose",
]
