#!/usr/bin/env python3
"""Makes the decoder that the R3 suite begins with: a tokenizer of 2,048 tokens, and random weights.

    python base.py DATA [--width 128] [--layers 4] [--name random]

Writes DATA/r3/NAME, a directory as `transformers` has it. The tokenizer is a byte-level BPE trained on the text and the training
rows of prepare.py, so it depends on these alone; the weights on the seed 0 and the version of torch.
"""

import argparse
import json
import os
from pathlib import Path

END = "<|endoftext|>"
VOCABULARY = 2048
CONTEXT = 64


def main():
    """Writes the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--name", default="random")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    directory = args.data / "r3" / args.name
    model(args.width, args.layers).save_pretrained(directory)
    tokenizer(args.data / "r3").save_pretrained(directory)


def model(width, layers):
    """A Llama with heads of 32 and one matrix for embedding and head."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 8 // 3 // 8 * 8, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=256,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )
    made = transformers.LlamaForCausalLM(config)
    print(f"{sum(parameter.numel() for parameter in made.parameters()) / 1e6:.2f} M parameters")
    return made


def tokenizer(directory):
    """A BPE over bytes; numbers digit by digit."""
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    bpe.train_from_iterator(texts(directory), trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)
    fast.model_max_length = CONTEXT
    return fast


def texts(directory):
    """What it is trained on."""
    for path in [directory / "text.jsonl", *sorted(directory.glob("*-train.jsonl"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row.get("text") or row["prompt"] + row["completion"]


if __name__ == "__main__":
    main()
