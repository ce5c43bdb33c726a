"""Day 30: BERT in miniature: masking, the model, its loss, and fine-tuning."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm180 import known_mistakes

PAD, CLS, SEP, MASK, UNK = range(5)  # the special tokens; words have the ids from 5 on


def mask_tokens(
    ids: Tensor,
    vocab_size: int,
    generator: torch.Generator,
    rate: float = 0.15,
    hide: float = 0.8,
    swap: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict, and hide most of them.

    Each word is chosen with probability ``rate``, independently of all others. A
    chosen word is replaced by ``MASK`` with probability ``hide``, by a word drawn
    uniformly from all words with probability ``swap``, and else stays as it is.

    Parameters
    ----------
    ids:
        Token ids of any shape, int64. ``PAD``, ``CLS``, ``SEP``, ``MASK`` and ``UNK``,
        the ids 0 to 4, are special: they are never chosen. Left unchanged.
    vocab_size:
        Number of ids, special ones included: words are 5 to ``vocab_size - 1``.
    generator:
        The only source of chance.
    rate, hide, swap:
        Probabilities.

    Returns
    -------
    ``(inputs, labels)``, two new tensors, int64, of the shape of ``ids``: what the
    model sees, and at the chosen places the token that was there, -100 elsewhere.

    Raises ValueError if ``rate``, ``hide``, ``swap`` or ``hide + swap`` is not from
    0 to 1.

    Source: Devlin et al. 2019, "BERT", sec. 3.1 and appendix A.1.
    """
    if not all(0 <= p <= 1 for p in (rate, hide, swap, hide + swap)):
        raise ValueError(
            f"probabilities are from 0 to 1, got rate {rate}, hide {hide}, swap {swap}"
        )
    # equivalent `generator=generator) <= rate`: a draw meets the border by accident only
    chosen = (torch.rand(ids.shape, generator=generator) < rate) & (ids > UNK)
    labels = ids.masked_fill(~chosen, -100)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(UNK + 1, vocab_size, ids.shape, generator=generator)
    # equivalent `fate <= hide`: as above
    inputs = ids.masked_fill(chosen & (fate < hide), MASK)
    # equivalent `fate > hide` `fate <= hide + swap`: as above
    swapped = chosen & (fate >= hide) & (fate < hide + swap)
    return torch.where(swapped, words, inputs), labels


known_mistakes(
    mask_tokens,
    (
        " & (ids > UNK)",
        "",
        "special tokens and padding are chosen; only words may be",
    ),
    (
        "labels = ids.masked_fill(~chosen, -100)",
        "labels = ids.clone()",
        "every place has a label: the model is paid for copying what it sees",
    ),
    (
        "labels = ids.masked_fill(~chosen, -100)",
        "labels = ids.masked_fill(~chosen, PAD)",
        "0 is a label like any other to the loss; -100 says that there is none",
    ),
    (
        "    inputs = ids.masked_fill(chosen & (fate < hide), MASK)\n",
        "    inputs = ids.masked_fill(chosen & (fate < hide), MASK)\n    labels = labels.masked_fill(inputs == ids, -100)\n",
        "a chosen word that stays as it is must be predicted too; yours has no label",
    ),
    (
        "inputs = ids.masked_fill(chosen & (fate < hide), MASK)",
        "inputs = ids.masked_fill_(chosen & (fate < hide), MASK)",
        "the text given is overwritten: the next epoch starts from masks",
    ),
    (
        "torch.randint(UNK + 1, vocab_size, ids.shape, generator=generator)",
        "torch.randint(0, vocab_size, ids.shape, generator=generator)",
        "a special token is put in place of a word; draw from the words only",
    ),
    (
        "swapped = chosen & (fate >= hide) & (fate < hide + swap)",
        "swapped = chosen & (fate >= hide) & (torch.rand(ids.shape, generator=generator) < swap)",
        "swap is a share of all chosen words, not of those that are left after hiding",
    ),
    (
        "fate = torch.rand(ids.shape, generator=generator)",
        "fate = torch.rand(ids.shape)",
        "some of the chance comes from torch's global generator, not from the one given",
    ),
    (
        "chosen = (torch.rand(ids.shape, generator=generator) < rate)",
        "chosen = (torch.rand(ids.shape[-1:], generator=generator) < rate)",
        "one draw serves all rows: the same places are chosen in every sentence",
    ),
)


