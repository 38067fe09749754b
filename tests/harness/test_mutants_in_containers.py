"""Two planted bugs are found in real nodes too, by the command as users start it; no seed decides there, so a few tries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import docker_nodes
import pytest

TRIES_MAX = 4


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "combination", "checkers"),
    [
        ("lww-wall-clock", "set", {"set_full", "lost_writes"}),
        ("hint-pop-first", "handoff-only", {"convergence"}),
    ],
)
def test_a_planted_bug_is_found_in_containers(
    tmp_path: Path, name: str, combination: str, checkers: set[str]
) -> None:
    docker_nodes.node_image()
    bare = {k: v for k, v in os.environ.items() if not k.startswith("SUNDER_")}
    told = ""
    for seed in range(1, TRIES_MAX + 1):
        words = [
            "run",
            "--world",
            "docker",
            "--combination",
            combination,
            "--mutant",
            name,
            "--time",
            "20s",
            "--json",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "harness", *words, "--seed", str(seed)],
            cwd=tmp_path,
            env=bare,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1, 2), done.stderr
        told = done.stdout
        if done.returncode == 1:
            break
    outcome = json.loads(told)
    assert outcome["verdict"] == "invalid", told
    assert checkers & {fingerprint.split("/")[0] for fingerprint in outcome["fingerprints"]}
    environment = json.loads((tmp_path / outcome["path"] / "environment.json").read_text())
    assert environment["mutant"]["name"] == name
