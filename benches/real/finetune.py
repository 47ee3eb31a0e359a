#!/usr/bin/env python3
"""Fine-tunes MiniLM: two full siblings on two tasks, three adapters, and what PEFT merges of these.

    python finetune.py DIR

DIR holds what the fetch of README.md unpacked; everything is written to DIR/models. Each task's linear head is fitted
on the embeddings of the unchanged base and then frozen, so that the trunk is all that fine-tuning and merging change.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModel

from encoder import BATCH, Encoder
from tasks import tasks

PROBE = 400  # rows that the heads are fitted on; fine-tuning takes those after them
STEPS, RATE = 120, 1e-4
ADAPTER_STEPS, ADAPTER_RATE = 30, 1e-3
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

# Adapter → arguments of LoraConfig; `all-linear` is every linear layer of BERT, its pooler too.
ADAPTERS = {
    "lora": dict(r=8, lora_alpha=16),
    "rslora": dict(r=8, lora_alpha=16, use_rslora=True),
    "dora": dict(r=8, lora_alpha=16, use_dora=True),
}


def main():
    """Trains everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    root = parser.parse_args().dir
    torch.set_num_threads(1)
    source, out = root / "minilm", root / "models"
    shutil.rmtree(out, ignore_errors=True)
    save(AutoModel.from_pretrained(source), source, out / "base")
    heads = {}
    for task in tasks(root):
        heads[task.name] = probe(Encoder(AutoModel.from_pretrained(source), source), task)
        sibling(source, out / task.name, task, heads[task.name])
    torch.save({name: head.state_dict() for name, head in heads.items()}, out / "heads.pt")
    first = tasks(root)[0]
    for name, settings in ADAPTERS.items():
        adapter(source, out, name, settings, first, heads[first.name])


def probe(encoder, task):
    """A linear head on the embeddings of the base: multinomial regression by full-batch Adam."""
    torch.manual_seed(0)
    rows = task.train[:PROBE]
    inputs, labels = encoder.embed_all([text for text, _ in rows]), torch.tensor([label for _, label in rows])
    head = torch.nn.Linear(inputs.shape[1], len(task.classes))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(head(inputs), labels).backward()
        optimizer.step()
    return head.requires_grad_(False)


def sibling(source, out, task, head):
    """A full fine-tune, saved as a checkpoint of the trunk."""
    encoder = Encoder(AutoModel.from_pretrained(source), source)
    train(encoder, task, head, STEPS, RATE)
    save(encoder.trunk, source, out)


def adapter(source, out, name, settings, task, head):
    """A LoRA fine-tune, and what PEFT merges of the files that it saved."""
    torch.manual_seed(0)
    config = LoraConfig(target_modules="all-linear", **settings)
    encoder = Encoder(get_peft_model(AutoModel.from_pretrained(source), config), source)
    train(encoder, task, head, ADAPTER_STEPS, ADAPTER_RATE)
    encoder.trunk.save_pretrained(out / name)
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(source), out / name).merge_and_unload()
    save(merged, source, out / f"{name}_by_peft")


def train(encoder, task, head, steps, rate):
    """AdamW with a linear decay of its rate."""
    torch.manual_seed(0)
    encoder.trunk.train()
    weights = [p for p in encoder.trunk.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    rows, begin, first = task.train[PROBE:], time.monotonic(), None
    for step in range(steps):
        batch = [rows[(step * BATCH + i) % len(rows)] for i in range(BATCH)]
        loss = cross_entropy(head(encoder.embed([text for text, _ in batch])), torch.tensor([y for _, y in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        first = first or loss.item()
    seconds = time.monotonic() - begin
    print(f"{task.name}: {steps} steps in {seconds:.0f} s, loss {first:.3f} → {loss.item():.3f}", flush=True)


def save(model, source, out):
    """A checkpoint with its tokenizer, as it was."""
    model.save_pretrained(out)
    for name in TOKENIZER:
        shutil.copy(source / name, out / name)


if __name__ == "__main__":
    main()
