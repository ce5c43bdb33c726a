"""Day 23: the GRU cell, the size of a model, and batches of unequal sequences, packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from llm180 import known_mistakes


class GRUCell(nn.Module):
    """One step of a gated recurrent unit, with the parameters of torch.nn.GRUCell.

    The rows of all four parameters are blocks of ``hidden_size``, in the order r
    (reset), z (update), n (candidate):

        ``weight_ih`` (3 hidden_size, input_size), ``weight_hh`` (3 hidden_size,
        hidden_size), ``bias_ih`` and ``bias_hh`` (3 hidden_size,)

    So a state dict of torch.nn.GRUCell can be loaded. With ``s`` the sigmoid, ``a`` the
    product of the input plus its bias, and ``u`` that of the hidden state plus its
    bias, each cut into three,

        ``r = s(a_r + u_r)``, ``z = s(a_z + u_z)``, ``n = tanh(a_n + r * u_n)`` and
        ``h' = (1 - z) * n + z * h``

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN
    Encoder-Decoder for Statistical Machine Translation"; that r multiplies the
    product with its bias, and not ``h`` before it, is torch.nn.GRU's convention.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make the parameters, uniform between -1/√hidden_size and 1/√hidden_size.

        Both sizes stay as attributes ``input_size`` and ``hidden_size``.

        Raises ValueError that says ``size`` if a size is below 1.
        """
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"sizes are at least 1, got {input_size}, {hidden_size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        shapes = {
            "weight_ih": (3 * hidden_size, input_size),
            "weight_hh": (3 * hidden_size, hidden_size),
            "bias_ih": (3 * hidden_size,),
            "bias_hh": (3 * hidden_size,),
        }
        bound = hidden_size**-0.5
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            nn.init.uniform_(self.get_parameter(name), -bound, bound)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """One step for a batch.

        Parameters
        ----------
        x:
            Inputs, shape (B, input_size), of the parameters' dtype.
        h:
            The hidden state, shape (B, hidden_size); zeros if None; left unchanged.

        Returns
        -------
        The new hidden state, shape (B, hidden_size).
        """
        if h is None:
            h = x.new_zeros(len(x), self.hidden_size)
        a = x @ self.weight_ih.T + self.bias_ih
        u = h @ self.weight_hh.T + self.bias_hh
        a_r, a_z, a_n = a.chunk(3, dim=1)
        u_r, u_z, u_n = u.chunk(3, dim=1)
        r = torch.sigmoid(a_r + u_r)
        z = torch.sigmoid(a_z + u_z)
        n = torch.tanh(a_n + r * u_n)
        return (1 - z) * n + z * h


known_mistakes(
    GRUCell,
    (
        "a_r, a_z, a_n = a.chunk(3, dim=1)\n        u_r, u_z, u_n = u.chunk(3, dim=1)",
        "a_z, a_r, a_n = a.chunk(3, dim=1)\n        u_z, u_r, u_n = u.chunk(3, dim=1)",
        "the order of the blocks is r, z, n; other libraries put z first, and no shape betrays it",
    ),
    (
        "return (1 - z) * n + z * h",
        "return z * n + (1 - z) * h",
        "z keeps the old state here; in some papers it is the share of the candidate",
    ),
    (
        "n = torch.tanh(a_n + r * u_n)",
        "size = self.hidden_size\n        n = torch.tanh(a_n + (r * h) @ self.weight_hh[2 * size :].T + self.bias_hh[2 * size :])",
        "r multiplies h before the product, as in the paper of 2014; torch multiplies after it",
    ),
    (
        "n = torch.tanh(a_n + r * u_n)",
        "bias = self.bias_hh[2 * self.hidden_size :]\n        n = torch.tanh(a_n + r * (u_n - bias) + bias)",
        "the candidate's recurrent bias stands inside the bracket that r multiplies",
    ),
    (
        "n = torch.tanh(a_n + r * u_n)",
        "n = torch.tanh(r * (a_n + u_n))",
        "r multiplies the recurrent part only; the input always gets through",
    ),
    (
        "n = torch.tanh(a_n + r * u_n)",
        "n = torch.tanh(a_n + u_n)",
        "the reset gate is computed and not used",
    ),
    (
        "n = torch.tanh(a_n + r * u_n)",
        "n = torch.sigmoid(a_n + r * u_n)",
        "the candidate goes through tanh: with a sigmoid no state is ever negative",
    ),
    (
        "return (1 - z) * n + z * h",
        "return n + z * h",
        "the two shares add up to 1; without 1 - z the state is no average, and grows",
    ),
    (
        "u = h @ self.weight_hh.T + self.bias_hh",
        "u = h @ self.weight_hh.T",
        "there are two biases, and both are added",
    ),
    (
        "self.register_parameter(name, nn.Parameter(torch.empty(shape)))\n            nn.init.uniform_(self.get_parameter(name), -bound, bound)",
        "setattr(self, name, torch.empty(shape).uniform_(-bound, bound))",
        "plain tensors are no parameters: no optimizer sees them, no state dict holds them",
    ),
)


def count_parameters(*modules: nn.Module) -> int:
    """How many numbers an optimizer changes when it trains these modules together.

    Every trainable parameter counts with all its entries, at any depth, and once, also
    if several places or several of the modules share it. Parameters that are frozen
    (``requires_grad`` is False) and buffers do not count.

    Parameters
    ----------
    modules:
        Any number of modules; none has 0 parameters. They may lie on any device, also
        on ``meta``, where parameters have a shape and no memory.

    Raises ValueError that says "lazy" if a trainable parameter has no shape yet, as in
    torch.nn.LazyLinear before its first batch.
    """
    distinct = {
        id(p): p for module in modules for p in module.parameters() if p.requires_grad
    }
    return sum(p.numel() for p in distinct.values())  # a lazy one raises ValueError


known_mistakes(
    count_parameters,
    (
        " if p.requires_grad",
        "",
        "frozen parameters are counted: no optimizer changes them",
    ),
    (
        "id(p): p for module in modules for p in module.parameters() if p.requires_grad",
        "(i, id(p)): p for i, module in enumerate(modules) for p in module.parameters() if p.requires_grad",
        "a parameter that two modules share is one parameter",
    ),
    (
        "id(p): p for module in modules for p in module.parameters() if p.requires_grad",
        "name: p for module in modules for name, p in module.named_parameters() if p.requires_grad",
        "two modules may use one name for different parameters: a name does not identify them",
    ),
    (
        "id(p): p for module",
        "p.data_ptr(): p for module",
        "an address does not identify a parameter: without memory, all of them stand at 0",
    ),
    (
        "module.parameters() if",
        "module.parameters(recurse=False) if",
        "the parameters of inner modules are missed",
    ),
    (
        "id(p): p for module in modules for p in module.parameters() if p.requires_grad",
        "(id(p), name): p for module in modules for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad",
        "a tied weight has two names in one module, and is still one parameter",
    ),
    (
        "return sum(p.numel() for p in distinct.values())",
        "return len(distinct)",
        "that is the number of tensors; every entry of them is a parameter",
    ),
    (
        "    return sum(p.numel() for p in distinct.values())",
        "    return sum(p.numel() for p in distinct.values()) + sum(b.numel() for m in modules for b in m.buffers())",
        "buffers, such as a running mean, are kept and not trained",
    ),
    (
        "return sum(p.numel() for p in distinct.values())",
        "return sum(0 if nn.parameter.is_lazy(p) else p.numel() for p in distinct.values())",
        "a model whose size is not known yet must not pass as a small one",
    ),
)


def pack_batch(sequences: list[Tensor]) -> PackedSequence:
    """Pack sequences of unequal length, without padding, for a recurrent network.

    Parameters
    ----------
    sequences:
        B tensors of shapes (n_i, ...), at least one, each n_i at least 1, alike in all
        other sizes, in dtype, and in where they lie. They are left unchanged.

    Returns
    -------
    A torch.nn.utils.rnn.PackedSequence, which torch.nn.RNN, GRU and LSTM take as it is:

    - ``data``, shape (sum of n_i, ...): step 1 of all sequences, then step 2 of all
      that have one, and so on, the longest sequence first in every step, and of
      equally long ones the earlier in the list. Gradients flow through it.
    - ``batch_sizes``, (longest n_i,), int64 on the CPU: how many have each step.
    - ``sorted_indices``, (B,): their places in the list, longest first.
    - ``unsorted_indices``, (B,): the place of each one of the list in that order.

    Raises ValueError if there is no sequence, one has no steps, or two differ in the
    other sizes or in dtype; the message says "sequence".

    Source: equal to torch.nn.utils.rnn.pack_sequence with ``enforce_sorted=False``.
    """
    # equivalent `s.dim() <= 0`, `len(s) <= 0`: neither is negative
    if not sequences or any(s.dim() == 0 or len(s) == 0 for s in sequences):
        raise ValueError("need at least one sequence, each of at least one step")
    # equivalent `for s in sequences}) != 1`: there is at least one
    if len({(s.shape[1:], s.dtype) for s in sequences}) > 1:
        raise ValueError("the sequences differ in a size or in dtype")
    # equivalent `sequences[-1]`: they are alike in dtype and width
    first = sequences[0]
    lengths = torch.tensor([len(s) for s in sequences], device=first.device)
    # equivalent `descending=True)`, `stable=False`: on a CPU it is stable anyway
    order = torch.argsort(lengths, descending=True, stable=True)
    # equivalent `n = (lengths.max())`: a tensor of one number serves as well
    n = int(lengths.max())
    padded = first.new_zeros(n, len(sequences), *first.shape[1:])
    for column, i in enumerate(order.tolist()):
        padded[: lengths[i], column] = sequences[i]
    real = torch.arange(n, device=first.device)[:, None] < lengths[order]  # (n, B)
    sizes = real.sum(dim=1).cpu()
    return PackedSequence(padded[real], sizes, order, torch.argsort(order))


known_mistakes(
    pack_batch,
    (
        "PackedSequence(padded[real],",
        "PackedSequence(padded.transpose(0, 1)[real.T],",
        "the rows go sequence by sequence; a recurrent network needs them step by step",
    ),
    (
        "descending=True, stable=True",
        "stable=True",
        "the longest sequence comes first, so that those that have ended leave at the end",
    ),
    (
        "sizes, order, torch.argsort(order)",
        "sizes, order, order",
        "the way back is the inverse permutation; the order is its own inverse only by luck",
    ),
    (
        "sizes, order, torch.argsort(order)",
        "sizes, torch.argsort(order), order",
        "sorted_indices leads from the list to the sorted order, unsorted_indices back",
    ),
    (
        "sizes = real.sum(dim=1)",
        "sizes = real.sum(dim=0)",
        "batch_sizes has an entry per step: how many have it; those are the lengths",
    ),
    (
        "for column, i in enumerate(order.tolist()):",
        "for column, i in enumerate(range(len(sequences))):",
        "the sequences stay in the caller's order while the mask has the sorted one",
    ),
    (
        "[len(s) for s in sequences]",
        "[max(len(s) for s in sequences)] * len(sequences)",
        "padding is packed as if it were real steps",
    ),
    (
        "padded[: lengths[i], column] = sequences[i]",
        "padded[: lengths[i], column] = sequences[i].detach()",
        "no gradient flows back into the sequences",
    ),
    (
        "if not sequences or any(s.dim() == 0 or len(s) == 0 for s in sequences):",
        "if not sequences:",
        "an empty sequence slips through, and has no last state",
    ),
    (
        '    if len({(s.shape[1:], s.dtype) for s in sequences}) > 1:\n        raise ValueError("the sequences differ in a size or in dtype")\n',
        "",
        "a sequence of another width is broadcast, one of another dtype cast, in silence",
    ),
)
