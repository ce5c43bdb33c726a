"""The repository that Day 161 works on: ``tokstream``, a small library with a history.

The project is made up; its bug is of a real kind. The server of llama.cpp had one
like it in 2023 (pull request 4446): a character of three bytes arrives in two
tokens, and the reader sees a replacement character.
``python -m solutions.tokstream_history FOLDER`` writes the repository into a folder,
to look at it with your own tools.
"""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solutions.repositories import (
    PYTHON,
    Commit,
    GitError,
    export,
    git,
    make_repository,
    run,
)

ISSUE_NUMBER = 118
GOOD, BAD = "v0.3", "main"

ISSUE = """\
#118  Chinese text sometimes shows � when streamed

I use tokstream 0.5 to print a model's answer while it is generated. English is
fine, French is fine. With Chinese text the stream sometimes shows �, and some
characters of the same sentence are right. I did not see this with 0.3. I think it
began when I switched to top-p sampling.

    from tokstream import StreamDecoder, Vocabulary
    vocabulary = Vocabulary.default()
    decoder = StreamDecoder(vocabulary)
    for token in vocabulary.encode(" 今天天气很好，我们去公园看花吧。"):
        print(decoder.push(token), end="")
    print(decoder.flush())
"""

_LI, _HANNA = "Li Wei <li.wei@example.org>", "Hanna Weiss <hanna@example.org>"
_ANA, _TOMAS = "Ana Souza <ana@example.org>", "Tomas Novak <tomas@example.org>"

# --- the files, as they are when they first appear ------------------------------------

_README = """\
# tokstream

Small tools around a stream of tokens: decode it, sample it, stop it.

## Tests

    python tests/run.py
"""

_INIT = '''\
"""Small tools around a stream of tokens."""

from tokstream.vocabulary import Vocabulary

__version__ = "0.1.dev"
'''

_VOCABULARY = '''\
"""The tokens that a model knows."""


class Vocabulary:
    """Tokens as bytes, by their number."""

    def __init__(self, tokens):
        self.tokens = list(tokens)

    def bytes_of(self, token):
        """The bytes of one token."""
        return self.tokens[token]
'''

_ENCODE = '''
    def encode(self, text):
        """Numbers of the tokens of a text, the longest match first."""
        data, at, found = text.encode("utf-8"), 0, []
        numbers = {token: number for number, token in enumerate(self.tokens)}
        longest = max(map(len, self.tokens))
        while at < len(data):
            for length in range(longest, 0, -1):
                piece = data[at : at + length]
                if piece in numbers:
                    break
            else:
                raise ValueError(f"no token for byte {data[at]:#x}")
            found.append(numbers[piece])
            at += len(piece)
        return found
'''

_DEFAULT = '''
    @classmethod
    def default(cls):
        """Every single byte, and some common words."""
        single = [bytes([value]) for value in range(256)]
        return cls([*single, *(word.encode("utf-8") for word in COMMON)])
'''

_COMMON = """\

COMMON = " the| and|ing|tion| of| to|er|天|我|们|的|是|你|好|。|，".split("|")

"""

_RUN = '''\
"""Run every test: python tests/run.py"""

import pathlib
import sys
import traceback

here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here.parent), str(here)]
count = failed = 0
for path in sorted(here.glob("test_*.py")):
    module = __import__(path.stem)
    for name, test in sorted(vars(module).items()):
        if name.startswith("test"):
            count += 1
            try:
                test()
            except Exception:
                failed += 1
                traceback.print_exc()
print(f"{count} tests, {failed} failed")
sys.exit(bool(failed))
'''

_TEST_VOCABULARY = """\
from tokstream import Vocabulary


def test_a_token_has_its_bytes():
    assert Vocabulary([b"a", b"bc"]).bytes_of(1) == b"bc"
"""

_DECODER = '''\
"""Text from tokens, piece by piece."""

import codecs


class StreamDecoder:
    """Turns tokens into text as they come."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token):
        """Take one token; the text that can be shown now."""
        return self._decoder.decode(self.vocabulary.bytes_of(token))

    def flush(self):
        """The answer is over: the text that is left."""
        return self._decoder.decode(b"", final=True)
'''

_TEST_STREAM = '''\
from tokstream import StreamDecoder, Vocabulary


def stream(text, vocabulary):
    """The pieces that come out while a text is streamed."""
    decoder = StreamDecoder(vocabulary)
    pieces = [decoder.push(token) for token in vocabulary.encode(text)]
    return [*pieces, decoder.flush()]


def test_english():
    words = Vocabulary([b"to", b"ken", b" "])
    assert stream("to ken", words) == ["to", " ", "ken", ""]
'''

