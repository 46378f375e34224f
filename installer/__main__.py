"""`python -m installer`: write the generated manifests beside this file."""

from __future__ import annotations

from pathlib import Path

from installer.reference import with_table
from installer.render import files

if __name__ == "__main__":
    root = Path(__file__).parent
    for name, text in files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    document = root.parent / "docs" / "install.md"
    document.write_text(with_table(document.read_text()))
