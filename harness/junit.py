"""JUnit XML for continuous integration: invalid is a failure, a harness error is an error, unknown is skipped.

Unknown is skipped and not failed: a run that proves nothing accuses nobody. Its exit code (2) still tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import msgspec

from checkers.verdict import Valid

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = {Valid.INVALID: "failure", Valid.HARNESS_ERROR: "error", Valid.UNKNOWN: "skipped"}
_COUNTED = {Valid.INVALID: "failures", Valid.HARNESS_ERROR: "errors", Valid.UNKNOWN: "skipped"}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One test case. `message` is one line, `text` whatever helps."""

    group: str
    name: str
    verdict: Valid
    seconds: float = 0.0
    message: str = ""
    text: str = ""


def _legal(text: str) -> str:
    """XML 1.0 has no way to write most control characters, escaped or not."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)


def render(name: str, cases: Sequence[Case], *, properties: dict[str, str] | None = None) -> str:
    """One suite as an XML document."""
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", name=_legal(name), tests=str(len(cases)))
    for verdict, attribute in _COUNTED.items():
        suite.set(attribute, str(sum(c.verdict is verdict for c in cases)))
    suite.set("time", f"{sum(c.seconds for c in cases):.3f}")
    if properties:
        listed = ElementTree.SubElement(suite, "properties")
        for key, value in properties.items():
            ElementTree.SubElement(listed, "property", name=_legal(key), value=_legal(value))
    for case in cases:
        element = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_legal(case.group),
            name=_legal(case.name),
            time=f"{case.seconds:.3f}",
        )
        tag = _TAG.get(case.verdict)
        if tag is not None:
            told = ElementTree.SubElement(element, tag, message=_legal(case.message))
            told.text = _legal(case.text) or None
        elif case.text:
            ElementTree.SubElement(element, "system-out").text = _legal(case.text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
