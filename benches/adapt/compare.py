#!/usr/bin/env python3
"""Steps of `onefold adapt` beside the same algorithm in PyTorch, in turns on the same machine, models and rows.

    cargo build --release -p onefold && cargo build --release -p onefold-train --example measure
    python compare.py --onefold target/release/onefold --measure target/release/examples/measure --dir DIR

The model is the Llama of 29.9 M parameters of benches/train (made in DIR if it is not there); experts are it with small random changes,
stored as f32 or bfloat16. One task of four rows of 256 tokens, all of which pass in every step, so that both sides see the same: entropy of
the next token, one coefficient per tensor and expert, Adam, no clamp. PyTorch: autograd through the merge (`peer.py`), task vectors held in
f32 as the published code holds them. Processes take turns; time is the median of all steps but the first of each; memory is anonymous
memory, mapped files aside, and for PyTorch resident memory. Exit code: 0 if every target was reached, 1 if not.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Seconds between looks at the memory of a run that is timed: each takes time from one of its cores.
LOOKS = 0.25
sys.path += [str(HERE.parent / "merge"), str(HERE.parent / "tune")]

import measure  # noqa: E402
from loop import LENGTH, SEQUENCES, WORDS, prepare  # noqa: E402
from table import mb, number, table  # noqa: E402

# Largest difference of a coefficient after STEPS steps.
LIMIT, STEPS = 1e-4, 50


def main():
    """Makes what is missing, runs all of it, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path, help="the program")
    parser.add_argument("--measure", required=True, type=Path, help="the example `measure` of onefold-train")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, transformers and safetensors")
    parser.add_argument("--dir", required=True, type=Path, help="where models are kept")
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=7, help="steps per process, the first one not counted")
    parser.add_argument("--skip-equality", action="store_true", help="leave out the 50 steps that compare coefficients")
    args = parser.parse_args()
    args.environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    args.dir.mkdir(parents=True, exist_ok=True)
    models = [args.python, HERE.parent / "train" / "models.py", args.dir]
    subprocess.run(models, check=True, env=args.environment)
    work = args.dir / "adapt"
    if not (work / "model").exists():
        work.mkdir(exist_ok=True)
        prepare(args.dir / "llama", work)
    subprocess.run([args.python, HERE / "peer.py", "experts", work, "20"], check=True, env=args.environment)
    rows = (work / "one.jsonl").read_text().splitlines()[:SEQUENCES]
    (work / "rows.jsonl").write_text("\n".join(rows) + "\n")
    good = speed(args, work)
    good &= memory(args, work)
    if not args.skip_equality:
        good &= equality(args, work)
    return 0 if good else 1


def recipe(work, experts, dtype, steps, more=""):
    """A recipe for so many experts."""
    models = "".join(f"- {{model: {work}/{dtype}-{k}}}\n" for k in range(experts))
    return (
        f"base_model: {work}/model\nmodels:\n{models}tasks: [{{name: one, inputs: {work}/rows.jsonl}}]\n"
        f"batch: {{examples: {SEQUENCES}, length: {LENGTH}}}\nclamp: none\nsteps: {steps}\nlog: 1\ncheckpoints: {{every: 1000}}\n{more}"
    )


