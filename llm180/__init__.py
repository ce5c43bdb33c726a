"""LLM in 180 Days: the toolkit that the notebooks import.

``from llm180 import Day, expect`` is all a lesson needs; a solution module
also imports ``known_mistakes``. Names are resolved on first use, so that
importing the package costs nothing and needs no third-party library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm180 import data, expect, figures
    from llm180.day import Day, Lab
    from llm180.mistakes import known_mistakes
    from llm180.stats import interval

__version__ = "0.1.0"
__all__ = ["Day", "Lab", "data", "expect", "figures", "interval", "known_mistakes"]

_HOME = {
    "Day": "llm180.day",
    "Lab": "llm180.day",
    "interval": "llm180.stats",
    "known_mistakes": "llm180.mistakes",
}
_MODULES = {"data", "expect", "figures"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"llm180.{name}")
    raise AttributeError(f"module 'llm180' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
