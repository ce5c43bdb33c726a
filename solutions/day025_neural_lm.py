"""Day 25: Bengio's neural language model, an LSTM language model, and sampling from it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from llm180 import known_mistakes

State = tuple[torch.Tensor, torch.Tensor]  # the pair (h, c) of an LSTM


class BengioLM(nn.Module):
    """Predict a token from the vectors of the ``k`` tokens before it.

    Three layers, in attributes of these names:

    - ``embed``, nn.Embedding: a vector of length ``d`` for each of ``V`` tokens;
    - ``hidden``, nn.Linear: from ``k`` vectors side by side, oldest first, to ``h``;
    - ``out``, nn.Linear: from the tanh of ``hidden`` to ``V`` logits.

    Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", sec. 2,
    without the direct connections.
    """

    def __init__(self, V: int, k: int, d: int, h: int) -> None:
        """Make the layers, in the order of the list, as PyTorch initializes them.

        Raises ValueError if one of the sizes is below 1.
        """
        super().__init__()
        if min(V, k, d, h) < 1:
            raise ValueError(f"all sizes are at least 1, got {V}, {k}, {d}, {h}")
        self.k = k
        self.embed = nn.Embedding(V, d)
        self.hidden = nn.Linear(k * d, h)
        self.out = nn.Linear(h, V)

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, (B, V), for contexts of shape (B, k), int64.

        ``B`` may be 0. Raises a ValueError that names ``contexts`` if they have another
        shape.
        """
        if contexts.ndim != 2 or contexts.shape[1] != self.k:
            raise ValueError(f"need contexts (B, {self.k}), got {(*contexts.shape,)}")
        side_by_side = self.embed(contexts).flatten(1)
        return self.out(torch.tanh(self.hidden(side_by_side)))


known_mistakes(
    BengioLM,
    (
        "self.embed(contexts).flatten(1)",
        "self.embed(contexts).sum(1).repeat(1, self.k)",
        "the vectors are summed, so the order of the context is lost; put them side by side",
    ),
    (
        "self.embed(contexts).flatten(1)",
        "self.embed(contexts).transpose(1, 2).flatten(1)",
        "the coordinates of different tokens are interleaved: flatten token by token",
    ),
    (
        "torch.tanh(self.hidden(side_by_side))",
        "self.hidden(side_by_side)",
        "without the tanh, two linear layers are one, of rank h",
    ),
    (
        "return self.out(torch.tanh(self.hidden(side_by_side)))",
        "return self.out(torch.tanh(self.hidden(side_by_side))).softmax(1)",
        "these are probabilities; logits are asked for, and cross_entropy takes a softmax again",
    ),
    (
        "self.embed(contexts)",
        "self.embed(contexts.flip(1))",
        "the newest token comes first; the stub says oldest first",
    ),
    (
        "if contexts.ndim != 2 or contexts.shape[1] != self.k:",
        "if contexts.ndim != 2:",
        "a context of another length fails deep inside, with a message about matrices",
    ),
)


