#!/usr/bin/env python3
"""The whole loop of `onefold tune` against the bare step of its engine, and what CoBa costs; and memory against its prediction.

    cargo build --release -p onefold -p onefold-train --example measure
    python loop.py --onefold target/release/onefold --measure target/release/examples/measure --dir DIR

The model is the Llama of 29.9 M parameters of benches/train (made in DIR if it is not there), the rows are random words of a
tokenizer with one token per word, packed to 4 x 256 tokens a step. The bare step is the program `measure` on the same shape, all
weights, AdamW. Processes take turns; time is the median of all steps but the first of each. Steps with CoBa come with one batch of
validation rows, as large as a micro-batch. Exit code: 0 if every target was reached, 1 if not.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

import measure  # noqa: E402
from table import mb, number, table  # noqa: E402

SEQUENCES, LENGTH, WORDS = 4, 256, 4000
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def main():
    """Runs all of it, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path, help="the program")
    parser.add_argument("--measure", required=True, type=Path, help="the example `measure` of onefold-train")
    parser.add_argument("--python", default=sys.executable, help="a Python with transformers, to make the model")
    parser.add_argument("--dir", required=True, type=Path, help="where the model is")
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=10, help="steps per process, the first one not counted")
    args = parser.parse_args()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([args.python, HERE.parent / "train" / "models.py", args.dir], check=True, env=environment)
    with tempfile.TemporaryDirectory(dir=args.dir) as work:
        work = Path(work)
        prepare(args.dir / "llama", work)
        return compare(args, work)


def prepare(model, work):
    """A model with a tokenizer, and two tasks of rows that fill the length."""
    shutil.copytree(model, work / "model")
    words = SPECIAL + [f"w{i}" for i in range(WORDS)]
    added = [
        {"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, w in enumerate(SPECIAL)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"},
    }
    (work / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (work / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    draw = random.Random(1)
    for task in ("one", "two"):
        # The end token makes the length full.
        rows = (" ".join(f"w{draw.randrange(WORDS)}" for _ in range(LENGTH - 1)) for _ in range(200))
        (work / f"{task}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    for name, balancer in (("uniform", "{kind: uniform}"), ("coba", "{kind: coba, warmup: 2, window: 4}")):
        (work / f"{name}.yaml").write_text(RECIPE.format(balancer=balancer, sequences=SEQUENCES, length=LENGTH))


RECIPE = """base_model: ./model
tasks:
- {{name: one, train: one.jsonl, validation: {{rows: 8}}}}
- {{name: two, train: two.jsonl, validation: {{rows: 8}}}}
balancer: {balancer}
optimizer: {{kind: adamw, lr: 1.0e-3}}
batch: {{examples: {sequences}, micro: {sequences}, length: {length}}}
steps: 10
validation: {{every: {{steps: 1000000}}}}
checkpoints: {{every: {{steps: 1000000}}, keep: 1}}
log: 1
"""


def compare(args, work):
    """All sides in turns."""
    runs = {"bare step": [], "uniform": [], "coba": []}
    for round in range(args.rounds):
        runs["bare step"].append(bare(args))
        for name in ("uniform", "coba"):
            runs[name].append(tuned(args, work, name, work / f"{name}-{round}"))
    medians = {name: statistics.median(s for run in of for s in run["seconds"][1:]) for name, of in runs.items()}
    predicted = {name: predict(args, work, name) for name in ("uniform", "coba")}
    lines, reached = [], True
    for name, of in runs.items():
        resident = max(run["resident"] for run in of)
        share = medians["bare step"] / medians[name]
        ahead = predicted.get(name)
        near = ahead is None or abs(ahead / resident - 1) <= 0.15
        good = near and (name != "uniform" or share >= 0.95)
        reached &= good
        lines.append([
            name, number(medians[name] * 1e3, 0), number(SEQUENCES * LENGTH / medians[name], 0), number(share),
            mb(resident), mb(ahead) if ahead else "–", "reached" if good else "missed",
        ])
    head = ["work", "ms a step", "tokens/s", "of the bare step", "MB", "MB predicted", "targets"]
    print(table(head, lines))
    return 0 if reached else 1


def bare(args):
    """Steps of the engine alone."""
    with tempfile.NamedTemporaryFile("w+") as said:
        command = [args.measure, "train", args.dir / "llama", "--threads", 2, "--steps", args.steps]
        command += ["--sequences", SEQUENCES, "--length", LENGTH]
        run = measure.run(["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", said.name, *map(str, command)], sample=0.02)
        line = json.loads(Path(said.name).read_text())
    return {"seconds": line["seconds"], "resident": run.peak_resident}


def tuned(args, work, name, out):
    """Steps of the command, from its own log."""
    command = [args.onefold, "tune", work / f"{name}.yaml", "-o", out, "--threads", 2, "--quiet"]
    command += ["--set", f"steps={args.steps}"]
    run = measure.run(list(map(str, command)), sample=0.02)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if line["kind"] == "train"]
    shutil.rmtree(out)
    return {"seconds": seconds, "resident": run.peak_resident}


def predict(args, work, name):
    """Memory as the dry run says."""
    command = [args.onefold, "tune", work / f"{name}.yaml", "-o", work / "none", "--threads", "2", "--dry-run", "--json"]
    said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    plan = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return next(line["data"]["memory"]["total"] for line in plan if "memory" in line.get("data", {}))


if __name__ == "__main__":
    sys.exit(main())
