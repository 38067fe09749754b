"""Builds the node image without pulling anything where nothing can be pulled: a base, and the store's dependencies.

The base is a local image, or one made by debootstrap from this system's own apt sources. The dependencies are fetched
outside with this system's pip settings and added as a layer, so that the build itself needs no network. The `store`
package is not baked in: it is mounted read-only at run time, so that a mutant runs on the same image.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import docker.errors

from harness.docker import supervisor
from harness.docker.engine import (
    OWNER_LABEL,
    RUN_LABEL,
    DockerTrouble,
    Engine,
    engine,
    labels,
    new_run,
    run_once,
)

IMAGE = "sunder-node"
BASE = "sunder-base"
PULLED_BASE = "python:3-slim"
SITE = "/opt/sunder/site"
CODE = "/opt/sunder/code"
"""Where the directory that holds the `store` package appears in a container."""

CONTENT_LABEL = "sunder.content"
"""On the image: what this version of sunder puts on a base, so that an image of another version is noticed."""

REQUIRED = ("httptools", "msgspec", "numpy", "uvloop", "xxhash")
"""What the store imports beyond the standard library; the versions allowed are the distribution's own."""

PACKAGES = ("python3", "iproute2", "iptables", "procps")
"""Debian packages of a bootstrapped base."""

Progress = Callable[[str], None]


class NoImage(DockerTrouble):
    """There is no node image, or none can be made here; the message says how to get one."""


class NoBase(NoImage):
    """The base that somebody named is not here: their mistake, and not the engine's trouble."""


class Source(NamedTuple):
    """One Debian archive that this system's apt uses, as far as debootstrap needs it."""

    mirror: str
    suite: str
    keyring: str = ""


def build(base: str | None = None, bootstrap: bool = False, progress: Progress = lambda _line: None) -> str:
    """Makes sure that the node image exists and returns its tag. Does nothing when nothing changed.

    `base` names a local image to build on; `bootstrap` makes a Debian base by debootstrap (needs root). With neither:
    a local python:3-slim if there is one, else debootstrap where it works, else python:3-slim pulled. Raises NoEngine, NoImage.
    """
    with contextlib.closing(engine()) as client:
        chosen = _base(client, base, bootstrap, progress)
        base_id = client.images.get(chosen).id
        recipe = _dockerfile(chosen, _hash(_dockerfile("any base", "")))
        tag = f"{IMAGE}:{_hash(base_id, recipe)}"
        if not _exists(client, tag):
            progress(f"asking {chosen} for its Python")
            facts = _facts(client, chosen)
            with tempfile.TemporaryDirectory(prefix="sunder-image-") as scratch:
                site = Path(scratch) / "site"
                progress(f"fetching {', '.join(REQUIRED)} for Python {facts.python}")
                fetch(site, facts.python)
                progress(f"building {tag}")
                _build(client, tag, recipe, site)
        client.images.get(tag).tag(IMAGE, "latest")
        progress(f"{tag} is ready")
        return tag


def current(client: Engine) -> str:
    """The tag of the node image built last. Raises NoImage when there is none, or it was built for another version."""
    try:
        image: Any = client.images.get(f"{IMAGE}:latest")
    except docker.errors.ImageNotFound as missing:
        raise NoImage("There is no node image yet: build one with `sunder image`.") from missing
    marks: dict[str, str] | None = image.labels
    if (marks or {}).get(CONTENT_LABEL) != _hash(_dockerfile("any base", "")):
        raise NoImage(
            "The node image was built for another version of sunder: build it anew with `sunder image`."
        )
    tags = [tag for tag in image.tags if tag.startswith(f"{IMAGE}:") and not tag.endswith(":latest")]
    return tags[0] if tags else f"{IMAGE}:latest"


def requirements() -> list[str]:
    """The store's dependencies with the versions that the distribution itself allows."""
    declared = [re.split(r"\s*;", line)[0] for line in metadata.requires("sunder") or ()]
    chosen = [line for line in declared if re.split(r"[^\w.-]", line)[0] in REQUIRED]
    assert len(chosen) == len(REQUIRED), (chosen, REQUIRED)
    return sorted(chosen)


