"""The HTTP face of a node: bytes in, bytes out, no I/O. The simulator and the real server call the same code.

`GET PUT DELETE /kv/{bucket}/{key}?r=&w=&pr=&pw=&timeout_ms=&returnbody=` with the header `X-Causal-Context`; one value comes as
its bytes, siblings as 300 with a JSON list of base64 strings (null for a tombstone), a tombstone alone as 404 with the context.
Too few replicas: 503 with `got` and `needed`; on a write that means *unknown*, never *not done*. `docs/http.md` has it all.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from store import expiry, versions
from store.coordinator import Unsatisfied, Want
from store.membership import NotNow
from store.ring import token
from store.runtime import DiskError, Future
from store.versions import BadContext, Record, Version

if TYPE_CHECKING:
    from store.node import Node

TTL_SECONDS_MAX = 100_000_000
HEAD_BYTES_MAX = 16_384
KEY_BYTES_MAX = 1_024

REASONS = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    300: "Multiple Choices",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    428: "Precondition Required",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class BadRequest(Exception):
    """Not a request that this server takes; `status` says why. The connection cannot go on."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Request(msgspec.Struct, frozen=True):
    """One parsed request. Header names are lower case; only those that the API reads are kept."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool = True


_HEAD_TOO_LARGE = f"a request's head may have at most {HEAD_BYTES_MAX} bytes"

_HEADERS_READ = frozenset((b"x-causal-context", b"accept", b"authorization"))


_OTHER_PARAMETERS = frozenset(("returnbody", "ttl_seconds"))
"""Those of a query that do not change how many must answer, and in which time."""

_PARAMETERS = {
    "r": frozenset(("r", "pr", "timeout_ms")),
    "w": frozenset(("w", "pw", "timeout_ms")) | _OTHER_PARAMETERS,
}
"""All that there are, of a read and of a write."""


class RequestParser:
    """Turns bytes into requests, however they are cut up. After BadRequest it must be thrown away."""

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._parser = httptools.HttpRequestParser(self)
        self._requests: list[Request] = []
        self._head_bytes = 0
        self.head_done = False
        """Whether the request that is under way lacks but its body."""
        self.body_bytes = 0
        """How much there is of that body."""
        self.partial = False
        """Whether a request is under way."""
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._headers_bytes = 0
        self._body: list[bytes] = []
        self.body_bytes = 0
        self.head_done = False
        self.partial = False

    def feed(self, content: bytes) -> list[Request]:
        """The requests that these bytes complete. Raises BadRequest."""
        self._head_bytes += len(content)
        try:
            self._parser.feed_data(content)
        except httptools.HttpParserUpgrade as problem:
            raise BadRequest(400, "this server speaks HTTP/1.1 only, without upgrades") from problem
        except httptools.HttpParserError as problem:
            cause = problem.__context__
            if isinstance(cause, BadRequest):
                raise cause from None
            if cause is not None:
                raise cause from None  # out of a callback: a bug of ours, or Ctrl-C, no mistake of the client's
            raise BadRequest(400, "malformed HTTP request") from None
        if self._head_bytes - self.body_bytes > HEAD_BYTES_MAX and not self._requests:
            raise BadRequest(431, _HEAD_TOO_LARGE)
        done, self._requests = self._requests, []
        return done

    def on_message_begin(self) -> None:
        self.partial = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_bytes += len(name) + len(value) + 4
        lower = name.lower()
        if lower in _HEADERS_READ:
            self._headers[lower.decode()] = value.decode("latin-1")
        elif lower == b"content-length" and (len(value) > 18 or int(value) > self._body_bytes_max):
            raise BadRequest(413, f"a value may have at most {self._body_bytes_max} bytes")

    def on_headers_complete(self) -> None:
        self.head_done = True
        if self._headers_bytes + len(self._url) > HEAD_BYTES_MAX:
            raise BadRequest(431, _HEAD_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self.body_bytes += len(body)
        if self.body_bytes > self._body_bytes_max:
            raise BadRequest(413, f"a value may have at most {self._body_bytes_max} bytes")

    def on_message_complete(self) -> None:
        if self._headers_bytes + len(self._url) > HEAD_BYTES_MAX:
            raise BadRequest(431, _HEAD_TOO_LARGE)  # what a chunked body trails counts too
        try:
            path, _, query = self._url.decode("ascii").partition("?")
            pairs = dict([_pair(part) for part in query.split("&") if part]) if query else {}
        except UnicodeDecodeError:
            raise BadRequest(400, "a URL must be ASCII; percent-encode the rest") from None
        self._requests.append(
            Request(
                self._parser.get_method().decode(),
                path,
                pairs,
                self._headers,
                b"".join(self._body),
                self._parser.should_keep_alive(),
            )
        )
        self._reset()
        self._head_bytes = 0


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name, value


_STATUS_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in REASONS.items()}


def encode_response(
    status: int, body: bytes = b"", content_type: bytes = b"application/octet-stream", headers: bytes = b""
) -> bytes:
    if status == 204:
        return b"HTTP/1.1 204 No Content\r\n%b\r\n" % headers
    return b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        _STATUS_LINES[status],
        content_type,
        len(body),
        headers,
        body,
    )


def encode_json(status: int, value: Any, headers: bytes = b"") -> bytes:
    """A reply in JSON; bytes become base64 text."""
    return encode_response(status, msgspec.json.encode(value), b"application/json", headers)


def encode_error(status: int, text: str, **more: Any) -> bytes:
    """An error that says what was wrong, as JSON."""
    return encode_json(status, {"error": text, **more})


class Problem(Exception):
    """The request cannot be served as it stands; nothing was done."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def traced(problem: BaseException) -> str:
    """An exception with its traceback, for the log."""
    return "".join(traceback.format_exception(problem)).rstrip()


class RingChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a POST to `/admin/join`, `/admin/leave` or `/admin/replace`."""

    name: str
    address: str = ""
    """Where `name` listens for its peers: `host:port`."""
    dead: str = ""
    """For `replace`: whose place it takes."""


class Api:
    """Routes requests. `handle` never raises: whatever a client sends, it is answered and the node lives on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._admin: dict[str, Callable[[list[str]], bytes]] = {
            "ring": self._ring,
            "preference-list": self._preference_list,
            "replica": self._replica,
            "hints": self._hints,
            "digest": self._digest,
            "anti-entropy": self._anti_entropy,
        }

    async def handle(self, request: Request, *, forwarded: bool = False) -> bytes:
        """The whole response. `forwarded`: another node sent the request here to be coordinated."""
        try:
            if request.path.startswith("/kv/"):
                return await self._kv(request, forwarded)
            if request.method == "POST":
                return await self._change(request)
            return self._status_pages(request)
        except Exception as problem:
            return self._excuse(request, problem)

    def _excuse(self, request: Request, problem: Exception) -> bytes:
        """The response to a request that could not be served."""
        match problem:
            case Problem():
                return encode_error(problem.status, str(problem))
            case Unsatisfied():
                return encode_error(503, str(problem), got=problem.got, needed=problem.needed)
            case DiskError():
                return encode_error(503, f"the disk refused: {problem}")
            case _:
                self._node.runtime.log(f"bug in answering {request.method} {request.path}: {traced(problem)}")
                return encode_error(500, "a bug of the node's, which its log describes; a write may be done")

    def begin_get(self, request: Request, respond: Callable[[bytes], None]) -> None:
        """A GET of a key without a task of its own, which would cost as much as a replica does: what `handle` returns is
        given to `respond`, at once or later."""
        try:
            key = self._key_of(request)
            coordinator = self._node.coordinator
            want = self._want(request, "r", "pr", coordinator.place(key).terms.read)
            began = self._node.runtime.clock.mono_ns()
            answer = coordinator.read(key, want)
        except Exception as problem:
            respond(self._excuse(request, problem))
        else:
            answer.add_done_callback(partial(self._end_get, key, request, began, respond))

    def _end_get(
        self, key: bytes, request: Request, began: int, respond: Callable[[bytes], None], answer: Future
    ) -> None:
        try:
            response = self._record(key, self._node.coordinator.read_record(answer.result()), request)
        except Exception as problem:
            response = self._excuse(request, problem)
        node = self._node
        node.metrics.gets.observe(node.runtime.clock.mono_ns() - began)
        respond(response)

    def _status_pages(self, request: Request) -> bytes:
        if request.method != "GET":
            raise Problem(405, "only GET here")
        match request.path.split("/")[1:]:
            case ["ping"]:
                return encode_response(200, b"pong", b"text/plain")
            case ["status"]:
                return encode_json(200, self._node.status())
            case ["metrics"]:
                return encode_response(200, self._node.exposition(), b"text/plain; version=0.0.4")
            case ["admin", page, *rest] if page in self._admin:
                self._authorize(request)
                return self._admin[page](rest)
            case ["admin", "join" | "leave" | "replace" as change]:
                raise Problem(405, f"only POST to /admin/{change}; /admin/ring shows how a change goes on")
            case _:
                raise Problem(404, "no such page; see /status, /metrics, /admin/ring, /kv/{bucket}/{key}")

    def _authorize(self, request: Request) -> None:
        secret = self._node.config.secret
        shown = request.headers.get("authorization", "")
        if secret and not compare_digest(shown.encode("latin-1"), f"Bearer {secret}".encode()):
            raise Problem(401, "the admin pages ask for `Authorization: Bearer SECRET`")

    async def _change(self, request: Request) -> bytes:
        """Begins a change of the ring; 202 once this node has it durably, and `/admin/ring` shows how it goes on."""
        kind = request.path.removeprefix("/admin/")
        if kind not in ("join", "leave", "replace"):
            raise Problem(405, "only GET here, and POST to /admin/join, /admin/leave, /admin/replace")
        self._authorize(request)
        try:
            asked = msgspec.json.decode(request.body, type=RingChange)
        except msgspec.DecodeError as problem:
            told = str(problem) if request.body else "the body is empty"
            raise Problem(400, f'{told}; send JSON such as {{"name": "d", "address": "host:8001"}}') from None
        membership = self._node.membership
        try:
            match kind:
                case "join":
                    _, members, _ = membership.joining(asked.name, asked.address)
                    await self._await_word(asked.name, members[asked.name])
                    durable = membership.begin_join(asked.name, asked.address)
                case "leave":
                    durable = membership.begin_leave(asked.name)
                case _:
                    _, members, _ = membership.replacing(asked.dead, asked.name, asked.address)
                    await self._await_word(asked.name, members[asked.name])
                    durable = membership.begin_replace(asked.dead, asked.name, asked.address)
        except NotNow as problem:
            raise Problem(409, str(problem)) from None
        await durable
        return encode_json(202, membership.view())

    async def _await_word(self, node: str, address: str) -> None:
        """Returns once the newcomer has said that it is there. Raises Problem."""
        if not await self._node.newcomers.answers(node, address):
            place = f" at {address}" if address else ""
            raise Problem(
                503,
                f'{node} does not answer{place} as {node}: start it there first, with "join": true '
                f"and {self._node.config.node} among its `peers`",
            )

    def _key_of(self, request: Request) -> bytes:
        parts = request.path.split("/")
        if len(parts) == 4 and "%" in parts[2] and b"/" in unquote_to_bytes(parts[2]):
            raise Problem(400, "a bucket's name has no slash; keys may have some, percent-encoded")
        if len(parts) != 4 or not parts[2] or not parts[3]:
            raise Problem(400, "a key's address is /kv/{bucket}/{key}; percent-encode slashes in keys")
        key = f"{parts[2]}/".encode() + (unquote_to_bytes(parts[3]) if "%" in parts[3] else parts[3].encode())
        if len(key) > KEY_BYTES_MAX:
            raise Problem(400, f"bucket and key together may have at most {KEY_BYTES_MAX} bytes")
        return key

    async def _kv(self, request: Request, forwarded: bool) -> bytes:
        key = self._key_of(request)
        metrics = self._node.metrics
        clock = self._node.runtime.clock
        match request.method:
            case "GET":
                latencies, answering = metrics.gets, self._get(key, request)
            case "PUT" | "POST":
                latencies, answering = metrics.puts, self._write(key, request, forwarded, deleted=False)
            case "DELETE":
                latencies, answering = metrics.deletes, self._write(key, request, forwarded, deleted=True)
            case _:
                raise Problem(405, "only GET, PUT, POST and DELETE here")
        began = clock.mono_ns()
        try:
            response = await answering
        except (Unsatisfied, DiskError):
            if not forwarded:
                latencies.observe(clock.mono_ns() - began)
            raise
        if not forwarded:
            latencies.observe(clock.mono_ns() - began)
        return response

    def _want(self, request: Request, responders: str, primaries: str, default: Want) -> Want:
        """What the request asks for; what it does not say, as most do not, is as in its bucket."""
        if not request.query:
            return default
        for unknown in request.query.keys() - _PARAMETERS[responders]:
            raise Problem(400, _unknown(request.method, unknown, _PARAMETERS[responders]))
        if request.query.get("returnbody", "true") not in ("true", "false"):
            raise Problem(400, "returnbody must be true or false")
        if request.query.keys() <= _OTHER_PARAMETERS:
            return default
        config = self._node.config
        timeout_ms = self._number(request, "timeout_ms", config.request_timeout_ms, 1, 600_000)
        return Want(
            self._number(request, responders, default.responders, 1, config.n),
            self._number(request, primaries, default.primaries, 0, config.n),
            timeout_ms * 1_000_000,
        )

    def _number(self, request: Request, name: str, default: int, least: int, most: int) -> int:
        text = request.query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
            raise Problem(400, f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")
        return int(text)

    async def _get(self, key: bytes, request: Request) -> bytes:
        coordinator = self._node.coordinator
        want = self._want(request, "r", "pr", coordinator.place(key).terms.read)
        record = await coordinator.get(key, want)
        return self._record(key, record, request)

    async def _write(self, key: bytes, request: Request, forwarded: bool, *, deleted: bool) -> bytes:
        node = self._node
        place = node.coordinator.place(key)
        want = self._want(request, "w", "pw", place.terms.write)
        ttl_seconds = self._number(request, "ttl_seconds", place.terms.ttl_seconds, 0, TTL_SECONDS_MAX)
        lww = place.terms.lww
        token_text = request.headers.get("x-causal-context")
        if deleted and token_text is None and not lww:
            raise Problem(
                428, "a DELETE needs the X-Causal-Context of a read: it removes what that read returned"
            )
        try:
            context = () if token_text is None or lww else versions.decode_context(token_text, key)
        except BadContext as problem:
            raise Problem(
                400, f"X-Causal-Context: {problem}; send back the one that a read of this key returned"
            ) from None
        if len(request.body) > node.config.value_bytes_max:
            raise Problem(413, f"a value may have at most {node.config.value_bytes_max} bytes")
        if not forwarded and not place.is_home:
            elsewhere = await node.forwarding.forward(place, request, want)
            if isinstance(elsewhere, bytes):
                return elsewhere
            want = elsewhere
        if not place.is_home and not node.membership.stays:
            raise Problem(
                503, f"{node.config.node} is no member of the ring, and no home replica was reached"
            )
        if not deleted and not lww:
            covered = versions.counters(context)
            held = node.coordinator.known(key, place).versions
            kept = [v for v in held if v.counter > covered.get(v.actor, 0)]
            siblings = len(kept)
            kept_bytes = sum([len(v.body) for v in kept])
            if siblings >= node.config.siblings_max or kept_bytes > node.config.siblings_bytes_max:
                raise Problem(
                    409,
                    f"the key has {siblings} siblings of {kept_bytes} bytes; read it and write with its context first",
                )
            if siblings >= node.config.siblings_warn:
                node.runtime.log(
                    f"{siblings} siblings of {key!r}: clients write without the context of a read"
                )
        body, ttl_ns = (b"", 0) if deleted else (request.body, ttl_seconds * expiry.SECOND)
        record = await node.coordinator.put(key, body, context, want, deleted=deleted, ttl_ns=ttl_ns)
        if request.query.get("returnbody") == "true":
            return self._record(key, record, request, written=True)
        return encode_response(204)

    def _record(self, key: bytes, record: Record, request: Request, *, written: bool = False) -> bytes:
        """A record as a reply: every live value, and the context that covers exactly those and what they replaced."""
        live = expiry.shown(record, self._node.runtime.clock)
        metrics = self._node.metrics
        if len(live) > metrics.sibling_max:  # noqa: PLR1730 # max() costs a call in the hot path
            metrics.sibling_max = len(live)
        clock = record.clock
        headers = b"X-Causal-Context: %b\r\n" % versions.encode_context(clock, key) if clock else b""
        if record.truncated:
            headers += b"X-Clock-Truncated: true\r\n"
        if not live or (live[0].end is True and all(v.end is True for v in live)):
            if written:
                return encode_response(204, headers=headers)
            text = "deleted or expired" if live else "expired" if record.versions else "no such key"
            return encode_json(404, {"error": text}, headers)
        if len(live) == 1:
            return encode_response(200, live[0].body, headers=headers)
        if "multipart/mixed" in request.headers.get("accept", ""):
            return _multipart(live, headers)
        return encode_json(300, [None if v.deleted else v.body for v in live], headers)

    def _key(self, rest: list[str]) -> bytes:
        if len(rest) != 2 or not all(rest):
            raise Problem(400, "this page takes /{bucket}/{key}")
        return f"{rest[0]}/".encode() + unquote_to_bytes(rest[1])

    def _ring(self, rest: list[str]) -> bytes:
        ring = self._node.ring
        n = self._node.config.n
        ranges = {str(i): list(ring.order(i)[:n]) for i in range(ring.token_ranges)}
        told = self._node.membership.view()
        return encode_json(200, {"nodes": list(ring.nodes), "n": n, "ranges": ranges, **told})

    def _preference_list(self, rest: list[str]) -> bytes:
        key = self._key(rest)
        order = list(self._node.ring.preference(key))
        n = self._node.config.n
        body = {"token": f"{token(key):016x}", "range": self._node.ring.range_of(key)}
        return encode_json(200, {**body, "homes": order[:n], "fallbacks": order[n:]})

    def _replica(self, rest: list[str]) -> bytes:
        """What this node alone holds, no repair triggered: of one key, or of a whole bucket as a home replica."""
        node = self._node
        if len(rest) == 1 and rest[0]:
            prefix = f"{rest[0]}/".encode()
            held = {
                key[len(prefix) :].decode("utf-8", "replace"): _plain(record)
                for key, record in node.replica.items()
                if key.startswith(prefix)
            }
            return encode_json(200, held)
        key = self._key(rest)
        coordinator = node.coordinator
        encoded = coordinator.held(key, coordinator.place(key))
        if not encoded:
            return encode_error(404, "this node holds nothing for the key")
        return encode_json(200, _plain(encoded))

    def _hints(self, rest: list[str]) -> bytes:
        hints = [
            {"target": target, "key": key.decode("utf-8", "replace"), **_plain(record)}
            for target, key, record in self._node.hints.pending()
        ]
        return encode_json(200, hints)

    def _anti_entropy(self, rest: list[str]) -> bytes:
        return encode_json(200, self._node.anti_entropy.status())

    def _digest(self, rest: list[str]) -> bytes:
        return encode_json(200, {str(r): d for r, d in self._node.replica.digests().items()})


def _unknown(method: str, name: str, known: frozenset[str]) -> str:
    """What to say of a parameter that no request of this kind has."""
    import difflib  # noqa: PLC0415  # only a mistake pays for it

    near = difflib.get_close_matches(name[:40], sorted(known), n=1, cutoff=0.4)
    hint = f"the nearest known one is {near[0]}" if near else f"the known ones are {', '.join(sorted(known))}"
    return f"a {method} has no parameter {name[:40]!r}; {hint}"


def _plain(encoded: bytes) -> dict[str, Any]:
    record = versions.decode(encoded)
    return {
        "values": [v.body for v in record.versions if not v.deleted],
        "tombstones": sum(v.deleted for v in record.versions),
        "clock": [[f"{actor:016x}", counter] for actor, counter, _ in record.clock],
        "truncated": record.truncated,
    }


def _multipart(live: tuple[Version, ...], headers: bytes) -> bytes:
    # The boundary is drawn from the content itself, so that no value can contain it and equal replies are equal bytes.
    boundary = f"{token(versions.encode(Record((), live))):016x}"
    parts = b"".join(
        f"--{boundary}\r\nContent-Type: application/octet-stream\r\n".encode()
        + (b"X-Deleted: true\r\n" if v.deleted else b"")
        + b"\r\n"
        + v.body
        + b"\r\n"
        for v in live
    )
    body = parts + f"--{boundary}--\r\n".encode()
    return encode_response(300, body, f"multipart/mixed; boundary={boundary}".encode(), headers)