class LSTMLanguageModel(nn.Module):
    """Predict each next token of a text from all tokens before it, by an LSTM.

    Three layers, in attributes of these names:

    - ``embed``, nn.Embedding: a vector of length ``d`` for each of ``V`` tokens;
    - ``lstm``, nn.LSTM: one layer of width ``h``, with ``batch_first=True``;
    - ``head``, nn.Linear: from ``h`` to ``V`` logits.

    A state is the pair that nn.LSTM takes and gives, each (1, B, h).

    Source: Mikolov et al. 2010, "Recurrent neural network based language model", with
    an LSTM as in Sundermeyer et al. 2012.
    """

    def __init__(self, V: int, d: int, h: int) -> None:
        """Make the layers, in the order of the list, as PyTorch initializes them."""
        super().__init__()
        self.embed = nn.Embedding(V, d)
        self.lstm = nn.LSTM(d, h, batch_first=True)
        self.head = nn.Linear(h, V)

    def forward(
        self, tokens: torch.Tensor, state: State | None = None
    ) -> tuple[torch.Tensor, State]:
        """Logits (B, n, V) for tokens (B, n), and the state after the last token.

        ``logits[:, i]`` is about the token after ``tokens[:, i]``. Without a state, the
        text begins here.
        """
        outputs, state = self.lstm(self.embed(tokens), state)
        return self.head(outputs), state

    def train_step(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        state: State | None,
        optimizer: torch.optim.Optimizer,
        clip: float,
    ) -> tuple[float, State]:
        """One step of truncated backpropagation through time, on one window.

        Parameters
        ----------
        inputs, targets:
            int64 (B, n): the tokens of the window, and the token after each.
        state:
            What the step before returned, or None where the text begins.
        optimizer:
            Of this model's parameters; gradients from before must not count.
        clip:
            The gradient over all parameters is scaled down to this norm if longer.

        Returns
        -------
        The mean loss over the window in nats, before the step; and the state after
        the window, with the right values and no history.

        Raises a ValueError that says so if inputs and targets differ in shape.

        Source: Williams and Peng 1990; clipping, Pascanu et al. 2013.
        """
        if inputs.shape != targets.shape:
            raise ValueError("inputs and targets must have the same shape")
        optimizer.zero_grad()
        logits, state = self(inputs, state)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), clip)
        optimizer.step()
        return loss.item(), tuple(s.detach() for s in state)

    def log_probs(self, tokens: torch.Tensor, chunk: int = 1000) -> torch.Tensor:
        """The log-probability of each token after the first, given all before it.

        It reads at most ``chunk`` tokens of each row at a time, and keeps the state in
        between, so that the result does not depend on ``chunk``; no graph is made.

        Parameters
        ----------
        tokens:
            int64 (B, n), with n at least 2: B texts, read side by side.
        chunk:
            At least 1.

        Returns
        -------
        Natural logarithms, (B, n - 1).

        Raises a ValueError that speaks of tokens if ``n`` is below 2, and one that
        names ``chunk`` if that is below 1.
        """
        if tokens.shape[1] < 2 or chunk < 1:
            raise ValueError("need two tokens in each row and a chunk of at least 1")
        inputs, targets = tokens[:, :-1], tokens[:, 1:, None]
        state, parts = None, []
        with torch.no_grad():
            for i in range(0, inputs.shape[1], chunk):
                logits, state = self(inputs[:, i : i + chunk], state)
                wanted = targets[:, i : i + chunk]
                parts.append(logits.log_softmax(2).gather(2, wanted).squeeze(2))
        return torch.cat(parts, dim=1)


known_mistakes(
    LSTMLanguageModel,
    (
        "nn.LSTM(d, h, batch_first=True)",
        "nn.LSTM(d, h)",
        "the LSTM runs along the batch: row after row, in place of token after token",
    ),
    (
        "self.lstm(self.embed(tokens), state)",
        "self.lstm(self.embed(tokens))",
        "the state given is ignored; every window begins like a new text",
    ),
    (
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
        "F.cross_entropy(logits.reshape(len(logits), -1, targets.shape[1]), targets)",
        "a reshape moves no axis: the logits of a place are torn apart; flatten B and n, or transpose",
    ),
    (
        "return loss.item(), tuple(s.detach() for s in state)",
        "return loss.item(), state",
        "the state still has its history, so the next backward goes through a graph that is gone",
    ),
    (
        "return loss.item(), tuple(s.detach() for s in state)",
        "return loss.item(), tuple(torch.zeros_like(s) for s in state)",
        "detach cuts the gradient, not the value: the state is lost",
    ),
    (
        "        optimizer.zero_grad()\n",
        "",
        "gradients of earlier steps are still there, and are added",
    ),
    (
        "        nn.utils.clip_grad_norm_(self.parameters(), clip)\n        optimizer.step()",
        "        optimizer.step()\n        nn.utils.clip_grad_norm_(self.parameters(), clip)",
        "the gradient is clipped after it was used",
    ),
    (
        "nn.utils.clip_grad_norm_(self.parameters(), clip)",
        "nn.utils.clip_grad_value_(self.parameters(), clip)",
        "each entry is clipped by itself, which turns the gradient; scale it by its norm",
    ),
    (
        "self(inputs[:, i : i + chunk], state)",
        "self(inputs[:, i : i + chunk])",
        "each chunk begins without a memory of the one before, so its first tokens are guessed",
    ),
    (
        "inputs, targets = tokens[:, :-1], tokens[:, 1:, None]",
        "inputs, targets = tokens[:, 1:], tokens[:, 1:, None]",
        "the model is asked for the token that it has just read",
    ),
)


