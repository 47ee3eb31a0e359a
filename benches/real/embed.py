"""Sentence embeddings of onefold against those of transformers.

    cargo build --release -p onefold-train --example embed
    python benches/real/embed.py --embed target/release/examples/embed target/real/minilm

The model's directory is as `README.md` makes it. Ends with 0 if no number differs by more than 1e-4.
"""

import argparse
import subprocess
import sys

import torch
from encoder import Encoder
from transformers import AutoModel

LIMIT = 1e-4
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A cat sits on the mat.",
    "Merging fine-tuned models without training: does it work?",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "x",
    "Numbers 3.14159, e-mail@example.org, and (nested [brackets]) — dashes…",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "日本語の文。",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embed", required=True, help="the example program `embed` of onefold-train")
    parser.add_argument("model", help="the model's directory")
    args = parser.parse_args()
    lines = subprocess.run([args.embed, args.model], input="\n".join(SENTENCES), capture_output=True, text=True, check=True)
    found = torch.tensor([[float(number) for number in line.split()] for line in lines.stdout.splitlines()])
    expected = Encoder(AutoModel.from_pretrained(args.model), args.model).embed_all(SENTENCES)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    difference = (found - expected).abs().max().item()
    print(f"{len(SENTENCES)} sentences, {found.shape[1]} numbers each: largest difference {difference:.2e}, at most {LIMIT}")
    sys.exit(difference > LIMIT)


main()
