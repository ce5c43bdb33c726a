"""Day 161: from an issue to a commit: a probe, a smallest input, a bisection, a fix."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm180 import known_mistakes
from solutions.repositories import edit, git, run


def reproduce_issue() -> int:
    """The verdict on the commit whose files lie in the current folder.

    Returns 1 where the issue shows, 0 where it does not, and 125 where the commit
    cannot be judged: it does not import, or lacks what the issue uses. It imports
    inside whatever it needs, because it becomes a program of its own, and leaves no
    file behind.

    Source: the exit codes that ``git bisect run`` expects (git-bisect(1)).
    """
    import sys

    sys.dont_write_bytecode = True
    try:
        from tokstream import StreamDecoder, Vocabulary

        vocabulary = Vocabulary.default()
        decoder = StreamDecoder(vocabulary)
        tokens = vocabulary.encode(" 今天天气很好，我们去公园看花吧。")
        text = "".join(decoder.push(token) for token in tokens)
    except Exception:
        return 125
    return 1 if "\ufffd" in text else 0


known_mistakes(
    reproduce_issue,
    (
        "except Exception:",
        "except ZeroDivisionError:",
        "a commit that does not run ends the program with exit code 1, which git bisect reads as bad",
    ),
    (
        "except Exception:",
        "except ImportError:",
        "a commit can fail in other ways than by its imports: a SyntaxError, a method of another name",
    ),
    ("return 125", "return 1", "a commit that does not run is called bad; it cannot be judged"),
    (
        "return 125",
        "return 0",
        "a commit that does not run is called good; it cannot be judged",
    ),
    (
        'return 1 if "\\ufffd" in text else 0',
        'return 0 if "\\ufffd" in text else 1',
        "good and bad are exchanged: 0 means that the issue does not show",
    ),
    (
        '"\\ufffd" in text',
        'text != " 今天天气很好，我们去公园看花吧。"',
        "any difference of the text counts as the issue; a commit with another bug is blamed",
    ),
    (
        "    sys.dont_write_bytecode = True\n",
        "",
        "importing leaves __pycache__ in the work tree, and a later commit may be judged by stale bytecode",
    ),
    (
        " 今天天气很好，我们去公园看花吧。",
        " The weather is fine today, café.",
        "this text does not show the issue: its characters take one or two bytes",
    ),
)


def minimize_input(items: list[Any], fails: Callable[[list[Any]], bool]) -> list[Any]:
    """A part of ``items``, in their order, that fails and is 1-minimal: ``ddmin``.

    Parameters
    ----------
    items:
        The input that fails; it is left as it is.
    fails:
        Whether a list of some of the items, in their order, fails. It is asked at
        most once about a list, and never about the empty one unless ``items`` is
        empty. Not being able to judge counts as not failing.

    Returns
    -------
    A list that fails, and does not when any one of its items is left out.

    Raises ValueError if ``items`` as a whole does not fail.

    Source: Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing
    Input", the algorithm ddmin.
    """
    known: dict[tuple[int, ...], bool] = {}

    def failing(kept: tuple[int, ...]) -> bool:
        if kept not in known:
            known[kept] = fails([items[i] for i in kept])
        return known[kept]

    kept = tuple(range(len(items)))
    if not failing(kept):
        raise ValueError("the whole input does not fail: there is nothing to shrink")
    parts = 2  # equivalent `parts = 1`: the one chunk is known to fail; two come next
    while len(kept) > 1:  # equivalent `len(kept) != 1`: of the empty list, no part is left
        cuts = [len(kept) * i // parts for i in range(parts + 1)]
        chunks = [kept[a:b] for a, b in pairwise(cuts)]
        rests = [kept[:a] + kept[b:] for a, b in pairwise(cuts)]
        if chunk := next(filter(failing, chunks), ()):
            kept, parts = chunk, 2
        elif rest := next(filter(failing, rests), ()):
            kept, parts = rest, parts - 1
        elif parts < len(kept):  # equivalent `parts != len(kept)`: never more than items
            parts = min(2 * parts, len(kept))
        else:
            break
    return [items[i] for i in kept]


known_mistakes(
    minimize_input,
    (
        "kept, parts = rest, parts - 1",
        "break",
        "the search ends at the first complement that fails; it goes on from there",
    ),
    (
        "        elif rest := next(filter(failing, rests), ()):\n            kept, parts = rest, parts - 1\n",
        "",
        "complements are never tried, so items that fail together only when far apart are not separated",
    ),
    (
        "parts = min(2 * parts, len(kept))",
        "break",
        "the input is cut in halves only; when neither half fails, it must be cut finer",
    ),
    (
        "        if kept not in known:\n            known[kept] = fails([items[i] for i in kept])\n        return known[kept]",
        "        return fails([items[i] for i in kept])",
        "the same list is asked about again; each question may cost a run of minutes",
    ),
    (
        "if not failing(kept):",
        "if False:",
        "an input that does not fail is not refused, and its minimum is meaningless",
    ),
    (
        "kept[:a] + kept[b:]",
        "kept[b:] + kept[:a]",
        "the complement is put together in another order than the input has",
    ),
)


def bisect_regression(repo: Path, good: str, bad: str, command: list[str]) -> str:
    """The commit that made ``command`` fail, by ``git bisect run``.

    Parameters
    ----------
    repo:
        A repository. Afterwards, and after an error too, the same branch or commit
        is checked out as before, and no bisection is under way.
    good, bad:
        Commits, by any name. ``bad`` has ``good`` among its ancestors.
    command:
        A program and its arguments, run in ``repo`` on a commit's files. Exit code 0
        means good, 1 to 124 bad, 125 that the commit cannot be judged.

    Returns
    -------
    The full hash of the first bad commit.

    Raises ValueError if tracked files have changes that are not committed, or if
    ``command``, which is tried on both first, does not find ``good`` good and ``bad``
    bad. Raises LookupError if commits that cannot be judged leave more than one
    candidate, or the command ends otherwise.

    Source: git-bisect(1).
    """
    if git(repo, "status", "--porcelain", "--untracked-files=no"):
        raise ValueError("there are changes that every checkout would carry along")
    git(repo, "bisect", "start")
    try:
        for word, commit, codes in (("good", good, [0]), ("bad", bad, range(1, 125))):
            git(repo, "checkout", "--quiet", commit, "--")
            code = run(command, repo).returncode
            if code not in codes:
                raise ValueError(f"{commit} is not {word}: the exit code is {code}")
            git(repo, "bisect", word, commit)
        search = run(["git", "bisect", "run", *command], repo)
        if search.returncode:
            raise LookupError("more than one candidate is left:\n" + search.stdout)
        return git(repo, "rev-parse", "refs/bisect/bad")
    finally:
        git(repo, "bisect", "reset")


known_mistakes(
    bisect_regression,
    (
        'return git(repo, "rev-parse", "refs/bisect/bad")',
        'return git(repo, "rev-parse", "HEAD")',
        "what is checked out when the search ends need not be the first bad commit",
    ),
    (
        "            if code not in codes:",
        "            if False:",
        "good and bad are believed without a test; a bisection between wrong ends still names a commit",
    ),
    (
        '("bad", bad, range(1, 125))',
        '("bad", bad, range(1, 256))',
        "a bad end that cannot be judged, exit code 125 or above, is taken for bad",
    ),
    (
        '    finally:\n        git(repo, "bisect", "reset")',
        "    finally:\n        pass",
        "the bisection is left under way, with some old commit checked out",
    ),
    (
        "        if search.returncode:",
        "        if False:",
        "a search that ends without a single culprit is not noticed; the last bad commit is returned",
    ),
    (
        '    if git(repo, "status", "--porcelain", "--untracked-files=no"):',
        "    if False:",
        "changes that are not committed are carried into every commit that is tested",
    ),
)


def fix_and_test(repo: Path) -> str:
    """Fix issue 118 on a branch, in one commit that keeps to CONTRIBUTING.md.

    ``repo`` has ``main`` checked out. Its work tree may hold other things, untracked
    files and edits of files that the fix does not touch: they are neither committed
    nor lost. Afterwards the new branch is checked out, and ``main`` has not moved.

    Returns the full hash of the commit.
    """
    git(repo, "switch", "--quiet", "--create", "fix/118-incomplete-tail", "main")
    edit(
        repo / "tokstream" / "utf8.py",
        """\
    # A character of several bytes begins with a byte from 0xC0 on.
    return 1 if data and data[-1] >= 0xC0 else 0
