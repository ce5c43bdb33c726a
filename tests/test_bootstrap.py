"""Setting up a fresh clone: what is installed, when it is not, and what is said when it cannot be."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm180 import bootstrap, paths

FILES = ("__init__.py", "__main__.py", "bootstrap.py")

# In place of pip: notes how it was called, says what the test put into `says`, ends as `ends` tells.
FAKE_PIP = """
import json, os, pathlib, sys
root = pathlib.Path(sys.argv[1])
with open(root / "calls", "a") as file:
    file.write(json.dumps(sys.argv[2:]) + "\\n")
for name, status in (("fails-on", 1), ("sleeps-on", 0)):
    marker = root / name
    if marker.exists() and any(a.startswith(marker.read_text()) for a in sys.argv[2:]):
        print((root / "says").read_text() if (root / "says").exists() else "")
        if not status:
            import time
            (root / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        sys.exit(status)
"""


def tiny_clone(root: Path) -> Path:
    """A clone as far as the set-up looks at it, with a command line that says where it runs."""
    (root / "llm180").mkdir(parents=True)
    (root / "book").mkdir()
    for name in FILES:
        shutil.copy(paths.PACKAGE / name, root / "llm180" / name)
    (root / "llm180" / "cli.py").write_text(
        "import sys\ndef main(arguments):\n    print('ran', arguments, 'in', sys.prefix)\n    return 7\n"
    )
    (root / "pyproject.toml").write_text(
        textwrap.dedent(
            """
            [build-system]
            requires = []
            build-backend = "backend"
            backend-path = ["."]
            [project]
            name = "llm180-tiny-clone"
            version = "1"
            dependencies = ["llm180-tiny>=1"]
            """
        )
    )
    (root / "requirements.txt").write_text("# pins\nllm180-tiny==1.0\ntorch==0.0.1  # the largest\n")
    (root / "requirements-lessons.txt").write_text("llm180-more==1.0\n")
    return root


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone that the module under test takes for its own, with a fake pip in a real environment."""
    root = tiny_clone(tmp_path / "my clone")
    monkeypatch.setattr(bootstrap, "ROOT", str(root))
    monkeypatch.setattr(bootstrap, "VENV", str(root / ".venv"))
    monkeypatch.setattr(bootstrap, "pip_command", lambda a: [sys.executable, "-c", FAKE_PIP, str(root), *a])
    monkeypatch.setattr(bootstrap, "_has_pip", lambda: True)
    monkeypatch.delenv("LLM180_NO_BOOTSTRAP", raising=False)
    venv.create(root / ".venv", with_pip=False, symlinks=os.name != "nt")
    return root


def calls(clone: Path) -> list[list[str]]:
    file = clone / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# --- what is done ----------------------------------------------------------------------------


def test_torch_comes_first_and_alone_then_the_rest_then_the_project(clone: Path) -> None:
    bootstrap.set_up()
    assert calls(clone) == [
        ["torch==0.0.1"],
        ["-r", str(clone / "requirements.txt")],
        ["--no-build-isolation", "--no-deps", "-e", str(clone)],
    ]


def test_the_packages_of_some_lessons_come_when_they_are_asked_for_and_stay(clone: Path) -> None:
    bootstrap.set_up()
    assert bootstrap.ready() and not bootstrap.ready(lessons=True)
    (clone / "calls").unlink()
    bootstrap.set_up(lessons=True)
    pins = str(clone / "requirements.txt")
    assert ["-r", str(clone / "requirements-lessons.txt"), "-c", pins] in calls(clone)
    assert bootstrap.ready() and bootstrap.ready(lessons=True)
    bootstrap.set_up(again=True)
    assert bootstrap.ready(lessons=True)


@pytest.mark.parametrize(("command", "all_of_them"), [(["test"], True), (["setup", "lessons"], True), (["serve"], False)])
def test_only_the_tests_need_the_packages_of_every_lesson(clone: Path, monkeypatch, command: list[str], all_of_them: bool) -> None:
    monkeypatch.setattr(bootstrap, "run_in_venv", lambda arguments: 0)
    monkeypatch.setattr(bootstrap, "in_any_environment", lambda: False)
    assert bootstrap.main(command) == 0
    assert bootstrap.ready() and bootstrap.ready(lessons=True) == all_of_them


def test_a_second_run_installs_nothing(clone: Path) -> None:
    bootstrap.set_up()
    assert bootstrap.ready()
    (clone / "calls").unlink()
    bootstrap.set_up()
    assert calls(clone) == []


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_changed_requirement_is_installed(clone: Path, name: str) -> None:
    bootstrap.set_up()
    with open(clone / name, "a") as file:
        file.write("# one more\n")
    assert not bootstrap.ready()


def test_line_ends_of_another_system_change_nothing(clone: Path) -> None:
    bootstrap.set_up()
    pins = clone / "requirements.txt"
    pins.write_bytes(pins.read_bytes().replace(b"\n", b"\r\n"))
    assert bootstrap.ready()


def test_a_clone_that_was_moved_is_set_up_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.set_up()
    moved = clone.with_name("elsewhere")
    clone.rename(moved)
    monkeypatch.setattr(bootstrap, "ROOT", str(moved))
    monkeypatch.setattr(bootstrap, "VENV", str(moved / ".venv"))
    assert not bootstrap.ready()


def test_setup_installs_again_what_is_there(clone: Path) -> None:
    bootstrap.set_up()
    assert bootstrap.main(["setup"]) == 0
    assert len(calls(clone)) == 6


def test_pip_is_not_led_astray_by_the_users_settings(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PIP_REQUIRE_VIRTUALENV"):
        monkeypatch.setenv(name, "somewhere")
    monkeypatch.setenv("PIP_USER", "1")
    environment = bootstrap.pip_environment()
    assert environment["PIP_USER"] == "0"
    assert "somewhere" not in environment.values()


# --- interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["torch==", "-r", "-e"])
def test_a_set_up_that_failed_is_taken_up_again(clone: Path, phase: str) -> None:
    (clone / "fails-on").write_text(phase)
    with pytest.raises(bootstrap.SetupError):
        bootstrap.set_up()
    assert not bootstrap.ready()
    (clone / "fails-on").unlink()
    bootstrap.set_up()
    assert bootstrap.ready()


def test_a_set_up_again_that_fails_is_not_taken_for_done(clone: Path) -> None:
    bootstrap.set_up()
    (clone / "fails-on").write_text("-e")
    with pytest.raises(bootstrap.SetupError):
        bootstrap.set_up(again=True)
    assert not bootstrap.ready()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_after_a_kill_the_next_run_waits_for_the_pip_that_is_left_and_goes_on(
    clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (clone / "sleeps-on").write_text("-r")
    script = (
        f"import sys; from llm180 import bootstrap as b; b.ROOT = {str(clone)!r}; b.VENV = b.ROOT + '/.venv'\n"
        f"b._has_pip = lambda: True\nb.pip_command = lambda a: [sys.executable, '-c', {FAKE_PIP!r}, b.ROOT, *a]\n"
        "b.set_up()"
    )
    first = subprocess.Popen([sys.executable, "-c", script], cwd=paths.ROOT, stderr=subprocess.DEVNULL)
    _until(lambda: (clone / "pid").exists() and (clone / "pid").read_text())
    first.kill()
    first.wait()
    (clone / "sleeps-on").unlink()
    second = threading.Thread(target=bootstrap.set_up)
    second.start()
    _until(lambda: "waiting for it" in capfd.readouterr().err)
    os.kill(int((clone / "pid").read_text()), signal.SIGKILL)
    second.join(timeout=30)
    assert not second.is_alive() and bootstrap.ready()


def _until(true: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_ctrl_c_says_that_nothing_is_lost(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(again: bool = False, lessons: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "set_up", interrupted)
    assert bootstrap.main(["serve"]) == 130
    assert "takes the set-up up again" in capsys.readouterr().err


def test_a_package_that_was_left_half_copied_is_forgotten(clone: Path) -> None:
    (site,) = [p for p in (clone / ".venv").rglob("site-packages") if p.is_dir()]
    for name, whole in (("torn-1.dist-info", False), ("whole-1.dist-info", True)):
        (site / name).mkdir()
        (site / name / "METADATA").write_text("Name: x")
        if whole:
            (site / name / "INSTALLER").write_text("pip")
    bootstrap.set_up()
    assert not (site / "torn-1.dist-info").exists()
    assert (site / "whole-1.dist-info").exists()


def test_two_set_ups_at_once_take_turns(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bootstrap._alone():
        other = threading.Thread(target=bootstrap.set_up)
        other.start()
        _until(lambda: "waiting for it" in capsys.readouterr().err)
        assert calls(clone) == []
    other.join(timeout=30)
    assert bootstrap.ready()


# --- environments that do not work -----------------------------------------------------------------


def test_an_environment_whose_python_is_gone_is_made_anew(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.set_up()
    python = Path(bootstrap.venv_python())
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert not bootstrap.ready()
    made = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if command[1:3] == ["-m", "venv"]:
            made.append(command)
            venv.create(command[-1], with_pip=False, clear=True, symlinks=True)
            return subprocess.CompletedProcess(command, 0, b"")
        return real(command, **_)  # type: ignore[call-overload, no-any-return]

    real = subprocess.run
    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    bootstrap.set_up()
    assert len(made) == 1 and bootstrap.ready()


def test_a_folder_that_is_no_environment_is_left_alone(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    (clone / ".venv").mkdir()
    (clone / ".venv" / "mine.txt").write_text("mine")
    with pytest.raises(bootstrap.SetupError, match="move it away"):
        bootstrap.set_up()
    assert (clone / ".venv" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_what_to_install(
    clone: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    shutil.rmtree(clone / ".venv")
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(bootstrap.SetupError, match=rf"no {module} module.*apt install python3\.\d+-venv"):
        bootstrap.set_up()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "free about 3 GB"),
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "check the connection"),
        ("ERROR: No matching distribution found for torch==0.0.1", "64-bit Python"),
        ("something else", "delete .venv"),
    ],
)
def test_a_failure_shows_pips_last_lines_without_noise_and_what_to_do(clone: Path, said: str, advice: str) -> None:
    (clone / "fails-on").write_text("torch==")
    (clone / "says").write_text(f"Looking in links: /a, /b\nCollecting torch\n{said}\n[notice] A new release of pip")
    with pytest.raises(bootstrap.SetupError) as failure:
        bootstrap.set_up()
    message = str(failure.value)
    assert said in message and advice in message
    assert "Looking in links" not in message and "notice" not in message
    assert "Looking in links" in (clone / "_build" / "setup.log").read_text()


# --- which Python, and when no set-up is needed ------------------------------------------------------


@pytest.mark.parametrize("name", FILES[1:])
def test_old_pythons_can_read_these_files(name: str) -> None:
    ast.parse((paths.PACKAGE / name).read_text(encoding="utf-8"), feature_version=(3, 7))


def old_pythons() -> list[str]:
    names = [shutil.which(f"python3.{minor}") for minor in (8, 9, 10)]
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.[89].*/bin/python"))
    return [name for name in names if name] + [str(p) for p in pyenv]


def test_an_old_python_gets_one_line(tmp_path: Path) -> None:
    for python in old_pythons():
        clone = tmp_path / Path(python).parents[1].name
        if not clone.exists():
            tiny_clone(clone)
        told = subprocess.run([python, "-m", "llm180", "serve"], cwd=clone, capture_output=True, text=True)
        if "SyntaxError" not in told.stderr and not told.stderr.startswith("This is"):
            continue  # a launcher for a Python that is not installed
        assert told.returncode == 1
        assert told.stderr.startswith("This is Python 3.") and told.stderr.count("\n") == 1, told.stderr
        assert not (clone / ".venv").exists()


def test_three_minor_versions_are_supported() -> None:
    assert [minor for minor in range(20) if bootstrap.supported((3, minor, 9))] == [11, 12, 13]
    assert not bootstrap.supported((4, 0, 0))


def test_the_versions_are_those_of_the_project_file() -> None:
    import tomllib

    wanted = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    oldest, newest = bootstrap.OLDEST, bootstrap.NEWEST
    assert wanted == f">={'.'.join(map(str, oldest))},<{newest[0]}.{newest[1] + 1}"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The commands that ran in this very process."""
    ran: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "run_here", lambda arguments: ran.append(arguments) or 0)
    monkeypatch.setattr(bootstrap, "run_in_venv", lambda arguments: ran.append(["in .venv", *arguments]) or 0)
    yield ran


def test_a_switch_turns_the_set_up_off(clone: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM180_NO_BOOTSTRAP", "1")
    assert bootstrap.main(["status"]) == 0
    assert here == [["status"]] and calls(clone) == []


def test_an_installed_package_sets_nothing_up(clone: Path, here: list[list[str]]) -> None:
    (clone / "pyproject.toml").unlink()
    bootstrap.main(["status"])
    assert here == [["status"]] and calls(clone) == []


def test_an_environment_of_the_users_that_has_the_packages_is_used(
    clone: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "in_any_environment", lambda: True)
    (clone / "pyproject.toml").write_text('[project]\ndependencies = ["pip>=1"]\noptional-dependencies.test = ["llm180-no-such"]')
    bootstrap.main(["status"])
    assert here == [["status"]] and calls(clone) == []
    bootstrap.main(["test"])  # needs more than this environment has
    assert here[1] == ["in .venv", "test"] and len(calls(clone)) == 4


def test_a_bare_python_sets_up_and_goes_on_in_the_environment(clone: Path, here: list[list[str]]) -> None:
    bootstrap.main(["test", "-k", "matrix"])
    assert here == [["in .venv", "test", "-k", "matrix"]] and len(calls(clone)) == 4
    bootstrap.main(["next"])
    assert here[1] == ["in .venv", "next"] and len(calls(clone)) == 4


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_had_without_a_set_up(
    clone: Path, here: list[list[str]], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(arguments) == 0
    assert "python3 -m llm180 serve" in capsys.readouterr().out
    assert here == [] and calls(clone) == []


def test_in_the_environment_itself_stale_requirements_are_only_mentioned(
    clone: Path, here: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap.set_up()
    monkeypatch.setattr(bootstrap, "in_project_venv", lambda: True)
    capsys.readouterr()
    bootstrap.main(["status"])
    assert not capsys.readouterr().err
    (clone / "requirements.txt").write_text("llm180-tiny==2.0\n")
    bootstrap.main(["status"])
    assert "llm180 setup" in capsys.readouterr().err
    assert here == [["status"], ["status"]]


# --- progress on a terminal --------------------------------------------------------------------------


def test_the_moving_line_says_which_package_of_how_many() -> None:
    line = bootstrap.Line("Installing", 3)
    line.read("Collecting numpy==2.0 (from -r requirements.txt (line 1))")
    line.read("  Downloading numpy-2.0-cp311-manylinux.whl (16.2 MB)")
    assert "1 of 3: numpy-2.0" in line.status() and "of 16.2 MB" in line.status()
    line.read("Collecting something (from numpy==2.0->-r requirements.txt (line 1))")
    line.read("Requirement already satisfied: rich==15 in /x (from -r requirements.txt (line 2))")
    assert "2 of 3: rich==15" in line.status() and "MB" not in line.status()
    line.read("Installing collected packages: numpy, something")
    assert "copying 2 packages" in line.status()


# --- with the real pip -------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with one module, made by hand."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def line(path: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path].encode()).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(files[path].encode())}\n"

    files[f"{info}/RECORD"] = "".join(map(line, list(files))) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


BACKEND = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from test_bootstrap import wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    wheel(pathlib.Path(folder), "llm180-tiny-clone", "1")
    return "llm180_tiny_clone-1-py3-none-any.whl"
"""


def test_a_fresh_clone_is_set_up_by_the_real_pip_and_the_command_goes_on(tmp_path: Path) -> None:
    clone = tiny_clone(tmp_path / "fresh clone")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "llm180-tiny", "1.0")
    wheel(wheels, "torch", "0.0.1")
    source = Path(__file__).read_text(encoding="utf-8")
    body = source[source.index("def wheel(") : source.index("BACKEND = ")]
    (clone / "backend.py").write_text(
        "import base64, hashlib, zipfile, pathlib\nPath = pathlib.Path\n"
        + body.replace("folder: Path, name: str, version: str", "folder, name, version")
        + BACKEND.split("from test_bootstrap import wheel")[1]
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "LLM180_", "PYTHON"))}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llm180", *arguments], cwd=clone, env=environment, capture_output=True, text=True
        )

    first = command("status", "--now")
    assert first.returncode == 7, first.stderr
    assert first.stdout.strip() == f"ran ['status', '--now'] in {clone / '.venv'}"
    phases = [line for line in first.stderr.splitlines() if not line.startswith("Making")]
    assert [p.split(":")[0] for p in phases if "done" in p] == [
        "Installing PyTorch (the largest part)",
        "Installing the other packages",
        "Installing llm180 itself",
    ]
    installed = {p.name for p in (clone / ".venv").rglob("*.dist-info")}
    assert {"torch-0.0.1.dist-info", "llm180_tiny-1.0.dist-info", "llm180_tiny_clone-1.dist-info"} <= installed

    shutil.rmtree(wheels)  # nothing is looked for again
    second = command("status")
    assert second.returncode == 7 and second.stderr == ""
