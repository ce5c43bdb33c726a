"""Day 45: the learning rate of the first Transformer, beam search, and BLEU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from llm180 import known_mistakes


def noam_lr(
    step: int, d_model: int, warmup: int = 4000, factor: float = 1.0
) -> float:
    """The learning rate of a step: it rises linearly, then falls as ``step ** -0.5``.

    Parameters
    ----------
    step:
        Number of the step, from 1.
    d_model:
        Width of the model. A model four times as wide gets half the rate.
    warmup:
        The step of the highest rate, at least 1.
    factor:
        Scales the whole curve.

    Returns
    -------
    ``factor * d_model ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)``, a float.

    Raises ValueError that says ``step`` if ``step`` is below 1.

    Source: Vaswani et al. 2017, sec. 5.3, equation 3, where ``factor`` is 1.
    """
    if step < 1:
        raise ValueError(f"the first step is 1, got {step}")
    return factor * d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


known_mistakes(
    noam_lr,
    (
        "min(step**-0.5, step * warmup**-1.5)",
        "max(step**-0.5, step * warmup**-1.5)",
        "the larger of the two is taken: the rate begins at its highest, falls until the end of the warm-up, and then grows without end",
    ),
    (
        "step * warmup**-1.5",
        "step * warmup**-0.5",
        "the rise is step * warmup ** -1.5; yours has passed the other curve after a few steps, and there is hardly a warm-up",
    ),
    (
        "step * warmup**-1.5",
        "step / warmup",
        "the rise ends at 1, not at warmup ** -0.5: the two branches do not meet at the step warmup",
    ),
    (
        "factor * d_model**-0.5 * ",
        "factor * d_model**0.5 * ",
        "a wider model gets a larger rate; it needs a smaller one",
    ),
    (
        "factor * d_model**-0.5 * ",
        "d_model**-0.5 * ",
        "factor is not used",
    ),
    (
        "    if step < 1:\n",
        "    if False:\n",
        "step 0, which a scheduler that counts from 0 will ask for, must be a ValueError that says step",
    ),
    (
        "min(step**-0.5, step * warmup**-1.5)",
        "min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)",
        "the first step is 1 here; adding 1 puts the highest rate one step too early",
    ),
)


def beam_search(
    step: Callable[[Tensor], Tensor],
    start: int,
    end: int,
    *,
    beam: int,
    max_length: int,
    length_penalty: float = 0.6,
) -> list[tuple[list[int], float]]:
    """Search for the texts of the highest score, keeping ``beam`` prefixes at a time.

    A hypothesis is complete when it has ended with ``end`` or has ``max_length``
    symbols. ``end`` counts as a symbol, ``start`` does not. With |Y| symbols its score
    is ``log P(Y) / ((5 + |Y|) / 6) ** length_penalty``.

    The search begins with one live prefix, ``start``. In each round all live prefixes
    are extended by all symbols; of all these extensions the ``beam`` with the highest
    log-probability are kept, the others forgotten. Of the kept ones the complete ones
    are put aside, the others are the live prefixes of the next round. An extension of
    log-probability minus infinity is never kept.

    Parameters
    ----------
    step:
        ``step(prefixes)``, for int64 ``(k, t)``, each row ``start`` and ``t - 1``
        symbols, gives the log-probabilities of the next symbol, ``(k, V)``. It is
        called without gradients, once a round for all live prefixes.
    start, end:
        Two symbols.
    beam, max_length:
        At least 1.
    length_penalty:
        At least 0. At 0 the score is the log-probability.

    Returns
    -------
    The ``beam`` best complete hypotheses (fewer, if fewer were found), best first. Each
    is a pair of its symbols, a list of int without ``start`` and ``end``, and its
    score, a float.

    The search stops when nothing is live. It also stops as soon as ``beam`` hypotheses
    are complete and no live prefix can beat the worst of them: it never gains
    probability, and at best it is divided by the penalty of ``max_length`` symbols.

    Raises ValueError that says ``beam``, ``max_length`` or ``length_penalty`` if that
    is too small.

    Source: Wu et al. 2016, "Google's Neural Machine Translation System", sec. 7,
    equation 14, without the coverage penalty.
    """
    if beam < 1 or max_length < 1 or length_penalty < 0:
        raise ValueError(
            "beam and max_length are at least 1 and length_penalty at least 0, got "
            f"{beam}, {max_length} and {length_penalty}"
        )

    def penalty(length: int) -> float:
        return ((5 + length) / 6) ** length_penalty

    prefixes = torch.tensor([[start]])
    totals = torch.zeros(1, dtype=torch.float64)
    complete: list[tuple[list[int], float]] = []
    # equivalent `max_length + 2`: nothing is live after max_length symbols
    for length in range(1, max_length + 1):
        with torch.no_grad():
            extended = totals[:, None] + step(prefixes)  # (k, V)
        symbols = extended.shape[1]
        best = extended.flatten().topk(min(beam, extended.numel()))
        # equivalent `!=`: nothing is below minus infinity
        keep = best.values > -math.inf
        totals, chosen = best.values[keep], best.indices[keep]
        rows, new = chosen // symbols, chosen % symbols
        prefixes = torch.cat([prefixes[rows], new[:, None]], dim=1)
        # equivalent `length >= max_length`: the loop ends there
        done = (new == end) | (length == max_length)
        for text, total in zip(prefixes[done, 1:].tolist(), totals[done].tolist()):
            text = text[:-1] if text[-1] == end else text
            complete.append((text, total / penalty(length)))
        complete = sorted(complete, key=lambda pair: -pair[1])[:beam]
        prefixes, totals = prefixes[~done], totals[~done]
        # equivalent `len(totals) <= 0`: no length is negative
        if len(totals) == 0:
            break
        bound = totals[0].item() / penalty(max_length)
        # equivalent `len(complete) >= beam`: the list is cut to beam
        if len(complete) == beam and complete[-1][1] >= bound:
            break
    return complete


known_mistakes(
    beam_search,
    (
        "topk(min(beam, extended.numel()))",
        "topk(1)",
        "one prefix survives each round: that is greedy decoding, whatever the beam",
    ),
    (
        "totals[:, None] + step(prefixes)",
        "step(prefixes)",
        "prefixes are ranked by their last symbol alone: the log-probability of what came before is lost",
    ),
    (
        "totals[:, None] + step(prefixes)",
        "totals[:, None] + step(prefixes).exp()",
        "probabilities are added; log-probabilities are to be",
    ),
    (
        "        best = extended.flatten().topk(min(beam, extended.numel()))",
        "        extended = extended / penalty(length)\n        best = extended.flatten().topk(min(beam, extended.numel()))",
        "totals are divided by the penalty round after round: it belongs into the score of a complete hypothesis, once",
    ),
    (
        "((5 + length) / 6) ** length_penalty",
        "max(length, 1) ** length_penalty",
        "the penalty is a power of the length; GNMT's is ((5 + length) / 6) ** alpha, which is milder on short texts",
    ),
    (
        "total / penalty(length)",
        "total * penalty(length)",
        "multiplied by the penalty: the score is negative, so longer texts are pushed down further",
    ),
    (
        "total / penalty(length)",
        "total / penalty(len(text))",
        "the symbol end is not counted in the length of a hypothesis that has ended",
    ),
    (
        "prefixes, totals = prefixes[~done], totals[~done]",
        "prefixes, totals = prefixes, totals",
        "texts that have ended are extended beyond their end",
    ),
    (
        "prefixes = torch.cat([prefixes[rows], new[:, None]], dim=1)",
        "prefixes = torch.cat([prefixes[torch.arange(len(new)) % len(prefixes)], new[:, None]], dim=1)",
        "a symbol is appended to another prefix than the one that it was scored for: the rows must be reordered",
    ),
    (
        "            text = text[:-1] if text[-1] == end else text\n",
        "",
        "end is left in the text",
    ),
    (
        "        if len(complete) == beam and complete[-1][1] >= bound:\n            break\n",
        "        if len(complete) == beam:\n            break\n",
        "the search stops with the first beam texts that end; a live prefix could still beat the worst of them",
    ),
    (
        "        if len(complete) == beam and complete[-1][1] >= bound:\n            break\n",
        "        if len(complete) > 0:\n            break\n",
        "the search stops with the first text that ends, though others are still live",
    ),
    (
        "        if len(complete) == beam and complete[-1][1] >= bound:\n            break\n",
        "",
        "the search goes on when nothing that is live can enter the list",
    ),
    (
        "bound = totals[0].item() / penalty(max_length)",
        "bound = totals[0].item() / penalty(length)",
        "the bound uses the present length; a longer text is divided by more, and could still win",
    ),
    (
        "(new == end) | (length == max_length)",
        "new == end",
        "prefixes that reach max_length without an end are lost; they are complete as well",
    ),
    (
        "        keep = best.values > -math.inf\n",
        "        keep = torch.ones_like(best.values, dtype=torch.bool)\n",
        "extensions of probability 0 are kept as if they were texts",
    ),
    (
        "        with torch.no_grad():\n",
        "        with torch.enable_grad():\n",
        "a graph is recorded in every round, and kept for nothing",
    ),
    (
        "    if beam < 1 or max_length < 1 or length_penalty < 0:\n",
        "    if beam < 1 or max_length < 1:\n",
        "with a negative length_penalty the bound is wrong: it must be a ValueError",
    ),
    (
        "        complete = sorted(complete, key=lambda pair: -pair[1])[:beam]\n",
        "        complete = complete[:beam]\n",
        "the hypotheses come in the order in which they ended, not best first",
    ),
)


def bleu(
    hypotheses: Sequence[Sequence[Hashable]],
    references: Sequence[Sequence[Sequence[Hashable]]],
    max_order: int = 4,
) -> float:
    """Corpus BLEU, 0 to 100: how many runs of tokens also stand in a reference.

    Parameters
    ----------
    hypotheses:
        N texts, each a sequence of tokens (strings or numbers), possibly empty.
    references:
        For each of them one or more right texts: ``references[i]`` is a sequence of
        texts, each a sequence of tokens.
    max_order:
        The longest runs (n-grams) that count, at least 1.

    Returns
    -------
    100 times the geometric mean of the precisions of orders 1 to ``max_order``, times
    the brevity penalty; 0.0 if an order has no match.

    The precision of order n is matches / n-grams of all hypotheses, both summed over
    the corpus before dividing. An n-gram of a hypothesis matches at most as often as it
    stands in that one of its references that has it most often. With c tokens in all
    hypotheses and r in the references, the penalty is ``exp(1 - r / c)`` if c is below
    r, else 1. For r each text counts its reference of the closest length, of two
    equally close the shorter one. Nothing is smoothed.

    Raises ValueError that says, for example, ``3 hypotheses, 2 references`` if the
    numbers differ, and one that says ``no reference`` if a text has none.

    Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine
    Translation", sec. 2; the choice of r is that of sacrebleu (Post 2018).
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, {len(references)} references")
    matches, counts = [0] * max_order, [0] * max_order
    length = wanted = 0
    for text, truths in zip(hypotheses, references):
        # equivalent `len(truths) <= 0`: no length is negative
        if len(truths) == 0:
            raise ValueError("a hypothesis has no reference")
        length += len(text)
        wanted += min((abs(len(t) - len(text)), len(t)) for t in truths)[1]
        for order in range(max_order):
            found, allowed = _ngrams(text, order + 1), Counter()
            for truth in truths:
                allowed |= _ngrams(truth, order + 1)  # the larger count of each
            matches[order] += (found & allowed).total()  # the smaller count of each
            counts[order] += found.total()
    # equivalent `min(matches) <= 0`: no count is negative
    if min(matches) == 0:
        return 0.0
    logs = [math.log(match / count) for match, count in zip(matches, counts)]
    brevity = min(0.0, 1 - wanted / length)
    return 100 * math.exp(brevity + sum(logs) / max_order)