""",
        """\
    for back in range(1, min(len(data), 3) + 1):
        byte = data[-back]
        if byte < 0x80 or byte >= 0xC0:  # the first byte of the last character
            length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            return back if back < length else 0
    return 0
""",
    )
    edit(
        repo / "tests" / "test_stream.py",
        "",
        '''

def test_character_in_two_tokens():
    """Issue 118."""
    for first, rest in ((b"\\xe4\\xb8", b"\\xad"), (b"\\xf0\\x9f\\x8c", b"\\xb8")):
        character = (first + rest).decode("utf-8")
        halves = Vocabulary([first, rest])
        assert stream(character, halves) == ["", character, ""]
''',
    )
    edit(
        repo / "tests" / "test_clip.py",
        "",
        """

def test_no_part_of_a_longer_character():
    for limit, whole in ((2, ""), (3, "中"), (5, "中"), (6, "中"), (7, "中🌸")):
        assert clip("中🌸", limit) == whole
""",
    )
    edit(
        repo / "CHANGELOG.md",
        "## Unreleased\n",
        "## Unreleased\n\n"
        "- Characters of three and four bytes stay whole, in a stream and in `clip`.\n",
    )
    message = """\
Keep characters of three and four bytes whole

incomplete_tail looked at the last byte alone. It therefore saw the
beginning of a character only where one byte of it was there, which is
enough for French and not for Chinese or emoji. clip has been wrong with
these since 0.2; the stream is since 0af04fde3455, which decodes through
the same function.

