"""Makes the golden files of the output tokenizer: tiny Llama models with differing vocabularies, merged by mergekit.

Ran with mergekit 0.1.5, transformers 5.23.0, tokenizers 0.23.3, torch 2.15, safetensors; CPU only:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_tokenizer.py

Written beside this script: `models/<name>/` (tokenizer files and `embedding.safetensors`) and `golden.json`:
for each case the recipe's tokenizer section and, for each model, the row mergekit gives every token.
The rebuilt matrices are read off by merging with `linear`, weight 1 for one model and 0 for the others.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
HIDDEN = 4


def added(ident, content, special=False, normalized=False):
    return {
        "id": ident,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def tokenizer(vocab, merges, added_tokens):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocab)},
            "merges": merges,
        },
    }


LETTERS = list("abcdef") + ["\u0120"]
MODELS = {
    # name: (tokenizer, embedding rows)
    "base": (tokenizer(LETTERS + ["ab", "\u0120a"], ["a b", "\u0120 a"], [added(9, "<s>", True), added(10, "</s>", True)]), 11),
    # Other order, other merges, a chat token.
    "chat": (
        tokenizer(["<unk>"] + LETTERS[::-1] + ["cd", "ab"], ["c d", "a b"], [added(10, "<s>", True), added(11, "</s>", True), added(12, "<|im|>", True), added(13, "<tool>")]),
        14,
    ),
    # Shares <|im|> with `chat` (another setting) and cd.
    "code": (
        tokenizer(LETTERS + ["cd", "ef"], ["c d", "e f"], [added(9, "<s>", True), added(10, "</s>", True), added(11, "<|im|>", True, True), added(12, "<code>")]),
        13,
    ),
    # A token beyond the embedding.
    "over": (tokenizer(LETTERS + ["ab"], ["a b"], [added(8, "<s>", True), added(9, "</s>", True), added(10, "<pad>", True)]), 10),
}

CASES = {
    "union": {"models": ["base", "chat", "code"], "base": True, "tokenizer": {"source": "union"}},
    "union_without_base": {"models": ["base", "chat", "code"], "base": False, "tokenizer": {"source": "union"}},
    "base": {"models": ["base", "chat", "code"], "base": True, "tokenizer": {"source": "base"}},
    "model": {"models": ["base", "chat", "code"], "base": True, "tokenizer": {"source": "chat"}},
    "padded": {"models": ["base", "chat"], "base": True, "tokenizer": {"source": "union", "pad_to_multiple_of": 16}},
    "rules": {
        "models": ["base", "chat", "code"],
        "base": True,
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<|im|>": {"source": "code", "force": True},
                "<new>": {"source": {"kind": "model_token", "model": "chat", "token": "<tool>"}},
                "<by_id>": {"source": {"kind": "model_token", "model": "code", "token_id": 3}},
                "cd": {"source": {"kind": "zero"}},
                "<tool>": {"source": {"kind": "zero"}, "force": True},
            },
        },
    },
    # The base's own token beyond its embedding is stripped, and comes back from nobody.
    "base_over_range": {"models": ["over", "code"], "base": True, "tokenizer": {"source": "union"}},
    # mergekit [BUG]: a token of another model beyond its embedding raises KeyError.
    "other_over_range": {"models": ["base", "over"], "base": True, "tokenizer": {"source": "union", "tokens": {"<pad>": {"source": {"kind": "zero"}}}}},
}


def make_model(name, directory):
    tok, rows = MODELS[name]
    directory.mkdir(parents=True)
    torch.manual_seed(len(name) + rows)
    config = LlamaConfig(vocab_size=rows, hidden_size=HIDDEN, intermediate_size=4, num_hidden_layers=1,
                         num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=False)
    config.architectures = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(config)
    # Small distinct multiples of 1/8: sums are exact, so a wrong row shows as a wrong number.
    seed = list(MODELS).index(name) * 100
    matrix = (torch.arange(rows * HIDDEN).reshape(rows, HIDDEN).float() + seed * HIDDEN) / 8
    model.model.embed_tokens.weight.data.copy_(matrix)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(tok, indent=2, ensure_ascii=False))
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tok["added_tokens"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"added_tokens_decoder": decoder, "bos_token": "<s>", "eos_token": "</s>",
         "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))
    return matrix


def keep(name, directory):
    target = HERE / "models" / name
    target.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / file, target / file)
    weight = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    save_file({"embedding": weight}, target / "embedding.safetensors")


def absolute(value, root):
    if isinstance(value, str) and value in MODELS:
        return str(root / value)
    if isinstance(value, dict):
        return {k: absolute(v, root) for k, v in value.items()}
    return value


def run(case, root, scratch):
    names = case["models"]
    result = {**case, "rows": [], "padding": [], "size": None, "error": None}
    for chosen in names:
        config = {
            "merge_method": "linear",
            "models": [{"model": str(root / n), "parameters": {"weight": float(n == chosen)}} for n in names],
            "parameters": {"normalize": False},
            "dtype": "float32",
            "tokenizer": absolute(case["tokenizer"], root),
        }
        if case["base"]:
            config["base_model"] = str(root / names[0])
        out = scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config))), str(out), MergeOptions(quiet=True))
        except Exception as error:  # The defects of mergekit are part of the golden file.
            result["error"] = type(error).__name__
            return result
        weight = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
        vocab = AutoTokenizer.from_pretrained(out).get_vocab()
        # By token: mergekit appends in the order of a set, another one in each run.
        result["rows"].append({token: weight[i].tolist() for token, i in sorted(vocab.items())})
        result["padding"].append(weight[len(vocab):].tolist())
        result["size"] = len(weight)
    return result


def main():
    shutil.rmtree(HERE / "models", ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        root = scratch / "models"
        for name in MODELS:
            make_model(name, root / name)
            keep(name, root / name)
        golden = {name: run(case, root, scratch) for name, case in CASES.items()}
    for name, case in golden.items():
        print(name, case["error"], case["size"], sorted(case["rows"][0]) if case["rows"] else None)
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
