"""Real data for the lessons, in the repository, checked by hash.

    from llm180 import data
    data.names()                    # what there is
    novels = data.load("austen")    # a typed object, see below
    print(data.describe("austen"))  # source, license, what was done

Every call of :func:`load` gives a new object, so a lesson may change what it gets. The files are checked against their
SHA-256 once per process. Small models of ours that took minutes to train come through :func:`weights`; pretrained
models of others, which are too large for the repository, through :func:`model`.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Analogy", "DataError", "Images", "Mail", "Pair", "Poem", "Split", "WordPair",
    "describe", "load", "model", "names", "path", "problems", "weights",
]  # fmt: skip

HERE = Path(__file__).resolve().parent
FILES = HERE / "files"
REGISTRY = HERE / "registry.json"


class DataError(Exception):
    """Data cannot be had; the message is one sentence that says what to do."""


# What load gives ------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A sentence in English and in Chinese."""

    en: str
    zh: str


class WordPair(NamedTuple):
    """Two words and how related people found them, 0-10."""

    first: str
    second: str
    score: float


class Analogy(NamedTuple):
    """a is to b as c is to d."""

    a: str
    b: str
    c: str
    d: str


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail without headers. `id` is group/number of the public corpus, as in "easy-ham-1/00007"."""

    id: str
    label: Literal["ham", "spam"]
    subject: str
    body: str

    @property
    def is_spam(self) -> bool:
        return self.label == "spam"

    @property
    def text(self) -> str:
        """Subject and body, with a line break between."""
        return f"{self.subject}\n{self.body}"


@dataclass(frozen=True, slots=True)
class Poem:
    """A poem; `title` is for a ci the name of its tune. `text` joins the lines without line breaks."""

    title: str
    author: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.lines)


@dataclass(frozen=True, slots=True)
class Images:
    """n labelled gray images: `images` uint8 (n, height, width), `labels` int64 (n,), `names` of the classes.

    Pixels go from 0 to `maximum` (255; 16 for the 8x8 digits).
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    maximum: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def flat(self) -> np.ndarray:
        """The images as rows, float64 (n, height * width), from 0 to 1."""
        return self.images.reshape(len(self), -1) / float(self.maximum)


class Split(NamedTuple):
    """A training and a test set that share no image: ``train, test = data.load("fashion-mnist")``."""

    train: Images
    test: Images


