"""Lab 5.1: which layers to adapt, what a fine-tuning holds in memory, and a quantized base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from llm180 import known_mistakes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def lora_targets(model: PreTrainedModel) -> list[str]:
    """Dotted names of the layers that an adapter goes on: all linear ones but the head.

    The head is the module that ``model.get_output_embeddings()`` gives, whatever its
    name; a model without one gives None. Only modules of class ``nn.Linear``, or of a
    class derived from it, count. Order: that of ``named_modules()``.

    Raises ValueError if nothing is left.
    """
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    if not names:
        raise ValueError("the model has no linear layer beside its head")
    return names


known_mistakes(
    lora_targets,
    (
        " and module is not head",
        "",
        "the head is among the targets: it is large, often tied to the embedding, and stays as it is",
    ),
    (
        "module is not head",
        'name != "lm_head"',
        "the head is known by its name; other architectures name it otherwise",
    ),
    (
        "isinstance(module, nn.Linear)",
        'name.endswith("_proj")',
        "layers are known by one architecture's names, not by their class",
    ),
    (
        "        name\n        for name",
        '        name.split(".")[-1]\n        for name',
        "the last components of the names are returned, once per layer; whole names are asked for",
    ),
    (
        "isinstance(module, nn.Linear)",
        'hasattr(module, "weight")',
        "everything with a weight is taken, embeddings and norms too",
    ),
    (
        "isinstance(module, nn.Linear)",
        "type(module) is nn.Linear",
        "a class derived from nn.Linear is a linear layer as well",
    ),
)


def memory_budget(
    linear: Sequence[tuple[int, int]],
    other: int,
    method: str,
    r: int = 8,
    *,
    base_bytes: int = 2,
) -> dict[str, int]:
    """Bytes that a fine-tuning with AdamW holds before the first activation.

    Parameters
    ----------
    linear:
        Shapes ``(d_out, d_in)`` of the layers that get an adapter.
    other:
        Number of all other parameters: embeddings, norms, biases.
    method:
        ``"full"``: every parameter trains, in float32. ``"lora"``: the base is frozen,
        ``base_bytes`` per parameter. ``"qlora"``: as lora, but the linear layers are
        kept in NF4: a byte for every two weights, a scale of one byte for every 64
        weights, a float32 for every 256 scales. All of these counts are rounded up,
        layer by layer.
    r:
        Rank of the adapters, ``(r, d_in)`` and ``(d_out, r)``, which train in float32.
    base_bytes:
        Bytes of a frozen number that is not quantized: 2 for float16.

    Returns
    -------
    ``"weights"``, ``"gradients"`` and ``"optimizer"``. A trained parameter has a
    gradient and AdamW's two averages, all in float32.

    Raises ValueError for another method, or if ``r < 1``.

    Source: Dettmers et al. 2023, sections 2 and 3.
    """
    if method not in ("full", "lora", "qlora"):
        raise ValueError(f"the method is full, lora or qlora, not {method}")
    if r < 1:
        raise ValueError(f"the rank is at least 1, got {r}")
    sizes = [d_out * d_in for d_out, d_in in linear]
    if method == "full":
        trained, base = sum(sizes) + other, 0
    else:
        trained = sum(r * (d_out + d_in) for d_out, d_in in linear)
        base = base_bytes * other
    if method == "lora":
        base += base_bytes * sum(sizes)
    elif method == "qlora":
        for size in sizes:
            scales = -(-size // 64)
            base += -(-size // 2) + scales + 4 * -(-scales // 256)
    return {
        "weights": base + 4 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
    }


known_mistakes(
    memory_budget,
    (
        '"optimizer": 8 * trained',
        '"optimizer": 4 * trained',
        "AdamW keeps two averages per trained parameter, not one",
    ),
    (
        '        "gradients": 4 * trained,\n',
        '        "gradients": 4 * (trained + sum(sizes)),\n',
        "frozen weights have no gradient",
    ),
    (
        '"weights": base + 4 * trained',
        '"weights": base',
        "the adapters are weights as well, in float32, beside the base",
    ),
    (
        "-(-size // 2) + scales",
        "-(-size // 2)",
        "the scales of the blocks are left out: one byte for every 64 weights",
    ),
    (
        "-(-size // 2) + scales + 4 * -(-scales // 256)",
        "-(-size // 2) + 4 * scales",
        "the scales are counted in float32; with double quantization each has one byte, and 256 share a float32",
    ),
    (
        "        base = base_bytes * other",
        "        base = 0",
        "embeddings and norms are left out: they are not quantized, and not gone",
    ),
    (
        "base = base_bytes * other",
        "base = other // 2",
        "embeddings and norms are counted at 4 bits; only the linear layers are quantized",
    ),
    (
        "r * (d_out + d_in)",
        "r * d_out * d_in",
        "the factors have r (d_out + d_in) entries together",
    ),
    (
        "base += base_bytes * sum(sizes)",
        "base += 2 * sum(sizes)",
        "the frozen base is taken to be float16 whatever base_bytes says",
    ),
)


def prepare_qlora(
    model: nn.Module,
    targets: Sequence[str],
    quantize: Callable[[nn.Linear], nn.Module],
) -> None:
    """Make a model the frozen, quantized base of adapters, in place.

    Each layer that ``targets`` names, by its whole dotted name, is replaced by
    ``quantize(layer)``, in the mode, training or eval, of the old layer. No parameter
    of the model trains afterwards. Parameters of fewer than two dimensions, norms and
    biases, become float32; embeddings and head keep their dtype.

    Raises ValueError, before anything is changed, if ``targets`` is empty or names
    something that is no ``nn.Linear`` with weights in a floating-point dtype; a layer
    that is quantized already has whole numbers.
    """
    modules = dict(model.named_modules())
    if not targets:
        raise ValueError("there is no target")
    for name in targets:
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
            raise ValueError(f"{name} is no linear layer that can be quantized")
    for name in targets:
        old = modules[name]
        model.set_submodule(name, quantize(old).train(old.training))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim < 2 and parameter.is_floating_point():
            parameter.data = parameter.data.float()


known_mistakes(
    prepare_qlora,
    (
        "        parameter.requires_grad_(False)\n",
        "",
        "embeddings and norms still train: all of the model has to be frozen",
    ),
    (
        "quantize(old).train(old.training)",
        "quantize(old)",
        "the new layer is in training mode whatever the old one was",
    ),
    (
        "if parameter.ndim < 2 and parameter.is_floating_point():",
        "if parameter.is_floating_point():",
        "embeddings and head become float32 too, and take twice the memory",
    ),
    (
        "        if parameter.ndim < 2 and parameter.is_floating_point():\n"
        "            parameter.data = parameter.data.float()\n",
        "",
        "norms stay in float16, where a sum of squares overflows early",
    ),
    (
        "if parameter.ndim < 2 and parameter.is_floating_point():",
        "if parameter.ndim < 2:",
        "the codes of a quantized weight, whole numbers in one dimension, are turned into float32",
    ),
    (
        " or not layer.weight.is_floating_point()",
        "",
        "a layer that is quantized already is quantized again: its codes are taken for weights",
    ),
    (
        '    if not targets:\n        raise ValueError("there is no target")\n',
        "",
        "an empty list of targets is not refused: nothing is quantized, and nobody notices",
    ),
    (
        "    for name in targets:\n        old = modules[name]\n",
        "    for name in modules:\n        if not isinstance(modules[name], nn.Linear):\n            continue\n        old = modules[name]\n",
        "every linear layer is quantized, the head too; only the targets are",
    ),
)
