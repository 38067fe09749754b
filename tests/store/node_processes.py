"""Real nodes as processes on loopback, for the scenes that need sockets, signals and a disk."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import msgspec

START_SECONDS_MAX = 20.0


class Reply(NamedTuple):
    status: int
    body: bytes
    context: str | None


class NodeProcesses:
    """A ring of `python -m store` processes. Ends exactly those that it started."""

    def __init__(self, directory: Path, names: str = "abc", **settings: Any) -> None:
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(2 * len(names))
        self.http_ports = dict(zip(names, ports[::2], strict=True))
        self.peer_ports = dict(zip(names, ports[1::2], strict=True))
        self._settings = {
            "peers": {name: f"127.0.0.1:{port}" for name, port in self.peer_ports.items()},
            "host": "127.0.0.1",
            "gossip_interval_ms": 200,
            "suspect_after_ms": 1_000,
            "hint_retry_ms": 100,
            **settings,
        }

    def __enter__(self) -> Self:
        for name in self.http_ports:
            self.launch(name)
        for name in self.http_ports:
            self.await_ping(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def configure(self, name: str, **settings: Any) -> Path:
        """Writes the node's configuration and returns the file."""
        path = self._directory / f"{name}.json"
        own = {
            "node": name,
            "http_port": self.http_ports[name],
            "peer_port": self.peer_ports[name],
            "directory": str(self._directory / name),
        }
        path.write_bytes(msgspec.json.encode({**self._settings, **own, **settings}))
        return path

    def launch(self, name: str, **settings: Any) -> None:
        command = [sys.executable, "-m", "store", "--config", str(self.configure(name, **settings))]
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start(self, name: str, **settings: Any) -> None:
        """Launches the node and returns once it answers."""
        self.launch(name, **settings)
        self.await_ping(name)

    def await_ping(self, name: str) -> None:
        process = self._processes[name]
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until and process.poll() is None:
            try:
                if self.ask(name, "GET", "/ping").status == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"{name} does not serve; its log:\n{self.log(name)}")

    def kill(self, name: str) -> None:
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> int:
        """Asks the node to end and returns its exit status."""
        return self._end(name, signal.SIGTERM)

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def ended(self, name: str) -> int:
        """Waits for the node to end by itself; its exit status."""
        return self._processes[name].wait(30)

    def alive(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def _end(self, name: str, number: signal.Signals) -> int:
        self.signal(name, number)
        return self._processes[name].wait(30)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def await_log(self, name: str, text: str) -> None:
        """Returns once the node's log holds `text`."""
        until = time.monotonic() + START_SECONDS_MAX
        while text not in self.log(name):
            assert time.monotonic() < until, f"{text!r} never stood in the log of {name}:\n{self.log(name)}"
            time.sleep(0.02)

    def ask(self, name: str, method: str, path: str, body: bytes = b"", context: str | None = None) -> Reply:
        """One request on a connection of its own. Raises OSError where the node does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_ports[name], timeout=10)
        headers = {} if context is None else {"X-Causal-Context": context}
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return Reply(response.status, response.read(), response.getheader("X-Causal-Context"))
        except http.client.HTTPException as problem:
            raise ConnectionError(repr(problem)) from problem
        finally:
            connection.close()

    def put(self, name: str, key: str, body: bytes, context: str | None = None) -> Reply:
        return self.ask(name, "PUT", f"/kv/b/{quote(key, safe='')}", body, context)

    def get(self, name: str, key: str) -> Reply:
        return self.ask(name, "GET", f"/kv/b/{quote(key, safe='')}")

    def await_up(self, name: str, peer: str) -> None:
        """Returns once the node believes that its peer is up."""
        until = time.monotonic() + START_SECONDS_MAX
        while not msgspec.json.decode(self.ask(name, "GET", "/status").body)["peers"][peer]["up"]:
            assert time.monotonic() < until, f"{name} never saw {peer} up"
            time.sleep(0.02)

    def everything(self, bucket: str = "b") -> dict[str, Any]:
        """What each node holds of the bucket: name -> key -> values and clock."""
        return {
            name: msgspec.json.decode(self.ask(name, "GET", f"/admin/replica/{bucket}").body)
            for name in self.http_ports
        }

    def throw(self, name: str, content: bytes, *, port: str = "http") -> None:
        """Sends raw bytes and hangs up without listening."""
        ports = self.http_ports if port == "http" else self.peer_ports
        with socket.create_connection(("127.0.0.1", ports[name]), timeout=10) as sock:
            sock.sendall(content)

    def say(self, name: str, content: bytes, *, port: str = "http") -> bytes:
        """Sends raw bytes and returns all that comes back until the node closes; it must do so within ten seconds."""
        ports = self.http_ports if port == "http" else self.peer_ports
        with socket.create_connection(("127.0.0.1", ports[name]), timeout=10) as sock:
            parts: list[bytes] = []
            try:
                sock.sendall(content)
                while part := sock.recv(65_536):
                    parts.append(part)
            except ConnectionError:
                pass  # reset by the node, which is one way to be closed
            return b"".join(parts)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