def onefold(args, work, experts, dtype, steps, sample=None):
    """Seconds of the steps, memory, coefficients."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        place = Path(place)
        (place / "r.yaml").write_text(recipe(work, experts, dtype, steps))
        command = [args.onefold, "adapt", place / "r.yaml", "-o", place / "out", "--threads", "2", "--quiet"]
        run = measure.run(list(map(str, command)), sample=sample or LOOKS)
        lines = [json.loads(line) for line in (place / "out/metrics.jsonl").read_text().splitlines()]
        file = json.loads((place / "out/coefficients.json").read_text())
    seconds = [line["seconds"] for line in lines if line["kind"] == "train"]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return {"seconds": seconds, "losses": losses, "memory": run.peak_anonymous, "coefficients": file["coefficients"]}


def peer(args, work, experts, dtype, steps):
    """The same of PyTorch."""
    with tempfile.NamedTemporaryFile("w+") as said:
        command = [args.python, HERE / "peer.py", "learn", work, experts, dtype, steps, said.name]
        run = measure.run(list(map(str, command)), sample=LOOKS, env=args.environment)
        line = json.loads(Path(said.name).read_text())
    return line | {"memory": run.peak_resident}


def plain(args):
    """Forward and backward of the engine alone."""
    with tempfile.NamedTemporaryFile("w+") as said:
        command = [args.measure, "gradients", args.dir / "llama", "--threads", 2, "--steps", args.steps]
        command += ["--sequences", SEQUENCES, "--length", LENGTH]
        measure.run(["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", said.name, *map(str, command)])
        return json.loads(Path(said.name).read_text())


def median(runs):
    """Of all steps but the first of each."""
    return statistics.median(s for run in runs for s in run["seconds"][1:])


def speed(args, work):
    """Eight experts, in both types."""
    runs = {"forward and backward alone": [], "onefold, f32": [], "onefold, bfloat16": [], "PyTorch": []}
    for _ in range(args.rounds):
        runs["forward and backward alone"].append(plain(args))
        runs["onefold, f32"].append(onefold(args, work, 8, "float32", args.steps))
        runs["PyTorch"].append(peer(args, work, 8, "float32", args.steps))
        runs["onefold, bfloat16"].append(onefold(args, work, 8, "bfloat16", args.steps))
    times = {name: median(of) for name, of in runs.items()}
    lines, reached = [], True
    targets = {"onefold, f32": (0.8, 1.2), "onefold, bfloat16": (0.7, 1.2)}
    for name, seconds in times.items():
        of_peer, of_plain = seconds / times["PyTorch"], seconds / times["forward and backward alone"]
        most = targets.get(name)
        good = most is None or (of_peer <= most[0] and of_plain <= most[1])
        reached &= good
        used = [run["memory"] for run in runs[name] if "memory" in run]
        lines.append([
            name, number(seconds * 1e3, 0), number(of_peer), number(of_plain), mb(max(used)) if used else "–",
            ("reached" if good else "missed") if most else "–",
        ])
    print(f"## A step, 8 experts, {SEQUENCES} x {LENGTH} tokens, {WORDS} words\n")
    print(table(["what", "ms", "of PyTorch's", "of the bare pass", "MB", "target"], lines))
    return reached


def memory(args, work):
    """Anonymous memory of 2, 8 and 20 experts."""
    used = {k: onefold(args, work, k, "bfloat16", 3, sample=0.01)["memory"] for k in (2, 8, 20)}
    spread = max(used.values()) / min(used.values()) - 1
    print("\n## Anonymous memory by number of experts\n")
    print(table(["experts", "MB"], [[str(k), mb(bytes)] for k, bytes in used.items()]))
    print(f"\nspread {100 * spread:.1f} % (target: 5 %)")
    return spread <= 0.05


def equality(args, work):
    """Coefficients after 50 steps."""
    ours, theirs = onefold(args, work, 2, "float32", STEPS), peer(args, work, 2, "float32", STEPS)
    pairs = [(a, b) for name, values in theirs["coefficients"].items() for a, b in zip(ours["coefficients"][name], values)]
    apart = max(abs(a - b) for a, b in pairs)
    moved = max(abs(b - 0.3) for _, b in pairs)
    loss = max(abs(a - b) for a, b in zip(ours["losses"], theirs["losses"]))
    print(f"\n## {STEPS} steps, 2 experts: {len(pairs)} coefficients\n")
    print(f"largest difference {apart:.1e} (target {LIMIT:.0e}), of a largest change of {moved:.3f}; losses {loss:.1e} apart")
    return apart <= LIMIT


if __name__ == "__main__":
    sys.exit(main())