_CONTRIBUTING = """\
# Contributing

1. Work on a branch from `main`: `fix/<issue>-<words>` or `feature/<words>`.
   One topic is one commit.
2. The subject says what the commit does, as an order ("Add", "Keep"), in at most
   72 characters, without a full stop. Then an empty line, then why, wrapped at 72.
3. A fix ends with `Fixes #<issue>` on a line of its own. If something worked
   before, the message names the commit that broke it by 12 digits of its hash.
4. Sign off your work (`git commit --signoff`): it certifies its origin.
5. A fix brings a test that fails without it. Tests are plain functions with
   `assert` in `tests/`, and need nothing but Python.
6. Add a line under "Unreleased" in CHANGELOG.md.
7. Leave `tokstream/_bytes.py` alone: `tools/make_bytes.py` writes it.
"""

_CHANGELOG = """\
# Changelog

## Unreleased

## 0.1

- Decode a stream of tokens.
"""

_SAMPLING = '''\
"""Choosing the next token."""

import math


def softmax(logits):
    """Probabilities of a list of logits."""
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    total = sum(weights)
    return [w / total for w in weights]


def top_k(probabilities, k):
    """Numbers of the ``k`` most probable tokens."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    return order[:k]
'''

_TEST_SAMPLING = """\
from tokstream import sampling


def test_top_k():
    assert sampling.top_k([0.1, 0.6, 0.3], 2) == [1, 2]
"""

_TOP_P = '''

def top_p(probabilities, p):
    """The smallest set of most probable tokens that holds ``p``."""
    kept, total = [], 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        kept.append(i)
        total += probabilities[i]
        if total >= p:
            break
    return kept
'''

_UTF8 = '''\
"""Where characters end."""


def incomplete_tail(data):
    """How many bytes at the end of ``data`` begin a character and do not end it."""
    # A character of several bytes begins with a byte from 0xC0 on.
    return 1 if data and data[-1] >= 0xC0 else 0
'''

_CLIP = '''\
"""Keeping within a limit of bytes."""

from tokstream.utf8 import incomplete_tail


def clip(text, limit):
    """The longest beginning of ``text`` that takes at most ``limit`` bytes."""
    data = text.encode("utf-8")[:limit]
    whole = len(data) - incomplete_tail(data)
    return data[:whole].decode("utf-8", errors="replace")
'''

_TEST_CLIP = """\
from tokstream import clip


def test_short_text_stays():
    assert clip("tea", 5) == "tea"


def test_no_half_character():
    assert clip("café", 4) == "caf"
"""

_STOPS = '''\
"""Ending an answer at a stop string."""


class Stops:
    """Passes text on until one of the stop strings comes."""

    def __init__(self, stops):
        self.stops = list(stops)
        self.held = ""
        self.done = False

    def push(self, text):
        """Take some text; the text that is surely before a stop string."""
        self.held += text
        found = [self.held.find(stop) for stop in self.stops if stop in self.held]
        if found:
            self.done = True
            text, self.held = self.held[: min(found)], ""
            return text
        text, self.held = self.held, ""
        return text
'''

_HOLD = """\
        keep = 0
        for stop in self.stops:
            for n in range(1, len(stop)):
                if self.held.endswith(stop[:n]):
                    keep = max(keep, n)
        cut = len(self.held) - keep
        text, self.held = self.held[:cut], self.held[cut:]
        return text
"""

_TEST_STOPS = """\
from tokstream.stops import Stops


def test_text_before_the_stop():
    stops = Stops(["END"])
    assert stops.push("tea END more") == "tea "
    assert stops.done
"""

_MAKE_BYTES = '''\
"""Write tokstream/_bytes.py: the printable character of each byte, as GPT-2 has it."""

import pathlib

plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
names, more = {}, 256
for value in range(256):
    names[value] = value if value in plain else more
    more += value not in plain
lines = ["# Written by tools/make_bytes.py. Do not edit.", "PRINTABLE = ("]
lines += [f"    {chr(names[value])!a}," for value in range(256)]
path = pathlib.Path(__file__).resolve().parent.parent / "tokstream" / "_bytes.py"
path.write_text("\\n".join([*lines, ")", ""]), encoding="ascii")
'''


