"""`sunder reap` and `sunder image`: what has to be done in the Docker engine between runs."""

from __future__ import annotations

from harness import exits, screen
from harness.settings import UsageProblem


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
    """Builds the node image, if anything changed, and prints its tag. Raises NoEngine, NoImage, and UsageProblem."""
    from harness.docker.image import NoBase, build

    try:
        tag = build(base, bootstrap, screen.note)
    except NoBase as problem:
        raise UsageProblem(str(problem)) from None
    screen.out(tag)
    return exits.VALID
