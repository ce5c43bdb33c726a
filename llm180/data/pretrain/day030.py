"""The text of Day 30, and the pre-training of its small BERT.

    python -m llm180.data.pretrain.day030

stores the weights for ``data.weights("day030")``, the curve of the run, and what many
fine-tunings from these weights and from random ones gave. It takes about
a quarter of an hour of one processor core and is deterministic: one thread, one seed. The
page takes its sentences from here.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from llm180 import data
from llm180.data.pretrain import save

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
VOCABULARY = 3000  # entries, special ones included
LONGEST = 30  # words of a line of pre-training text; with [CLS] and [SEP] 32 tokens
SIZES = {"vocab_size": VOCABULARY, "d": 64, "heads": 4, "layers": 2, "max_len": 32}


Example = tuple[tuple[str, ...], int]  # words and class


class Sentence(NamedTuple):
    """Words in lower case, the mark that ended them, and whether they are spoken; None if only some are."""

    words: tuple[str, ...]
    mark: str
    spoken: bool | None


class Task(NamedTuple):
    """Labeled sentences, half of them of each class; no test sentence is in the text."""

    pool: list[Example]  # to draw training sets from
    validation: list[Example]
    test: list[Example]


class Corpus(NamedTuple):
    """What the lesson reads."""

    vocabulary: list[str]
    text: list[tuple[str, ...]]  # lines to pre-train on; no marks are left in them
    held_out: list[tuple[str, ...]]  # lines for which the masked loss is reported
    voice: Task  # 1: a person of the novel speaks; 0: the narrator
    question: Task  # 1: a question; 0: a statement


def sentences() -> list[Sentence]:
    """The sentences of the six novels, in order, without headings."""
    found = []
    for novel in data.load("austen").values():
        novel = re.sub(r"\b(Mr|Mrs|Dr|St|Messrs|Esq|Capt)\.", r"\1", novel)
        for paragraph in re.split(r"\n\s*\n", novel):
            paragraph = " ".join(paragraph.split())
            if re.match(r"(chapter|volume)\b", paragraph, re.IGNORECASE):
                continue
            inside = False  # between two quotation marks
            for match in re.finditer(r'[^.?!]+[.?!]+"?', paragraph):
                piece = match[0].strip()
                opens, closes, quotes = piece.startswith('"'), piece.endswith('"'), piece.count('"')
                spoken = True if (inside or opens) and quotes == opens + closes else None
                spoken = False if not inside and quotes == 0 else spoken
                inside ^= quotes % 2 == 1
                words = tuple(re.findall(r"[a-z]+(?:'[a-z]+)?", piece.lower()))
                if words:
                    found.append(Sentence(words, piece.rstrip('"')[-1], spoken))
    return found


def balanced(ones: list[tuple[str, ...]], zeros: list[tuple[str, ...]], rng: random.Random) -> list[Example]:
    """As many of each class, length by length, shuffled."""
    groups: dict[int, list[list[tuple[str, ...]]]] = defaultdict(lambda: [[], []])
    for kind, group in enumerate((ones, zeros)):
        for words in group:
            groups[len(words)][kind].append(words)
    found: list[Example] = []
    for _, (some, others) in sorted(groups.items()):
        count = min(len(some), len(others))
        found += [(words, 1) for words in rng.sample(some, count)]
        found += [(words, 0) for words in rng.sample(others, count)]
    rng.shuffle(found)
    return found


def corpus(seed: int = 30) -> Corpus:
    """Split the novels into text to pre-train on, held-out lines, and two labeled tasks.

    Questions and statements are spoken and 4 to 16 words long; those for validation and
    test, and all that read the same, are taken out of the text. Voices are the first 12
    words of lines of 5 words or more; those for the test are held-out lines.
    """
    rng = random.Random(seed)
    found = sentences()
    everything = list({(s.words, s.mark, bool(s.spoken)): s for s in found}.values())  # each once
    by_length = defaultdict(list)
    questions = []
    for sentence in everything:
        if sentence.spoken and 4 <= len(sentence.words) <= 16:
            if sentence.mark == "?":
                questions.append(sentence.words)
            elif sentence.mark == ".":
                by_length[len(sentence.words)].append(sentence.words)
    asked = set(questions)
    labeled = [(words, 1) for words in questions]
    for length in sorted(by_length):
        plain = [words for words in by_length[length] if words not in asked]
        wanted = sum(len(words) == length for words in questions)
        labeled += [(words, 0) for words in rng.sample(plain, wanted)]
    rng.shuffle(labeled)
    question = Task(labeled[1000:], labeled[600:1000], labeled[:600])
    hidden = {words for words, _ in question.test + question.validation}
    text = [
        sentence.words[start : start + LONGEST]
        for sentence in everything
        if sentence.words not in hidden
        for start in range(0, len(sentence.words), LONGEST)
    ]
    rng.shuffle(text)
    held_out, text = text[:1000], text[1000:]
    counts = Counter(word for words in text for word in words)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    vocabulary = [*SPECIAL, *ranked[: VOCABULARY - len(SPECIAL)]]

    heard: dict[tuple[str, ...], set[bool | None]] = defaultdict(set)
    for sentence in found:
        heard[sentence.words[:LONGEST]].add(sentence.spoken)
    seen, fresh = (
        balanced(*([w[:12] for w in part if len(w) >= 5 and heard.get(w) == {kind}] for kind in (True, False)), rng)
        for part in (text, held_out)
    )
    test = set(fresh)
    seen = [example for example in seen if example not in test]
    return Corpus(vocabulary, text, held_out, Task(seen[400:], seen[:400], fresh), question)


def encode(lines: Iterable[Sequence[str]], vocabulary: list[str]) -> torch.Tensor:
    """Ids, shape (B, n): [CLS], the words, [SEP], and padding up to the longest."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    rows = [[1, *(ids.get(word, 4) for word in words), 2] for words in lines]
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def batches(text: list, size: int, generator: torch.Generator) -> Iterable[list]:
    """Endless batches of lines of similar length, each epoch in another order."""
    while True:
        order = torch.randperm(len(text), generator=generator).tolist()
        for start in range(0, len(order), 50 * size):
            near = sorted(order[start : start + 50 * size], key=lambda i: len(text[i]))
            for at in torch.randperm(-(-len(near) // size), generator=generator).tolist():
                yield [text[i] for i in near[at * size : (at + 1) * size]]


def pretrain(
    lines: Corpus, steps: int, size: int = 64, peak: float = 2e-3, seed: int = 30, report: int = 500
) -> tuple[torch.nn.Module, np.ndarray]:
    """A model after so many steps, and rows (step, held-out loss, held-out accuracy)."""
    from tqdm import tqdm

    from solutions.day030_mini_bert import MiniBert, mask_tokens, mlm_loss

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = MiniBert(**SIZES, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, fused=True)
    warm = min(300, steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / warm, (steps - k) / (steps - warm))
    )
    fixed = torch.Generator().manual_seed(1)
    inputs, labels = mask_tokens(encode(lines.held_out, lines.vocabulary), VOCABULARY, fixed)
    curve = []
    feed = batches(lines.text, size, generator)
    progress = tqdm(range(1, steps + 1))
    for step in progress:
        x, y = mask_tokens(encode(next(feed), lines.vocabulary), VOCABULARY, generator)
        places = y != -100
        loss = mlm_loss(model.logits(model(x)[places]), y[places])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % report == 0 or step == steps:
            with torch.no_grad():
                places = labels != -100
                logits = model.logits(model(inputs)[places])
                right = (logits.argmax(dim=-1) == labels[places]).double().mean().item()
                held = mlm_loss(logits, labels[places]).item()
            curve.append((step, held, right))
            progress.set_description(f"held-out loss {held:.3f}, accuracy {right:.3f}")
    return model, np.array(curve)


COUNTS = (50, 200, 800)  # labels
SEEDS = 8
TASKS = ("voice", "question")
WAYS = ("tuned", "scratch", "frozen")
RATES = {"tuned": (3e-4, 1e-3, 3e-3), "scratch": (3e-4, 1e-3, 3e-3), "frozen": (1e-2, 3e-2, 1e-1)}  # learning rates tried


def labeled(task: Task, count: int, seed: int) -> list[Example]:
    """So many labeled sentences of the pool; the same ones for the same seed."""
    return random.Random(seed).sample(task.pool, count)


def tensors(examples: list[Example], vocabulary: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (N, n) and classes (N,)."""
    return encode([words for words, _ in examples], vocabulary), torch.tensor([kind for _, kind in examples])


def run(way: str, model: torch.nn.Module, lines: Corpus, task: str, count: int, seed: int, rate: float) -> tuple[float, float]:
    """Accuracy on the validation and on the test set, after one fine-tuning of 60 steps."""
    from solutions.day030_mini_bert import MiniBert, finetune

    given: Task = getattr(lines, task)
    torch.manual_seed(1000 + seed)
    start = MiniBert(**SIZES) if way == "scratch" else model
    train = tensors(labeled(given, count, seed), lines.vocabulary)
    validation, test = (tensors(part, lines.vocabulary) for part in (given.validation, given.test))
    tuned = finetune(start, train, test, seed, steps=60, lr=rate, freeze=way == "frozen")
    with torch.no_grad():
        right = tuned.head(tuned.encoder(validation[0])[:, 0]).argmax(dim=1) == validation[1]
    return right.double().mean().item(), tuned.accuracy


def compare(way: str, task: str, model: torch.nn.Module, lines: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Fine-tune in one way: from the model, from random weights, or with the model frozen.

    For each count of labels the learning rate is the one of the best mean accuracy on the
    validation set. Returns the index of the rate, by count, and with it the accuracies on
    the test set, by count and seed.
    """
    chosen, accuracy = [], []
    for count in COUNTS:
        table = np.array([[run(way, model, lines, task, count, seed, rate) for seed in range(SEEDS)] for rate in RATES[way]])
        means = table.mean(axis=1)
        best = int(means[:, 0].argmax())
        chosen.append(best)
        accuracy.append(table[best, :, 1])
        print(f"{task}, {way}, {count}: rate {RATES[way][best]:g}, validation {means[:, 0].round(3)}, test {means[:, 1].round(3)}", flush=True)
    return np.array(chosen), np.array(accuracy)


def study(model: torch.nn.Module, lines: Corpus) -> dict[str, np.ndarray]:
    """Both tasks in all ways, with the weights as they are stored: arrays (tasks, ways, counts) and more."""
    from solutions.day030_mini_bert import MiniBert

    stored = MiniBert(**SIZES)
    stored.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    table = [[compare(way, task, stored, lines) for way in WAYS] for task in TASKS]
    return {
        "study_best": np.array([[chosen for chosen, _ in row] for row in table]),
        "study_accuracy": np.array([[accuracy for _, accuracy in row] for row in table]),
    }


def main(steps: int = 7000) -> None:
    """Pre-train and store the weights."""
    torch.set_num_threads(1)
    lines = corpus()
    model, curve = pretrain(lines, steps)
    state = dict(model.state_dict())
    state |= study(model, lines)
    state |= {"curve_step": curve[:, 0].astype(int), "curve_loss": curve[:, 1], "curve_accuracy": curve[:, 2]}
    save(
        "day030",
        state,
        title="A BERT of two layers and 64 dimensions, pre-trained on words of the novels without their marks",
        trained_on=["austen"],
        note=f"{steps} steps of 64 lines, about seven minutes of one processor core, and as long again for the fine-tuning that is "
        f"stored with them. On held-out text {curve[-1, 2]:.0%} of the chosen words are guessed right, at a loss of {curve[-1, 1]:.2f} nats.",
    )


if __name__ == "__main__":
    main()