def sample(
    model: nn.Module,
    prompt: torch.Tensor,
    n: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Continue prompts, one drawn token after the other.

    Parameters
    ----------
    model:
        Called as ``logits, state = model(tokens, state)``, with tokens (B, m), logits
        (B, m, V), and None as the first state, as an ``LSTMLanguageModel`` is. It reads
        the prompt in one call, and then each drawn token but the last, once.
    prompt:
        int64 (B, m), with m at least 1; all of one length.
    n:
        Tokens to draw, not negative.
    temperature:
        The logits are divided by it; 0 means to take the largest, without a draw.
    top_k:
        Draw among this many largest logits of each row only; all, if None or above V.
    generator:
        Of the draws; by default, PyTorch's global one.

    Returns
    -------
    int64 (B, n), what comes after the prompts. No graph is made.

    Raises a ValueError that names the argument at fault: if ``prompt`` is empty, if
    ``n`` or ``temperature`` is negative, or if ``top_k`` is below 1.

    Source: temperature, Ackley et al. 1985; top-k, Fan et al. 2018, "Hierarchical
    Neural Story Generation".
    """
    if prompt.shape[1] < 1 or n < 0 or temperature < 0:
        raise ValueError("need a prompt, n >= 0 and temperature >= 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is at least 1, got {top_k}")
    tokens, state = prompt, None
    drawn = [prompt[:, :0]]
    with torch.no_grad():
        for _ in range(n):
            logits, state = model(tokens, state)
            last = logits[:, -1]
            if temperature == 0:  # equivalent `temperature <= 0`: it is not negative
                tokens = last.argmax(1, keepdim=True)
            else:
                V = last.shape[1]
                best, places = last.topk(V if top_k is None else min(top_k, V))
                p = (best / temperature).softmax(1)
                chosen = torch.multinomial(p, 1, generator=generator)
                tokens = places.gather(1, chosen)
            drawn.append(tokens)
    return torch.cat(drawn, dim=1)


known_mistakes(
    sample,
    (
        "(best / temperature)",
        "(best * temperature)",
        "a high temperature must flatten the distribution: divide by it",
    ),
    (
        "p = (best / temperature).softmax(1)",
        "p = best.softmax(1) / temperature",
        "probabilities are divided, and multinomial scales them back: the temperature has no effect",
    ),
    (
        "            logits, state = model(tokens, state)\n",
        "            logits, _ = model(tokens, state)\n",
        "the state is not kept: after the prompt, the model sees a single token",
    ),
    (
        "tokens = places.gather(1, chosen)",
        "tokens = chosen",
        "that is a rank among the largest logits, not a token",
    ),
    (
        "last = logits[:, -1]",
        "last = logits[:, 0]",
        "the first position predicts the prompt's second token; the last one predicts what comes",
    ),
    (
        "torch.multinomial(p, 1, generator=generator)",
        "torch.multinomial(p, 1)",
        "the generator is ignored, so the draws cannot be repeated",
    ),
    (
        "with torch.no_grad():",
        "with torch.enable_grad():",
        "each call of the model makes a graph, and the state holds on to all of them",
    ),
    (
        "drawn = [prompt[:, :0]]",
        "drawn = [prompt]",
        "the prompt is given back too; only what comes after it is asked for",
    ),
    (
        "            drawn.append(tokens)",
        "            drawn.append(tokens)\n            tokens, state = torch.cat([prompt, *drawn], 1), None",
        "the whole text is read again for each token; the state already holds what was read",
    ),
    (
        "min(top_k, V)",
        "top_k",
        "a top_k above the vocabulary is an error in topk; it means all",
    ),
)