# Registry and hashes --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def registry() -> dict[str, Any]:
    """What `registry.json` holds: "data" by name, "sources" by package, "weights" and "models" by name."""
    return json.loads(REGISTRY.read_text(encoding="utf-8"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_sha256(file: str, content: bytes) -> str:
    """Hash of what a compressed file holds, whatever compressed it."""
    try:
        if file.endswith(".xz"):
            return sha256(lzma.decompress(content))
        if file.endswith(".npz"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                inner = [(name, sha256(archive.read(name))) for name in archive.namelist()]
            return sha256(repr(inner).encode())
    except (lzma.LZMAError, zipfile.BadZipFile):
        return "unreadable"
    return sha256(content)


def names() -> list[str]:
    """The names that :func:`load` takes."""
    return list(registry()["data"])


def _entry(name: str) -> dict[str, Any]:
    entries = registry()["data"]
    if name not in entries:
        raise DataError(f"There is no data set {name!r}; there are {', '.join(entries)}.")
    return entries[name]


_checked: set[str] = set()


def _read(file: str, want: dict[str, Any]) -> bytes:
    """The bytes of a file of the data folder, compared with its hash the first time."""
    location = f"llm180/data/files/{file}"
    try:
        content = (FILES / file).read_bytes()
    except FileNotFoundError:
        raise DataError(f"The data file {location} is missing: restore it with `git checkout -- {location}`.") from None
    except OSError as failure:
        raise DataError(f"The data file {location} cannot be read ({failure.strerror}): run `llm180 doctor`.") from None
    if file not in _checked:
        if sha256(content) != want["sha256"]:
            raise DataError(f"The data file {location} is not the one that the lessons were tested with: restore it with `git checkout -- {location}`.")
        _checked.add(file)
    return content


def path(name: str) -> Path:
    """Where a data set lies: its file, or its folder if it has several files."""
    files = list(_entry(name)["files"])
    return FILES / files[0] if len(files) == 1 else (FILES / files[0]).parent


def describe(name: str) -> str:
    """What a data set is, where it comes from, its license, and what was done to it; a few lines of text."""
    entry = _entry(name)
    sources = registry()["sources"]
    packages = "; ".join(f"{sources[p]['kind']} package {p} {sources[p]['version']}" for p in entry["packages"])
    size = sum(f["bytes"] for f in entry["files"].values())
    lines = [
        f"{name}: {entry['title']}.",
        f"Gives:   {entry['gives']}",
        f"Source:  {entry['origin']} Taken from {packages}.",
        f"License: {entry['license']}",
        f"Changes: {entry['changes']}",
        f"Size:    {size / 1e6:.2f} MB in the repository.",
    ]
    if entry.get("note"):
        lines.append(f"Note:    {entry['note']}")
    return "\n".join(lines)


def problems() -> list[str]:
    """One sentence for each data file that is missing or damaged; empty if all is well. Reads every file."""
    found = []
    for entry in [*registry()["data"].values(), *registry()["weights"].values()]:
        for file, want in entry["files"].items():
            _checked.discard(file)
            try:
                _read(file, want)
            except DataError as failure:
                found.append(str(failure))
    return found


# Loaders --------------------------------------------------------------------------------------------------------------


def _content(name: str) -> dict[str, bytes]:
    return {file: _read(file, want) for file, want in _entry(name)["files"].items()}


def _text(name: str) -> str:
    (content,) = _content(name).values()
    return lzma.decompress(content).decode("utf-8")


def _arrays(name: str) -> dict[str, np.ndarray]:
    (content,) = _content(name).values()
    return _unpack(content)


def _unpack(content: bytes) -> dict[str, np.ndarray]:
    import numpy

    with numpy.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _images(arrays: dict[str, np.ndarray], names: tuple[str, ...], prefix: str = "", maximum: int = 255) -> Images:
    return Images(arrays[f"{prefix}images"], arrays[f"{prefix}labels"].astype("int64"), names, maximum)


_TITLES = {
    "sense_and_sensibility": "Sense and Sensibility",
    "pride_and_prejudice": "Pride and Prejudice",
    "mansfield_park": "Mansfield Park",
    "emma": "Emma",
    "northanger_abbey": "Northanger Abbey",
    "persuasion": "Persuasion",
}
_NUMERALS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _austen() -> dict[str, str]:
    return {_TITLES[Path(file).name.split(".")[0]]: lzma.decompress(content).decode("utf-8") for file, content in _content("austen").items()}


def _en_zh() -> list[Pair]:
    return [Pair(*line.split("\t")) for line in _text("en-zh").splitlines()]


def _fashion() -> Split:
    arrays = _arrays("fashion-mnist")
    return Split(_images(arrays, _CLOTHES, "train_"), _images(arrays, _CLOTHES, "test_"))


def _spam() -> list[Mail]:
    return [Mail(**json.loads(line)) for line in _text("spam").split("\n") if line]


def _wordsim() -> list[WordPair]:
    rows = [line.split("\t") for line in _text("wordsim353").splitlines()]
    return [WordPair(first, second, float(score)) for first, second, score in rows]


def _analogies() -> dict[str, list[Analogy]]:
    found: dict[str, list[Analogy]] = {}
    for line in _text("analogies").splitlines():
        if line.startswith(":"):
            section = found.setdefault(line[1:].strip(), [])
        else:
            section.append(Analogy(*line.split()))
    return found


def _poems(name: str) -> list[Poem]:
    rows = [json.loads(line) for line in _text(name).split("\n") if line]
    return [Poem(row["title"], row["author"], tuple(row["lines"])) for row in rows]


def _java() -> dict[str, str]:
    rows = [json.loads(line) for line in _text("java").split("\n") if line]
    return {row["file"]: row["text"] for row in rows}


_LOADERS: dict[str, Callable[[], Any]] = {
    "austen": _austen,
    "en-zh": _en_zh,
    "digits": lambda: _images(_arrays("digits"), _NUMERALS, maximum=16),
    "mnist": lambda: _images(_arrays("mnist"), _NUMERALS),
    "fashion-mnist": _fashion,
    "spam": _spam,
    "wordsim353": _wordsim,
    "analogies": _analogies,
    "tang-poems": lambda: _poems("tang-poems"),
    "song-ci": lambda: _poems("song-ci"),
    "photos": lambda: _arrays("photos"),
    "java": _java,
}


@overload
def load(name: Literal["austen"]) -> dict[str, str]: ...
@overload
def load(name: Literal["en-zh"]) -> list[Pair]: ...
@overload
def load(name: Literal["digits", "mnist"]) -> Images: ...
@overload
def load(name: Literal["fashion-mnist"]) -> Split: ...
@overload
def load(name: Literal["spam"]) -> list[Mail]: ...
@overload
def load(name: Literal["wordsim353"]) -> list[WordPair]: ...
@overload
def load(name: Literal["analogies"]) -> dict[str, list[Analogy]]: ...
@overload
def load(name: Literal["tang-poems", "song-ci"]) -> list[Poem]: ...
@overload
def load(name: Literal["java"]) -> dict[str, str]: ...
@overload
def load(name: Literal["photos"]) -> dict[str, np.ndarray]: ...
@overload
def load(name: str) -> Any: ...


def load(name: str) -> Any:
    """Load a data set by name. A new object each time.

    ==============  ========================================================================================
    austen          dict: title of the novel -> its text, six of them in order of publication
    en-zh           list of Pair(en, zh), in the order of the help pages: cut it, do not shuffle it, for a fair split
    digits          Images: 1,797 of 8x8, pixels 0-16
    mnist           Images: 5,000 of 28x28, 500 a class, mixed
    fashion-mnist   Split(train, test) of Images: 10,000 and 2,000 of 28x28, as many of each class
    spam            list of Mail(id, label, subject, body), mixed
    wordsim353      list of WordPair(first, second, score)
    analogies       dict: section -> list of Analogy(a, b, c, d)
    tang-poems      list of Poem(title, author, lines), traditional characters
    song-ci         list of Poem, simplified characters; `title` is the tune
    photos          dict: "camera" -> uint8 (512, 512), "chelsea" -> uint8 (300, 451, 3)
    java            dict: file name -> source text with its license header, 42 Java files in order of their paths
    ==============  ========================================================================================

    Raises DataError if there is no such name, or if a file is missing or damaged.
    """
    _entry(name)
    return _LOADERS[name]()


def weights(name: str) -> dict[str, np.ndarray]:
    """The weights of a small model that a script of ``llm180.data.pretrain`` has trained once: name -> array.

    Floating-point arrays are stored as float16 and come as float32. Raises DataError if there is no such name, or if
    the file is missing or damaged.
    """
    entries = registry()["weights"]
    if name not in entries:
        raise DataError(f"There are no weights {name!r}; there are {', '.join(entries) or 'none'}.")
    ((file, want),) = entries[name]["files"].items()
    arrays = _unpack(_read(file, want))
    return {key: array.astype("float32") if array.dtype.kind == "f" else array for key, array in arrays.items()}


def model(name: str, *, progress: bool = True) -> Path:
    """The folder of a pretrained model, downloaded once; see :func:`llm180.data.models.model`."""
    from llm180.data import models

    return models.model(name, progress=progress)
