"""`sunder reap` and `sunder image`: what has to be done in the Docker engine between runs."""

from __future__ import annotations

from harness import exits, screen


def reap() -> int:
    """Removes what dead runs left. Raises NoEngine."""
    from harness.docker.engine import engine
    from harness.docker.reap import reap as remove

    reaped = remove(engine())
    for name in (*reaped.containers, *reaped.networks):
        screen.out(f"removed {name}")
    if not reaped:
        screen.out("nothing was left behind")
    if reaped.living:
        screen.note(f"left alone: {reaped.living} still running")
    return exits.VALID


def image(*, base: str | None, bootstrap: bool) -> int:
    """Builds the node image, if anything changed, and prints its tag. Raises NoEngine or NoImage."""
    from harness.docker.image import build

    screen.out(build(base, bootstrap, screen.note))
    return exits.VALID
