"""The built book, as a reader's browser has it: complete, offline, light and dark, phone and desktop.

Builds the site from the outputs of this very run, so it comes last. The browser's part needs
Chromium and Playwright and is skipped where they are not, but not in CI with a Chromium at hand.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llm180 import lessons, paths
from llm180.dev import browser, execution, site

PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def html(executed_book: Any) -> Path:
    """The folder of the site, built from what this run executed, warnings being errors."""
    try:
        site.render()
    except site.SiteError as error:
        pytest.fail(str(error), pytrace=False)
    return site.HTML


# --- what a page consists of ---------------------------------------------------------------


class _Page(HTMLParser):
    """What a page loads, links to and can be linked to."""

    LOADS = {
        ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("audio", "src"),
        ("embed", "src"), ("object", "data"), ("track", "src"), ("use", "href"), ("image", "href"),
    }  # fmt: skip

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        for name, value in values.items():
            if (tag, name) in self.LOADS:
                self.loads.append(value)
            elif name == "srcset":
                self.loads += [part.split()[0] for part in value.split(",") if part.strip()]
            elif name == "style":
                self.loads += _in_css(value)
        if tag == "link" and not {"canonical", "alternate", "index", "search", "next", "prev", "author"} & set(
            values.get("rel", "").split()
        ):
            self.loads.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])

    handle_startendtag = handle_starttag


def _in_css(text: str) -> list[str]:
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return [address for address in found if not address.startswith(("data:", "#"))]


def _elsewhere(address: str) -> bool:
    return bool(re.match(r"(https?:)?//", address))


@pytest.fixture(scope="module")
def built(html: Path) -> dict[str, _Page]:
    """Every page of the site by its path."""
    files = [p for p in html.rglob("*.html") if not {"_static", "_sources"} & set(p.relative_to(html).parts)]
    return {p.relative_to(html).as_posix(): _Page(p) for p in sorted(files)}


def test_every_page_of_the_book_is_there(built: dict[str, _Page]) -> None:
    for lesson in lessons.all_pages():
        assert lesson.path.relative_to(paths.ROOT).with_suffix(".html").as_posix() in built


def test_the_build_executed_nothing(html: Path, executed_book: Any) -> None:
    if set(executed_book.current) != set(execution.pages()):
        pytest.skip("only a part of the pages was executed in this run")
    assert "Executing notebook" not in site.LOG.read_text(encoding="utf-8")


def test_no_page_loads_anything_from_another_host(html: Path, built: dict[str, _Page]) -> None:
    foreign = [(name, address) for name, page in built.items() for address in page.loads if _elsewhere(address)]
    for sheet in (html / "_static").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        foreign += [(sheet.name, address) for address in _in_css(text) if _elsewhere(address)]
    assert not foreign


def test_every_internal_link_and_anchor_resolves(html: Path, built: dict[str, _Page]) -> None:
    broken = []
    for name, page in built.items():
        for address in [*page.links, *page.loads]:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (html / name).parent / urllib.parse.unquote(parts.path) if parts.path else html / name
            target = Path(os.path.normpath(target))
            if not target.is_file():
                broken.append((name, address))
            elif parts.fragment and target.suffix == ".html":
                known = built.get(target.relative_to(html).as_posix())
                if known and urllib.parse.unquote(parts.fragment) not in known.ids:
                    broken.append((name, address))
    assert not broken


def test_notebooks_are_offered_and_open_where_they_say(html: Path, built: dict[str, _Page]) -> None:
    for lesson in lessons.all_pages():
        path = f"labs/{lesson.stem}.ipynb" if lesson.is_lab else f"stage{lesson.stage}/{lesson.stem}.ipynb"
        notebook = json.loads((html / "_notebooks" / path).read_text(encoding="utf-8"))
        assert notebook["nbformat"] == 4
        assert not any(cell.get("outputs") for cell in notebook["cells"]), "a notebook to solve has no outputs"
        links = built[lesson.path.relative_to(paths.ROOT).with_suffix(".html").as_posix()].links
        colab = [link for link in links if "colab.research.google.com" in link]
        assert colab and all(link.endswith(f"/blob/notebooks/{path}") for link in colab)
        binder = [link for link in links if "mybinder.org" in link]
        assert binder and all(link.endswith(f"/notebooks?urlpath=lab/tree/{path}") for link in binder)
        downloads = [link for link in links if link.endswith(".ipynb") and not _elsewhere(link)]
        assert downloads and all(link.endswith(f"_notebooks/{path}") for link in downloads)
    assert not list((html / "_sources").rglob("*.ipynb"))


def test_exercises_of_a_page_are_cards_with_folded_help(html: Path, built: dict[str, _Page]) -> None:
    for lesson in lessons.all_pages():
        name = lesson.path.relative_to(paths.ROOT).with_suffix(".html").as_posix()
        text = (html / name).read_text(encoding="utf-8")
        assert "known_mistakes(" not in text
        assert text.count("<details") >= len(lesson.exercises) * 2
        for exercise in lesson.exercises:
            assert f"ex-{lesson.key}-{exercise.name}" in built[name].ids


# --- in a browser ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with browser.chromium(browser.OFFLINE) as found:
            yield found
    except browser.NoBrowser as error:
        if os.environ.get("CI") and (os.environ.get("CHROMIUM") or Path("/usr/bin/chromium").exists()):
            pytest.fail(f"CI has a Chromium, yet {error}")
        pytest.skip(str(error))


class _Tab:
    """A tab that keeps what went wrong in it: messages of the console, failed and foreign requests."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.address = address
        self.trouble: list[str] = []
        self.page = chromium.new_page(viewport={"width": DESKTOP, "height": 900})
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.page.on("requestfailed", lambda r: self.trouble.append(f"failed: {r.url}"))
        self.page.on("response", lambda r: self.trouble.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.trouble.append(f"console {message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.trouble.append(f"request to another host: {request.url}")

    def open(self, name: str) -> Any:
        self.trouble.clear()
        self.page.goto(self.address + name, wait_until="load")
        return self.page


@pytest.fixture(scope="module")
def tab(html: Path, chromium: Any) -> Iterator[_Tab]:
    with browser.serving(html) as address:
        made = _Tab(chromium, address)
        yield made
        made.page.close()


def _names() -> list[str]:
    others = sorted(p for p in paths.BOOK.rglob("*.md") if not execution.is_page(p))
    return [p.relative_to(paths.ROOT).with_suffix("").as_posix() for p in [*others, *execution.pages()]]


WIDER_THAN_PAGE = """() => {
    const width = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > width + 1);
    return document.documentElement.scrollWidth <= width ? [] : wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120));
}"""

CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const known = {};
    const rgba = css => known[css] ||= paint(css);
    const paint = css => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = rgb => {
        const [r, g, b] = rgb.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = e => {
        for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
        return [255, 255, 255];
    };
    const poor = [];
    for (const e of document.querySelectorAll("article p, article li, article h1, article h2, article h3, article td, article pre, article summary, article a")) {
        if (!e.textContent.trim() || !e.getClientRects().length || e.closest(".sr, .headerlink")) continue;
        const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.push(ratio.toFixed(2) + " " + e.outerHTML.slice(0, 100));
    }
    return [light(ground(document.body)) < 0.2, poor.slice(0, 5)];
}"""

BROKEN_PARTS = """async () => {
    const broken = [];
    for (const image of document.images) {
        await image.decode().catch(() => 0);
        if (!image.naturalWidth) broken.push("image " + image.outerHTML.slice(0, 120));
        if (!image.hasAttribute("alt")) broken.push("no alt " + image.outerHTML.slice(0, 120));
    }
    for (const math of document.querySelectorAll("article .math"))
        if (!math.querySelector("mjx-container") && !math.closest("mjx-container")) broken.push("math " + math.textContent.slice(0, 80));
    for (const error of document.querySelectorAll("[data-mjx-error], mjx-merror")) broken.push("math error " + error.outerHTML.slice(0, 120));
    if (!document.querySelector(".bd-header-article svg")) broken.push("no icons");
    return broken;
}"""


@pytest.mark.parametrize("name", _names())
def test_a_page_works_offline_light_and_dark_on_phone_and_desktop(tab: _Tab, name: str) -> None:
    page = tab.open(f"{name}.html")
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    page.add_style_tag(content="* { transition: none !important; }")  # colors are read right after a change
    assert not page.evaluate(BROKEN_PARTS)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (PHONE, DESKTOP):
            page.set_viewport_size({"width": width, "height": 900})
            assert not page.evaluate(WIDER_THAN_PAGE), f"wider than a screen of {width} px"
        # The theme follows the system by an event, which comes a moment later.
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        is_dark, poor = page.evaluate(CONTRAST)
        assert is_dark == (scheme == "dark")
        assert not poor, f"hard to read in {scheme}"
    for player in page.query_selector_all(".llm180-player"):
        before = player.inner_text()
        player.query_selector("input[type=range]").evaluate("e => {e.value = 1; e.dispatchEvent(new Event('input'))}")
        assert player.inner_text() != before, "the slider moves nothing"
    assert not tab.trouble


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("matrix", "book/glossary.html"),
        ("least squares", "book/glossary.html"),
        ("矩阵", "book/glossary.html"),
        ("反向传播", "book/glossary.html"),
        ("熵", "book/glossary.html"),
        ("重新训练张量并行", None),
    ],
)
def test_search_finds_english_and_chinese(tab: _Tab, query: str, page: str | None) -> None:
    opened = tab.open("search.html?" + urllib.parse.urlencode({"q": query}))
    opened.wait_for_function("document.querySelector('#search-results p.search-summary')?.innerText.trim().length > 0")
    found = [a.get_attribute("href").split("#")[0].split("?")[0] for a in opened.query_selector_all("#search-results li a")]
    if page is None:
        assert not found
    else:
        assert any(link.endswith(page) for link in found), found
    assert not tab.trouble


def test_the_search_field_of_a_page_leads_to_results(tab: _Tab) -> None:
    page = tab.open("book/intro.html")
    page.keyboard.press("Control+K")
    page.keyboard.type("梯度下降")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert not tab.trouble
