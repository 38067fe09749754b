"""Composes the other rooms into runs, and alone touches the world."""
