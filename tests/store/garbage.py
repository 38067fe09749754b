"""What strangers, broken clients and broken peers send: strategies from raw bytes to messages that are almost right."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import msgspec
from hypothesis import strategies as st

from store import messages, versions
from store.api import Request
from store.messages import (
    Age,
    Compare,
    Entries,
    Forward,
    ForwardDone,
    Gossip,
    More,
    Ping,
    Pong,
    Read,
    ReadDone,
    Repair,
    Roots,
    Write,
    WriteDone,
)
from store.versions import EMPTY

KEPT = "kept"
"""The bucket that no garbage names: whatever is thrown, its keys may not change."""

_ACTOR = 1 << 63
_record = versions.encode(versions.put(EMPTY, (), _ACTOR, 1_800_000_000_000_000_000, b"body"))

numbers = st.sampled_from(
    [0, 1, 2, 127, 128, 1 << 31, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
)
few = st.integers(0, 5) | numbers
"""Small ones are depths, ranges and versions that exist."""
gaps = st.just(b"") | st.just(b"\x00") | st.binary(max_size=5)
signed = numbers | st.sampled_from([-1, -(1 << 63)])
texts = st.sampled_from(["", "a", "b", "n1", "n2", "nobody", "\x00", "é" * 99, "x" * 2_000])
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | signed | st.floats(allow_nan=False) | texts | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def mutilated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right once: cut off, doubled, with some overwritten, or with others put in."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "double", "overwrite", "insert"])):
            case "cut":
                del content[at:]
            case "double":
                content += content[at : at + 200]
            case "overwrite":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                content[at:at] = draw(st.binary(max_size=20))
    return bytes(content)


_versions = st.lists(st.tuples(signed, signed, signed, st.binary(max_size=20), st.booleans()), max_size=3)
_clocks = st.lists(st.tuples(signed, signed, signed), max_size=4)
almost_records = st.tuples(_clocks, _versions, st.booleans()).map(_encoded := msgspec.msgpack.encode)
records = (
    st.just(_record)
    | almost_records
    | mutilated(st.just(_record))
    | st.binary(max_size=60)
    | junk.map(_encoded)
)

keys = st.just(b"other/k") | st.sampled_from(
    [b"other/", b"/", b"", b"k", b"\xff/\xff", b"other/" + b"k" * 2_000, b"\x00/\x00"]
)
_clients_requests = st.builds(
    Request,
    st.sampled_from(["PUT", "DELETE", "GET", "", "PATCH"]),
    st.sampled_from(["/kv/other/k", "/kv/other/%ff", "/admin/ring", "", "/kv/", "/kv/%2f/x"]),
    st.dictionaries(
        st.sampled_from(["r", "w", "pw", "timeout_ms", "returnbody"]), texts | numbers.map(str), max_size=3
    ),
    st.dictionaries(st.just("x-causal-context"), texts, max_size=1),
    st.binary(max_size=20),
)
almost_messages: st.SearchStrategy[Any] = st.one_of(
    st.builds(Write, numbers, keys, records, texts, numbers),
    st.builds(Read, numbers, keys, numbers),
    st.builds(ReadDone, numbers, records),
    st.builds(Forward, numbers, numbers, _clients_requests.map(_encoded) | st.binary(max_size=40)),
    st.builds(ForwardDone, numbers, st.binary(max_size=40)),
    st.builds(Gossip, st.dictionaries(texts, st.tuples(signed, signed), max_size=3), st.booleans()),
    st.builds(Age, signed, signed),
    *(st.builds(kind, numbers) for kind in (WriteDone, Ping, Pong)),
    st.builds(Roots, numbers, few, st.lists(few, max_size=3).map(tuple), st.binary(max_size=24)),
    st.builds(Compare, numbers, few, few, few, few, few, gaps, st.binary(max_size=24)),
    st.builds(Entries, numbers, few, few, few, few, gaps, gaps, st.binary(max_size=24), numbers),
    st.builds(More, numbers, numbers),
    st.builds(Repair, numbers, st.lists(st.tuples(keys, records), max_size=3).map(tuple), numbers),
)
frames = st.one_of(
    st.builds(Write, numbers, keys, records, st.just(""), numbers).map(messages.encode),
    almost_messages.map(messages.encode),
    st.binary(max_size=200),
    mutilated(almost_messages.map(messages.encode)),
    st.lists(junk, max_size=6).map(_encoded),
    st.tuples(st.integers(0, 70), junk, junk).map(_encoded),
    st.just(b"\x91" * 5_000),
)
"""What comes where a message is expected."""


_targets = st.sampled_from(
    [
        "/kv/other/k", "/kv/other/%00%ff", "/kv/other/k?r=9&w=x", "/kv/other/k?timeout_ms=-1&returnbody=true", "/kv/other",
        "/kv//", "/kv/%6bept%2f/x", "/admin/replica/other/%", "/admin/hints", "/admin/digest", "/status", "/metrics?x",
        "/", "*", "http://x/kv/other/k", "/\xe9", "/kv/other/" + "k" * 1_100, "/" + "x" * 20_000, "/kv/other/k?&=&&==",
    ]
)  # fmt: skip
_context = versions.encode_context(((_ACTOR, 1, 1),), b"other/k").decode()
_headers = st.sampled_from(
    [
        "Host: x", "Content-Length: 5", "Content-Length: 99999999", "Content-Length: -1", "Content-Length: 5, 5",
        "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Connection: close", "Connection: upgrade", "Upgrade: h2c",
        "Expect: 100-continue", "Authorization: Bearer \xff", "Accept: multipart/mixed", "X-Causal-Context:",
        f"X-Causal-Context: {_context}", f"X-Causal-Context: {_context[:-3]}", "X-Causal-Context: \xff\xfe", "NoColon",
        " Folded: x", "X: " + "y" * 17_000,
    ]
)  # fmt: skip
_contexts = st.one_of(
    st.just(_context),
    mutilated(st.just(_context.encode())).map(
        lambda token: token.replace(b"\r", b"").replace(b"\n", b"").decode("latin-1")
    ),
    st.binary(max_size=40).map(lambda raw: urlsafe_b64encode(raw).decode()),
    _clocks.map(lambda clock: urlsafe_b64encode(bytes(4) + _encoded(clock)).decode()),
    _clocks.map(lambda clock: versions.encode_context(tuple(clock), b"other/k").decode()),
)
_methods = st.sampled_from(
    ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "G\x00T", ""]
)


@st.composite
def _almost_requests(draw: st.DrawFn) -> bytes:
    # Mostly right in most respects: what is wrong in all of them is refused at the first.
    right, target = st.just(True) | st.booleans(), "/kv/other/k"
    version = (
        "HTTP/1.1"
        if draw(right)
        else draw(st.sampled_from(["HTTP/1.0", "HTTP/9.9", "", "HTTP/1.1\r\nHost: x"]))
    )
    method = draw(st.sampled_from(["PUT", "GET", "DELETE"]) if draw(right) else _methods)
    target = target if draw(right) else draw(_targets)
    if draw(right):
        context = draw(_contexts)
        return (
            f"{method} {target} {version}\r\nX-Causal-Context: {context}\r\nContent-Length: 1\r\n\r\nx"
        ).encode("latin-1")
    head = "".join(f"{line}\r\n" for line in draw(st.lists(_headers, max_size=4)))
    body = draw(
        st.binary(max_size=12)
        | st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffff\r\n", b"5;x=y\r\n"])
    )
    return f"{method} {target} {version}\r\n{head}\r\n".encode("latin-1") + body


requests = st.one_of(
    st.binary(max_size=200),
    _almost_requests(),
    mutilated(_almost_requests()),
    st.lists(_almost_requests()).map(b"".join),
)
"""What comes where an HTTP request is expected."""
