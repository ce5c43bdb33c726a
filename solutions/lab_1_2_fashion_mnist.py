"""Lab 1.2: a convolution, a block of the MLP-Mixer, AdamW and its groups for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from llm180 import known_mistakes


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
) -> Tensor:
    """A convolution: all windows as rows of one matrix, times the filters.

    Parameters
    ----------
    x:
        ``(B, C, H, W)``: B pictures of C channels; B may be 0.
    weight:
        ``(O, C, K, L)``: O filters of K rows and L columns, one plane per channel.
    bias:
        ``(O,)``, added to every place of an output channel, or None.
    stride:
        Steps between two windows, down and across, at least 1.
    padding:
        Rows and columns of zeros put on each of the four sides, at least 0.

    Returns
    -------
    ``(B, O, P, Q)`` with ``P = (H + 2 * padding - K) // stride + 1``, and Q likewise
    of W and L. Entry ``[b, o, p, q]`` is the sum over c, k and l of
    ``weight[o, c, k, l]`` times the padded ``x[b, c, p * stride + k, q * stride + l]``,
    plus ``bias[o]``. Gradients reach all three tensors.

    No convolution or unfolding of the library is called (``nn.functional.conv2d``,
    ``nn.functional.unfold`` and their like; the method ``Tensor.unfold``, a view, is
    none of them). How many operations of torch are called does not depend on any of
    the sizes.

    Raises ValueError, naming the channels if those of ``x`` and ``weight`` differ,
    ``stride`` or ``padding`` if it is too small, and the filter if it is larger than
    the padded picture.

    Source: Chellapilla, Puri and Simard (2006), "High Performance Convolutional Neural
    Networks for Document Processing", on unrolling a convolution.
    """
    batch, channels, height, width = x.shape
    outputs, planes, rows, cols = weight.shape
    if channels != planes:
        raise ValueError(f"x has {channels} channels, the filters have {planes}")
    if stride < 1 or padding < 0:
        raise ValueError(
            f"stride is at least 1 and padding at least 0, got {stride} and {padding}"
        )
    if rows > height + 2 * padding or cols > width + 2 * padding:
        raise ValueError(
            f"a filter of {rows} x {cols} does not fit into the padded picture"
        )
    padded = x.new_zeros(batch, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = x
    windows = padded.unfold(2, rows, stride).unfold(3, cols, stride)
    down, across = windows.shape[2:4]  # windows: (B, C, P, Q, K, L)
    patches = windows.permute(0, 2, 3, 1, 4, 5)
    patches = patches.reshape(batch, down * across, channels * rows * cols)
    out = patches @ weight.reshape(outputs, -1).T  # (B, P * Q, O)
    if bias is not None:
        out = out + bias
    return out.mT.reshape(batch, outputs, down, across)


known_mistakes(
    conv2d,
    (
        "    out = patches @ weight.reshape(outputs, -1).T",
        "    out = patches @ weight.flip(2, 3).reshape(outputs, -1).T",
        "the filter is turned by 180 degrees, as in mathematics; the layers of deep learning do not turn it",
    ),
    (
        "    out = patches @ weight.reshape(outputs, -1).T  # (B, P * Q, O)\n",
        "    out = sum(\n        windows[..., k, l].permute(0, 2, 3, 1) @ weight[:, :, k, l].T\n        for k in range(rows)\n        for l in range(cols)\n    ).reshape(batch, down * across, outputs)\n",
        "a product for each entry of the filter: K * L small ones, where one is asked for",
    ),
    (
        "windows.permute(0, 2, 3, 1, 4, 5)",
        "windows.permute(0, 2, 3, 4, 5, 1)",
        "the channels come last in a row of patches, but first in a row of the weights: the two are flattened in different orders",
    ),
    (
        "    return out.mT.reshape(batch, outputs, down, across)",
        "    return out.reshape(batch, outputs, down, across)",
        "the channels of the result are its last axis; a reshape alone mixes them with the places",
    ),
    (
        "padded[:, :, padding : padding + height, padding : padding + width] = x",
        "padded[:, :, :height, :width] = x",
        "all the padding lies below and to the right; it belongs on the four sides",
    ),
    (
        "windows = padded.unfold(2, rows, stride).unfold(3, cols, stride)",
        "windows = padded.unfold(2, rows, 1).unfold(3, cols, stride)",
        "the stride is applied across, not down",
    ),
    (
        "windows = padded.unfold(2, rows, stride).unfold(3, cols, stride)",
        "windows = padded.unfold(2, rows, rows).unfold(3, cols, cols)",
        "the windows do not overlap: they are moved by the filter's size, not by the stride",
    ),
    (
        "padded = x.new_zeros(batch, channels, height + 2 * padding, width + 2 * padding)\n    padded[:, :, padding : padding + height, padding : padding + width] = x",
        "padded = x.detach().new_zeros(batch, channels, height + 2 * padding, width + 2 * padding)\n    padded[:, :, padding : padding + height, padding : padding + width] = x.detach()",
        "the picture is detached, so layers below this one get no gradient",
    ),
    (
        "    if channels != planes:\n        raise ValueError(f\"x has {channels} channels, the filters have {planes}\")\n",
        "",
        "channels that do not fit are not refused with a message that says so",
    ),
    (
        "if rows > height + 2 * padding or cols > width + 2 * padding:",
        "if rows > height or cols > width:",
        "a filter has to fit into the padded picture, not into the bare one",
    ),
)


class MixerBlock(nn.Module):
    """A block of the MLP-Mixer: an MLP along the patches, then one along the channels.

    For a table ``x``, ``(B, S, C)``, of S patches with C channels each:

        ``u = x + token_mlp(token_norm(x))``, the MLP working along the patches
        ``y = u + channel_mlp(channel_norm(u))``, the MLP working along the channels

    ``token_norm`` and ``channel_norm`` are ``nn.LayerNorm`` over the channels.
    ``token_mlp`` and ``channel_mlp`` are ``nn.Sequential`` of a linear layer, a GELU
    (exact) and a linear layer, with ``token_hidden`` and ``channel_hidden`` units
    between. All channels share the one token MLP, all patches the one channel MLP.

    Source: Tolstikhin et al. (2021), "MLP-Mixer: An all-MLP Architecture for Vision",
    equation 1.
    """

    def __init__(
        self, patches: int, channels: int, token_hidden: int, channel_hidden: int
    ) -> None:
        """Make the four parts under the names above."""
        super().__init__()
        self.token_norm = nn.LayerNorm(channels)
        self.token_mlp = nn.Sequential(
            nn.Linear(patches, token_hidden),
            nn.GELU(),
            nn.Linear(token_hidden, patches),
        )
        self.channel_norm = nn.LayerNorm(channels)
        self.channel_mlp = nn.Sequential(
            nn.Linear(channels, channel_hidden),
            nn.GELU(),
            nn.Linear(channel_hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, S, C)`` to ``(B, S, C)``; ``x`` is left unchanged."""
        turned = self.token_norm(x).mT  # (B, C, S)
        x = x + self.token_mlp(turned).mT
        return x + self.channel_mlp(self.channel_norm(x))