def _bytes_table() -> str:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    lines, more = ["# Written by tools/make_bytes.py. Do not edit.", "PRINTABLE = ("], 256
    for value in range(256):
        lines.append(f"    {chr(value if value in plain else more)!a},")
        more += value not in plain
    return "\n".join([*lines, ")", ""])


_FASTER = '''\
    def __init__(self, vocabulary):
        self.vocabulary = vocabulary
        self._held = b""

    def push(self, token):
        """Take one token; the text that can be shown now."""
        data = self._held + self.vocabulary.bytes_of(token)
        whole = len(data) - incomplete_tail(data)
        self._held = data[whole:]
        return data[:whole].decode("utf-8", errors="replace")

    def flush(self):
        """The answer is over: the text that is left."""
        held, self._held = self._held, b""
        return held.decode("utf-8", errors="replace")
'''

_BENCHMARK = '''\
"""Tokens decoded per second: python benchmarks/decode.py"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tokstream import StreamDecoder, Vocabulary

vocabulary = Vocabulary.default()
tokens = vocabulary.encode("the token stream of a long answer " * 1000)
decoder = StreamDecoder(vocabulary)
begin = time.perf_counter()
for token in tokens:
    decoder.push(token)
print(f"{len(tokens) / (time.perf_counter() - begin):.0f} tokens per second")
'''

_I, _V, _D, _S = (
    "tokstream/__init__.py",
    "tokstream/vocabulary.py",
    "tokstream/decoder.py",
    "tokstream/stream.py",
)
_P, _TP, _TS, _TV = (
    "tokstream/sampling.py",
    "tests/test_sampling.py",
    "tests/test_stream.py",
    "tests/test_vocabulary.py",
)
_R, _C, _ST, _TST = "README.md", "CHANGELOG.md", "tokstream/stops.py", "tests/test_stops.py"


def _end(text: str) -> tuple[str, str]:
    return "", text


def _test(name: str, claim: str) -> tuple[str, str]:
    return _end(f"\n\ndef test_{name}():\n    assert {claim}\n")


def _release(old: str, new: str, *news: str) -> dict[str, tuple[str, str]]:
    lines = "".join(f"- {line}\n" for line in news)
    head = "## Unreleased\n\n"
    return {
        _I: (f'"{old}"', f'"{new}"'),
        _C: (head, f"{head}## {new}\n\n{lines}\n"),
    }


_SHOWN = "        return self._decoder.decode(self.vocabulary.bytes_of(token))\n"
_STRIPPED = """\
        text = self._decoder.decode(self.vocabulary.bytes_of(token))
        if self._begun or not text:
            return text
        self._begun = True
        return text.lstrip(" ")
"""
_KEPT = "        self.vocabulary = vocabulary\n"
_OLD_BODY = _DECODER[_DECODER.index("    def __init__") :]

_BYTES_OF = "        return self.tokens[token]\n"
_CONFLICT = f"""\
<<<<<<< HEAD
{_BYTES_OF}=======
        return self.tokens[int(token)]
>>>>>>> vocabulary
"""

_MIN_P = '''

def min_p(probabilities, p):
    """Tokens with at least ``p`` times the largest probability."""
    least = p * max(probabilities)
    return [i for i, x in enumerate(probabilities) if x >= least]
'''

_PENALTY = '''

def penalize(logits, seen, penalty):
    """Logits with those of the tokens ``seen`` made smaller."""
    out = list(logits)
    for i in set(seen):
        out[i] = out[i] / penalty if out[i] > 0 else out[i] * penalty
    return out
'''

_ENTROPY = '''

def entropy(probabilities):
    """In nats: how undecided the model is."""
    return -sum(p * math.log(p) for p in probabilities if p > 0)
'''

_RESET = '''
    def reset(self):
        """The answer is dropped: forget what is held."""
        self._held = b""
'''

_TEST_RESET = """

def test_reset():
    decoder = StreamDecoder(Vocabulary.default())
    decoder.push(0xC3)
    decoder.reset()
    assert decoder.flush() == ""
"""

_TEST_ONE_STOP = """

def test_one_stop():
    assert Stops("\\n").push("a\\nb") == "a"
"""

_TEST_TWO_PIECES = """

def test_two_pieces():
    stops = Stops(["END"])
    assert stops.push("tea E") == "tea "
    assert stops.push("ND") == ""
    assert stops.done
"""

_STOPS_FLUSH = '''
    def flush(self):
        """The stream is over: the text that was held back."""
        text, self.held = self.held, ""
        return text
'''

