"""Reading of pages, for tests."""

import re
from pathlib import Path


def text(path: Path) -> str:
    """Returns the words of a page, without tags and styles."""
    html = path.read_text(encoding="utf-8")
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S)).split())
