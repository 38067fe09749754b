"""Anti-entropy between real processes, over sockets: no hints, no read repair."""

from __future__ import annotations

import json
import time
from pathlib import Path

from node_processes import NodeProcesses

KEYS = 300
PATIENCE_SECONDS = 30.0
"""No measure: a machine may be that slow."""


def test_a_node_that_was_dead_during_writes_is_brought_up_by_its_peers(tmp_path: Path) -> None:
    settings = {
        "hinted_handoff": False,
        "sloppy": False,
        "read_repair": "off",
        "anti_entropy_interval_ms": 200,
    }
    with NodeProcesses(tmp_path, **settings) as ring:
        ring.kill("c")
        for i in range(KEYS):
            assert ring.put("a", f"key-{i}", b"v%d" % i).status == 204
        ring.start("c")
        until = time.monotonic() + PATIENCE_SECONDS
        digests: list[str] = []
        while time.monotonic() < until and len(set(digests)) != 1:
            time.sleep(0.1)
            digests = [ring.ask(name, "GET", "/admin/digest").body.decode() for name in "abc"]
        assert digests[0] == digests[1] == digests[2]
        held = json.loads(ring.ask("c", "GET", "/admin/replica/b").body)
        assert len(held) == KEYS
        pages = [json.loads(ring.ask(name, "GET", "/admin/anti-entropy").body) for name in "abc"]
        assert sum(page["keys_sent"] for page in pages) >= KEYS
