#!/usr/bin/env python3
"""What rounds cost beside the bare tuning steps, and how much memory they take.

    bash ../tune/fetch.sh DATA && python ../tune/prepare.py DATA && python ../tune/base.py DATA --width 512 --layers 8 --name medium
    python overhead.py --onefold target/release/onefold --model DATA/r3/medium --rows DATA/r3/gloss-train.jsonl DATA/r3/tags-train.jsonl

A run of few rounds and one of more are timed in turns, nothing is validated. The difference of the wall clocks, by the difference of the rounds,
is a whole round: models read, tuned, vectors written, merged. The bare steps of a round are the seconds of the log lines of its tunings, which hold
steps and nothing else. Memory is the peak of the process beside that of `onefold tune` of one of the tasks.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main():
    """Measures, and prints a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--rows", required=True, nargs="+", type=Path, help="a file for each task")
    parser.add_argument("--samples", type=int, default=1000, help="rows of a task")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rounds", type=int, nargs=2, default=(1, 3))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("overhead"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    few, many = args.rounds
    overheads, peaks = [], []
    for _ in range(args.repeats):
        short, long = run(args, few), run(args, many)
        whole, bare = (long[0] - short[0]) / (many - few), (long[1] - short[1]) / (many - few)
        overheads.append(100 * (whole / bare - 1))
        peaks.append(long[2])
        print(f"a round takes {whole:.2f} s, its steps {bare:.2f} s: {overheads[-1]:+.1f} %", file=sys.stderr, flush=True)
    alone = tune(args)
    print(f"overhead {statistics.median(overheads):.1f} %; peak {max(peaks) / 1e6:.0f} MB, of `tune` alone {alone / 1e6:.0f} MB")


def common(args):
    """What the recipes share."""
    return {
        "base_model": str(args.model.resolve()), "optimizer": {"lr": 1e-4}, "batch": {"examples": 16, "micro": 16, "length": 64},
        "checkpoints": {"every": "never", "keep": 1}, "log": 1,
    }


def task(args, path):
    """A task of a recipe."""
    return {"name": path.stem, "train": str(path.resolve()), "samples": args.samples}


def run(args, rounds):
    """Seconds of a run, those of its steps alone, and its peak of memory."""
    recipe = common(args) | {"tasks": [task(args, path) for path in args.rows], "rounds": rounds, "budget": {"epochs": args.epochs}}
    seconds, peak = timed(args, "alternate", recipe)
    lines = map(json.loads, (args.work / "out/metrics.jsonl").read_text().splitlines())
    return seconds, sum(line["seconds"] for line in lines if line["kind"] == "train"), peak


def tune(args):
    """The peak of a tuning of one task."""
    schedule = {"kind": "constant", "warmup": 0}
    recipe = common(args) | {"tasks": [task(args, args.rows[0])], "epochs": args.epochs, "schedule": schedule, "validation": False}
    return timed(args, "tune", recipe)[1]


def timed(args, command, recipe):
    """Wall seconds and peak bytes of a run that begins with nothing."""
    out, path = args.work / "out", args.work / "recipe.yaml"
    for left in (out, out.with_suffix(".run")):
        shutil.rmtree(left, ignore_errors=True)
    path.write_text(json.dumps(recipe))
    begin = time.perf_counter()
    process = subprocess.Popen([str(args.onefold), command, str(path), "-o", str(out), "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status != 0:
        sys.exit(f"{command}: exit status {status}")
    return seconds, usage.ru_maxrss * 1024  # Linux counts in KiB


if __name__ == "__main__":
    main()
