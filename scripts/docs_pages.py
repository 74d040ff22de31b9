#!/usr/bin/env python3
"""The pages of the documentation site: docs/ and the Markdown files of the root, with links that fit one folder.

``python scripts/docs_pages.py FOLDER`` writes them. In the repository a page of the root links to ``docs/x.md``, and
one of docs/ to ``../SECURITY.md``; on the site all are in one folder, and the README is its first page.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the repository -> on the site; the languages have the same name but for .zh.
OF_ROOT = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")


def moved(text: str, folder: Path, root: Path = ROOT) -> str:
    """A page with its links as they are on the site.

    Args:
        folder: of the page in the repository. Links to files that are not pages of the site lose their target.
    """

    def link(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        place = target.relative_to(root).as_posix() if target.is_relative_to(root) else ""
        on_site = OF_ROOT.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        return f"{match[1]}{on_site}{match[3] or ''}{match[4]}" if on_site else "](#__none)"

    return re.sub(r"\[([^\]]*)\]\(#__none\)", r"\1", LINK.sub(link, text))


def write_pages(out: Path, root: Path = ROOT) -> list[str]:
    """Write all pages and pictures into an empty folder. Returns the names of the pages."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(root / "docs", out)
    for page in out.glob("*.md"):
        page.write_text(moved(page.read_text(encoding="utf-8"), root / "docs", root), encoding="utf-8")
    for name, on_site in OF_ROOT.items():
        text = (root / name).read_text(encoding="utf-8")
        (out / on_site).write_text(moved(text, root, root), encoding="utf-8")
    return sorted(page.name for page in out.glob("*.md"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: docs_pages.py FOLDER")
    write_pages(Path(sys.argv[1]))
