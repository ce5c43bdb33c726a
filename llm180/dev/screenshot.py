"""The picture of a real page that the landing page and the README show: ``python -m llm180.dev.screenshot``.

Opens the built Day 1 in Chromium and saves the part around one exercise. It
builds nothing: run ``llm180 build`` first, and again after it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llm180 import lessons, paths
from llm180.dev import browser

PICTURE = paths.BOOK / "assets" / "day001.png"
EXERCISE = "matmul_blocked"
WIDTH, HEIGHT = 1060, 980


def take(picture: Path = PICTURE, day: int = 1, exercise: str = EXERCISE) -> Path:
    """Save the picture and return its path. Raises SystemExit with one sentence where the page or Chromium is missing."""
    lesson = lessons.find(day)
    page = f"book/stage{lesson.stage}/{lesson.stem}.html"
    html = paths.BUILD / "html"
    if not (html / page).exists():
        raise SystemExit(f"{page} is not built; run `llm180 build` first.")
    with browser.serving(html) as address, browser.chromium() as chromium:
        tab = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25)
        tab.goto(address + page, wait_until="networkidle")
        tab.evaluate("""name => {
            const card = document.getElementById(name);
            window.scrollTo({top: card.getBoundingClientRect().top + window.scrollY - 110, behavior: "instant"});
        }""", f"ex-{lesson.key}-{exercise}")
        tab.wait_for_timeout(300)
        tab.screenshot(path=picture)
    return picture


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Take the picture of Day 1 for the landing page.")
    parser.add_argument("--exercise", default=EXERCISE, help="the exercise to show (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to save it")
    options = parser.parse_args(arguments)
    print(take(options.picture, exercise=options.exercise))
    return 0


if __name__ == "__main__":
    sys.exit(main())