def _ngrams(tokens: Sequence[Hashable], order: int) -> Counter[tuple[Hashable, ...]]:
    """How often each run of ``order`` tokens stands in a text."""
    starts = range(len(tokens) - order + 1)
    return Counter(tuple(tokens[i : i + order]) for i in starts)


known_mistakes(
    bleu,
    (
        "matches[order] += (found & allowed).total()",
        "matches[order] += sum(c for run, c in found.items() if run in allowed)",
        "counts are not clipped: a text that repeats one right word has precision 1",
    ),
    (
        "allowed |= _ngrams(truth, order + 1)",
        "allowed += _ngrams(truth, order + 1)",
        "the counts of all references are added; the largest one of a single reference is the limit",
    ),
    (
        "    logs = [math.log(match / count) for match, count in zip(matches, counts)]\n    brevity = min(0.0, 1 - wanted / length)\n    return 100 * math.exp(brevity + sum(logs) / max_order)",
        "    mean = sum(match / count for match, count in zip(matches, counts)) / max_order\n    return 100 * math.exp(min(0.0, 1 - wanted / length)) * mean",
        "the arithmetic mean of the precisions; it is the geometric one",
    ),
    (
        "    return 100 * math.exp(brevity + sum(logs) / max_order)",
        "    return 100 * math.exp(sum(logs) / max_order)",
        "the brevity penalty is missing: one safe word has precision 1",
    ),
    (
        "min(0.0, 1 - wanted / length)",
        "1 - wanted / length",
        "texts that are too long are rewarded: the penalty is never above 1",
    ),
    (
        "min(0.0, 1 - wanted / length)",
        "min(0.0, 1 - length / wanted)",
        "the ratio is upside down: long texts are punished, short ones are not",
    ),
    (
        "    logs = [math.log(match / count) for match, count in zip(matches, counts)]\n    brevity = min(0.0, 1 - wanted / length)\n    return 100 * math.exp(brevity + sum(logs) / max_order)",
        "    if len(hypotheses) == 1:\n        logs = [math.log(m / c) for m, c in zip(matches, counts)]\n        brevity = min(0.0, 1 - wanted / length)\n        return 100 * math.exp(brevity + sum(logs) / max_order)\n    scores = [bleu([h], [r], max_order) for h, r in zip(hypotheses, references)]\n    return sum(scores) / len(scores)",
        "the mean of the sentences' BLEU; matches and counts are summed over the corpus before dividing",
    ),
    (
        "min((abs(len(t) - len(text)), len(t)) for t in truths)[1]",
        "min(len(t) for t in truths)",
        "the shortest reference sets the length; it is the closest one",
    ),
    (
        "min((abs(len(t) - len(text)), len(t)) for t in truths)[1]",
        "len(min(truths, key=lambda t: (abs(len(t) - len(text)), -len(t))))",
        "of two references equally close the longer one is taken; sacrebleu takes the shorter",
    ),
    (
        "range(len(tokens) - order + 1)",
        "range(len(tokens) - order)",
        "the last n-gram of each text is left out",
    ),
    (
        "_ngrams(text, order + 1), Counter()",
        "Counter(set(_ngrams(text, order + 1))), Counter()",
        "each n-gram counts once however often it stands in the hypothesis",
    ),
    (
        "    if min(matches) == 0:\n",
        "    matches, counts = zip(*((m, c) for m, c in zip(matches, counts) if m)) if any(matches) else ([0], [0])\n    max_order = len(matches)\n    if min(matches) == 0:\n",
        "orders without a match are left out of the mean; without smoothing they make BLEU 0",
    ),
    (
        "    if len(hypotheses) != len(references):\n",
        "    if False:\n",
        "zip drops texts silently where the numbers differ: that must be a ValueError",
    ),
)
