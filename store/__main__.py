"""Starts one node of the store: `python -m store --config FILE.json`."""

from __future__ import annotations

import argparse
import sys
from typing import Never, get_args

import msgspec

from store.config import NAME_RULE, Config, Mode, ReadRepair, is_name

MISTAKE = 254
"""Exit status when the user has to change something, said in one sentence on stderr."""

EXAMPLE = Config(
    node="a",
    peers={"a": "127.0.0.1:8101", "b": "127.0.0.1:8102", "c": "127.0.0.1:8103"},
    host="127.0.0.1",
    http_port=8001,
    peer_port=8101,
    directory="/tmp/sunder/a",
)


def refuse(sentence: str) -> Never:
    """Ends the program over a mistake of its user's."""
    print(sentence, file=sys.stderr)
    raise SystemExit(MISTAKE)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        refuse(f"python -m store: {message}; see `python -m store --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m store", description="One node of a Dynamo-style store.", allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE.json", help="serve with this configuration until SIGTERM")
    what.add_argument("--print-example", action="store_true", help="print a configuration to start from")
    return parser


def load(path: str) -> Config:
    """The configuration in a file; a mistake in it ends the program."""
    try:
        with open(path, "rb") as file:
            config = msgspec.json.decode(file.read(), type=Config)
    except OSError as problem:
        refuse(
            f"cannot read {path}: {problem.strerror}; `--print-example` prints a configuration to start from"
        )
    except msgspec.DecodeError as problem:
        refuse(f"{path} is no configuration: {problem}{_nearest(str(problem))}{_valid(str(problem))}")
    for sentence in mistakes(config):
        refuse(f"{path}: {sentence}")
    return config


def _nearest(message: str) -> str:
    if "unknown field" not in message:
        return ""
    import difflib  # noqa: PLC0415  # only a mistake pays for it

    unknown = message.split("`")[1]
    names = difflib.get_close_matches(unknown, Config.__struct_fields__, n=1)
    return f"; the nearest known one is `{names[0]}`" if names else "; `--print-example` shows the known ones"


def _valid(message: str) -> str:
    if "Invalid enum value" not in message:
        return ""
    field = message.rpartition(".")[2].rstrip("`")
    said = _CHOICES.get(field)
    return f"; it must be one of {', '.join(get_args(said))}" if said else ""


_CHOICES = {"mode": Mode, "read_repair": ReadRepair}


def mistakes(config: Config) -> list[str]:
    """What no node could run with, each a sentence that says what to change."""
    from store.server.peers import split_address  # noqa: PLC0415  # see main

    found: list[str] = []
    if config.node not in config.peers:
        found.append(f"`peers` must also name this node, {config.node!r}")
    for name, address in config.peers.items():
        if not is_name(name):
            found.append(f"a node's name (`node`, `peers`) is made of {NAME_RULE}, not {name[:80]!r}")
        try:
            split_address(address)
        except ValueError:
            found.append(f"the address of {name!r} in `peers` must be host:port, not {address!r}")
    if config.http_port == config.peer_port != 0:
        found.append(f"`http_port` and `peer_port` must differ, and are both {config.http_port}")
    for field in ("http_port", "peer_port"):
        if not 0 <= getattr(config, field) < 65_536:
            found.append(f"`{field}` must be from 0 (any free port) to 65535")
    asked = [("", config), *((f"buckets.{name}.", bucket) for name, bucket in config.buckets.items())]
    for where, terms in asked:
        for field, least in (("r", 1), ("w", 1), ("pr", 0), ("pw", 0)):
            said = getattr(terms, field)
            if said is not None and not least <= said <= config.n:
                found.append(f"`{where}{field}` must be from {least} to n, which is {config.n}")
    if config.frame_bytes_max < config.value_bytes_max + 3 * config.siblings_bytes_max:
        # Each home replica may let in one sibling too many at the same time, and replication has no limit of its own.
        found.append(
            "`frame_bytes_max` must have room for `value_bytes_max` and three times `siblings_bytes_max`"
        )
    for name in config.members:
        if name not in config.peers:
            found.append(f"`members` names {name!r}, whose address `peers` does not have")
    if config.join and len(config.peers) < 2:
        found.append("`join` needs a member of the ring among `peers`")
    if config.join and config.node in config.members:
        found.append(f"`members` names this node, {config.node!r}, which is to `join` them only now")
    if not config.join and config.n > len(config.members or config.peers):
        found.append(
            f"`n` is {config.n}, but the ring begins with only {len(config.members or config.peers)} nodes"
        )
    for field in _POSITIVE:
        if getattr(config, field) < 1:
            found.append(f"`{field}` must be at least 1")
    return found


_POSITIVE = (
    "anti_entropy_bytes_per_second",
    "anti_entropy_interval_ms",
    "anti_entropy_rebuild_ms",
    "clock_entries_max",
    "frame_bytes_max",
    "gossip_interval_ms",
    "hint_retry_max_ms",
    "hint_retry_ms",
    "hints_per_second",
    "http_connections_max",
    "n",
    "replica_timeout_ms",
    "request_timeout_ms",
    "requests_in_flight_max",
    "siblings_bytes_max",
    "siblings_max",
    "siblings_warn",
    "suspect_after_ms",
    "token_ranges",
    "value_bytes_max",
)


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.print_example:
        print(msgspec.json.format(msgspec.json.encode(EXAMPLE), indent=2).decode())
        return
    # A server's imports are most of its start: whoever asks for an example or makes a mistake need not wait for them.
    from store.server import disk, process  # noqa: PLC0415

    config = load(arguments.config)
    try:
        process.run(config)
    except disk.CannotServe as problem:
        refuse(str(problem))


if __name__ == "__main__":
    main()
