"""Day 45: a Transformer and Day 28's recurrent network translate short lines of the LibreOffice help into Chinese.

    python -m llm180.data.pretrain.day045

searches the factor of the learning rate for each kind, trains three seeds of each on the same batches, and translates
the test lines by beam search of several widths. The lesson takes its data, its training loop and its decoders from here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from llm180 import data
from llm180.data import Pair
from llm180.data.pretrain import save
from solutions.day028_seq2seq import END, PAD, START, Seq2Seq
from solutions.day043_transformer import Transformer, tie_embeddings
from solutions.day044_tokenization import bpe_encode, train_bpe
from solutions.day045_translation import beam_search, bleu, noam_lr

UNKNOWN = 3  # the fourth symbol of the Chinese vocabulary
WORDS, CHARACTERS = 8, 20  # at most, of a line in English and in Chinese
PIECES = 800  # of English
KINDS = "Transformer", "GRU"
WIDTH, FEED_FORWARD, LAYERS, HEADS = 64, 256, 2, 4
DROPOUT, SMOOTHING = 0.1, 0.1
STEPS, BATCH, WARMUP = 800, 64, 200
FACTORS = 0.5, 1.0, 2.0, 4.0
SEEDS = range(3)
LONGEST = 30  # symbols of a translation, with END
BEAMS = 1, 2, 4, 8, 16, 64
EVERY = 4  # one test line of so many is translated with all widths


# The data -------------------------------------------------------------------------------------------------------------


def pairs() -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Short pairs to train on, to choose settings by, and to test on.

    The help is cut into stretches of 100 pairs; two of every 20 stretches are held out as wholes, so that neighbors in
    a list, which are often alike, do not fall on both sides.
    """
    parts: dict[int, list[Pair]] = {7: [], 17: []}
    train: list[Pair] = []
    for i, pair in enumerate(data.load("en-zh")):
        if len(pair.en.split()) <= WORDS and len(pair.zh) <= CHARACTERS:
            parts.get(i // 100 % 20, train).append(pair)
    return train, parts[17], parts[7]


class Vocabularies:
    """English by Day 44's byte-level BPE, Chinese by characters; symbols 0 to 2 are PAD, START and END on both sides."""

    def __init__(self, train: Sequence[Pair]) -> None:
        self.merges = train_bpe("\n".join(pair.en for pair in train), PIECES)
        self.words: dict[str, list[int]] = {}  # already encoded
        self.lines: dict[str, list[int]] = {}
        counts = Counter(c for pair in train for c in pair.zh)
        self.characters = ["", "", "", "\N{REPLACEMENT CHARACTER}", *sorted(c for c in counts if counts[c] > 2)]
        self.number = {c: i for i, c in enumerate(self.characters) if i > UNKNOWN}
        self.sizes = 256 + len(self.merges) + 3, len(self.characters)

    def source(self, text: str) -> list[int]:
        """The symbols of an English line."""
        if text not in self.lines:
            self.lines[text] = [i + 3 for i in bpe_encode(text, self.merges, self.words)]
        return self.lines[text]

    def target(self, text: str) -> list[int]:
        """The symbols of a Chinese line, without START and END."""
        return [self.number.get(c, UNKNOWN) for c in text]

    def text(self, symbols: Sequence[int]) -> str:
        """The Chinese line of symbols."""
        return "".join(self.characters[i] for i in symbols)


@lru_cache(maxsize=1)
def corpus() -> tuple[list[Pair], list[Pair], list[Pair], Vocabularies]:
    """The three parts, and the vocabularies, which are made from the first."""
    train, valid, test = pairs()
    return train, valid, test, Vocabularies(train)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])


def tensors(some: Sequence[Pair], words: Vocabularies) -> tuple[Tensor, Tensor, Tensor]:
    """Sources ``(B, n)``, their lengths ``(B,)``, and targets ``(B, m)`` from START to END."""
    sources = [words.source(pair.en) for pair in some]
    targets = [[START, *words.target(pair.zh), END] for pair in some]
    return padded(sources), torch.tensor([len(row) for row in sources]), padded(targets)


