"""Sets up ``.venv`` in a fresh clone with nothing but Python, then runs the command in it.

Standard library only, in a syntax that old Pythons read. The set-up is done
when ``.venv/llm180-stamp.json`` says so: it is written last, so that a set-up that was
interrupted at any point is taken up again by the next run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

OLDEST, NEWEST = (3, 11, 5), (3, 13)  # as requires-python in pyproject.toml has it
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
WINDOWS = os.name == "nt"

# Groups that every set-up installs. The others belong to lessons; they come with `setup lessons` and with the tests.
EVERYBODY = ("read", "book", "test")

# Commands for which an environment of the user's own has to hold more than the reader's part.
AUTHORS = ("serve", "build", "test", "bench")

HELP = """\
LLM in 180 Days. This environment is not set up yet; each of these commands sets it up first
(about 1.5 GB in .venv, some minutes), and goes on:

  python3 -m llm180 serve     build the book and read it in a browser
  python3 -m llm180 test      run every test
  python3 -m llm180 next      open the next lesson in JupyterLab
  python3 -m llm180 setup     only set up, or repair; `setup lessons`: with what some lessons need besides
"""


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


# --- where we are --------------------------------------------------------------------


def venv_python(venv=None):
    """The environment's own Python."""
    return os.path.join(venv or VENV, *(["Scripts", "python.exe"] if WINDOWS else ["bin", "python"]))


def in_clone():
    return all(os.path.exists(os.path.join(ROOT, name)) for name in ("pyproject.toml", "requirements.txt", "book"))


def in_project_venv():
    return os.path.realpath(sys.prefix) == os.path.realpath(VENV)


def in_any_environment():
    """In a virtual environment or a conda environment, which is the user's own affair."""
    conda = os.environ.get("CONDA_PREFIX")
    return sys.prefix != sys.base_prefix or bool(conda and os.path.realpath(conda) == os.path.realpath(sys.prefix))


def missing_packages(command):
    """The project's dependencies that this environment lacks, by name (versions: see ``llm180 doctor``)."""
    import tomllib
    from importlib import metadata

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file).get("project", {})
    wanted = list(project.get("dependencies", []))
    groups = project.get("optional-dependencies", {})
    for group in groups:
        asked = wants_lessons([command]) if group not in EVERYBODY else command in AUTHORS and group != "read"
        wanted += groups[group] if asked else []
    missing = []
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def wants_lessons(arguments):
    """Whether a command needs the packages of all lessons, not only those that every reader has."""
    return list(arguments[:1]) == ["test"] or list(arguments[:2]) == ["setup", "lessons"]


def supported(version=None):
    version = tuple((version or sys.version_info)[:3])
    return version >= OLDEST and version[:2] <= NEWEST


def unsupported_message(arguments):
    """One line: which Python this is, which is needed, and how to run it if it is here."""
    need = "This is Python %s, and the book needs Python %s to %s" % (_dotted(sys.version_info), _dotted(OLDEST), _dotted(NEWEST))
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = "python3.%d" % minor
        found = shutil.which(name)
        if found and supported(_version_of(found) or (0,)):
            return need + ": run `%s`." % " ".join([name, "-m", "llm180"] + list(arguments))
    return need + ": install one of them and run the command with it."


def _dotted(version):
    return ".".join(str(part) for part in version[:3])


