"""Check the links of the built documentation: every file and every anchor of the site exists.

    python tools/check_site.py docs/_build/html

Sphinx warns of references that it resolves itself, but not of links in raw HTML or to anchors of
other pages. Links to other sites are not followed.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESSES = ("href", "src")
GENERATED = ("_static", "_sources", "_modules")  # Sphinx's own: their links are not ours


class Page(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, text: str) -> None:
        """Read them."""
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag points to, and what points to it."""
        for name, value in attrs:
            if name in ADDRESSES and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Return a line for each link within the site that leads nowhere.

    Args:
        site: the folder of the built pages.
    """

    @cache
    def read(path: Path) -> Page:
        return Page(path.read_text(encoding="utf-8"))

    broken = []
    for path in sorted(site.rglob("*.html")):
        if path.relative_to(site).parts[0] in GENERATED:
            continue
        for link in read(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else path.parent / unquote(parts.path)
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                broken.append(f"{path.relative_to(site)}: {link}: there is no such file")
            elif parts.fragment and target.suffix == ".html":
                anchor = unquote(parts.fragment)
                if anchor not in read(target).anchors:
                    broken.append(f"{path.relative_to(site)}: {link}: there is no such anchor")
    return broken


def main(arguments: list[str]) -> int:
    """Print what is broken; return the exit status."""
    if len(arguments) != 1 or not Path(arguments[0], "index.html").exists():
        print("usage: check_site.py FOLDER, which holds index.html", file=sys.stderr)
        return 2
    site = Path(arguments[0])
    broken = broken_links(site)
    for line in broken:
        print(line, file=sys.stderr)
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"docs: {pages} pages, {len(broken)} broken links")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
