"""HTML that cannot be injected into: text is escaped unless it was built here."""

from __future__ import annotations

import html
import re

# Control characters, lone surrogates (which no encoder takes) and the marks that turn text around.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


Content = str | int | float | Markup | None
"""What an element may hold; None is left out."""


def printable(text: str) -> str:
    r"""The text with everything that could disturb a page or a terminal spelled out.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return _HOSTILE.sub(lambda m: m.group().encode("unicode_escape").decode(), text)


def text(content: Content) -> Markup:
    """Escaped, unless it is markup."""
    if content is None:
        return Markup()
    return content if isinstance(content, Markup) else Markup(html.escape(printable(str(content))))


def el(tag: str, *contents: Content, **attributes: str | int | float | bool | None) -> Markup:
    """An element. `class_` and `data_x` become `class` and `data-x`; None and False leave an attribute out.

    >>> el("p", "1 < 2", class_="x", hidden=True)
    '<p class="x" hidden>1 &lt; 2</p>'
    """
    opening = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        opening += f" {name.rstrip('_').replace('_', '-')}"
        if value is not True:
            opening += f'="{text(value)}"'
    if tag in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(*contents)}</{tag}>")


def join(*contents: Content) -> Markup:
    """Contents one after another."""
    return Markup("".join(text(c) for c in contents))


_VOID = frozenset({"br", "hr", "link", "meta"})