def fetch(site: Path, python: str) -> None:
    """Puts the dependencies' wheels for another Python (`X.Y`) under `site`, by this system's pip and its settings."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        str(site),
        "--no-deps",
        "--no-compile",
    ]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *requirements()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoImage(
            f"pip could not fetch {', '.join(REQUIRED)} for Python {python}: check pip's settings "
            f"(pip config list), or choose another base with --base. pip said: {_last_line(done.stderr)}"
        )


def sources(sources_list: str, deb822: Iterable[str]) -> list[Source]:
    """The archives that apt reads: `sources_list` is the text of one-line files, `deb822` that of .sources files.

    >>> sources("deb [signed-by=/k.gpg] http://deb.debian.org/debian bookworm main contrib", [])
    [Source(mirror='http://deb.debian.org/debian', suite='bookworm', keyring='/k.gpg')]
    """
    found: list[Source] = []
    for line in sources_list.splitlines():
        match = re.match(
            r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<parts>.*)", line.strip()
        )
        if match and "main" in match["parts"].split():
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            found.append(Source(match["uri"], match["suite"], signed[1] if signed else ""))
    for text in deb822:
        for stanza in re.split(r"\n\s*\n", text):
            lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
            fields = {
                name.lower(): value.strip() for name, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*)$", lines)
            }
            enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
            if (
                enabled
                and "deb" in fields.get("types", "").split()
                and "main" in fields.get("components", "").split()
            ):
                keyring = fields.get("signed-by", "")
                found += [
                    Source(uri, suite, keyring if keyring.startswith("/") else "")
                    for uri in fields.get("uris", "").split()
                    for suite in fields.get("suites", "").split()
                ]
    return found


def archive(found: Iterable[Source]) -> Source:
    """The one to bootstrap from: a whole release, not its updates. Raises NoImage."""
    usable = [
        source
        for source in found
        if source.mirror.startswith(("http://", "https://", "file:", "mirror+file:"))
    ]
    for source in usable:
        if "security" not in source.mirror + source.suite and not re.search(r"-|/", source.suite):
            if not source.mirror.startswith("mirror+file:"):
                return source
            # A list of mirrors in a file (Debian's cloud images): its first is as good as any.
            mirrors = Path(source.mirror.removeprefix("mirror+file:")).read_text().split()
            return source._replace(mirror=mirrors[0])
    raise NoImage(
        "apt names no Debian archive to bootstrap from (looked in /etc/apt/sources.list and sources.list.d): "
        "name a local image with --base IMAGE instead."
    )


class _Facts(NamedTuple):
    python: str
    """`X.Y`."""
    has_iptables: bool


def _base(client: Engine, base: str | None, bootstrap: bool, progress: Progress) -> str:
    if base is not None and bootstrap:
        raise NoImage("Choose one of --base and --bootstrap: both name the base of the node image.")
    if base is not None:
        if not _exists(client, base):
            raise NoBase(
                f"No image {base} is here: load it first (docker load, docker pull), or use --bootstrap."
            )
        return _with_iptables(client, base, progress)
    if bootstrap:
        return _bootstrap(client, progress)
    if _exists(client, PULLED_BASE):
        return _with_iptables(client, PULLED_BASE, progress)
    if os.geteuid() == 0 and shutil.which("debootstrap"):
        return _bootstrap(client, progress)
    progress(f"pulling {PULLED_BASE}")
    try:
        client.images.pull(PULLED_BASE)
    except docker.errors.APIError as trouble:
        raise NoImage(
            f"{PULLED_BASE} cannot be pulled here: as root, apt-get install debootstrap and run "
            "`sunder image --bootstrap`, or name a local image with --base IMAGE."
        ) from trouble
    return _with_iptables(client, PULLED_BASE, progress)


def _bootstrap(client: Engine, progress: Progress) -> str:
    """The tag of a Debian base made from this system's apt archive, made now if it is not there yet."""
    lists = Path("/etc/apt")
    one_line = [lists / "sources.list", *sorted((lists / "sources.list.d").glob("*.list"))]
    source = archive(
        sources(
            "\n".join(path.read_text() for path in one_line if path.exists()),
            (path.read_text() for path in sorted((lists / "sources.list.d").glob("*.sources"))),
        )
    )
    recipe = json.dumps([source.suite, PACKAGES])
    tag = f"{BASE}:{source.suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    if _exists(client, tag):
        return tag
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise NoImage(
            "Bootstrapping a base needs root and debootstrap: run `apt-get install debootstrap` and "
            "`sunder image --bootstrap` as root, or name a local image with --base IMAGE."
        )
    with tempfile.TemporaryDirectory(prefix="sunder-bootstrap-") as scratch:
        root = Path(scratch) / "root"
        progress(f"bootstrapping Debian {source.suite} from {source.mirror} (about a minute)")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        if source.keyring:
            command.append(f"--keyring={source.keyring}")
        log = Path(scratch) / "log"
        with log.open("w") as sink:
            done = subprocess.run(
                [*command, source.suite, str(root), source.mirror],
                stdout=sink,
                stderr=subprocess.STDOUT,
                check=False,
                env={**os.environ, **_fetching(Path(scratch))},
            )
        if done.returncode:
            raise NoImage(
                f"debootstrap of {source.suite} from {source.mirror} failed ({_last_line(log.read_text())}): "
                "check that `apt-get update` works here, or name a local image with --base IMAGE."
            )
        progress(f"importing {tag}")
        packed = Path(scratch) / "base.tar"
        left_out = ["proc/*", "sys/*", "dev/*", "var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*"]
        left_out += ["usr/share/man/*", "usr/share/locale/*", "debootstrap"]
        exclude = [f"--exclude=./{path}" for path in left_out]
        subprocess.run(["tar", "-C", str(root), *exclude, "-cf", str(packed), "."], check=True)
        repository, _, version = tag.partition(":")
        client.api.import_image_from_file(str(packed), repository=repository, tag=version)
    return tag


