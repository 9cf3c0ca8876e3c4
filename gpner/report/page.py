"""A page of HTML that needs no network and no other file, so it can be mailed, archived and opened years later.

Texts, ids and labels are foreign: they travel as JSON and the page's script sets them as text only. A policy in the
page's head forbids every script but that one and every request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from gpner.errors import ConfigError

# Digits of a score in the page: enough for its 20 bars, and a third of the bytes.
SCORE_DIGITS = 4
# Longer ids, labels and the like are names no more; the page shows how they begin.
MOST_NAME_CHARACTERS = 200


def write_page(path: Path, *, title: str, body: str, scripts: Sequence[str], content: dict[str, Any]) -> None:
    """Write a page; a file that is there already is replaced only by a whole page.

    Args:
        path: The file to write.
        title: What the browser calls the page.
        body: Name of the file in this package that the page's main part is in.
        scripts: Names of the files in this package that draw it, in the order in which they run.
        content: What the scripts show, ready for JSON. A lone surrogate in it becomes a question mark.

    Raises:
        ConfigError: If the file cannot be written.
    """
    script = "".join(_read(name) for name in scripts)
    parts = {
        "title": html.escape(title),
        "style": _read("page.css"),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "body": _fill(_read(body), {"browser": _read("browser.html")}),
        "data": embeddable(content),
    }
    try:
        _write_whole(path, _fill(_read("page.html"), parts).encode(errors="replace"))
    except OSError as error:
        raise ConfigError(f"the page must be a file that can be written, {path} cannot: {error.strerror}") from error


def embeddable(content: Any) -> str:
    """Write JSON that can stand in HTML: with no `<` in it, it can neither close its element nor open a comment."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def shortened(name: str) -> str:
    """A name as the page shows it: whole, or how it begins."""
    return name if len(name) <= MOST_NAME_CHARACTERS else name[: MOST_NAME_CHARACTERS - 1] + "…"


def _fill(template: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _write_whole(path: Path, content: bytes) -> None:
    aside = path.with_name(path.name + ".unfinished")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