known_mistakes(
    MixerBlock,
    (
        "        x = x + self.token_mlp(turned).mT\n        return x + self.channel_mlp",
        "        x = self.token_mlp(turned).mT\n        return self.channel_mlp",
        "the skip connections are missing: each MLP has to be added to what it read",
    ),
    (
        "        turned = self.token_norm(x).mT  # (B, C, S)\n        x = x + self.token_mlp(turned).mT",
        "        turned = self.token_norm(x).reshape(x.shape[0], x.shape[2], x.shape[1])\n        x = x + self.token_mlp(turned).reshape(x.shape)",
        "a reshape does not turn the table: it cuts the same run of numbers at other places",
    ),
    (
        "return x + self.channel_mlp(self.channel_norm(x))",
        "return x + self.channel_mlp(x)",
        "the second norm is not applied",
    ),
    (
        "        x = x + self.token_mlp(turned).mT\n        return x + self.channel_mlp(self.channel_norm(x))",
        "        u = x + self.token_mlp(turned).mT\n        return u + self.channel_mlp(self.channel_norm(x))",
        "the channel MLP reads the block's input, not what the token MLP made of it",
    ),
    (
        "        x = x + self.token_mlp(turned).mT\n",
        "        x += self.token_mlp(turned).mT\n",
        "`+=` writes into the caller's tensor",
    ),
    (
        "            nn.Linear(token_hidden, patches),\n        )",
        "            nn.Linear(token_hidden, patches),\n            nn.GELU(),\n        )",
        "there is an activation after the second layer as well",
    ),
    (
        "        self.channel_mlp = nn.Sequential(\n            nn.Linear(channels, channel_hidden),\n            nn.GELU(),",
        "        self.channel_mlp = nn.Sequential(\n            nn.Linear(channels, channel_hidden),\n            nn.ReLU(),",
        "the activation is a ReLU, not a GELU",
    ),
)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a model in two groups for an optimizer: decayed, and not.

    Returns two dicts with the keys ``"params"``, a list, and ``"weight_decay"``. The
    first has ``weight_decay`` and the parameters with two or more axes: matrices and
    filters. The second has 0.0 and those with fewer: biases, and the scales and shifts
    of norms. Within a group the order is that of ``model.parameters()``, each
    parameter is there once, and those that are frozen (``requires_grad`` is False) are
    left out. A group may be empty.

    Raises ValueError, naming ``weight_decay``, if that is negative.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay is at least 0, got {weight_decay}")
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in trained if p.ndim >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