def _fetching(scratch: Path) -> dict[str, str]:
    """apt's proxy and certificate settings as the environment that debootstrap's wget reads."""
    names = ["Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::https::CaInfo"]
    queries = [part for index, name in enumerate(names) for part in (f"SETTING{index}", name)]
    asked = subprocess.run(["apt-config", "shell", *queries], capture_output=True, text=True, check=False)
    found = dict(re.findall(r"SETTING(\d)='([^']*)'", asked.stdout))
    environment: dict[str, str] = {}
    if "0" in found and found["0"] != "DIRECT":
        environment["http_proxy"] = found["0"]
    if "1" in found and found["1"] != "DIRECT":
        environment["https_proxy"] = found["1"]
    if "2" in found:
        settings = scratch / "wgetrc"
        settings.write_text(f"ca_certificate = {found['2']}\n")
        environment["WGETRC"] = str(settings)
    return environment


def _with_iptables(client: Engine, base: str, progress: Progress) -> str:
    """`base` itself, or a Debian-based one with iptables installed from its own archive (python:3-slim has none)."""
    facts = _facts(client, base)
    if facts.has_iptables:
        return base
    base_id = client.images.get(base).id.rpartition(":")[2]
    tag = f"{BASE}:{base_id[:12]}"
    if _exists(client, tag):
        return tag
    progress(f"installing iptables into a copy of {base}")
    script = "apt-get -qq update && apt-get -qq install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*"
    container = client.containers.create(base, ["sh", "-c", script], labels=labels(new_run()), entrypoint=[])
    try:
        container.start()
        if container.wait()["StatusCode"]:
            raise NoImage(
                f"{base} has no iptables and none could be installed in it ({_last_line(container.logs().decode())}): "
                "use `sunder image --bootstrap`, or a base that has iptables."
            )
        repository, _, version = tag.partition(":")
        # The image must not bear the labels of the container: they mean what is to be reaped.
        container.commit(repository, version, changes=[f"LABEL {RUN_LABEL}= {OWNER_LABEL}="])
    finally:
        container.remove(force=True)
    return tag


def _facts(client: Engine, base: str) -> _Facts:
    """What the base has. Raises NoImage when it lacks what cannot be added."""
    script = (
        "command -v bash >/dev/null && python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])' && "
        "{ command -v iptables-restore >/dev/null && echo iptables || echo none; }"
    )
    try:
        status, said = run_once(client, base, ["sh", "-c", script], network_mode="none")
    except docker.errors.APIError:
        status, said = -1, ""
    if status:
        raise NoImage(f"{base} has no python3 and bash that run: choose a Debian-based Python image.")
    python, iptables = said.split()
    return _Facts(python, iptables == "iptables")


def _hash(*parts: str) -> str:
    """Names what an image is made of: the parts given, the dependencies, and the supervisor."""
    script = Path(supervisor.__file__).read_text()
    return hashlib.sha256(json.dumps([*parts, requirements(), script]).encode()).hexdigest()[:12]


def _dockerfile(base: str, content: str) -> str:
    return "\n".join(
        [
            f"FROM {base}",
            "ADD content.tar.gz /",
            # Compiled by the image's own Python: containers start the store in parallel, and must not compile it each.
            f"RUN python3 -m compileall -q {SITE}",
            f"ENV PYTHONPATH={SITE}:{CODE} PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 "
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"LABEL {CONTENT_LABEL}={content}",
            'ENTRYPOINT ["python3", "-I", "-S", "/opt/sunder/supervisor.py"]',
            "",
        ]
    )


def _build(client: Engine, tag: str, recipe: str, site: Path) -> None:
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        tar.add(site, arcname=SITE.lstrip("/"), filter=_anonymous)
        _put(tar, "opt/sunder/supervisor.py", Path(supervisor.__file__).read_bytes())
        for empty in (CODE, "/var/lib/sunder", "/run/sunder"):
            entry = tarfile.TarInfo(empty.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        _put(tar, "Dockerfile", recipe.encode())
        _put(tar, "content.tar.gz", content.getvalue())
    context.seek(0)
    said: list[Mapping[str, str]] = list(
        client.api.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, decode=True)
    )
    errors = [line["error"] for line in said if "error" in line]
    if errors:
        raise NoImage(f"The engine could not build {tag}: {_last_line(errors[-1])}")


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _exists(client: Engine, tag: str) -> bool:
    try:
        client.images.get(tag)
    except docker.errors.APIError as trouble:
        # Not found, or no name that an image could have.
        if trouble.is_client_error():
            return False
        raise
    return True


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "nothing"
