"""The settings as a table for docs/install.md; a test holds the two together."""

from __future__ import annotations

import json
from collections.abc import Iterator

from installer.settings import SETTINGS, Setting

BEGIN, END = "<!-- settings -->", "<!-- end of settings -->"


def install_table() -> str:
    """Markdown, between the two marks."""
    return "\n".join([BEGIN, "", *_lines(), "", END]) + "\n"


def with_table(document: str) -> str:
    """The document with its table as the code has it."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + install_table().rstrip("\n") + after


def _lines() -> Iterator[str]:
    yield "| setting | default | meaning |"
    yield "|---|---|---|"
    for setting in SETTINGS:
        yield f"| `{setting.name}` | `{_shown(setting)}` | {setting.meaning} |"


def _shown(setting: Setting) -> str:
    return json.dumps(setting.default, ensure_ascii=False)
