"""What a run's outcome may depend on besides its settings: versions, machine, revision, planted bug."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.mutants.apply import Variant, top

PACKAGES = ("sunder", "msgspec", "click", "uvloop", "httptools", "docker", "networkx")


def describe(variant: Variant | None) -> dict[str, Any]:
    """JSON-ready. Nothing of it enters a history: equal seeds give equal histories."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
        "versions": versions(),
        "revision": revision(),
        "mutant": {"name": variant.mutant, "digest": variant.digest} if variant else None,
    }


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def revision() -> str | None:
    """The commit of the checkout that runs, marked where files were changed since; None outside a checkout."""
    if not (top() / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"],
            cwd=top(),
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