known_mistakes(
    decay_groups,
    (
        "    trained = [p for p in model.parameters() if p.requires_grad]",
        "    trained = list(model.parameters())",
        "frozen parameters are handed to the optimizer as well",
    ),
    (
        '"params": [p for p in trained if p.ndim >= 2],\n',
        '"params": [p for n, p in model.named_parameters() if p.requires_grad and "bias" not in n],\n',
        "the scales of the norms decay: their name is weight, but they are vectors",
    ),
    (
        "p.ndim >= 2],\n",
        "p.ndim == 2],\n",
        "the filters of a convolution have four axes, and they are in neither group",
    ),
    (
        '{"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}',
        '{"params": [p for p in trained if p.ndim < 2]}',
        "without a key of its own the second group gets the optimizer's default decay",
    ),
    (
        '{"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}',
        '{"params": trained, "weight_decay": 0.0}',
        "the matrices are in both groups",
    ),
    (
        "    trained = [p for p in model.parameters() if p.requires_grad]",
        "    trained = [p for m in model.modules() for p in m.parameters(recurse=False) if p.requires_grad]",
        "a parameter that two modules share is there twice",
    ),
)


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay, as a PyTorch optimizer.

    With ``g`` the gradient of a parameter ``p``, ``m`` and ``s`` zero at first, and
    ``t`` the number of steps that this parameter has had, this one included:

        ``p = p * (1 - lr * weight_decay)``
        ``m = b1 * m + (1 - b1) * g``
        ``s = b2 * s + (1 - b2) * g**2``
        ``p = p - lr / (1 - b1**t) * m / (sqrt(s / (1 - b2**t)) + eps)``

    Each parameter group has its own ``lr``, ``betas``, ``eps`` and ``weight_decay``;
    they are read from ``self.param_groups`` in each step. A parameter whose ``grad`` is
    None is passed over. ``self.state[p]`` holds, from the first step of ``p`` on, t as
    an int under ``"step"``, m under ``"exp_avg"`` and s under ``"exp_avg_sq"``, so that
    ``state_dict`` and ``load_state_dict``, which are inherited, save and restore a run.

    How many operations of torch a step calls does not depend on the number of
    parameters in a group, once each has its state.

    Source: Loshchilov and Hutter (2019), "Decoupled Weight Decay Regularization",
    algorithm 2; the convention is torch.optim.AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        """Hand the parameters, or dicts with groups of them, and the defaults to torch.

        Raises ValueError if ``lr``, ``eps`` or ``weight_decay`` is negative, or if one
        of the betas is not at least 0 and below 1.
        """
        if min(lr, eps, weight_decay) < 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(
                "need lr, eps, weight_decay >= 0 and 0 <= betas < 1, got "
                f"{lr}, {eps}, {weight_decay} and {betas}"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, in place; the gradients stay.

        ``closure``, if given, is called first, with gradients enabled; it computes the
        loss and the gradients, and its value is returned. Without one, None is.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        """One step of one group's parameters, by operations on lists of tensors."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
        grads = [p.grad for p in params]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        steps = [self.state[p]["step"] for p in params]
        (b1, b2), lr = group["betas"], group["lr"]

        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_mul_(means, b1)
        torch._foreach_add_(means, grads, alpha=1 - b1)
        torch._foreach_mul_(squares, b2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - b2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - b2**t) ** 0.5 for t in steps])
        torch._foreach_add_(roots, group["eps"])
        sizes = [-lr / (1 - b1**t) for t in steps]
        torch._foreach_addcdiv_(params, means, roots, sizes)


known_mistakes(
    AdamW,
    (
        "        torch._foreach_mul_(params, 1 - lr * group[\"weight_decay\"])\n        torch._foreach_mul_(means, b1)",
        "        grads = torch._foreach_add(grads, params, alpha=group[\"weight_decay\"])\n        torch._foreach_mul_(means, b1)",
        "the decay goes into the gradient, and Adam divides it by the root of s: that is Adam with an L2 penalty",
    ),
    (
        "        torch._foreach_mul_(params, 1 - lr * group[\"weight_decay\"])",
        "        torch._foreach_mul_(params, 1 - group[\"weight_decay\"])",
        "the decay of a step is lr times weight_decay",
    ),
    (
        "        torch._foreach_div_(roots, [(1 - b2**t) ** 0.5 for t in steps])\n        torch._foreach_add_(roots, group[\"eps\"])\n",
        "        torch._foreach_add_(roots, group[\"eps\"])\n        torch._foreach_div_(roots, [(1 - b2**t) ** 0.5 for t in steps])\n",
        "eps is added before the root of s is corrected, so it is too large in the first steps",
    ),
    (
        "        sizes = [-lr / (1 - b1**t) for t in steps]",
        "        sizes = [-lr / (1 - b1 ** max(steps)) for t in steps]",
        "a parameter that got its first gradient later has had fewer steps than the others",
    ),
    (
        "        sizes = [-lr / (1 - b1**t) for t in steps]",
        "        sizes = [-lr for t in steps]",
        "m is not corrected for starting at zero",
    ),
    (
        "        params = [p for p in group[\"params\"] if p.grad is not None]",
        "        params = list(group[\"params\"])\n        for p in params:\n            p.grad = torch.zeros_like(p) if p.grad is None else p.grad",
        "a parameter without a gradient decays, and its averages shrink; it has to be left alone",
    ),
    (
        "        (b1, b2), lr = group[\"betas\"], group[\"lr\"]",
        "        (b1, b2), lr = group[\"betas\"], self.defaults[\"lr\"]",
        "lr is read from the defaults: a group's own rate and a schedule change nothing",
    ),
    (
        "group[\"weight_decay\"])\n        torch._foreach_mul_(means",
        "self.defaults[\"weight_decay\"])\n        torch._foreach_mul_(means",
        "the decay is read from the defaults: the group without decay decays",
    ),
    (
        "            self._step(group)\n",
        "            if all(p.grad is None for p in group[\"params\"]):\n                break\n            self._step(group)\n",
        "the step ends at the first group without a gradient; the groups behind it are left out",
    ),
    (
        "            with torch.enable_grad():\n                loss = closure()",
        "            loss = closure()",
        "the closure runs without gradients, so its backward pass fails",
    ),
    (
        "        return loss\n",
        "        return None\n",
        "the closure's loss is not returned",
    ),
    (
        "        torch._foreach_mul_(means, b1)\n        torch._foreach_add_(means, grads, alpha=1 - b1)\n",
        "        for m, g in zip(means, grads):\n            m.mul_(b1).add_(g, alpha=1 - b1)\n",
        "a loop over the parameters starts kernels for each of them",
    ),
)