def batches(
    train: Sequence[Pair], words: Vocabularies, seed: int, batch: int = BATCH
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches without end, epoch by epoch, each of lines of similar length."""
    rng = np.random.default_rng(seed)
    rows = [(words.source(pair.en), [START, *words.target(pair.zh), END]) for pair in train]
    while True:
        order = rng.permutation(len(train))
        for at in range(0, len(order), 8 * batch):
            pool = sorted(order[at : at + 8 * batch], key=lambda i: len(train[i].zh))
            cuts = range(0, len(pool), batch)
            for cut in rng.permutation(cuts):
                sources, targets = zip(*(rows[i] for i in pool[cut : cut + batch]))
                yield padded(sources), torch.tensor([len(row) for row in sources]), padded(targets)


# The models -----------------------------------------------------------------------------------------------------------


def make(kind: str, sizes: tuple[int, int], dropout: float = DROPOUT) -> nn.Module:
    """A new model, from torch's global generator. Day 28's network gets its dropout by hooks: it has none of its own."""
    if kind == "Transformer":
        layers = {"encoder_layers": LAYERS, "decoder_layers": LAYERS}
        model = Transformer(*sizes, d_model=WIDTH, heads=HEADS, d_ff=FEED_FORWARD, dropout=dropout, **layers)
        tie_embeddings(model)
        return model
    network = Seq2Seq(*sizes, WIDTH, WIDTH)
    drop = lambda x: F.dropout(x, dropout, network.training)
    for table in (network.encoder.embedding, network.embedding):
        table.register_forward_hook(lambda module, inputs, output: drop(output))
    network.output.register_forward_pre_hook(lambda module, inputs: (drop(inputs[0]),))
    return network


def logits(model: nn.Module, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
    """Teacher forcing, ``(B, m - 1, V)``, for both kinds."""
    if isinstance(model, Seq2Seq):
        return model(source, lengths, target)
    return model(source, target[:, :-1], source != PAD)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], smoothing: float) -> Tensor:
    """Mean cross-entropy in nats per symbol."""
    scores, wanted = logits(model, *batch).flatten(0, 1), batch[2][:, 1:].flatten()
    return F.cross_entropy(scores, wanted, ignore_index=PAD, label_smoothing=smoothing)


def train(
    model: nn.Module,
    feed: Iterator[tuple[Tensor, Tensor, Tensor]],
    steps: int,
    rate: Callable[[int], float],
    smoothing: float = SMOOTHING,
) -> list[float]:
    """Adam as in Vaswani et al. 2017, sec. 5.3, at ``rate(step)``, step from 1. Returns the loss of each step."""
    adam = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9)
    model.train()
    losses = []
    for step in tqdm(range(1, steps + 1), desc="training"):
        adam.param_groups[0]["lr"] = rate(step)
        adam.zero_grad()
        cost = loss(model, next(feed), smoothing)
        cost.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(cost.item())
    return losses


def multiply_adds(kind: str, sizes: tuple[int, int], n: int, m: int) -> int:
    """Multiplications with an addition of one forward pass, for a source of n and a target of m symbols to predict."""
    w, vocabulary = WIDTH, sizes[1]
    if kind == "Transformer":
        encoder = n * (4 * w * w + 2 * w * FEED_FORWARD) + 2 * n * n * w
        decoder = m * (6 * w * w + 2 * w * FEED_FORWARD) + 2 * n * w * w + 2 * m * m * w + 2 * m * n * w
        return LAYERS * (encoder + decoder) + m * w * vocabulary
    encoder = 2 * n * 3 * w * (w + w) + n * 2 * w * w + 2 * w * w  # two directions, keys, bridge
    step = w * w + 3 * n * w + 3 * w * (3 * w + w) + 3 * w * vocabulary  # query, scores and context, cell, output
    return encoder + m * step


# Translating ----------------------------------------------------------------------------------------------------------


def stepper(model: nn.Module, source: Tensor) -> Callable[[Tensor], Tensor]:
    """What ``beam_search`` asks for: log-probabilities ``(k, V)`` after prefixes ``(k, t)``, for one source ``(1, n)``."""
    if isinstance(model, Seq2Seq):
        with torch.no_grad():
            first, single = model.encode(source, torch.tensor([source.shape[1]]))
        states = {(): first[0]}  # after which prefix

        def advance(prefixes: Tensor) -> Tensor:
            rows, k = [tuple(row) for row in prefixes.tolist()], len(prefixes)
            before = torch.stack([states[row[:-1]] for row in rows])
            memory = {name: value.expand(k, *value.shape[1:]) for name, value in single.items()}
            scores, after, _ = model.step(prefixes[:, -1], before, memory)
            states.update(zip(rows, after))
            return scores.log_softmax(-1)

        return advance
    with torch.no_grad():
        memory = model.encode(source)

    def look(prefixes: Tensor) -> Tensor:
        return model.decode(prefixes, memory.expand(len(prefixes), -1, -1))[:, -1].log_softmax(-1)

    return look


def greedy(model: nn.Module, sources: Sequence[Sequence[int]], longest: int = LONGEST) -> list[list[int]]:
    """The most probable symbol at each step, for many sources at once, each without START and END."""
    model.eval()
    source, lengths = padded(sources), torch.tensor([len(row) for row in sources])
    written = torch.full((len(source), 1), START)
    ended = torch.zeros(len(source), dtype=torch.bool)
    with torch.no_grad():
        if isinstance(model, Seq2Seq):
            state, memory = model.encode(source, lengths)
        else:
            mask = source != PAD
            memory = model.encode(source, mask)
        for _ in range(longest):
            if isinstance(model, Seq2Seq):
                scores, state, _ = model.step(written[:, -1], state, memory)
            else:
                scores = model.decode(written, memory, mask)[:, -1]
            new = scores.argmax(-1)
            written = torch.cat([written, new[:, None]], dim=1)
            ended |= new == END
            if ended.all():
                break
    rows = written[:, 1:].tolist()
    return [row[: row.index(END)] if END in row else row for row in rows]


@lru_cache(maxsize=1)
def _tokenizer() -> TokenizerZh:
    return TokenizerZh()


def tokens(text: str) -> list[str]:
    """What sacrebleu counts BLEU on in Chinese: characters, and words where the letters are Latin."""
    return _tokenizer()(text).split()


# All of it ------------------------------------------------------------------------------------------------------------


def run(kind: str, factor: float, seed: int, smoothing: float) -> tuple[float, nn.Module]:
    """Train one model and round its weights as they are stored; BLEU of its greedy translations of the second part."""
    train_pairs, valid, _, words = corpus()
    torch.manual_seed(seed)
    model = make(kind, words.sizes)
    train(model, batches(train_pairs, words, seed), STEPS, lambda step: noam_lr(step, WIDTH, WARMUP, factor), smoothing)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    written = greedy(model, [words.source(pair.en) for pair in valid])
    score = bleu([tokens(words.text(row)) for row in written], [[tokens(pair.zh)] for pair in valid])
    print(f"{kind}, factor {factor}, seed {seed}, smoothing {smoothing}: BLEU {score:.1f}", flush=True)
    return score, model


def translate(model: nn.Module, beam: int, penalty: float, every: int = 1) -> np.ndarray:
    """The best translation of each test line, or of every second one and so on: symbols, then -1, ``(lines, LONGEST)``."""
    _, _, test, words = corpus()
    some = test[::every]
    result = np.full((len(some), LONGEST), -1, dtype=np.int16)
    model.eval()
    for row, pair in zip(result, some):
        step = stepper(model, torch.tensor([words.source(pair.en)]))
        settings = {"beam": beam, "max_length": LONGEST, "length_penalty": penalty}
        text = beam_search(step, START, END, **settings)[0][0]
        row[: len(text)] = text
    return result


def search(kind: str) -> tuple[dict[float, float], float, nn.Module]:
    """The BLEU by factor, from the smallest, the best factor, and the model that was trained with it."""
    tried: dict[float, tuple[float, nn.Module]] = {}
    wanted = FACTORS
    while wanted:
        tried |= {factor: run(kind, factor, SEEDS[0], SMOOTHING) for factor in wanted}
        best = max(tried, key=lambda factor: tried[factor][0])
        # The best one should lie between two others.
        wanted = (best / 2,) * (best == min(tried)) + (best * 2,) * (best == max(tried))
    return {factor: tried[factor][0] for factor in sorted(tried)}, best, tried[best][1]


def study(kind: str) -> dict[str, object]:
    """Search, train all seeds of a kind and translate: what is stored of it."""
    torch.set_num_threads(1)
    scores, best, first = search(kind)
    state: dict[str, object] = {f"{kind}/factors": np.array([*scores.items()])}
    weights = first.state_dict()
    if kind == "Transformer":
        del weights["output.weight"]  # the table of target symbols
    state |= {f"{kind}/weights/{name}": value.numpy() for name, value in weights.items()}
    for seed in SEEDS:
        model = first if seed == SEEDS[0] else run(kind, best, seed, SMOOTHING)[1]
        state[f"{kind}/greedy/{seed}"] = translate(model, 1, 0.6)
        state[f"{kind}/beam/{seed}"] = translate(model, 4, 0.6)
        if kind == "Transformer":
            state |= widths(model, seed)
    return state


def main() -> None:
    """Train all and store."""
    state: dict[str, object] = {}
    with ProcessPoolExecutor(len(KINDS)) as pool:
        for part in pool.map(study, KINDS):
            state |= part
    save(
        "day045",
        state,
        title="A Transformer and a GRU encoder-decoder that translate short lines of the LibreOffice help into Chinese",
        trained_on=["en-zh"],
        note=f"{STEPS} steps of {BATCH} pairs for each training, about twenty minutes of processor time with the search "
        "for the factor and the translations. The weights are those of the first seed; the translations of the test lines, "
        "by all seeds, are symbols.",
    )


def widths(model: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """The translations of every fourth test line by all widths, with and without a length penalty."""
    grid = itertools.product((0.0, 0.6), BEAMS)
    return {f"widths/{penalty}/{beam}/{seed}": translate(model, beam, penalty, EVERY) for penalty, beam in grid}


if __name__ == "__main__":
    main()