_REPR = """
    def __repr__(self):
        return f"Vocabulary of {len(self.tokens)}"
"""

_TEST_EMPTY = """

def test_empty():
    assert clip("", 3) == ""
"""

_ABOUT_TOP_P = """
## Sampling

`top_p` keeps the most probable tokens that together hold `p`.
"""

HISTORY: list[Commit] = [
    Commit(
        "Begin with a vocabulary",
        {
            _R: _README,
            ".gitignore": "__pycache__/\n",
            _I: _INIT,
            _V: _VOCABULARY,
            "tests/run.py": _RUN,
            _TV: _TEST_VOCABULARY,
        },
    ),
    Commit("Encode a text, the longest token first", {_V: _end(_ENCODE)}),
    Commit(
        "Add the stream decoder",
        {
            _D: _DECODER,
            _I: (
                "from tokstream.voc",
                "from tokstream.decoder import StreamDecoder\nfrom tokstream.voc",
            ),
            _TS: _TEST_STREAM,
        },
    ),
    Commit("Say how to contribute", {"CONTRIBUTING.md": _CONTRIBUTING}),
    Commit("Release 0.1", {_C: _CHANGELOG, _I: ("0.1.dev", "0.1")}, tag="v0.1"),
    Commit("Add top-k sampling", {_P: _SAMPLING, _TP: _TEST_SAMPLING}, author=_ANA),
    Commit(
        "Add a temperature",
        {_P: ("def softmax(logits):", "def softmax(logits, temperature=1.0):")},
        author=_ANA,
    ),
    Commit(
        "Use the temperature that is given",
        {
            _P: (
                "    largest = max(logits)",
                "    logits = [x / temperature for x in logits]\n    largest = max(logits)",
            )
        },
        author=_ANA,
    ),
    Commit("Add top-p sampling", {_P: _end(_TOP_P)}, author=_ANA),
    Commit(
        "Test top-p sampling",
        {_TP: _test("top_p", "sampling.top_p([0.1, 0.6, 0.3], 0.8) == [1, 2]")},
        author=_ANA,
    ),
    Commit(
        "Clip a prompt to a number of bytes",
        {
            "tokstream/utf8.py": _UTF8,
            "tokstream/clip.py": _CLIP,
            _I: ("from tokstream.dec", "from tokstream.clip import clip\nfrom tokstream.dec"),
            "tests/test_clip.py": _TEST_CLIP,
        },
        author=_LI,
    ),
    Commit("Release 0.2", _release("0.1", "0.2", "Sampling.", "`clip`."), tag="v0.2"),
    Commit("End an answer at a stop string", {_ST: _STOPS, _TST: _TEST_STOPS}, author=_TOMAS),
    Commit(
        "Hold back the beginning of a stop string",
        {_ST: ('        text, self.held = self.held, ""\n        return text\n', _HOLD)},
        author=_TOMAS,
    ),
    Commit(
        "Add a default vocabulary",
        {_V: ('knows."""\n\n', 'knows."""\n' + _COMMON)},
        author=_LI,
    ),
    Commit("Make the default vocabulary", {_V: _end(_DEFAULT)}, author=_LI),
    Commit(
        "Name every byte as GPT-2 does",
        {"tools/make_bytes.py": _MAKE_BYTES, "tokstream/_bytes.py": _bytes_table()},
        author=_HANNA,
    ),
    Commit(
        "Test the stream with French text",
        {_TS: _test("french", '"".join(stream("déjà vu", Vocabulary.default())) == "déjà vu"')},
        author=_HANNA,
    ),
    Commit(
        "Release 0.3",
        _release("0.2", "0.3", "Stop strings.", "A default vocabulary."),
        tag="v0.3",
    ),
    # The issue's search begins here.
    Commit(
        "Show a stream in the README",
        {
            _R: _end(
                "\n## Streaming\n\nPush each token, print what comes back, flush at the end.\n"
            )
        },
    ),
    Commit(
        "Strip the space before an answer",
        {
            _D: _DECODER.replace(_SHOWN, _STRIPPED).replace(
                _KEPT, _KEPT + "        self._begun = False\n"
            ),
            _I: ('"0.3"', '"0.4.dev"'),
        },
        author=_TOMAS,
    ),
    Commit(
        "Order equal probabilities by number",
        {_P: ("-probabilities[i])\n    return", "(-probabilities[i], i))\n    return")},
        author=_ANA,
    ),
    Commit("Add min-p sampling", {_P: _end(_MIN_P)}, author=_ANA),
    Commit(
        "Test min-p sampling",
        {_TP: _test("min_p", "sampling.min_p([0.1, 0.6, 0.3], 0.4) == [1, 2]")},
        author=_ANA,
    ),
    Commit(
        "Test that the longest token wins",
        {_TV: _test("longest", 'Vocabulary([b"a", b"ab", b"b"]).encode("abb") == [1, 2]')},
        author=_LI,
    ),
    Commit(
        "Keep the space before an answer",
        {_D: _DECODER},
        author=_TOMAS,
    ),
    Commit(
        "Test that a space is kept",
        {_TS: _test("space", '"".join(stream(" to", Vocabulary.default())) == " to"')},
        author=_TOMAS,
    ),
    Commit("Mark the package as typed", {"tokstream/py.typed": "\n"}, author=_HANNA),
    Commit(
        "Move the decoder to a module of its own name",
        {
            _D: None,
            _S: _DECODER.replace(
                "import codecs", "import codecs\n\nfrom tokstream.decoder import Piece"
            ),
        },
        author=_HANNA,
    ),
    Commit(
        "Import the decoder from its new place",
        {
            _S: _DECODER,
            _I: ("from tokstream.decoder", "from tokstream.stream"),
            _V: (_BYTES_OF, _CONFLICT),
        },
        author=_HANNA,
    ),
    Commit(
        "Take the marks of a merge out",
        {_V: (_CONFLICT, _BYTES_OF)},
        author=_HANNA,
    ),
    Commit(
        "Name the method feed, as other libraries do",
        {
            _S: _DECODER.replace("def push", "def feed"),
            _TS: ("decoder.push", "decoder.feed"),
        },
        author=_TOMAS,
    ),
    Commit("Explain top-p in the README", {_R: _end(_ABOUT_TOP_P)}, author=_ANA),
    Commit(
        "Name the method push again: programs rely on it",
        {_S: _DECODER, _TS: ("decoder.feed", "decoder.push")},
    ),
    # A branch, and main beside it.
    Commit(
        "Measure tokens decoded per second",
        {"benchmarks/decode.py": _BENCHMARK},
        on="faster",
        author=_HANNA,
    ),
    Commit("Penalize repetition", {_P: _end(_PENALTY)}, author=_ANA),
    Commit(
        "Keep the tokens as a tuple",
        {_V: ("self.tokens = list(tokens)", "self.tokens = tuple(tokens)")},
        on="faster",
        author=_HANNA,
    ),
    Commit(
        "Test the repetition penalty",
        {_TP: _test("penalty", "sampling.penalize([2.0, -1.0], [0, 1], 2.0) == [1.0, -2.0]")},
        author=_ANA,
    ),
    Commit(
        "Decode without a codec object\n\n"
        "One call less per token: 1.6 times as fast on the benchmark. Where a\n"
        "character ends is known from its first byte, as clip does it.",
        {
            _S: _DECODER.replace(_OLD_BODY, _FASTER).replace(
                "import codecs", "from tokstream.utf8 import incomplete_tail"
            )
        },
        on="faster",
        author=_HANNA,
    ),
    Commit(
        "Forget what is held when an answer is dropped",
        {_S: _end(_RESET), _TS: _end(_TEST_RESET)},
        on="faster",
        author=_HANNA,
    ),
    Commit(
        "Accept one stop string as well",
        {_ST: ("list(stops)", "[stops] if isinstance(stops, str) else list(stops)")},
        author=_TOMAS,
    ),
    Commit(
        "Say how to measure",
        {"benchmarks/README.md": "# Benchmarks\n\n    python benchmarks/decode.py\n"},
        on="faster",
        author=_HANNA,
    ),
    Commit("Test one stop string", {_TST: _end(_TEST_ONE_STOP)}, author=_TOMAS),
    Commit("Merge branch 'faster' (#97)", merges="faster"),
    Commit(
        "Release 0.4",
        _release("0.4.dev", "0.4", "Faster decoding.", "min-p.", "A repetition penalty."),
        tag="v0.4",
    ),
    Commit("Add an entropy", {_P: _end(_ENTROPY)}, author=_ANA),
    Commit(
        "Test the entropy",
        {_TP: _test("entropy", "sampling.entropy([1.0, 0.0]) == 0.0")},
        author=_ANA,
    ),
    Commit("Show a vocabulary by its size", {_V: _end(_REPR)}, author=_LI),
    Commit(
        "Test how a vocabulary is shown",
        {_TV: _test("shown", 'repr(Vocabulary([b"a"])) == "Vocabulary of 1"')},
        author=_LI,
    ),
    Commit(
        "Test a stop string that comes in two pieces",
        {_TST: _end(_TEST_TWO_PIECES)},
        author=_TOMAS,
    ),
    Commit(
        "Give the text that is left when the stream ends",
        {_ST: _end(_STOPS_FLUSH)},
        author=_TOMAS,
    ),
    Commit(
        "Begin a page about sampling",
        {"docs/sampling.md": "# Sampling\n\nTemperature first, then the filters.\n"},
        on="docs",
        author=_ANA,
    ),
    Commit(
        "Say which Python is needed", {_R: _end("\nPython 3.9 or later, and nothing else.\n")}
    ),
    Commit(
        "Explain min-p",
        {"docs/sampling.md": _end("\nmin-p keeps what is not much rarer than the best.\n")},
        on="docs",
        author=_ANA,
    ),
    Commit("Merge branch 'docs' (#109)", merges="docs"),
    Commit(
        "Stop adding up when top-p is reached",
        {
            _P: (
                "        total += probabilities[i]\n        if total >= p:\n            break\n",
                "        total += probabilities[i]\n        if total >= p:\n            return kept\n",
            )
        },
        author=_LI,
    ),
    Commit(
        "Name the authors",
        {"AUTHORS": "Mara Lind\nHanna Weiss\nLi Wei\nAna Souza\nTomas Novak\n"},
    ),
    Commit("Release 0.5", _release("0.4", "0.5", "Entropy.", "`Stops.flush`."), tag="v0.5"),
    Commit(
        "Test the clip of an empty text", {"tests/test_clip.py": _end(_TEST_EMPTY)}, author=_LI
    ),
    Commit("Link the changelog from the README", {_R: _end("\nWhat is new: CHANGELOG.md.\n")}),
]


