"""Applies what `onefold adapt` with `surgery` has written in transformers, and compares accuracies with `onefold.json`.

    python check_surgery.py OUT DIR

OUT is the output; DIR the directory of its recipe, whose `test` rows are JSON Lines with `text` and `label`. Texts only.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def accuracy(model, tokenizer, rows):
    right = 0
    for row in rows:
        with torch.no_grad():
            told = int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())
        right += model.config.id2label[told] == row["label"] or told == row["label"]
    return right / len(rows)


def with_surgery(model, path):
    with safe_open(path, "pt") as file:
        down, up = file.get_tensor("surgery.down"), file.get_tensor("surgery.up")
        reads = model.get_submodule(file.metadata()["option.module"])
    return reads.register_forward_pre_hook(lambda _, x: (x[0] - torch.relu(x[0] @ down.T) @ up.T, *x[1:]))


def main(out, data):
    record = json.loads((out / "onefold.json").read_text())
    tests = {task["name"]: task.get("test", []) for task in record["recipe"]["tasks"]}
    for found in record["result"]["surgery"]:
        task, path = found["task"], out / found["file"]
        files = [data / file for file in tests[task]]
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        if not rows:
            continue
        model = AutoModelForSequenceClassification.from_pretrained(path.parent).eval()
        tokenizer = AutoTokenizer.from_pretrained(path.parent)
        scores = record["result"]["tasks"][task]
        for name in ["after", "surgery"]:
            if name == "surgery":
                with_surgery(model, path)
            ours, theirs = scores[name]["accuracy"], accuracy(model, tokenizer, rows)
            print(f"{task} {name}: {ours:.4f}, transformers {theirs:.4f}")
            # A row whose best two scores are equal to rounding may fall either way.
            assert abs(ours - theirs) <= 1.5 / len(rows), task


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
