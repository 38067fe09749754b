"""Stores with one planted bug each: what the harness is measured by."""
