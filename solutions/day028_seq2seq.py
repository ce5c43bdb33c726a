"""Day 28: an encoder over padded batches, additive attention, a decoder that uses it,
and greedy decoding."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llm180 import known_mistakes

PAD, START, END = 0, 1, 2  # the first three symbols of every vocabulary


class Encoder(nn.Module):
    """A GRU in both directions over a padded batch; the padding changes nothing.

    ``embedding`` is an ``nn.Embedding(vocabulary, width)``, ``rnn`` a bidirectional
    ``nn.GRU(width, hidden)`` with the batch first; they are made in this order.

    Source: Bahdanau et al. 2015, sec. 3.2 and appendix A.2.1.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int) -> None:
        """Make the layers ``embedding`` and ``rnn``."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.GRU(width, hidden, batch_first=True, bidirectional=True)

    def forward(
        self, source: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From symbols ``(B, S)`` and lengths ``(B,)``, both int64, to all states,
        ``(B, S, 2 * hidden)``, and the summary, ``(B, 2 * hidden)``.

        Row b has ``lengths[b]`` symbols, from 1 to S, in any order of lengths; what
        stands behind them is never read. ``states[b, j]`` is the forward state
        after symbol j and the backward state after symbol j, side by side, and 0
        beyond the length. The summary is the last forward state, after the row's
        last symbol, beside the last backward state, after its first.

        Raises ValueError, naming 1 and S, if a length is not between the two.
        """
        if ((lengths < 1) | (lengths > source.shape[1])).any():
            raise ValueError(f"lengths must be from 1 to {source.shape[1]}: {lengths}")
        packed = pack_padded_sequence(
            self.embedding(source),
            lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        states, last = self.rnn(packed)
        states, _ = pad_packed_sequence(
            states, batch_first=True, total_length=source.shape[1]
        )
        return states, torch.cat([last[0], last[1]], dim=1)


known_mistakes(
    Encoder,
    (
        "lengths.cpu()",
        "torch.full_like(lengths, source.shape[1]).cpu()",
        "the padding is read as if it were text: short rows come out differently",
    ),
    (
        "states, batch_first=True, total_length=source.shape[1]\n",
        "states, batch_first=True\n",
        "the states end at the longest length, not at S: a batch with a column of padding only loses it, and no longer fits its mask",
    ),
    (
        "return states, torch.cat([last[0], last[1]], dim=1)",
        "return states, states[:, -1]",
        "the last column is padding for every row but the longest: it holds zeros",
    ),
    (
        "return states, torch.cat([last[0], last[1]], dim=1)",
        "return states, states[torch.arange(len(states)), lengths - 1]",
        "at a row's last symbol the backward direction has read one symbol only: its last state is at the first",
    ),
    (
        "torch.cat([last[0], last[1]], dim=1)",
        "torch.cat([last[1], last[0]], dim=1)",
        "the directions have changed places: forward comes first",
    ),
    (
        "torch.cat([last[0], last[1]], dim=1)",
        "last.reshape(len(source), -1)",
        "a reshape does not exchange axes: (2, B, h) read as (B, 2h) mixes the rows of the batch",
    ),
    (
        "enforce_sorted=False",
        "enforce_sorted=True",
        "rows must come sorted by length, or packing refuses them; any order is asked for",
    ),
    (
        "if ((lengths < 1) | (lengths > source.shape[1])).any():",
        "if (lengths < 1).any():",
        "a length beyond S is not refused with a ValueError",
    ),
)


class BahdanauAttention(nn.Module):
    """Additive attention: the score of a state is ``v . tanh(W s + U h)``.

    Three linear layers without bias, made in this order: ``query`` is W, from the
    width of s to ``width``; ``key`` is U, from the width of h to ``width``;
    ``score`` is v, from ``width`` to 1.

    Source: Bahdanau et al. 2015, sec. 3.1 and appendix A.1.2.
    """

    def __init__(self, query_width: int, state_width: int, width: int) -> None:
        """Make the layers ``query``, ``key`` and ``score``."""
        super().__init__()
        self.query = nn.Linear(query_width, width, bias=False)
        self.key = nn.Linear(state_width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(
        self,
        query: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
        keys: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The context, ``(B, state_width)``, and the weights, ``(B, S)``.

        ``query`` is ``(B, query_width)``, ``states`` ``(B, S, state_width)``, and
        ``mask`` ``(B, S)`` of bool, True where there is a symbol. ``keys`` is
        ``self.key(states)``, for a caller who has made it once for many queries.

        The weights are a softmax over the True places and exactly 0 elsewhere. A row
        without a True place has weights and context 0. Gradients are finite always.
        """
        keys = self.key(states) if keys is None else keys
        hidden = torch.tanh(self.query(query).unsqueeze(1) + keys)
        scores = self.score(hidden).squeeze(2)
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~mask, lowest).softmax(dim=1) * mask
        return (weights.unsqueeze(1) @ states).squeeze(1), weights


known_mistakes(
    BahdanauAttention,
    (
        "scores.masked_fill(~mask, lowest).softmax(dim=1) * mask",
        "scores.softmax(dim=1) * mask",
        "the mask comes after the softmax: padding has taken its share, and the weights do not sum to 1",
    ),
    (
        "        weights = scores.masked_fill(~mask, lowest).softmax(dim=1) * mask\n",
        "        weights = scores.softmax(dim=1) * mask\n        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-30)\n",
        "masked after the softmax and divided by the sum: if padding has by far the largest score, the others are 0 already and cannot be brought back",
    ),
    (
        "scores.masked_fill(~mask, lowest).softmax(dim=1) * mask",
        "scores.softmax(dim=1)",
        "padding gets weight: the mask is not used",
    ),
    (
        "scores.masked_fill(~mask, lowest)",
        "(scores * mask)",
        "a score of 0 is a score like any other: multiplying by the mask does not take a place out of the softmax",
    ),
    (
        "torch.finfo(scores.dtype).min",
        "-1e4",
        "-10,000 is not low enough: where the true scores are lower still, padding takes the weight",
    ),
    (
        "torch.finfo(scores.dtype).min",
        'float("-inf")',
        "a row with nothing to look at gives 0 / 0, and the NaN spreads through the gradients to all weights",
    ),
    (
        "masked_fill(~mask, lowest)",
        "masked_fill(mask, lowest)",
        "the mask is turned around: True is where there is a symbol",
    ),
    (
        "softmax(dim=1)",
        "softmax(dim=0)",
        "the softmax runs over the batch; each row must sum to 1 over its places",
    ),
    (
        "torch.tanh(self.query(query).unsqueeze(1) + keys)",
        "(self.query(query).unsqueeze(1) + keys)",
        "without tanh the query adds the same to every score, and cancels: the weights no longer depend on it",
    ),
    (
        "weights.unsqueeze(1) @ states",
        "weights.unsqueeze(1) @ keys",
        "the keys are mixed; they say where to look, and the states are what is read",
    ),
    (
        "self.key(states) if keys is None else keys",
        "self.key(states)",
        "the keys that the caller has made are computed again",
    ),
)


class Seq2Seq(nn.Module):
    """An encoder and a GRU decoder, with additive attention or without.

    The decoder's state starts as ``tanh(bridge(summary))``. A step reads the symbol
    before, looks up a context with its *old* state, gives both to its cell, and
    scores the next symbol from the new state and the context. Without attention
    the context is the summary, the same in each step.

    Source: Bahdanau et al. 2015, sec. 3.1, with a linear layer in place of their
    maxout; without attention Cho et al. 2014, sec. 2.2.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int,
        hidden: int,
        attention: bool = True,
    ) -> None:
        """Make the layers; ``attention`` is None if it is not wanted."""
        super().__init__()
        self.encoder = Encoder(source_vocabulary, width, hidden)
        self.bridge = nn.Linear(2 * hidden, hidden)
        self.embedding = nn.Embedding(target_vocabulary, width)
        self.cell = nn.GRUCell(width + 2 * hidden, hidden)
        self.output = nn.Linear(3 * hidden, target_vocabulary)
        self.attention = None
        if attention:
            self.attention = BahdanauAttention(hidden, 2 * hidden, hidden)

    def encode(
        self, source: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The decoder's first state, ``(B, hidden)``, and what its steps look up."""
        states, summary = self.encoder(source, lengths)
        mask = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        memory = {"states": states, "mask": mask, "summary": summary}
        if self.attention is not None:
            memory["keys"] = self.attention.key(states)
        return torch.tanh(self.bridge(summary)), memory

    def step(
        self, symbol: torch.Tensor, state: torch.Tensor, memory: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """One step for the whole batch, from the symbols before, ``(B,)``.

        Returns the logits of the next symbol, ``(B, target_vocabulary)``, the new
        state, ``(B, hidden)``, and the weights, ``(B, S)``, None without attention.
        """
        context, weights = memory["summary"], None
        if self.attention is not None:
            context, weights = self.attention(
                state, memory["states"], memory["mask"], memory["keys"]
            )
        inputs = torch.cat([self.embedding(symbol), context], dim=1)
        state = self.cell(inputs, state)
        return self.output(torch.cat([state, context], dim=1)), state, weights

    def forward(
        self, source: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Teacher forcing: logits ``(B, T - 1, target_vocabulary)``.

        ``target`` is ``(B, T)``: START, the row's symbols, END, then PAD. Step i
        reads ``target[:, i]``, the true symbol, and scores ``target[:, i + 1]``.
        """
        state, memory = self.encode(source, lengths)
        logits = []
        for symbol in target[:, :-1].T:
            scores, state, _ = self.step(symbol, state, memory)
            logits.append(scores)
        return torch.stack(logits, dim=1)

    def loss(
        self, source: torch.Tensor, lengths: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy in nats per symbol, over all symbols to be predicted in
        the batch: END counts, PAD and START do not."""
        logits = self(source, lengths, target)
        return F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )


known_mistakes(
    Seq2Seq,
    (
        "            scores, state, _ = self.step(symbol, state, memory)\n",
        "            symbol = scores.argmax(dim=1) if logits else symbol\n            scores, state, _ = self.step(symbol, state, memory)\n",
        "the decoder reads its own guesses; teacher forcing gives it the true symbol before",
    ),
    (
        "target[:, :-1].T",
        "target[:, 1:].T",
        "step i reads the symbol that it has to predict: shift the target by one",
    ),
    (
        "target[:, 1:].flatten()",
        "target[:, :-1].flatten()",
        "the logits of step i are scored against the symbol that it has read, not against the next one",
    ),
    (
        ", ignore_index=PAD",
        "",
        "padding counts in the loss: most of the gradient of a short row teaches it to write PAD",
    ),
    (
        "return F.cross_entropy(",
        "return (target[:, 1:] != PAD).sum() / len(target) * F.cross_entropy(",
        "the loss is summed over a row's symbols and averaged over rows; the mean over all symbols is asked for",
    ),
    (
        """        return F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )
""",
        """        wanted = target[:, 1:]
        costs = F.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=PAD, reduction="none"
        )
        return (costs.sum(dim=1) / (wanted != PAD).sum(dim=1)).mean()
""",
        "the mean of the row means: a symbol of a short text weighs more; take one mean over all symbols of the batch",
    ),
    (
        """        state = self.cell(inputs, state)
""",
        """        state = self.cell(inputs, state)
        if self.attention is not None:
            context, weights = self.attention(
                state, memory["states"], memory["mask"], memory["keys"]
            )
""",
        "the readout uses a context looked up with the new state, as Luong's does; Bahdanau's looks with the old one",
    ),
    (
        "torch.tanh(self.bridge(summary))",
        "self.bridge(summary)",
        "the first state is not squashed: a GRU's states lie between -1 and 1",
    ),
    (
        "torch.tanh(self.bridge(summary))",
        "torch.zeros_like(torch.tanh(self.bridge(summary)))",
        "the decoder starts from nothing: its first state comes from the summary",
    ),
    (
        "mask = torch.arange(source.shape[1], device=source.device) < lengths[:, None]",
        "mask = torch.ones_like(source, dtype=torch.bool)",
        "padding gets weight: the mask is True everywhere",
    ),
    (
        "< lengths[:, None]",
        "<= lengths[:, None]",
        "the mask is one place too long: the first padded place gets weight",
    ),
    (
        "torch.cat([self.embedding(symbol), context], dim=1)",
        "torch.cat([context, self.embedding(symbol)], dim=1)",
        "the cell's input has the context first; it is the symbol, then the context",
    ),
)


def greedy_decode(
    model: Seq2Seq, source: torch.Tensor, lengths: torch.Tensor, max_length: int
) -> list[list[int]]:
    """Write a target for each row, taking the most probable symbol at each step.

    ``source`` and ``lengths`` are as in ``Encoder``. ``model`` is used through
    ``encode`` and ``step`` only. The first symbol given to ``step`` is START, then
    what the row has just chosen. A row ends with END, or with ``max_length`` symbols;
    it then stays ended, whatever is chosen in its place. No step is run once all rows
    have ended, and no gradient is recorded.

    Returns B lists of int, each of at most ``max_length`` symbols, without the END.
    A row that chooses PAD or START keeps it, as any other symbol.

    Raises ValueError, naming ``max_length``, if that is negative.

    Source: the search of Sutskever et al. 2014, sec. 3.2, with a beam of one.
    """
    if max_length < 0:
        raise ValueError(f"max_length must be at least 0, got {max_length}")
    outputs: list[list[int]] = [[] for _ in range(len(source))]
    running = torch.ones(len(source), dtype=torch.bool, device=source.device)
    symbol = torch.full((len(source),), START, device=source.device)
    with torch.no_grad():
        state, memory = model.encode(source, lengths)
        for _ in range(max_length):
            logits, state, _ = model.step(symbol, state, memory)
            symbol = logits.argmax(dim=1)
            running &= symbol != END
            if not running.any():
                break
            for row in running.nonzero().flatten().tolist():
                outputs[row].append(int(symbol[row]))
    return outputs


known_mistakes(
    greedy_decode,
    (
        "running &= symbol != END",
        "running = symbol != END",
        "a row that has ended wakes up again if it later chooses another symbol",
    ),
    (
        "if not running.any():",
        "if not running.all():",
        "decoding stops with the first row that ends; the others are cut off",
    ),
    (
        "            if not running.any():\n                break\n",
        "",
        "the loop goes on to max_length although all rows have ended",
    ),
    (
        "    with torch.no_grad():\n",
        "    if True:\n",
        "a graph is recorded for every step, and kept in memory for nothing",
    ),
    (
        """            running &= symbol != END
            if not""",
        """            for row in running.nonzero().flatten().tolist():
                outputs[row] += [END] * int(symbol[row] == END)
            running &= symbol != END
            if not""",
        "END is part of the output; it marks the end and is not a symbol of the text",
    ),
    (
        "symbol = logits.argmax(dim=1)",
        "symbol = torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)",
        "the next symbol is drawn at random; greedy takes the most probable one",
    ),
    (
        "model.step(symbol, state, memory)",
        "model.step(torch.full_like(symbol, START), state, memory)",
        "every step is given START; it is to be given what the row has just chosen",
    ),
    (
        "range(max_length)",
        "range(max_length + 1)",
        "one symbol more than max_length is written",
    ),
    (
        "    if max_length < 0:\n",
        "    if False:\n",
        "a negative max_length is not refused with a ValueError",
    ),
)
