"""A reader of report pages that also sees what a browser would fetch or run."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

VOID = {"img", "meta", "br", "link", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: (name, attributes) in order.
        text: all that is read, one blank between pieces.
        style: its style sheets.
    """

    html: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open == [], "tags that are not closed"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += f" {data}"

    def attributes(self, *names: str) -> list[str]:
        return [value for _, own in self.tags for name, value in own.items() if name in names]

    def plots(self) -> list[str]:
        """Return the SVG of each plot."""
        found = [src for src in self.attributes("src") if src.startswith("data:image/svg+xml;base64,")]
        return [base64.b64decode(src.split(",", 1)[1]).decode() for src in found]

    def faults(self) -> list[str]:
        """Return everything that a browser would fetch or run."""
        loaded = self.attributes("src", "srcset", "data", "poster", "action", "background", "style")
        wrong = [value for value in loaded if not re.fullmatch(r"data:image/(jpeg|svg\+xml);base64,[\w+/=]+", value)]
        wrong += [value for value in self.attributes("href", "xlink:href") if not value.startswith("#")]
        wrong += [tag for tag, _ in self.tags if tag in {"script", "link", "iframe", "object", "embed", "base", "form"}]
        wrong += [name for _, own in self.tags for name in own if name.startswith("on")]
        wrong += re.findall(r"url\(.*|@import.*", self.style)
        for svg in self.plots():
            wrong += re.findall(r"<script.*|<image.*|url\((?!#)[^)]*\)|xlink:href=\"(?!#)[^\"]*\"", svg)
        return wrong


@pytest.fixture
def read_page() -> Callable[[Path], Page]:
    """Return a function that reads a report, and refuses one that needs anything else."""

    def read(path: Path) -> Page:
        page = Page(path.read_text(encoding="utf-8"))
        assert page.faults() == []
        return page

    return read
