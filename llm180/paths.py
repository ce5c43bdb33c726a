"""Where things are: the book's sources, the reader's folder, what is generated.

In a clone the sources lie beside the package. In an installed wheel (Colab)
the lessons and labs travel inside it, as ``llm180/_book`` and ``llm180/_labs``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
IN_CLONE = (ROOT / "book").is_dir() and (ROOT / "pyproject.toml").is_file()

BOOK = ROOT / "book" if IN_CLONE else PACKAGE / "_book"
LABS = ROOT / "labs" if IN_CLONE else PACKAGE / "_labs"
SOLUTIONS = ROOT / "solutions"
BUILD = ROOT / "_build"

# The reader's copies: in the clone, where they are git-ignored; else where they stand.
WORK = ROOT / "work" if IN_CLONE else Path.cwd() / "work"


def home() -> Path:
    """The reader's data folder: progress, downloaded models. Created on first use by whoever writes.

    ``LLM180_HOME`` overrides the platform's own place for application data.
    """
    override = os.environ.get("LLM180_HOME")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "llm180"


def write_whole(path: Path, text: str) -> None:
    """Write a small file of the reader's so that it is there whole or as it was, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(text.encode("utf-8"))  # line ends as they are, on every system
    os.replace(fresh, path)
