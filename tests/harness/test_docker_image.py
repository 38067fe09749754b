"""Where the node image comes from: apt's own sources, pip's own settings, and nothing that has to be pulled."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from docker_nodes import docker_engine, node_image

from harness.docker import doctor, image
from harness.docker.image import NoImage, Source
from nemeses.fault import FAMILIES

DEB822 = """\
# A comment that mentions Types: deb
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main

Enabled: no
Types: deb
URIs: http://old.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_sources_are_read_stanza_by_stanza() -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert image.sources("", [DEB822]) == [
        Source("http://deb.debian.org/debian", "trixie", keyring),
        Source("http://deb.debian.org/debian", "trixie-updates", keyring),
        Source("http://deb.debian.org/debian-security", "trixie-security"),
    ]


def test_one_line_sources_are_read_with_and_without_options() -> None:
    text = """
    # deb http://commented.example/debian bookworm main
    deb-src http://sources.example/debian bookworm main
    deb https://vendor.example/apt stable/
    deb https://vendor.example/apt vendor tools
    deb [arch=amd64 signed-by=/etc/apt/keyrings/k.gpg] https://mirror.example/debian bookworm main non-free
    deb http://deb.debian.org/debian bookworm-updates main
    """
    assert image.sources(text, []) == [
        Source("https://mirror.example/debian", "bookworm", "/etc/apt/keyrings/k.gpg"),
        Source("http://deb.debian.org/debian", "bookworm-updates"),
    ]


def test_a_whole_release_is_bootstrapped_and_not_its_updates() -> None:
    found = [
        Source("http://security.debian.org/debian-security", "bookworm-security"),
        Source("http://deb.debian.org/debian", "bookworm-updates"),
        Source("cdrom:[Debian]/", "bookworm"),
        Source("http://deb.debian.org/debian", "bookworm"),
    ]
    assert image.archive(found) == found[-1]


def test_a_list_of_mirrors_gives_its_first(tmp_path: Path) -> None:
    (tmp_path / "debian.list").write_text("https://first.example/debian\nhttps://second.example/debian\n")
    found = [Source(f"mirror+file:{tmp_path}/debian.list", "bookworm")]
    assert image.archive(found) == Source("https://first.example/debian", "bookworm")


def test_without_an_archive_the_remedy_is_a_local_base() -> None:
    with pytest.raises(NoImage, match="--base IMAGE"):
        image.archive([])


def test_the_store_gets_the_versions_that_the_distribution_allows() -> None:
    wanted = image.requirements()
    assert [re.match(r"\w+", line)[0] for line in wanted] == [
        "httptools",
        "msgspec",
        "numpy",
        "uvloop",
        "xxhash",
    ]
    assert all("<" in line and ">" in line for line in wanted)


@pytest.mark.docker
def test_an_image_is_built_once() -> None:
    first = node_image()
    said: list[str] = []
    assert image.build(progress=said.append) == first
    assert said == [f"{first} is ready"]


@pytest.mark.docker
def test_an_image_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    node_image()
    monkeypatch.setattr(image, "requirements", lambda: ["msgspec==0"])
    with docker_engine() as client, pytest.raises(NoImage, match="another version of sunder: build it anew"):
        image.current(client)


@pytest.mark.docker
@pytest.mark.slow
def test_a_local_image_can_be_the_base() -> None:
    tag = node_image()
    # The node image itself has all that a base needs: a bash, a python3, an iptables.
    built = image.build(base=tag)
    with docker_engine() as client:
        try:
            assert built != tag
            # What was built last is what runs use.
            assert image.current(client) == built
            said = client.containers.run(
                built,
                ["-c", "import httptools, msgspec, numpy, uvloop, xxhash; print('all there')"],
                entrypoint=["python3"],
                remove=True,
            )
            assert said == b"all there\n"
        finally:
            client.images.get(tag).tag(image.IMAGE, "latest")
            client.images.remove(built)


@pytest.mark.docker
def test_a_base_that_is_not_here_is_named() -> None:
    node_image()
    with pytest.raises(NoImage, match="No image nobody/nothing:1 is here"):
        image.build(base="nobody/nothing:1")


@pytest.mark.docker
def test_a_base_without_python_is_refused() -> None:
    node_image()
    with docker_engine() as client, contextlib.ExitStack() as later:
        empty = client.api.import_image_from_data(b"\0" * 10240, repository="sunder-test-empty", tag="1")
        assert "sha256" in empty
        later.callback(client.images.remove, "sunder-test-empty:1")
        with pytest.raises(NoImage, match="no python3 and bash"):
            image.build(base="sunder-test-empty:1")


@pytest.mark.docker
def test_the_doctor_names_the_engine_the_image_and_every_family() -> None:
    tag = node_image()
    diagnosis = doctor.examine()
    assert diagnosis.engine.startswith("Docker ")
    assert diagnosis.image == tag
    assert [support.family for support in diagnosis.supports] == list(FAMILIES)
    assert [support.family for support in diagnosis.supports if support.mechanism] == [
        "partition",
        "kill",
        "pause",
        "membership",
    ]
    assert all(support.mechanism or support.remedy for support in doctor.diagnose())


def test_the_doctor_without_an_engine_gives_the_remedy_for_each_family(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    supports = doctor.diagnose()
    assert [support.family for support in supports] == list(FAMILIES)
    assert all("No Docker engine answers" in support.remedy and not support.mechanism for support in supports)
