"""What the scenes with containers share: an image, worlds small enough for a test, and what the engine holds of a run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from harness.docker.engine import RUN_LABEL, DockerTrouble, Engine, engine
from harness.docker.image import build
from harness.docker.world import DockerWorld
from store.config import Config

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

ROOT = Path(__file__).parents[2]
HALF_A_SECOND_NS = 500_000_000

ANSWERS_PINGS = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

print("up", flush=True)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def node_image() -> str:
    """The image's tag. Where there is none and none can be made, skips, or fails if the environment requires Docker."""
    if os.environ.get("SUNDER_NO_DOCKER") == "1":
        pytest.skip("SUNDER_NO_DOCKER=1")
    try:
        return build(progress=lambda line: print(line, file=sys.stderr))
    except DockerTrouble as trouble:
        if os.environ.get("SUNDER_REQUIRE_DOCKER") == "1":
            pytest.fail(f"SUNDER_REQUIRE_DOCKER=1, but: {trouble}")
        pytest.skip(str(trouble))


def store_config(node: str, addresses: dict[str, str]) -> bytes:
    return msgspec.json.encode(
        Config(node=node, peers={name: f"{address}:8001" for name, address in addresses.items()})
    )


def stub_store(folder: Path, program: str = ANSWERS_PINGS) -> Path:
    """A directory with a package `store` that does as little as a node can."""
    package = folder / "code" / "store"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(program)
    return folder / "code"


def stub_world(folder: Path, *names: str, program: str = ANSWERS_PINGS, **options: bool) -> DockerWorld:
    """A world of nodes that only answer pings."""
    code = stub_store(folder, program)
    return DockerWorld(names, lambda _node, _addresses: b"{}", code, node_image(), folder, 1, **options)


@contextlib.contextmanager
def docker_engine() -> Iterator[Engine]:
    """A client, closed afterwards."""
    client = engine()
    try:
        yield client
    finally:
        client.close()


def held(run: str) -> list[str]:
    """The names of the run's containers and networks that the engine holds, running or not."""
    marked = {"label": f"{RUN_LABEL}={run}"}
    with docker_engine() as client:
        containers = [
            each["Names"][0].lstrip("/") for each in client.api.containers(all=True, filters=marked)
        ]
        return sorted(containers + [each["Name"] for each in client.api.networks(filters=marked)])
