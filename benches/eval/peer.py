#!/usr/bin/env python3
"""Scores rows in transformers: `python peer.py MODEL TASK ROWS TOKENS OUT`, for compare.py, which says what and how."""

import json
import math
import sys
import time
from pathlib import Path

import torch
import transformers


def main():
    """Writes seconds and score to OUT."""
    model, task, rows, tokens, out = sys.argv[1:]
    torch.set_num_threads(2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    kind = transformers.AutoModelForSequenceClassification if task == "classes" else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(model, dtype=torch.float32).eval()
    begin = time.perf_counter()
    with torch.inference_mode():
        score = {"texts": texts, "choices": choices, "classes": classes}[task](model, tokenizer, rows, int(tokens))
    Path(out).write_text(json.dumps({"seconds": time.perf_counter() - begin, "score": score}))


def batches(lengths, tokens):
    """Numbers of rows, the longest first, of which a padded batch has at most so many tokens."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    held = []
    for row in order:
        if held and lengths[held[0]] * (len(held) + 1) > tokens:
            yield held
            held = []
        held.append(row)
    if held:
        yield held


def padded(ids):
    """Rows padded on the right, with their mask."""
    most = max(map(len, ids))
    filled = torch.tensor([row + [0] * (most - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in ids])
    return filled, mask


def likelihoods(model, requests, tokens):
    """Of each (ids, number of targets at its end) the logarithm of their probability."""
    found = [0.0] * len(requests)
    for batch in batches([len(ids) - 1 for ids, _ in requests], tokens):
        filled, mask = padded([requests[row][0][:-1] for row in batch])
        logits = model(input_ids=filled, attention_mask=mask).logits
        for place, row in enumerate(batch):
            ids, count = requests[row]
            last = len(ids) - 1
            scores = torch.log_softmax(logits[place, last - count:last].float(), -1)
            found[row] = scores.gather(1, torch.tensor(ids[-count:])[:, None]).sum(dtype=torch.float64).item()
    return found


def texts(model, tokenizer, rows, tokens):
    """Bits per byte."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
    found = likelihoods(model, [([bos] + row, len(row)) for row in ids], tokens)
    return -sum(found) / sum(len(row["text"].encode()) for row in rows) / math.log(2)


def choices(model, tokenizer, rows, tokens):
    """Share of rows whose likeliest choice is right."""
    requests = []
    for row in rows:
        context = tokenizer(row["question"])["input_ids"]
        for choice in row["choices"]:
            whole = tokenizer(f"{row['question']} {choice}")["input_ids"]
            requests.append((whole, len(whole) - len(context)))
    found = likelihoods(model, requests, tokens)
    told = [found[at:at + 4] for at in range(0, len(found), 4)]
    return sum(of.index(max(of)) == row["answer"] for of, row in zip(told, rows)) / len(rows)


def classes(model, tokenizer, rows, tokens):
    """Share of rows whose class is told rightly."""
    ids = tokenizer([row["text"] for row in rows])["input_ids"]
    told = [0] * len(rows)
    for batch in batches([len(row) for row in ids], tokens):
        filled, mask = padded([ids[row] for row in batch])
        for row, logits in zip(batch, model(input_ids=filled, attention_mask=mask).logits):
            told[row] = int(logits.argmax())
    return sum(of == row["label"] for of, row in zip(told, rows)) / len(rows)


if __name__ == "__main__":
    main()
