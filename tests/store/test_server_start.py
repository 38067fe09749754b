"""How `python -m store` starts, and what it says when it cannot: one sentence and exit status 254."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from node_processes import NodeProcesses, free_ports

from store.config import Config


def python_m_store(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "store", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout, done.stderr


def configured(path: Path, **settings: Any) -> str:
    http, peer, other = free_ports(3)
    usual = {
        "node": "a",
        "peers": {"a": f"127.0.0.1:{peer}", "b": f"127.0.0.1:{other}", "c": f"127.0.0.1:{other}"},
        "host": "127.0.0.1",
        "http_port": http,
        "peer_port": peer,
        "directory": str(path / "a"),
    }
    file = path / "a.json"
    file.write_bytes(msgspec.json.encode({**usual, **settings}))
    return str(file)


def test_the_example_is_a_configuration() -> None:
    status, example, _ = python_m_store("--print-example")
    assert status == 0
    assert msgspec.json.decode(example, type=Config).node == "a"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"node": "z"}, "`peers` must also name this node, 'z'"),
        ({"peers": {"a": "here", "b": "h:1", "c": "h:1"}}, "the address of 'a' in `peers` must be host:port, not 'here'"),
        ({"http_port": 8_001, "peer_port": 8_001}, "`http_port` and `peer_port` must differ, and are both 8001"),
        ({"peers": {"a": "h:1", "b/c": "h:1", "c": "h:1"}}, "letters, digits, `.`, `_` and `-`, at most 64 of them, not 'b/c'"),
        ({"n": 4}, "`n` is 4, but the ring begins with only 3 nodes"),
        ({"w": 4}, "`w` must be from 1 to n, which is 3"),
        ({"r": 0}, "`r` must be from 1 to n, which is 3"),
        ({"http_port": 70_000}, "`http_port` must be from 0 (any free port) to 65535"),
        ({"frame_bytes_max": 1_000_000}, "`frame_bytes_max` must have room for `value_bytes_max`"),
        ({"token_ranges": 0}, "`token_ranges` must be at least 1"),
        ({"request_timeout": 5}, "the nearest known one is `request_timeout_ms`"),
        ({"mode": "newest"}, "Invalid enum value 'newest' - at `$.mode`; it must be one of siblings, lww"),
        ({"buckets": {"b": {"read_repair": "on"}}}, "it must be one of blocking, async, off"),
        ({"host": "no.such.host.invalid"}, "no address is known for that name; correct `host`"),
        ({"host": "192.0.2.1"}, "`host` must be an address of this machine"),
        ({"n": "three"}, "Expected `int`, got `str` - at `$.n`"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_one_sentence(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    status, _, complaint = python_m_store("--config", configured(tmp_path, **settings))
    assert (status, sentence in complaint, complaint.count("\n")) == (254, True, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"null"])
def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    status, _, complaint = python_m_store("--config", str(file))
    assert (status, "is no configuration" in complaint, complaint.count("\n")) == (254, True, 1)


@pytest.mark.parametrize(
    "arguments", [(), ("--config",), ("--confg", "x"), ("--config", "/nowhere/at/all.json")]
)
def test_a_wrong_command_line_is_one_sentence(arguments: tuple[str, ...]) -> None:
    status, _, complaint = python_m_store(*arguments)
    assert (status, complaint.count("\n")) == (254, 1)


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        file = configured(tmp_path, directory=str(tmp_path / "b"))
        status, _, complaint = python_m_store("--config", file)
        assert (status, complaint) == (
            254,
            f"another process uses the data directory {tmp_path / 'b'}; stop it, or name another in `directory`\n",
        )
        assert ring.put("b", "k", b"x").status == 204


def test_the_directory_of_another_node_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        assert ring.put("b", "k", b"x").status == 204
        ring.stop("b")
        before = {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
        status, _, complaint = python_m_store("--config", configured(tmp_path, directory=str(tmp_path / "b")))
        assert (status, complaint) == (
            254,
            f"the data directory {tmp_path / 'b'} is that of node 'b', not of 'a'; name another in `directory`\n",
        )
        assert before == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
        # A directory that is older than this rule is taken, and has an owner from then on.
        (tmp_path / "b" / "node").unlink()
        ring.start("b")
        assert ring.get("b", "k").body == b"x"
        assert (tmp_path / "b" / "node").read_bytes() == b"b"


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        port = ring.http_ports["a"]
        status, _, complaint = python_m_store(
            "--config", configured(tmp_path, http_port=port, directory=str(tmp_path / "x"))
        )
        assert (status, complaint.startswith(f"cannot listen on 127.0.0.1:{port}: ")) == (254, True)


def test_a_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    status, _, complaint = python_m_store("--config", configured(tmp_path, directory=str(tmp_path / "file")))
    assert (status, complaint.count("\n")) == (254, 1)
    assert complaint.startswith("cannot use the data directory")


def test_a_directory_whose_log_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with NodeProcesses(tmp_path) as ring:
        ring.stop("b")
        names = [file.name for file in (tmp_path / "b").iterdir() if file.name.startswith("log")]
    (tmp_path / "x").mkdir()
    for name in names:
        (tmp_path / "x" / name).symlink_to(tmp_path / "nowhere" / name)
    status, _, complaint = python_m_store("--config", configured(tmp_path, directory=str(tmp_path / "x")))
    assert (status, complaint.count("Traceback")) == (254, 0), complaint
    assert f"cannot recover from the data directory {tmp_path / 'x'}" in complaint
