"""Notes which project files a page uses, in every Python process that the page starts.

The folder of this file stands first on ``PYTHONPATH`` while a page is under
test, so that Python runs it before anything else, in the kernel and in the
processes that the kernel starts. It needs two environment variables:

``LLM180_TRACE``        the folder that the notes go to (file ``uses``)
``LLM180_TRACE_ROOT``   the project; files outside it are not noted

A note is one line: ``R path`` (read), ``W path`` (written), ``N host`` (the
network was asked for, and refused). Each is appended at once, so a process
that is killed loses nothing. Only files opened through Python are seen; a
library that opens files in C or Rust by itself is not.
"""

import os
import sys


def _install(folder: str, root: str) -> None:
    root = root.rstrip(os.sep) + os.sep
    skipped = tuple(root + name for name in (".", "_build" + os.sep, "work" + os.sep))
    notes = os.open(os.path.join(folder, "uses"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    creates = os.O_CREAT | os.O_TRUNC
    seen = set()

    def note(kind: str, what: str) -> None:
        if (kind, what) not in seen:
            seen.add((kind, what))
            try:
                os.write(notes, f"{kind} {what}\n".encode("utf-8", "surrogateescape"))
            except OSError:  # the page closed every descriptor: nothing more can be noted
                pass

    def outside(host: object) -> bool:
        if not isinstance(host, (str, bytes)) or not host:
            return False
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        return not (name in ("localhost", "::1", "0.0.0.0", "::") or name.startswith("127."))

    def refuse(host: object) -> None:
        note("N", str(host))
        raise PermissionError(f"a lesson runs with no network, but this cell asked for {host}")

    def hook(event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            if not isinstance(path, (str, bytes)):
                return
            name = os.path.abspath(os.fsdecode(path))
            if not name.startswith(root) or name.startswith(skipped):
                return
            written = isinstance(flags, int) and (flags & creates or flags & 3 == os.O_WRONLY)
            note("W" if written else "R", name)
        elif event == "sqlite3.connect":
            if isinstance(args[0], (str, bytes)) and os.path.exists(args[0]):
                name = os.path.abspath(os.fsdecode(args[0]))
                if name.startswith(root) and not name.startswith(skipped):
                    note("R", name)
        elif event in ("socket.connect", "socket.sendto"):
            address = args[1]
            if isinstance(address, tuple) and outside(address[0]):
                refuse(address[0])
        elif event == "socket.getaddrinfo" and outside(args[0]):
            host = args[0].decode() if isinstance(args[0], bytes) else args[0]
            if "." in host:  # the machine's own bare name may be looked up
                refuse(host)

    sys.addaudithook(hook)


def _shadowed() -> None:
    """Run the ``sitecustomize`` that this one hides, where the Python installation has one."""
    here = os.path.dirname(os.path.abspath(__file__))
    for entry in sys.path:
        path = os.path.join(entry or ".", "sitecustomize.py")
        if os.path.abspath(entry or ".") != here and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                exec(compile(file.read(), path, "exec"), {"__name__": "sitecustomize", "__file__": path})
            return


if os.environ.get("LLM180_TRACE") and os.environ.get("LLM180_TRACE_ROOT"):
    _install(os.environ["LLM180_TRACE"], os.environ["LLM180_TRACE_ROOT"])
_shadowed()