Look back to the first byte of the last character instead, and compare
the length that it announces with the bytes that have come.

Fixes #118"""
    tests = ["tests/test_stream.py", "tests/test_clip.py"]
    git(repo, "add", "--", "tokstream/utf8.py", *tests, "CHANGELOG.md")
    git(repo, "commit", "--quiet", "--signoff", "--message", message)
    return git(repo, "rev-parse", "HEAD")


# Parts of fix_and_test, and what people write in their place.
_CAUSE = (
    "    edit(\n"
    '        repo / "tokstream" / "utf8.py",\n'
    '        """\\\n'
    "    # A character of several bytes begins with a byte from 0xC0 on.\n"
    "    return 1 if data and data[-1] >= 0xC0 else 0\n"
    '""",\n'
    '        """\\\n'
    "    for back in range(1, min(len(data), 3) + 1):\n"
    "        byte = data[-back]\n"
    "        if byte < 0x80 or byte >= 0xC0:  # the first byte of the last character\n"
    "            length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)\n"
    "            return back if back < length else 0\n"
    "    return 0\n"
    '""",\n'
    "    )\n"
)
_HIDDEN = (
    "    edit(\n"
    '        repo / "tokstream" / "stream.py",\n'
    '        "data[:whole].decode(\\"utf-8\\", errors=\\"replace\\")",\n'
    '        "data[:whole].decode(\\"utf-8\\", errors=\\"ignore\\")",\n'
    "    )\n"
    '    git(repo, "add", "tokstream/stream.py")\n'
)
_GUESSED = (
    "    edit(\n"
    '        repo / "tokstream" / "stream.py",\n'
    '        "        whole = len(data) - incomplete_tail(data)\\n",\n'
    '        "        whole = len(data)\\n"\n'
    '        "        while whole and data[:whole].decode(\\"utf-8\\", \\"replace\\")[-1] == \\"\\\\ufffd\\":\\n"\n'
    '        "            whole -= 1\\n",\n'
    "    )\n"
    '    git(repo, "add", "tokstream/stream.py")\n'
)
_REVERTED = '    git(repo, "revert", "--no-commit", "0af04fde3455")\n'
_TESTS = (
    "    edit(\n"
    '        repo / "tests" / "test_stream.py",\n'
    '        "",\n'
    "        '''\n"
    "\n"
    "def test_character_in_two_tokens():\n"
    '    """Issue 118."""\n'
    '    for first, rest in ((b"\\\\xe4\\\\xb8", b"\\\\xad"), (b"\\\\xf0\\\\x9f\\\\x8c", b"\\\\xb8")):\n'
    '        character = (first + rest).decode("utf-8")\n'
    "        halves = Vocabulary([first, rest])\n"
    '        assert stream(character, halves) == ["", character, ""]\n'
    "''',\n"
    "    )\n"
    "    edit(\n"
    '        repo / "tests" / "test_clip.py",\n'
    '        "",\n'
    '        """\n'
    "\n"
    "def test_no_part_of_a_longer_character():\n"
    '    for limit, whole in ((2, ""), (3, "中"), (5, "中"), (6, "中"), (7, "中🌸")):\n'
    '        assert clip("中🌸", limit) == whole\n'
    '""",\n'
    "    )\n"
)
_WEAK = (
    "    edit(\n"
    '        repo / "tests" / "test_stream.py",\n'
    '        "",\n'
    "        '''\n"
    "\n"
    "def test_streamed_text():\n"
    '    assert "".join(stream("naïve", Vocabulary.default())) == "naïve"\n'
    "''',\n"
    "    )\n"
)
_ABSENT = (
    "    edit(\n"
    '        repo / "tests" / "test_stream.py",\n'
    '        "",\n'
    "        '''\n"
    "\n"
    "def test_no_replacement_character():\n"
    '    halves = Vocabulary([b"\\\\xe4\\\\xb8", b"\\\\xad"])\n'
    '    assert "\\\\ufffd" not in "".join(stream("中", halves))\n'
    "''',\n"
    "    )\n"
)
_OTHER = (
    "    edit(\n"
    '        repo / "tests" / "test_stream.py",\n'
    '        "",\n'
    "        '''\n"
    "\n"
    "def test_length_of_a_character():\n"
    "    from tokstream.utf8 import character_length\n"
    "\n"
    "    assert character_length(0xE4) == 3\n"
    "''',\n"
    "    )\n"
    "    edit(\n"
    '        repo / "tokstream" / "utf8.py",\n'
    '        "",\n'
    "        '''\n"
    "\n"
    "def character_length(first):\n"
    "    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)\n"
    "''',\n"
    "    )\n"
)