def _version_of(python):
    """``(3, 12, 1)`` of a Python by its path; ``None`` where it does not run."""
    try:
        said = subprocess.run(
            [python, "-I", "-S", "-c", "import sys; print('%d %d %d' % sys.version_info[:3])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        major, minor, micro = said.stdout.decode().split()
        return int(major), int(minor), int(micro)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


# --- the stamp -----------------------------------------------------------------------


def stamp_path():
    return os.path.join(VENV, "llm180-stamp.json")


def wanted_stamp(version, lessons=False):
    """What the set-up depends on: the files, the place (an editable install names it), the Python; with which lessons' packages."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "requirements-lessons.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read().replace(b"\r\n", b"\n") + b"\0")
    return {"files": digest.hexdigest(), "root": ROOT, "python": _dotted(version[:2]), "lessons": lessons}


def read_stamp():
    try:
        with open(stamp_path(), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_stamp(stamp):
    temporary = stamp_path() + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(stamp, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, stamp_path())


def ready(lessons=False):
    """Whether the environment is set up for the files as they are now; with ``lessons``, for every lesson."""
    if not os.path.exists(venv_python()):
        return False
    stamp = read_stamp()
    if stamp is None:
        return False
    version = _version_of(venv_python())
    return version is not None and stamp in [wanted_stamp(version, more) for more in {True, bool(lessons)}]


# --- setting up ----------------------------------------------------------------------


def say(text):
    print(text, file=sys.stderr)
    sys.stderr.flush()


def set_up(again=False, lessons=False):
    """Bring ``.venv`` to what requirements.txt and pyproject.toml say; ``lessons``: with the packages of all lessons.

    What was installed for the lessons once stays so. Raises :class:`SetupError`.
    """
    with _alone() as lock:
        if not again and ready(lessons):  # another run did it while this one waited
            return
        started = time.time()
        lessons = bool(lessons or (read_stamp() or {}).get("lessons"))
        with contextlib.suppress(OSError):
            os.remove(stamp_path())
        make_venv()
        drop_half_installed()
        shutil.rmtree(_temporary(), ignore_errors=True)
        pins = torch_pins()
        if pins:
            pip("Installing PyTorch (the largest part)", pins, 1, lock)
        requirements = os.path.join(ROOT, "requirements.txt")
        pip("Installing the other packages", ["-r", requirements], count_requirements(), lock)
        if lessons:
            more = os.path.join(ROOT, "requirements-lessons.txt")
            pip("Installing what some lessons need", ["-r", more, "-c", requirements], count_requirements(more), lock)
        pip("Installing llm180 itself", ["--no-build-isolation", "--no-deps", "-e", ROOT], 1, lock)
        version = _version_of(venv_python())
        if version is None:
            raise SetupError("%s does not run; delete %s and run the command again." % (venv_python(), VENV))
        write_stamp(wanted_stamp(version, lessons))
        shutil.rmtree(_temporary(), ignore_errors=True)
        say("Set up in %s." % _duration(time.time() - started))


def make_venv():
    """The environment with its pip, made anew where the one that is there does not work."""
    version = _version_of(venv_python()) if os.path.exists(venv_python()) else None
    if version and supported(version) and (_has_pip() or _get_pip()):
        return
    if os.path.lexists(VENV) and not _is_venv(VENV):
        raise SetupError("%s is there and is not a virtual environment; move it away and run the command again." % VENV)
    if not supported():
        raise SetupError(unsupported_message(sys.argv[1:]))
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            raise SetupError(
                "This Python has no %s module: install it (Debian and Ubuntu: `sudo apt install python%s-venv`) "
                "and run the command again." % (module, _dotted(sys.version_info[:2]))
            ) from None
    say("Making an environment in %s with Python %s ..." % (VENV, _dotted(sys.version_info)))
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if made.returncode:
        said = _last_lines(made.stdout.decode("utf-8", "replace"), 5)
        raise SetupError("The environment %s could not be made:\n%s" % (VENV, said))


def _is_venv(path):
    return os.path.isdir(path) and (not os.listdir(path) or os.path.exists(os.path.join(path, "pyvenv.cfg")))


def _has_pip():
    asked = [venv_python(), "-I", "-c", "import pip, sys; sys.exit(sys.prefix == sys.base_prefix)"]
    return not subprocess.run(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def _get_pip():
    """Give pip to an environment that was made without it."""
    command = [venv_python(), "-I", "-m", "ensurepip"]
    return not subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def drop_half_installed():
    """Forget packages that a killed pip left half copied, so that pip installs them again.

    pip writes a package's INSTALLER after all its other files.
    """
    lib = os.path.join(VENV, "Lib") if WINDOWS else os.path.join(VENV, "lib")
    for folder, folders, _ in os.walk(lib):
        if os.path.basename(folder) == "site-packages":
            for name in folders:
                if name.endswith(".dist-info") and not os.path.exists(os.path.join(folder, name, "INSTALLER")):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            folders[:] = []


def requirement_lines(path=None):
    with open(path or os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        lines = [line.split(" #")[0].strip() for line in file]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def count_requirements(path=None):
    return len(requirement_lines(path))


def torch_pins():
    """torch's own line: installed first and by itself, it decides which build the others find."""
    return [line for line in requirement_lines() if re.match(r"torch\s*[=<>~!]=", line)]


# --- pip -----------------------------------------------------------------------------


def pip_command(arguments):
    return [venv_python(), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"] + list(arguments)


def pip_environment():
    """This process's, without what would send packages elsewhere or hide what is missing."""
    environment = dict(os.environ)
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"):
        environment.pop(name, None)
    environment.update(PIP_USER="0", PIP_PROGRESS_BAR="off", PYTHONUNBUFFERED="1", PYTHONUTF8="1")
    environment.update({name: _temporary() for name in ("TMPDIR", "TEMP", "TMP")})
    return environment


def _temporary():
    """Where pip unpacks: on the disk of the environment, for /tmp is often too small for torch."""
    return os.path.join(VENV, "tmp")


def log_path():
    return os.path.join(ROOT, "_build", "setup.log")


def pip(phase, arguments, count, lock=None):
    """One run of pip: a line on stderr, a moving one on a terminal, all that pip says in the log.

    pip holds the set-up's lock too: should this process be killed, the next one waits until pip has ended.
    """
    os.makedirs(_temporary(), exist_ok=True)
    os.makedirs(os.path.dirname(log_path()), exist_ok=True)
    started = time.time()
    said = []
    with open(log_path(), "a", encoding="utf-8") as log, Line(phase, count) as line:
        log.write("\n== %s: pip install %s\n" % (phase, " ".join(arguments)))
        process = subprocess.Popen(
            pip_command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=pip_environment(),
            cwd=ROOT,
            **({"pass_fds": [lock.fileno()]} if lock and not WINDOWS else {})
        )
        try:
            for raw in process.stdout:
                text = raw.decode("utf-8", "replace").rstrip()
                log.write(text + "\n")
                log.flush()
                said.append(text)
                line.read(text)
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise SetupError(explain("\n".join(said)))
    say("%s: done in %s." % (phase, _duration(time.time() - started)))


_NOISE = re.compile(r"^(Looking in |Requirement already satisfied|WARNING: Location |WARNING: Skipping page |\[notice\])")
_CAUSES = (
    (r"No space left on device|Errno 28", "The disk is full: free about 3 GB and run the command again."),
    (r"hash(es)? .*(mismatch|do not match)", "A download was damaged: run the command again."),
    (
        r"Name or service not known|name resolution|getaddrinfo|NewConnectionError|ConnectTimeout|Read timed out"
        r"|Network is unreachable|Connection (refused|reset)|ProxyError|SSLError|CERTIFICATE",
        "The package index cannot be reached: check the connection (or PIP_INDEX_URL, for a mirror) and run the "
        "command again; what was downloaded is kept.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "The package index has no such version for this Python and machine: check that this is a 64-bit Python "
        "and the connection, and run the command again.",
    ),
    (r"Permission denied|Errno 13", "A file of .venv belongs to another user: give it to yourself, or delete .venv."),
)


def explain(text):
    """pip's last lines, and what to do."""
    advice = "Run the command again; if it fails the same way, delete .venv and run it once more."
    for pattern, cause in _CAUSES:
        if re.search(pattern, text):
            advice = cause
            break
    return "The set-up failed. pip said last:\n%s\n%s\nAll that it said: %s" % (_last_lines(text, 8), advice, log_path())


def _last_lines(text, count):
    lines = [line for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    shown = [line if len(line) <= 300 else line[:297] + "..." for line in lines[-count:]]
    return "\n".join("  " + line for line in shown)


def _duration(seconds):
    return "%d min %02d s" % divmod(int(seconds), 60) if seconds >= 60 else "%.0f s" % seconds


class Line:
    """One line per phase; on a terminal a second one that moves with what pip does."""

    def __init__(self, phase, count):
        self.phase = phase
        self.count = count
        self.seen = 0
        self.doing = ""
        self.downloading = ""  # "torch-2.0 (200 MB)" while it comes in
        self.terminal = sys.stderr.isatty()
        self.started = time.time()
        self.stop = threading.Event()
        self.thread = None

    def __enter__(self):
        say(self.phase + " ...")
        if self.terminal:
            self.thread = threading.Thread(target=self.move, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        if self.thread:
            self.thread.join()
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def read(self, text):
        """Take in one line of pip's."""
        found = re.match(r"\s*(Collecting|Processing|Requirement already satisfied:|Obtaining)\s+(\S+)", text)
        fetched = re.match(r"\s*Downloading (?:\S*/)?(\S+)(?: \(([\d.]+ .B)\))?", text)
        if found:
            self.downloading = ""
            if "(from " not in text or "(from -r" in text:  # asked for by name, not by another package
                self.seen = min(self.seen + 1, self.count)
            self.doing = "%d of %d: %s" % (self.seen, self.count, os.path.basename(found.group(2)))
        elif fetched:
            name = "-".join(fetched.group(1).split("-")[:2])
            self.doing = "%d of %d: %s" % (self.seen, self.count, name)
            self.downloading = fetched.group(2) or "?"
        elif text.startswith("Installing collected packages"):
            self.downloading = ""
            self.doing = "copying %d packages into place" % (text.count(",") + 1)
        elif text.lstrip().startswith(("Building", "Preparing", "Getting requirements", "Installing build")):
            self.doing = text.strip()

    def status(self):
        parts = [self.doing or "asking the package index"]
        if self.downloading:
            parts.append("%.0f MB of %s" % (_newest_size(_temporary()) / 1e6, self.downloading))
        parts.append(_duration(time.time() - self.started))
        return "  " + " · ".join(parts)

    def move(self):
        while not self.stop.wait(0.5):
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + self.status()[:width])
            sys.stderr.flush()


def _newest_size(folder):
    """Bytes of the file below ``folder`` that was written to last."""
    newest, size = 0.0, 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(base, name))
            except OSError:
                continue
            if status.st_mtime > newest:
                newest, size = status.st_mtime, status.st_size
    return size


# --- one at a time -------------------------------------------------------------------


@contextlib.contextmanager
def _alone():
    """Hold the set-up's lock; the system lets go of it when the process ends, however it ends."""
    folder = os.path.join(ROOT, "_build")
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, "setup.lock"), "a+")
    except OSError as error:
        raise SetupError("%s cannot be written (%s): the set-up needs a folder of yours." % (ROOT, error.strerror)) from None
    with file:
        waited = False
        while not _lock(file):
            if not waited:
                say("Another set-up is under way; waiting for it.")
                waited = True
            time.sleep(0.5)
        yield file


def _lock(file):
    try:
        if WINDOWS:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        import errno

        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # a file system without locks: go on
    return True


# --- running -------------------------------------------------------------------------


def run_here(arguments):
    """The command line, in this process."""
    from llm180 import cli

    return cli.main(arguments)


def run_in_venv(arguments):
    """The same command with the environment's Python; on POSIX this process becomes it."""
    command = [venv_python(), "-m", "llm180"] + list(arguments)
    if not WINDOWS:
        os.execv(command[0], command)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 130


def main(arguments):
    """The exit status of ``python3 -m llm180 ARGUMENTS``."""
    arguments = list(arguments)
    command = arguments[0] if arguments else ""
    try:
        if command == "setup" and in_clone() and arguments[1:] in ([], ["lessons"]):
            set_up(again=True, lessons=wants_lessons(arguments))
            return 0
        if in_project_venv() and in_clone() and read_stamp() and not ready():
            say("The requirements have changed since the set-up; `python3 -m llm180 setup` brings .venv up to date.")
        if os.environ.get("LLM180_NO_BOOTSTRAP") == "1" or not in_clone() or in_project_venv():
            return run_here(arguments) if supported() else _fail(unsupported_message(arguments))
        if in_any_environment() and supported() and not missing_packages(command):
            return run_here(arguments)
        lessons = wants_lessons(arguments)
        if not ready(lessons):
            if command in ("", "-h", "--help"):
                print(HELP, end="")
                return 0
            if not supported() and not os.path.exists(venv_python()):
                return _fail(unsupported_message(arguments))
            set_up(lessons=lessons)
        return run_in_venv(arguments)
    except SetupError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("Interrupted. The same command takes the set-up up again where it stopped.", 130)
    except OSError as error:
        return _fail("The set-up failed: %s." % error)


def _fail(message, status=1):
    say(message)
    return status
