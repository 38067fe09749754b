"""Scenes of the shell around a run play in an empty directory, without settings from the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import fake_runner
import pytest

import harness


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Puts the fake runner in the real one's place."""
    monkeypatch.setitem(sys.modules, "harness.runner", fake_runner)
    monkeypatch.setattr(harness, "runner", fake_runner, raising=False)
    monkeypatch.chdir(tmp_path)
    for variable in os.environ:
        if variable.startswith("SUNDER_"):
            monkeypatch.delenv(variable)
    return fake_runner
