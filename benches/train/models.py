#!/usr/bin/env python3
"""Makes the models of the training bench: random weights, saved by transformers.

    python models.py DIR

llama  29.9 M parameters: 8 layers of 512, 8 heads, SwiGLU of 1408, vocabulary of 4096, untied head
bert   6 layers of 384, 12 heads, vocabulary of 30,522, two classes
vit    6 layers of 192, 3 heads, images of 32 × 32 in 64 patches, ten classes
"""

import sys
from pathlib import Path

import torch
import transformers


def main():
    """Makes each model unless it is there."""
    directory = Path(sys.argv[1])
    for name, make in {"llama": llama, "bert": bert, "vit": vit}.items():
        if not (directory / name / "config.json").exists():
            torch.manual_seed(0)
            make().save_pretrained(directory / name)


def llama():
    """The Llama of the engine's experiment."""
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def bert():
    """A small encoder of MiniLM's shape."""
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForSequenceClassification(config)


def vit():
    """A small image classifier."""
    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768, image_size=32,
        patch_size=4, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    return transformers.ViTForImageClassification(config)


if __name__ == "__main__":
    main()
