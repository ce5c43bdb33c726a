"""Day 40: the norms of gradients layer by layer, a start that counts the layers, and the
residual stream read as words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llm180 import known_mistakes
from solutions.day033_multi_head import MultiHeadAttention
from solutions.day039_feed_forward import FeedForward


def grad_norm_by_layer(
    layers: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    *,
    of: str = "outputs",
) -> Tensor:
    """The norm of the loss's gradient at each layer of a model.

    Parameters
    ----------
    layers:
        Modules, none or more. For ``of="outputs"`` each runs exactly once when ``loss``
        is called, and returns a tensor, or a tuple whose first item counts as its
        output. For ``of="parameters"`` they may run, and return, as they like.
    loss:
        ``loss()`` runs the model and gives a tensor that holds one number. It is
        called once.
    of:
        ``"outputs"``: the gradient with respect to the layer's output, all entries of
        the batch together. ``"parameters"``: the gradient with respect to all of the
        layer's parameters that require one, together.

    Returns
    -------
    ``(len(layers),)`` of float64, detached: the square root of the sum of squares,
    which is made in float64, so that gradients below 1e-23 do not become 0. A layer
    that the loss does not depend on has 0; so has one without parameters, for
    ``of="parameters"``.

    Afterwards no hook is left on a layer, also after an error, and no parameter's
    ``grad`` has changed. Works inside ``torch.no_grad()``, and gives the gradient of
    an output also where every parameter is frozen.

    Raises ValueError that says ``of`` for another ``of``, one that says ``once`` if a
    layer runs more than once or not at all (for ``"outputs"``), and one that says
    ``one number`` if ``loss`` gives anything else.
    """
    if of not in ("outputs", "parameters"):
        raise ValueError(f"of must be outputs or parameters, got {of!r}")
    caught: list[list[Tensor]] = [[] for _ in layers]

    def catch(into: list[Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, output: Tensor | tuple) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not first.requires_grad:  # everything before it is frozen
                first.requires_grad_()
            into.append(first)

        return hook

    hooks = []
    # equivalent `of <= "outputs"`: two values are left, and this one comes first
    if of == "outputs":
        pairs = zip(layers, caught)
        hooks = [layer.register_forward_hook(catch(into)) for layer, into in pairs]
    try:
        with torch.enable_grad():
            value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    if value.numel() != 1:
        raise ValueError(f"the loss must be one number, got {tuple(value.shape)}")
    # equivalent `of >= "parameters"`: two values are left, and this one comes last
    if of == "parameters":
        every = [list(layer.parameters()) for layer in layers]
        caught = [[p for p in own if p.requires_grad] for own in every]
    elif any(len(outputs) != 1 for outputs in caught):
        runs = [len(outputs) for outputs in caught]
        raise ValueError(f"each layer must run once, these ran {runs} times")
    flat = [tensor for tensors in caught for tensor in tensors]
    if flat and value.requires_grad:
        grads = torch.autograd.grad(value, flat, materialize_grads=True)
    else:  # nothing to ask for, or nothing that the loss depends on
        grads = tuple(torch.zeros_like(tensor) for tensor in flat)
    squares = iter([grad.double().square().sum() for grad in grads])
    norms = [sum(next(squares) for _ in tensors) ** 0.5 for tensors in caught]
    return torch.tensor(norms, dtype=torch.float64)


known_mistakes(
    grad_norm_by_layer,
    (
        "grad.double().square()",
        "grad.square().double()",
        "the squares are made in the gradient's dtype: in float32 the square of 1e-25 is 0",
    ),
    (
        "sum(next(squares) for _ in tensors) ** 0.5",
        "sum(next(squares) ** 0.5 for _ in tensors)",
        "norms do not add up: add the squares of all tensors, then take the root",
    ),
    (
        "sum(next(squares) for _ in tensors) ** 0.5",
        "sum(next(squares) for _ in tensors)",
        "the root is missing: this is the square of the norm",
    ),
    (
        "grad.double().square().sum()",
        "grad.double().square().mean()",
        "a mean over the entries is not the norm: layers of other sizes could not be compared",
    ),
    (
        "            hook.remove()\n",
        "            pass\n",
        "the hooks stay on the layers: each later run of the model keeps tensors alive",
    ),
    (
        "    finally:\n        for hook in hooks:\n            hook.remove()\n",
        "    except ZeroDivisionError:\n        raise\n    for hook in hooks:\n        hook.remove()\n",
        "if the loss raises an error, the hooks are left behind: remove them in a finally",
    ),
    (
        "        grads = torch.autograd.grad(value, flat, materialize_grads=True)\n",
        "        for tensor in flat:\n            tensor.retain_grad()\n        value.backward()\n        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in flat]\n",
        "backward() adds to the grad of every parameter; the caller's next step would use it",
    ),
    (
        "            if not first.requires_grad:  # everything before it is frozen\n                first.requires_grad_()\n",
        "",
        "where all parameters are frozen, outputs require no gradient, and you never ask for one",
    ),
    (
        "    if flat and value.requires_grad:\n",
        "    if flat:\n",
        "autograd refuses a loss that requires no gradient; here it depends on no layer, so every norm is 0",
    ),
    (
        "first = output[0] if isinstance(output, tuple) else output",
        "first = output[0]",
        "output[0] of a tensor is the first sequence of the batch; only a tuple has a first item to take",
    ),
    (
        "        with torch.enable_grad():\n",
        "        if True:\n",
        "inside torch.no_grad() nothing is recorded: turn gradients on where you need them",
    ),
    (
        "list(layer.parameters())",
        "list(layer.parameters(recurse=False))",
        "the parameters of a layer's parts count as well",
    ),
    (
        "register_forward_hook(catch(into))",
        "register_forward_pre_hook(lambda module, given, into=into: into.append(given[0] if given[0].requires_grad else given[0].requires_grad_()))",
        "this is the gradient at the layer's input; its output is asked for",
    ),
    (
        "    elif any(len(outputs) != 1 for outputs in caught):\n",
        "    elif any(len(outputs) < 1 for outputs in caught):\n",
        "a layer that runs twice has two outputs: refuse it rather than pick or add",
    ),
)


def logit_lens(
    hidden_states: Sequence[Tensor],
    norm: nn.Module,
    unembedding: Tensor,
    *,
    parts: bool = False,
) -> Tensor:
    """The logits of a model, read off its residual stream at every depth.

    Parameters
    ----------
    hidden_states:
        L + 1 tensors ``(..., d_model)``: the stream before the first block and after
        each block, before the final norm. Left unchanged.
    norm:
        The model's final norm, a module.
    unembedding:
        ``(V, d_model)``, a row for each token; without a bias.
    parts:
        If False, row l of the result holds the logits that the model would give if it
        ended after l blocks: the final norm of the stream there, and then the product
        with each row of ``unembedding``.
        If True, row l holds the share of the *final* logits that comes from the vector
        that block l added to the stream; row 0 holds the share of the stream before
        the first block, and what the norm's bias adds. The rows add up to the final
        logits. ``norm`` must be an ``nn.LayerNorm`` over the last axis, with or
        without weight and bias: each part is centered on its own mean and divided by
        the deviation of the last state.

    Returns
    -------
    ``(L + 1, ..., V)``, differentiable.

    Raises ValueError that says ``wide`` if states and unembedding differ in width, and,
    for ``parts=True``, one that says ``LayerNorm`` if ``norm`` is none.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; the parts, Elhage
    et al. 2021, "A Mathematical Framework for Transformer Circuits".
    """
    stream = torch.stack(tuple(hidden_states))  # (L + 1, ..., d_model)
    # equivalent `unembedding.shape[1]`: it has two axes
    if stream.shape[-1] != unembedding.shape[-1]:
        raise ValueError(
            f"states {stream.shape[-1]} wide, unembedding {unembedding.shape[-1]} wide"
        )
    if not parts:
        return norm(stream) @ unembedding.mT
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError(f"parts need a LayerNorm, got {type(norm).__name__}")
    writes = torch.cat([stream[:1], stream.diff(dim=0)])
    writes = writes - writes.mean(dim=-1, keepdim=True)
    final = writes.sum(dim=0)  # the last state, centered
    variance = final.square().mean(dim=-1, keepdim=True)
    scaled = writes * (variance + norm.eps) ** -0.5
    if norm.weight is not None:
        scaled = scaled * norm.weight
    if norm.bias is not None:
        scaled = torch.cat([scaled[:1] + norm.bias, scaled[1:]])
    return scaled @ unembedding.mT


known_mistakes(
    logit_lens,
    (
        "return norm(stream) @ unembedding.mT",
        "return stream @ unembedding.mT",
        "the final norm is left out: the model never multiplies a bare stream with the unembedding",
    ),
    (
        "return norm(stream) @ unembedding.mT",
        "return torch.cat([norm(stream[:-1]), stream[-1:]]) @ unembedding.mT",
        "the last state has not been through the final norm: hidden_states end before it",
    ),
    (
        "return norm(stream) @ unembedding.mT",
        "return norm(torch.cat([stream[:1], stream.diff(dim=0)])) @ unembedding.mT",
        "this reads each block's own addition; the lens reads the stream, the sum so far",
    ),
    (
        "return norm(stream) @ unembedding.mT",
        "return (norm(stream) @ unembedding.mT).log_softmax(dim=-1)",
        "these are log-probabilities; logits are asked for",
    ),
    (
        "writes = torch.cat([stream[:1], stream.diff(dim=0)])\n",
        "writes = stream.diff(dim=0)\n",
        "the share of the stream before the first block is missing: L + 1 rows are asked for",
    ),
    (
        "writes = torch.cat([stream[:1], stream.diff(dim=0)])\n",
        "writes = stream\n",
        "a state is the sum of all writes up to it, so the early ones count many times: take differences",
    ),
    (
        "variance = final.square()",
        "variance = writes.square()",
        "each part is divided by its own deviation; all of them share that of the last state",
    ),
    (
        "variance = final.square()",
        "variance = writes.cumsum(dim=0).square()",
        "each part is divided by the deviation of the stream there; all share that of the last state",
    ),
    (
        "    writes = writes - writes.mean(dim=-1, keepdim=True)\n",
        "",
        "LayerNorm subtracts the mean over the features, and it does so part by part",
    ),
    (
        "final.square().mean(dim=-1, keepdim=True)",
        "final.square().sum(dim=-1, keepdim=True) / (stream.shape[-1] - 1)",
        "LayerNorm divides by the biased variance, over d_model and not d_model - 1",
    ),
    (
        "(variance + norm.eps) ** -0.5",
        "(variance.detach() + norm.eps) ** -0.5",
        "the deviation is shared by the parts, but it is no constant: gradients flow through it too",
    ),
    (
        "torch.cat([scaled[:1] + norm.bias, scaled[1:]])",
        "scaled + norm.bias",
        "the norm's bias is added in every row; it enters the logits once",
    ),
    (
        "    if stream.shape[-1] != unembedding.shape[-1]:\n",
        "    if False:\n",
        "an unembedding of another width must be a ValueError that says wide",
    ),
    (
        "    if not isinstance(norm, nn.LayerNorm):\n",
        "    if False:\n",
        "a norm of another kind has other parts, or none: refuse it",
    ),
)


def depth_scaled_init(model: nn.Module, layers: int) -> list[str]:
    """Divide what each part of a block adds to the stream by ``sqrt(2 * layers)``.

    In place: the weight and, where there is one, the bias of ``output`` in every
    ``MultiHeadAttention`` (Day 33) and of ``down`` in every ``FeedForward`` (Day 39)
    inside ``model``, at any depth. All else stays as it is. A part that is used
    several times in the model is scaled once. Call it once, on a new model.

    Parameters
    ----------
    model:
        A block, an ``nn.ModuleList`` of blocks or a whole model.
    layers:
        The number of blocks that a token passes through, each with two parts that add
        to the stream. ``model`` may hold fewer: a piece of a deep model, or a block
        that is used ``layers`` times.

    Returns
    -------
    The names of the scaled linear layers, as ``model.named_modules()`` has them, in its
    order.

    Raises ValueError that says ``layers`` if ``layers`` is below 1, and one that says
    ``parts`` if ``model`` holds none, or more than ``2 * layers``. Nothing is changed
    then.

    Source: Radford et al. 2019, "Language Models Are Unsupervised Multitask Learners".
    """
    if layers < 1:
        raise ValueError(f"layers must be 1 or more, got {layers}")
    writers: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, MultiHeadAttention):
            writers[f"{prefix}output"] = module.output
        elif isinstance(module, FeedForward):
            writers[f"{prefix}down"] = module.down
    if not 1 <= len(writers) <= 2 * layers:
        raise ValueError(f"found {len(writers)} parts, 1 to {2 * layers} expected")
    with torch.no_grad():
        for linear in writers.values():
            for parameter in linear.parameters():
                parameter /= (2 * layers) ** 0.5
    return list(writers)


known_mistakes(
    depth_scaled_init,
    (
        "(2 * layers) ** 0.5",
        "layers**0.5",
        "a block adds to the stream twice, by attention and by the feed-forward network: 2 * layers additions",
    ),
    (
        "(2 * layers) ** 0.5",
        "(2 * layers)",
        "variances add up, not deviations: divide by the root",
    ),
    (
        "(2 * layers) ** 0.5",
        "len(writers) ** 0.5",
        "the model may hold only a piece of the layers, or one block used many times: what counts is the depth",
    ),
    (
        "            for parameter in linear.parameters():\n                parameter /= (2 * layers) ** 0.5\n",
        "            linear.weight /= (2 * layers) ** 0.5\n",
        "the bias is added to the stream as well, once per part",
    ),
    (
        "        elif isinstance(module, FeedForward):\n            writers[f\"{prefix}down\"] = module.down\n",
        "",
        "the feed-forward networks add to the stream too",
    ),
    (
        "writers[f\"{prefix}down\"] = module.down",
        "writers[f\"{prefix}up\"] = module.up",
        "the first layer of the network writes into its hidden layer; down writes into the stream",
    ),
    (
        "isinstance(module, MultiHeadAttention)",
        'hasattr(module, "output")',
        "another module has an output too, such as a model's head: go by the type of the part",
    ),
    (
        "isinstance(module, FeedForward)",
        'hasattr(module, "down")',
        "another module has a down too: go by the type of the part, not by names",
    ),
    (
        "model.named_modules():",
        "model.named_modules(remove_duplicate=False):",
        "a block that is used several times is scaled several times",
    ),
    (
        "    if not 1 <= len(writers) <= 2 * layers:\n",
        "    if len(writers) > 2 * layers:\n",
        "a model without a part to scale is passed over in silence",
    ),
    (
        "    if not 1 <= len(writers) <= 2 * layers:\n",
        "    if len(writers) < 1:\n",
        "more parts than layers can hold: the number of layers is wrong, and nobody notices",
    ),
    (
        "                parameter /= (2 * layers) ** 0.5\n",
        "                parameter.normal_(std=0.02 / (2 * layers) ** 0.5)\n",
        "the weights are drawn anew; divide those that are there",
    ),
)