known_mistakes(
    fix_and_test,
    (
        'git(repo, "add", "--", "tokstream/utf8.py", *tests, "CHANGELOG.md")',
        'git(repo, "add", "--all")',
        "everything in the work tree is committed, whatever lay there: add the files of the fix by name",
    ),
    (
        'git(repo, "add", "--", "tokstream/utf8.py", *tests, "CHANGELOG.md")',
        'git(repo, "add", "--", "tokstream/utf8.py", "CHANGELOG.md")',
        "the fix comes without its test",
    ),
    (
        '    git(repo, "switch", "--quiet", "--create", "fix/118-incomplete-tail", "main")\n',
        "",
        "the commit is made on main; a contribution comes on a branch of its own",
    ),
    (
        "length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)",
        "length = 1 + (byte >= 0xC0) + (byte >= 0xE0)",
        "characters of three bytes are mended, those of four, such as emoji, are still cut",
    ),
    (
        _CAUSE,
        _HIDDEN,
        "the replacement character is hidden and the character is lost: a symptom is patched",
    ),
    (
        _CAUSE,
        _GUESSED,
        "the stream is mended where the symptom shows; clip, which calls the same function, is not",
    ),
    (
        _CAUSE,
        _REVERTED,
        "the revert takes the newer code away and leaves the wrong function, which clip calls, as it is",
    ),
    (
        _TESTS,
        _WEAK,
        "the new test passes without the fix as well, so it guards nothing",
    ),
    (
        _TESTS,
        _ABSENT,
        "the test says only what must not be there; a decoder that drops characters passes it",
    ),
    (
        _TESTS,
        _OTHER,
        "without the fix the test cannot even run: it tests a new helper, not what the user saw",
    ),
    ("Fixes #118", "See the issue.", "the message does not say which issue it closes"),
    (
        "0af04fde3455",
        "d5b8f3c2a917",
        "the message must name the commit that broke it, by 12 digits of its hash",
    ),
    ('"--signoff", ', "", "the commit is not signed off, which CONTRIBUTING.md asks for"),
)
