"""Values out of histories, whose shape nobody promises: each as what it should be, or as nothing."""

from __future__ import annotations

from typing import Any, cast


def mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: Any) -> list[Any] | None:
    """A list; None when it is something else."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def names(value: Any) -> list[str]:
    return [str(n) for n in cast("list[Any]", value)] if isinstance(value, list | tuple) else []


def integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
