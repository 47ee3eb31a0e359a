#!/usr/bin/env python3
"""Training steps and forward passes by onefold and by PyTorch, in turns on the same machine, models and inputs.

    cargo build --release -p onefold-train --example measure
    python compare.py --measure target/release/examples/measure --dir DIR

Every run is a process of its own; its first step (allocation, warm-up) does not count. Time is the median of all other
steps of a side; memory is the kernel's maximum of resident memory of the whole process, libraries and Python included.
PyTorch's best of the implementations that a row lists is what onefold is held against. Losses of both sides are compared
step by step. Exit code: 0 if every target was reached, 1 if not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

import measure  # noqa: E402
from table import mb, number, table  # noqa: E402

# Two sides round differently; a wrong gradient shows within a step.
LOSS_LIMIT = 2e-4
# Seconds from one look at a run's memory to the next. Peaks are the kernel's, so few looks do; each takes time from a run on
# all cores, and none from a run on one.
LOOKS = 0.25


@dataclass(frozen=True)
class Row:
    """One kind of work."""

    name: str
    work: str
    model: str
    sequences: int
    length: int
    peers: tuple
    memory_limit: float | None = None
    threads: int = 2
    # Tokens that are written after each sequence, if that is the work.
    new: int = 0

    @property
    def tokens(self):
        """Tokens of a step."""
        return self.sequences * (self.new or self.length)


ROWS = [
    Row("llama, training", "train", "llama", 4, 256, ("plain", "train"), memory_limit=0.6),
    Row("llama, training, 1 thread", "train", "llama", 4, 256, (), threads=1),
    Row("llama, checkpointing", "checkpointing", "llama", 4, 256, ("checkpointing",)),
    Row("llama, LoRA r = 16", "lora", "llama", 4, 256, ("lora",)),
    Row("llama, forward", "forward", "llama", 4, 256, ("forward",)),
    Row("llama, generation, 1 text", "generate", "llama", 1, 64, ("generate",), new=128),
    Row("llama, generation, 8 texts", "generate", "llama", 8, 64, ("generate",), new=128),
    Row("bert, training", "train", "bert", 16, 128, ("train",)),
    Row("bert, forward", "forward", "bert", 16, 128, ("forward",)),
    Row("vit, training", "train", "vit", 32, 65, ("train",)),
    Row("vit, forward", "forward", "vit", 32, 65, ("forward",)),
]


def main():
    """Runs the chosen rows, prints their table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", required=True, type=Path, help="the program")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, transformers and peft")
    parser.add_argument("--dir", required=True, type=Path, help="where models are made, if they are not there")
    parser.add_argument("--rows", nargs="*", help="parts of names of rows")
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=8, help="steps per process, the first one not counted")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "compare.json")
    args = parser.parse_args()
    args.measure = args.measure.resolve()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([args.python, HERE / "models.py", args.dir], check=True, env=environment)
    chosen = [row for row in ROWS if not args.rows or any(part in row.name for part in args.rows)]
    # Rounds of all rows, not rows of rounds: what is compared, sides or rows, then runs in turns.
    runs = {row.name: {} for row in chosen}
    for number in range(args.rounds):
        for row in chosen:
            print(f"round {number + 1}: {row.name} …", file=sys.stderr, flush=True)
            for side, run in each_side(row, args, environment):
                runs[row.name].setdefault(side, []).append(run)
    results = {row: {side: summary(of) for side, of in sides.items()} for row, sides in runs.items()}
    return finish(args, chosen, results)


def each_side(row, args, environment):
    """One process of each side."""
    sides = {"onefold": [args.measure, row.work]}
    sides |= {peer: [args.python, HERE / "peer.py", peer] for peer in row.peers}
    shape = ["--threads", row.threads, "--steps", args.steps, "--sequences", row.sequences, "--length", row.length]
    shape += ["--new", row.new]
    for side, command in sides.items():
        yield side, once([*command, args.dir / row.model, *shape], environment)


def once(command, environment):
    """One process: what it says, and its peak of memory."""
    with tempfile.NamedTemporaryFile("w+") as said:
        shell = ["sh", "-c", 'out=$1; shift; exec "$@" > "$out" 2> /dev/null', "sh", said.name]
        run = measure.run([*shell, *map(str, command)], env=environment, sample=LOOKS)
        line = [line for line in Path(said.name).read_text().splitlines() if line.startswith("{")][-1]
    return json.loads(line) | {"resident": run.peak_resident}


def summary(runs):
    """Median and best time of a step, largest memory, losses."""
    steps = [seconds for run in runs for seconds in run["seconds"][1:]]
    return {
        "seconds": measure.spread(steps),
        "resident": max(run["resident"] for run in runs),
        "losses": runs[0]["losses"],
    }


def finish(args, rows, results):
    """The table, and whether every target was reached."""
    machine = measure.machine(args.dir)
    head = ["work", "onefold ms", "torch ms", "speed-up", "tokens/s", "onefold MB", "torch MB", "share", "losses", "targets"]
    lines, reached = [], True
    for row in rows:
        line, good = judged(row, results)
        lines.append(line)
        reached &= good
    text = "\n".join([f"{machine['cpu']}, {machine['cores']} cores", "", table(head, lines), ""])
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps({"machine": machine, "rows": results}, indent=1) + "\n")
    args.results.with_suffix(".md").write_text(text)
    print(text)
    return 0 if reached else 1


def judged(row, results):
    """A row of the table, and whether its targets were reached."""
    ours = results[row.name]["onefold"]
    median = ours["seconds"]["median"]
    tokens = row.tokens / median
    cells = [row.name, number(median * 1e3, 0)]
    if not row.peers:
        two = results.get(row.name.split(",")[0] + ", training")
        ratio = two and median / two["onefold"]["seconds"]["median"]
        good = not two or ratio >= 1.8
        threads = f"{number(ratio)}× of two" if two else "–"
        return [*cells, "–", threads, number(tokens, 0), mb(ours["resident"]), "–", "–", "–", verdict(good)], good
    best = min((results[row.name][peer] for peer in row.peers), key=lambda side: side["seconds"]["median"])
    speed = best["seconds"]["median"] / median
    share = ours["resident"] / best["resident"]
    distance = max(abs(a / b - 1) for a, b in zip(ours["losses"], best["losses"]))
    good = speed >= 1 and (row.memory_limit is None or share <= row.memory_limit) and agrees(row, distance)
    return [
        *cells, number(best["seconds"]["median"] * 1e3, 0), number(speed), number(tokens, 0), mb(ours["resident"]),
        mb(best["resident"]), number(share), f"{distance:.0e}", verdict(good),
    ], good


def agrees(row, distance):
    """Adapters begin at random: only their first losses are the same."""
    return row.work == "lora" or distance <= LOSS_LIMIT


def verdict(good):
    """In a word."""
    return "reached" if good else "missed"


if __name__ == "__main__":
    sys.exit(main())
