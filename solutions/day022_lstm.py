"""Day 22: the LSTM, from one cell to stacked layers over sequences of unequal length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm180 import known_mistakes


class LSTMCell(nn.Module):
    """One step of an LSTM, with the parameters of torch.nn.LSTMCell.

    The rows of all four parameters are blocks of ``hidden_size``, one for each gate,
    in the order i (input), f (forget), g (candidate), o (output):

        ``weight_ih`` (4 hidden_size, input_size), ``weight_hh`` (4 hidden_size,
        hidden_size), ``bias_ih`` and ``bias_hh`` (4 hidden_size,)

    So a state dict of torch.nn.LSTMCell can be loaded. With ``s`` the sigmoid, and
    ``z`` the sum of both products and both biases, cut into four,

        ``c' = s(z_f) * c + s(z_i) * tanh(z_g)`` and ``h' = s(z_o) * tanh(c')``

    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; the forget gate
    is of Gers, Schmidhuber and Cummins 2000, "Learning to Forget".
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make the parameters, uniform between -1/√hidden_size and 1/√hidden_size.

        Both sizes stay as attributes ``input_size`` and ``hidden_size``.

        Raises ValueError if a size is below 1.
        """
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"sizes are at least 1, got {input_size}, {hidden_size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        shapes = {
            "weight_ih": (4 * hidden_size, input_size),
            "weight_hh": (4 * hidden_size, hidden_size),
            "bias_ih": (4 * hidden_size,),
            "bias_hh": (4 * hidden_size,),
        }
        bound = hidden_size**-0.5
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            nn.init.uniform_(self.get_parameter(name), -bound, bound)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step for a batch.

        Parameters
        ----------
        x:
            Inputs, shape (B, input_size), of the parameters' dtype.
        state:
            ``(h, c)``, each of shape (B, hidden_size); zeros if None. They are left
            unchanged.

        Returns
        -------
        The new ``(h, c)``.
        """
        if state is None:
            zeros = x.new_zeros(len(x), self.hidden_size)
            state = zeros, zeros
        h, c = state
        z = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = z.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


known_mistakes(
    LSTMCell,
    (
        "i, f, g, o = z.chunk(4, dim=1)",
        "i, f, o, g = z.chunk(4, dim=1)",
        "the order of the gates is i, f, g, o; papers often write i, f, o, g",
    ),
    (
        "i, f, g, o = z.chunk(4, dim=1)",
        "f, i, g, o = z.chunk(4, dim=1)",
        "the input gate comes first, then the forget gate",
    ),
    (
        "torch.sigmoid(i) * torch.tanh(g)",
        "torch.sigmoid(i) * torch.sigmoid(g)",
        "the candidate goes through tanh: with a sigmoid the cell can only grow",
    ),
    (
        "torch.sigmoid(o) * torch.tanh(c), c",
        "torch.sigmoid(o) * c, c",
        "the cell goes through tanh on its way out",
    ),
    (
        "torch.sigmoid(f) * c + torch.sigmoid(i)",
        "torch.sigmoid(f) * c + (1 - torch.sigmoid(f))",
        "the input gate is one of its own; 1 - f in its place is a coupled gate, as in the GRU",
    ),
    (
        "+ h @ self.weight_hh.T + self.bias_hh",
        "+ h @ self.weight_hh.T",
        "there are two biases, and both are added",
    ),
    (
        "return torch.sigmoid(o) * torch.tanh(c), c",
        "return c, torch.sigmoid(o) * torch.tanh(c)",
        "h comes first, then c",
    ),
    (
        "state = zeros, zeros",
        "state = zeros + 1, zeros + 1",
        "without a state both parts begin at zero",
    ),
    (
        "self.register_parameter(name, nn.Parameter(torch.empty(shape)))\n            nn.init.uniform_(self.get_parameter(name), -bound, bound)",
        "setattr(self, name, torch.empty(shape).uniform_(-bound, bound))",
        "plain tensors are no parameters: no optimizer sees them, no state dict holds them",
    ),
    (
        "        bound = hidden_size**-0.5",
        "        bound = hidden_size**0.5",
        "the bound is one over the root of hidden_size",
    ),
)


def lstm_forward(
    cells: list[LSTMCell],
    x: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run stacked LSTM layers over a batch of sequences.

    Parameters
    ----------
    cells:
        One cell for each of l layers, at least one, all of hidden size h. The first
        reads ``x``, each other one the hidden states of the layer below.
    x:
        A batch of sequences, shape (B, n, d), n at least 1.
    state:
        ``(h0, c0)`` before the first step, each (l, B, h); zeros if None. They are left
        unchanged.
    lengths:
        How many steps of each sequence are real, integers from 0 to n, shape (B,); all
        of them if None. The rest is padding: it changes no state, and its content does
        not matter, NaN apart.

    Returns
    -------
    The hidden states of the last layer, (B, n, h), zero where there is padding; and
    ``(h_n, c_n)``, each (l, B, h): the states after each sequence's last real step.

    Raises ValueError if there are no cells, or if ``lengths`` does not have the shape
    (B,) or has an entry outside of 0 to n.

    Source: equal to torch.nn.LSTM with ``batch_first``, with ``lengths`` to that on
    sequences packed by torch.nn.utils.rnn.pack_padded_sequence.
    """
    B, n, _ = x.shape
    if not cells:
        raise ValueError("need at least one cell")
    if lengths is None:
        lengths = torch.full((B,), n)
    if lengths.shape != (B,) or ((lengths < 0) | (lengths > n)).any():
        raise ValueError(f"lengths are {B} numbers from 0 to {n}, got {lengths}")
    real = torch.arange(n, device=lengths.device) < lengths[:, None]  # (B, n)
    last_h, last_c = [], []
    for layer, cell in enumerate(cells):
        if state is None:
            h = c = x.new_zeros(B, cell.hidden_size)
        else:
            h, c = state[0][layer], state[1][layer]
        outputs = []
        for t in range(n):
            now = real[:, t, None]  # (B, 1)
            new_h, new_c = cell(x[:, t], (h, c))
            h, c = torch.where(now, new_h, h), torch.where(now, new_c, c)
            outputs.append(h * now)
        x = torch.stack(outputs, dim=1)
        last_h.append(h)
        last_c.append(c)
    return x, (torch.stack(last_h), torch.stack(last_c))


known_mistakes(
    lstm_forward,
    (
        "h, c = torch.where(now, new_h, h), torch.where(now, new_c, c)",
        "h, c = new_h, new_c",
        "padding runs through the cell: the last state is then that of the longest sequence",
    ),
    (
        "h, c = torch.where(now, new_h, h), torch.where(now, new_c, c)",
        "h, c = torch.where(now, new_h, h), new_c",
        "padding must leave the cell state alone as well, not the hidden state only",
    ),
    (
        "h, c = torch.where(now, new_h, h), torch.where(now, new_c, c)",
        "h, c = new_h * now, new_c * now",
        "padding erases the state; it must leave it as it is",
    ),
    (
        "outputs.append(h * now)",
        "outputs.append(h)",
        "the outputs at padded steps are zero; yours repeat the last state",
    ),
    (
        "h, c = state[0][layer], state[1][layer]",
        "h, c = state[0][0], state[1][0]",
        "every layer has a first state of its own",
    ),
    (
        "h, c = state[0][layer], state[1][layer]",
        "c, h = state[0][layer], state[1][layer]",
        "the state that was given is (h0, c0), in this order",
    ),
    (
        "        x = torch.stack(outputs, dim=1)",
        "        x = torch.stack(outputs, dim=0)",
        "steps are the second axis: the batch comes first",
    ),
    (
        "return x, (torch.stack(last_h), torch.stack(last_c))",
        "return x, (h[None], c[None])",
        "the last states of all layers are returned, not those of the last layer alone",
    ),
    (
        "if lengths.shape != (B,) or ((lengths < 0) | (lengths > n)).any():",
        "if lengths.shape != (B,):",
        "a length beyond n is not noticed",
    ),
)


def forget_bias_init(module: nn.Module, value: float = 1.0) -> None:
    """Set the forget gates' biases of every LSTM inside ``module``, in place.

    The two biases of a gate are added in each step. Afterward that of ``bias_ih`` is
    ``value`` and that of ``bias_hh`` is 0, for every layer and direction. All other
    entries, and all parameters as objects, stay as they are.

    An LSTM is a module, ``module`` itself or one inside of it, that has parameters of
    its own named ``bias_ih...`` with four times as many entries as its
    ``hidden_size``: torch.nn.LSTM, torch.nn.LSTMCell, and ``LSTMCell``. A GRU has three
    times as many, and is left alone.

    Raises ValueError if there is no LSTM with biases.

    Source: Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015,
    "An Empirical Exploration of Recurrent Network Architectures".
    """
    found = False
    for part in module.modules():
        # equivalent `getattr(part, "hidden_size", -1)`: no shape is negative
        size = getattr(part, "hidden_size", 0)
        for name, bias in part.named_parameters():  # inner ones have a prefix
            if name.startswith("bias_ih") and bias.shape == (4 * size,):
                other = part.get_parameter(name.replace("ih", "hh"))
                with torch.no_grad():
                    bias[size : 2 * size] = value
                    other[size : 2 * size] = 0
                found = True
    if not found:
        raise ValueError("no LSTM with biases in this module")


known_mistakes(
    forget_bias_init,
    (
        "                    other[size : 2 * size] = 0",
        "                    other[size : 2 * size] = value",
        "the two biases are added: the forget gate begins at twice the value",
    ),
    (
        "                    other[size : 2 * size] = 0\n",
        "",
        "the second bias keeps its random entries, so the sum is not the value",
    ),
    (
        "                    bias[size : 2 * size] = value\n                    other[size : 2 * size] = 0",
        "                    bias[:size] = value\n                    other[:size] = 0",
        "that is the input gate: the forget gate is the second block",
    ),
    (
        "                    bias[size : 2 * size] = value\n                    other[size : 2 * size] = 0",
        "                    bias[:] = value\n                    other[:] = 0",
        "all four gates are set; only the forget gate's bias is meant",
    ),
    (
        "and bias.shape == (4 * size,)",
        "and len(bias) // 4",
        "a GRU has no forget gate: its biases are left alone",
    ),
    (
        "for part in module.modules():",
        "for part in [module]:",
        "LSTMs inside of other modules are missed",
    ),
    (
        'name.startswith("bias_ih")',
        'name in ("bias_ih", "bias_ih_l0")',
        "only the first layer and one direction are set",
    ),
    (
        """    if not found:
        raise ValueError("no LSTM with biases in this module")
""",
        "",
        "a module without an LSTM goes through in silence, and the bias is not where you think it is",
    ),
    (
        "                with torch.no_grad():\n                    bias[size : 2 * size] = value\n                    other[size : 2 * size] = 0",
        "                new = bias.detach().clone()\n                new[size : 2 * size] = value\n                setattr(part, name, nn.Parameter(new))\n                with torch.no_grad():\n                    other[size : 2 * size] = 0",
        "a new parameter replaces the old one, and an optimizer made before still steps the old",
    ),
)
