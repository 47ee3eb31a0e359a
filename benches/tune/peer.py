#!/usr/bin/env python3
"""onefold tune beside transformers' Trainer with PEFT: same rows, model, schedule, decay and clipping; losses, speed, memory.

    bash fetch.sh DATA && python prepare.py DATA && python base.py DATA
    python base.py DATA --width 512 --layers 8 --name medium
    python peer.py --onefold target/release/onefold --data DATA --python venv/bin/python

Every run is a process of its own; both sides run in turns. For each base:

* exact: all weights, 64 rows, every step on all of them. So both sides learn from identical batches whatever the order in which
  they draw, and losses can be compared step by step.
* lora, full: one pass over 3,200 rows, which each side shuffles by itself; LoRA's A is drawn by each side, too. So the losses of
  300 validation rows are compared, as means over seeds, against their standard deviation over seeds.

Time of a step is the median over all steps but the first two of each run, for onefold from its log (`seconds` between lines),
for the Trainer from the end of a step to the end of the next. Both have to tokenise, shuffle, pad or pack, log, clip. Tokens are
those of the rows, without padding. Memory is the kernel's maximum of resident memory of the process, Python and torch included.

Exit code: 0 if losses agree, 1 if not. Speed and memory are told, not judged.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

import measure  # noqa: E402
from table import mb, number, table  # noqa: E402

TASKS = ["languages", "gloss", "word", "tags", "phonemes"]
# Two sides round differently, and steps of AdamW amplify that: a wrong gradient shows within two steps.
EXACT_LIMIT = 1e-3
# Standard errors of the difference between two means over seeds.
CURVE_LIMIT = 3.0


@dataclass(frozen=True)
class Work:
    """One kind of training."""

    name: str
    train: str
    steps: int
    examples: int
    micro: int
    lr: float
    rank: int
    every: int
    warmup: int = 5
    weight_decay: float = 0.01
    clip: float = 1.0


WORKS = [
    Work("exact", "exact", 30, 64, 16, 1e-3, 0, 0),
    Work("full", "mixed-train", 100, 32, 16, 1e-3, 0, 20),
    Work("lora", "mixed-train", 100, 32, 16, 2e-3, 16, 20),
]


def main():
    """Runs both sides, prints the table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path, help="the program")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, transformers and peft")
    parser.add_argument("--bases", nargs="*", default=["random", "medium"], help="directories in DATA/r3")
    parser.add_argument("--works", nargs="*", default=[work.name for work in WORKS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="fewer, for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "peer.json")
    args = parser.parse_args()
    args.onefold, args.data = args.onefold.resolve(), args.data.resolve()
    rows(args.data)
    results, lines, good = {}, [], True
    for base in args.bases:
        for work in [work for work in WORKS if work.name in args.works]:
            results[f"{base}, {work.name}"] = sides = compare(base, work, args)
            line, agree = judged(f"{base}, {work.name}", work, sides)
            lines.append(line)
            good &= agree
    head = ["base, work", "onefold ms", "Trainer ms", "speed-up", "tokens/s", "Trainer tokens/s", "onefold MB", "Trainer MB",
            "share", "losses"]
    facts = measure.machine(args.data)
    text = f"{facts['cpu']}, {args.threads} threads, load {facts['load']:.1f} at the end\n\n{table(head, lines)}\n"
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
    args.results.with_suffix(".md").write_text(text)
    print(text)
    return 0 if good else 1


def rows(data):
    """The files that both sides read: rows of all tasks of R3, in turns."""
    directory = data / "peer"
    directory.mkdir(parents=True, exist_ok=True)
    for name, side, each in [("exact", "train", 13), ("mixed-train", "train", 640), ("mixed-valid", "valid", 60)]:
        files = [(data / f"r3/{task}-{side}.jsonl").read_text(encoding="utf-8").splitlines()[:each] for task in TASKS]
        lines = [line for row in zip(*files) for line in row]
        lines = lines[:64] if name == "exact" else lines
        (directory / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def compare(base, work, args):
    """Both sides in turns, a run per seed."""
    sides = {"onefold": [], "trainer": []}
    for seed in range(args.seeds):
        print(base, work.name, seed, "…", file=sys.stderr, flush=True)
        sides["onefold"].append(ours(base, work, seed, args))
        sides["trainer"].append(theirs(base, work, seed, args))
    return sides


def ours(base, work, seed, args):
    """A training by onefold."""
    directory = args.data / "peer"
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        recipe, out = Path(scratch) / "recipe.yaml", Path(scratch) / "out"
        recipe.write_text(json.dumps(recipe_of(base, work, args), indent=1) + "\n")
        command = [args.onefold, "tune", recipe, "-o", out, "--seed", seed, "--threads", args.threads, "--quiet"]
        run = measure.run([*map(str, command)], cwd=directory, env=environment(), sample=0.02)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    validation = [[line["step"], line["tasks"]["mixed"]["loss"]] for line in lines if line["kind"] == "validation"]
    # A line after a validation has its time in it.
    validated = {step for step, _ in validation}
    seconds = [line["seconds"] for line in steps if line["step"] - 1 not in validated]
    losses = [line["tasks"]["mixed"]["loss"] for line in steps]
    return {"losses": losses, "seconds": seconds, "validation": validation} | memory(run)


def recipe_of(base, work, args):
    """JSON is YAML. A constant mixture of one task: `weight` and balancer do not matter."""
    task = {"name": "mixed", "train": str(args.data / f"peer/{work.train}.jsonl")}
    recipe = {
        "base_model": str(args.data / "r3" / base),
        "tasks": [task],
        "optimizer": {"kind": "adamw", "lr": work.lr, "weight_decay": work.weight_decay},
        "schedule": {"kind": "linear", "warmup": work.warmup, "min_lr_ratio": 0.0},
        "batch": {"examples": work.examples, "micro": work.micro},
        "steps": args.steps or work.steps,
        "clip": work.clip,
        "log": 1,
        "checkpoints": {"every": "never", "keep": 1},
        "validation": False,
    }
    if work.every:
        task["validation"] = str(args.data / "peer/mixed-valid.jsonl")
        recipe |= {"validation": {"every": {"steps": work.every}}, "best": {"keep": False}}
    if work.rank:
        recipe["adapter"] = {"kind": "lora", "r": work.rank, "alpha": 2 * work.rank, "dropout": 0, "targets": "all-linear"}
    return recipe


def theirs(base, work, seed, args):
    """A training by the Trainer."""
    files = {"base": args.data / "r3" / base, "train": args.data / f"peer/{work.train}.jsonl"}
    settings = asdict(work) | {key: str(path) for key, path in files.items()}
    settings |= {"valid": str(args.data / "peer/mixed-valid.jsonl"), "seed": seed, "threads": args.threads}
    settings["steps"] = args.steps or work.steps
    with tempfile.NamedTemporaryFile("w+") as said:
        shell = ["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", said.name]
        command = [args.python, HERE / "trainer.py", json.dumps(settings)]
        run = measure.run([*shell, *map(str, command)], env=environment(), sample=0.02)
        line = [line for line in Path(said.name).read_text().splitlines() if line.startswith('{"losses"')][-1]
    return json.loads(line) | memory(run)


def environment():
    """Nothing from a network, nothing on other devices."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}


def memory(run):
    """Peaks of a process."""
    return {"resident": run.peak_resident, "anonymous": run.peak_anonymous, "wall": run.seconds}


def judged(name, work, sides):
    """A row of the table, and whether the losses agree."""
    ours, theirs = sides["onefold"], sides["trainer"]
    step = {side: statistics.median(second for run in of for second in run["seconds"][2:]) for side, of in sides.items()}
    tokens = theirs[0]["tokens"] * work.examples
    resident = {side: max(run["resident"] for run in of) for side, of in sides.items()}
    said, agree = exactly(ours, theirs) if not work.every else by_curve(ours, theirs)
    return [
        name, number(step["onefold"] * 1e3, 1), number(step["trainer"] * 1e3, 1), number(step["trainer"] / step["onefold"]),
        number(tokens / step["onefold"], 0), number(tokens / step["trainer"], 0), mb(resident["onefold"]), mb(resident["trainer"]),
        number(resident["onefold"] / resident["trainer"]), f"{said}: {'agree' if agree else 'DIFFER'}",
    ], agree


def exactly(ours, theirs):
    """The largest relative difference of the losses of any step."""
    pairs = [(a, b) for mine, other in zip(ours, theirs) for a, b in zip(mine["losses"], other["losses"])]
    whole = all(len(mine["losses"]) == len(other["losses"]) for mine, other in zip(ours, theirs))
    distance = max(abs(a / b - 1) if a and b else math.inf for a, b in pairs)
    return f"{distance:.0e} over {len(ours[0]['losses'])} steps", whole and distance <= EXACT_LIMIT


def by_curve(ours, theirs):
    """The last validation losses, as means over seeds."""
    curves = [[dict(map(tuple, run["validation"])) for run in side] for side in (ours, theirs)]
    steps = sorted(curves[0][0])
    assert all(sorted(curve) == steps for side in curves for curve in side), "both sides validate after the same steps"
    worst = 0.0
    for step in steps:
        mine, other = ([curve[step] for curve in side] for side in curves)
        error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (mine, other))) if len(mine) > 1 else math.inf
        # Before the first step nothing was drawn.
        error = max(error, 1e-4 * statistics.mean(other))
        worst = max(worst, abs(statistics.mean(mine) - statistics.mean(other)) / error)
    ends = [statistics.mean(curve[steps[-1]] for curve in side) for side in curves]
    return f"{ends[0]:.4f} and {ends[1]:.4f} at the end, at most {worst:.1f} standard errors apart", worst <= CURVE_LIMIT


if __name__ == "__main__":
    sys.exit(main())