class MiniBert(nn.Module):
    """A BERT encoder: each position sees the whole sentence.

    Attributes, whose names are those of stored weights:

    ``token``, ``position``, ``segment``
        ``nn.Embedding`` tables with ``vocab_size``, ``max_len`` and 2 rows of ``d``
        numbers, all drawn from a normal distribution of standard deviation 0.02.
    ``norm``
        ``nn.LayerNorm(d)``, applied to the sum of the three embeddings.
    ``drop``
        ``nn.Dropout(dropout)``, applied to the result of ``norm``.
    ``blocks``
        ``nn.ModuleList`` of ``layers`` times ``nn.TransformerEncoderLayer``, each with
        ``heads`` heads, a hidden layer of ``4 * d`` units with GELU, the same
        ``dropout``, batch first.
    ``bias``
        ``nn.Parameter`` of ``vocab_size`` zeros, added to the logits.

    Source: Devlin et al. 2019, "BERT", sec. 3, without the dense layer before the
    logits.
    """

    def __init__(
        self,
        vocab_size: int,
        d: int = 64,
        heads: int = 4,
        layers: int = 2,
        max_len: int = 32,
        dropout: float = 0.1,
    ) -> None:
        """Make the tables and the blocks."""
        super().__init__()
        self.token = nn.Embedding(vocab_size, d)
        self.position = nn.Embedding(max_len, d)
        self.segment = nn.Embedding(2, d)
        for table in (self.token, self.position, self.segment):
            nn.init.normal_(table.weight, std=0.02)
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d, heads, 4 * d, dropout, activation="gelu", batch_first=True
            )
            for _ in range(layers)
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The vectors of all positions after the last block, shape ``(B, n, d)``.

        Parameters
        ----------
        ids:
            ``(B, n)``, int64, with ``n`` at most ``max_len``. No position attends to
            one that holds ``PAD``; what stands at such positions has no meaning.
        segments:
            ``(B, n)``, int64, 0 or 1 for each token; all 0 if not given.

        Raises ValueError if ``n`` is larger than ``max_len``.
        """
        n = ids.shape[1]
        if n > self.position.num_embeddings:
            raise ValueError(
                f"{n} tokens, but max_len is {self.position.num_embeddings}"
            )
        if segments is None:
            segments = torch.zeros_like(ids)
        x = self.token(ids) + self.position.weight[:n] + self.segment(segments)
        x = self.drop(self.norm(x))
        for block in self.blocks:
            # equivalent `ids <= PAD`: no id is negative
            x = block(x, src_key_padding_mask=ids == PAD)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """A score for each entry of the vocabulary, ``(..., d)`` to ``(..., V)``.

        The scores are inner products with the rows of ``token``, plus ``bias``.
        """
        return hidden @ self.token.weight.T + self.bias


known_mistakes(
    MiniBert,
    (
        "x = block(x, src_key_padding_mask=ids == PAD)",
        "x = block(x)",
        "padding is attended to: a sentence's vectors depend on how long its neighbors are",
    ),
    (
        "src_key_padding_mask=ids == PAD",
        "src_key_padding_mask=ids != PAD",
        "the mask is upside down: True marks what is left out",
    ),
    (
        " + self.position.weight[:n]",
        "",
        "without positions the network cannot tell one order of the words from another",
    ),
    (
        " + self.segment(segments)",
        "",
        "the segments are ignored",
    ),
    (
        ', activation="gelu"',
        "",
        "PyTorch's block has ReLU by default; BERT's has GELU",
    ),
    (
        ", batch_first=True",
        "",
        "without batch_first, PyTorch takes the first axis for positions: sentences attend to each other",
    ),
    (
        "x = self.drop(self.norm(x))",
        "x = self.drop(x)",
        "the sum of the embeddings is not normalized",
    ),
    (
        "for table in (self.token, self.position, self.segment):",
        "for table in ():",
        "the tables keep PyTorch's standard deviation of 1; as output weights that makes huge logits",
    ),
    (
        "return hidden @ self.token.weight.T + self.bias",
        "return hidden @ self.token.weight.detach().T + self.bias",
        "the tied table gets no gradient from the output side",
    ),
    (
        "if n > self.position.num_embeddings:",
        "if n >= self.position.num_embeddings:",
        "a sentence of exactly max_len tokens is refused",
    ),
)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the places that have a label, in nats.

    Parameters
    ----------
    logits:
        ``(..., V)``, floating point.
    labels:
        ``(...)``, int64: the token to predict, or -100 where none is.

    Returns
    -------
    A scalar. 0 if no place has a label, and then with a gradient of 0.

    Raises ValueError if the shapes do not fit.

    Source: Devlin et al. 2019, "BERT", sec. 3.1.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}"
        )
    # equivalent `labels > -100`: no label is below
    chosen = labels != -100
    total = F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    return total / chosen.sum().clamp(min=1)


known_mistakes(
    mlm_loss,
    (
        "chosen.sum().clamp(min=1)",
        "labels.numel()",
        "the sum is divided by all places; only those with a label count",
    ),
    (
        "chosen.sum().clamp(min=1)",
        "chosen.sum()",
        "a batch without labels gives 0/0: one NaN, and all weights are lost",
    ),
    (
        "chosen = labels != -100",
        "chosen = labels > 0",
        "the token 0 is a label as well; only -100 says that there is none",
    ),
    (
        "total = F.cross_entropy(logits[chosen], labels[chosen], reduction=\"sum\")",
        "total = F.cross_entropy(logits[chosen].softmax(-1), labels[chosen], reduction=\"sum\")",
        "cross_entropy takes logits; the softmax is applied twice",
    ),
    (
        "    return total / chosen.sum().clamp(min=1)",
        "    if not chosen.any():\n        return torch.zeros(())\n    return total / chosen.sum().clamp(min=1)",
        "the 0 of an empty batch hangs on no graph: backward raises an error",
    ),
    (
        "    if logits.shape[:-1] != labels.shape:",
        "    if logits.shape[:-1].numel() != labels.numel():",
        "labels of another shape are accepted if there are as many of them",
    ),
)


class Tuned(NamedTuple):
    """What fine-tuning gives: a classifier, how well it does, and its losses."""

    accuracy: float  # on the test set, 0 to 1
    history: list[float]  # the loss of each step's batch, before the step
    encoder: MiniBert
    head: nn.Linear


def finetune(
    model: MiniBert,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
    steps: int = 60,
    batch: int = 16,
    lr: float = 1e-3,
    freeze: bool = False,
) -> Tuned:
    """Train a classifier on the vector of ``CLS``, from a copy of ``model``.

    The head is one ``nn.Linear`` from the last block's vector at position 0 to the
    classes. Each step draws ``batch`` examples, with replacement, and takes a step of
    ``torch.optim.AdamW`` with the learning rate ``lr``, its other settings left as
    they are, on the mean cross-entropy.

    Parameters
    ----------
    model:
        Left unchanged: its weights, its mode, its gradients.
    train, test:
        ``(ids, classes)`` each: ``(N, n)`` token ids that begin with ``CLS``, and
        ``(N,)`` classes, int64, from 0 on. The classes are those of ``train``.
    seed:
        Of all chance: the head's weights, the batches, dropout. The same seed gives
        the same result, and the state of torch's global generator is left as it was.
    freeze:
        Train the head only; the encoder then works without dropout.

    Returns
    -------
    The classifier after the last step, with its accuracy on ``test``, measured
    without dropout. Encoder and head are in evaluation mode.

    Raises ValueError if ``steps`` or ``batch`` is below 1, or ``train`` is empty.

    Source: Devlin et al. 2019, "BERT", secs. 3.2 and 4.1.
    """
    ids, classes = train
    # equivalent `len(ids) <= 0`: no length is negative
    if steps < 1 or batch < 1 or len(ids) == 0:
        raise ValueError("need steps >= 1, batch >= 1 and examples to train on")
    # equivalent `fork_rng()`: it restores the generators of GPUs, too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = copy.deepcopy(model).requires_grad_(not freeze).train(not freeze)
        first = encoder.norm.weight  # for its width and its dtype
        # equivalent `len(first), (classes.max())`: a tensor of one number serves as a length
        head = nn.Linear(len(first), int(classes.max()) + 1, dtype=first.dtype)
        parameters = [*head.parameters()] + ([] if freeze else [*encoder.parameters()])
        optimizer = torch.optim.AdamW(parameters, lr=lr)
        history = []
        for _ in range(steps):
            rows = torch.randint(len(ids), (batch,))
            scores = head(encoder(ids[rows])[:, 0])
            loss = F.cross_entropy(scores, classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    encoder.eval()
    with torch.no_grad():
        guesses = head(encoder(test[0])[:, 0]).argmax(dim=1)
    accuracy = (guesses == test[1]).double().mean().item()
    return Tuned(accuracy, history, encoder, head.eval())


known_mistakes(
    finetune,
    (
        "copy.deepcopy(model)",
        "model",
        "the weights passed in are trained: the next seed starts from them",
    ),
    (
        "    encoder.eval()\n",
        "",
        "dropout is still on when the test set is classified",
    ),
    (
        "scores = head(encoder(ids[rows])[:, 0])",
        "scores = head(encoder(ids[rows]).mean(dim=1))",
        "the head reads a mean over all positions, padding included, not the vector of CLS",
    ),
    (
        "            optimizer.zero_grad()\n",
        "",
        "the gradients of all batches so far are added up",
    ),
    (
        "([] if freeze else [*encoder.parameters()])",
        "[]",
        "the optimizer never sees the encoder: only the head is trained",
    ),
    (
        "    with torch.random.fork_rng(devices=[]):\n",
        "    if True:\n",
        "the global generator is left in another state: runs depend on what ran before",
    ),
    (
        "        torch.manual_seed(seed)\n",
        "        torch.manual_seed(0)\n",
        "the seed is ignored: all runs are the same run",
    ),
    (
        ".train(not freeze)",
        ".train()",
        "a frozen encoder works with dropout: its vectors are noisy",
    ),
    (
        "history.append(loss.item())",
        "history.append(loss)",
        "tensors keep their graphs alive, one for each step",
    ),
    (
        "torch.optim.AdamW(",
        "torch.optim.Adam(",
        "Adam has no weight decay; AdamW has 0.01 by default",
    ),
)
