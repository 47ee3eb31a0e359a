"""Checkpoint directories as the benchmarks need them: safetensors headers, configs, a small tokenizer.

Only the layout lives here; what the tensors contain is the business of `generate.py` and `scale.py`.
Needs nothing but the standard library.
"""

import json
import math
import os
from pathlib import Path

DTYPE = "BF16"
BYTES = 2

# 373,867,520 parameters: 24 × 12,847,104 in the layers, 2 × 32,768,000 in embedding and head, 1,024 in the norm.
LLAMA_374M = {"hidden": 1024, "intermediate": 2816, "layers": 24, "heads": 16, "vocab": 32000}
# 3,745,188,864 parameters, 10.02 times as many.
LLAMA_3745M = {"hidden": 3072, "intermediate": 7936, "layers": 32, "heads": 24, "vocab": 32000}

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?"
SPECIAL = ["<unk>", "<s>", "</s>"]


def llama_tensors(size):
    """Names and shapes of an untied Llama with as many key heads as heads, in the order transformers saves them."""
    h, i, v = size["hidden"], size["intermediate"], size["vocab"]
    tensors = [("model.embed_tokens.weight", (v, h))]
    for layer in range(size["layers"]):
        prefix = f"model.layers.{layer}."
        tensors += [(f"{prefix}self_attn.{p}_proj.weight", (h, h)) for p in "qkvo"]
        tensors += [(f"{prefix}mlp.{p}_proj.weight", (i, h)) for p in ("gate", "up")]
        tensors += [(f"{prefix}mlp.down_proj.weight", (h, i))]
        tensors += [(f"{prefix}{p}_layernorm.weight", (h,)) for p in ("input", "post_attention")]
    return tensors + [("model.norm.weight", (h,)), ("lm_head.weight", (v, h))]


def parameters(tensors):
    """Number of elements of all tensors."""
    return sum(math.prod(shape) for _, shape in tensors)


def header(tensors):
    """The bytes that precede the data of a safetensors file with these tensors, in this order."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + math.prod(shape) * BYTES
        entries[name] = {"dtype": DTYPE, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(path):
    """Tensor entries of a safetensors file and the offset where its data begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def write_sparse(directory, tensors, size):
    """A checkpoint whose data are one hole: every tensor is zero, and the file takes no room on the disk."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "model.safetensors", "wb") as file:
        start = file.write(header(tensors))
        file.truncate(start + parameters(tensors) * BYTES)
    write_side_files(directory, size)


def write_side_files(directory, size):
    """config.json, generation_config.json and a character-level tokenizer, as transformers would save them."""
    special = {"bos_token_id": 1, "eos_token_id": 2}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size["hidden"],
        "intermediate_size": size["intermediate"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["heads"],
        "head_dim": size["hidden"] // size["heads"],
        "vocab_size": size["vocab"],
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": 0.02,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **special,
    }
    save_json(directory / "config.json", config)
    save_json(directory / "generation_config.json", special)
    save_json(directory / "tokenizer.json", tokenizer())
    names = {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    save_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def tokenizer():
    """A byte-pair tokenizer without merges: one token per character."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(SPECIAL + list(ALPHABET))},
            "merges": [],
        },
    }


def save_json(path, value):
    """Writes indented JSON with a final newline."""
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_files(directory):
    """The safetensors files of a checkpoint, sorted by name."""
    return sorted(Path(directory).glob("*.safetensors"))


def weight_bytes(directory):
    """Size of the weights of a checkpoint, headers included."""
    return sum(os.path.getsize(path) for path in weight_files(directory))