def build(folder: Path) -> Path:
    """Write the whole repository into ``folder``, ``main`` checked out; returns it."""
    return make_repository(folder, HISTORY)


class Workbench:
    """The repository on disk, in a temporary folder that goes with this object.

    ``repo`` is the reader's own copy, to work on; :meth:`fresh` gives further ones,
    and :meth:`tree` the files of a commit.
    """

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="llm180-", ignore_cleanup_errors=True)
        self.folder = Path(self._home.name)
        self._origin = build(self.folder / "origin")
        self.repo = Path(shutil.copytree(self._origin, self.folder / "tokstream"))

    def close(self) -> None:
        """Remove the folder now; otherwise it goes when Python ends."""
        self._home.cleanup()

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A repository as it was at the beginning; its folder is removed after.

        The folder that it lies in holds nothing else.
        """
        with tempfile.TemporaryDirectory(
            prefix="llm180-", ignore_cleanup_errors=True
        ) as folder:
            yield Path(shutil.copytree(self._origin, Path(folder) / "tokstream"))

    def tree(self, commit: str) -> Path:
        """A new folder with the files of a commit of the original repository."""
        folder = tempfile.mkdtemp(prefix="tree-", dir=self.folder)
        return export(self._origin, git(self._origin, "rev-parse", commit), Path(folder))


_OBSERVE = """
import sys
sys.dont_write_bytecode = True
streams, clips = eval(sys.stdin.read())
sys.path.insert(0, ".")
import tokstream
pieces = []
for tokens in streams:
    decoder = tokstream.StreamDecoder(tokstream.Vocabulary(tokens))
    came = [decoder.push(number) for number in range(len(tokens))]
    pieces.append([*came, decoder.flush()])
print(ascii((pieces, [tokstream.clip(*case) for case in clips])))
"""


def observe(
    tree: Path, streams: list[list[bytes]], clips: list[tuple[str, int]]
) -> tuple[list[list[str]], list[str]]:
    """What the library in ``tree`` does, found out in a process of its own.

    For each stream, a list of tokens as bytes: what ``push`` gives for each token,
    and at last what ``flush`` gives. For each ``(text, limit)``: ``clip``'s result.
    Raises GitError with the library's own error if it does not come to an end.
    """
    done = run([*PYTHON, "-c", _OBSERVE], tree, given=repr((streams, clips)))
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GitError(f"the library fails: {said}")
    return ast.literal_eval(done.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m solutions.tokstream_history FOLDER")
    print(build(Path(sys.argv[1])))
