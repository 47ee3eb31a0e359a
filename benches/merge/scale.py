#!/usr/bin/env python3
"""Does memory stay bounded, and does time stay small, when a model is very large or has very many tensors?

    python scale.py --onefold target/release/onefold --dir DIR

large: base + 2 experts with 3,745,188,864 parameters (7.5 GB each), and the same with a tenth of that. Inputs are sparse
       files (header, then one hole), outputs are really written: 8.5 GB must be free. Shows the peak of anonymous memory.
many:  base + 2 experts with 50,000 tensors of 256 elements, and the same elements in 50 tensors. The difference in time,
       divided by the difference in tensors, is the overhead per tensor; everything counts, reports included.

Inputs are made in DIR and removed at the end. Exit code: 0 if every target was reached, 1 if not, 2 for bad arguments.
"""

import argparse
import math
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import measure
from checkpoint import LLAMA_374M, LLAMA_3745M, header, llama_tensors, parameters, save_json, write_side_files
from checkpoint import weight_bytes, write_sparse
from measure import Failed, spread
from recipes import EXPERTS, Merge
from table import mb, number, table

HERE = Path(__file__).resolve().parent
MODELS = ("base", "expert1", "expert2")
MEMORY_LIMIT = 256e6
# Room that must stay free beside the largest output.
MARGIN = 1e9
INTERVAL = 0.005
OVERHEAD_LIMIT = 20e-6
MANY, FEW, ELEMENTS = 50_000, 50, 256
# 50 layers of 1,000 tensors: 333 experts of three matrices and a norm.
PER_LAYER = 1_000


def merges():
    """A method of one pass, one of two, one with order statistics."""
    models, weight = tuple(EXPERTS[:2]), {"weight": [0.6, 0.4]}
    return [
        Merge("linear", "linear", math.inf, models=models, base=False, each=weight),
        Merge("metagpt", "metagpt", math.inf, models=models),
        Merge("ties", "ties", math.inf, models=models, each={**weight, "density": 0.5}),
    ]


def main():
    """Runs the chosen parts, prints their tables, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, help="the program")
    parser.add_argument("--dir", type=Path, required=True, help="scratch directory; made if it does not exist")
    parser.add_argument("--only", choices=["large", "many"])
    parser.add_argument("--repeat", type=int, default=5, help="runs of the many small tensors")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "scale.json", help="a table goes beside it")
    args = parser.parse_args()
    found = shutil.which(args.onefold)
    args.onefold = os.path.abspath(found) if found else parser.error(f"cannot run {args.onefold}")
    scratch = args.dir.resolve() / "scale"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    results = {"machine": measure.machine(scratch), "onefold": measure.version([args.onefold])}
    try:
        results |= {"large": large(args, scratch)} if args.only != "many" else {}
        results |= {"many": many(args, scratch)} if args.only != "large" else {}
    except (Failed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return finish(args, results)


def finish(args, results):
    """Writes and prints what was measured."""
    machine = results["machine"]
    lines = [f"{results['onefold']}; {machine['cpu']}, {machine['cores']} cores, {machine['filesystem']}", ""]
    tables = {"large": large_table, "many": many_table}
    for part in filter(results.get, tables):
        lines += [tables[part](results[part]), ""]
    text = "\n".join(lines[:-1]) + "\n"
    args.results.parent.mkdir(parents=True, exist_ok=True)
    save_json(args.results, results)
    args.results.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 1 if "MISSED" in text else 0


def large(args, scratch):
    """Peak memory of each method on a model and on one ten times as large."""
    rows = []
    for size in (LLAMA_374M, LLAMA_3745M):
        tensors = llama_tensors(size)
        needed = parameters(tensors) * 2 + MARGIN
        if shutil.disk_usage(scratch).free < needed:
            raise OSError(f"{needed / 1e9:.1f} GB must be free for the output, {scratch} has less")
        for model in MODELS:
            write_sparse(scratch / model, tensors, size)
        for merge in merges():
            print(f"{parameters(tensors):,} parameters, {merge.name} …", file=sys.stderr, flush=True)
            run = asdict(merged(args, scratch, merge, INTERVAL))
            files = len(merge.inputs()) + 1
            rows.append({"method": merge.name, "parameters": parameters(tensors), "files": files, "run": run})
        remove_models(scratch)
    return rows


def large_table(rows):
    """Peak memory by method and size."""
    head = ["method", "parameters", "seconds", "GB/s", "anon MB", "resident MB", "target"]
    cells = []
    for row in rows:
        run, moved = row["run"], row["parameters"] * 2 * row["files"]
        # No process does without anonymous memory: 0 means that nothing was seen.
        reached = "reached" if 0 < run["peak_anonymous"] <= MEMORY_LIMIT else "MISSED"
        figures = [number(run["seconds"]), number(moved / 1e9 / run["seconds"])]
        memory = [mb(run["peak_anonymous"]), mb(run["peak_resident"])]
        cells.append([row["method"], f"{row['parameters']:,}", *figures, *memory, reached])
    return table(head, cells)


def many(args, scratch):
    """Time of each method on many small tensors and on the same elements in few."""
    rows = {merge.name: {} for merge in merges()}
    for count in (FEW, MANY):
        for index, model in enumerate(MODELS):
            write_small(scratch / model, count, index)
        for merge in merges():
            print(f"{count:,} tensors, {merge.name} …", file=sys.stderr, flush=True)
            merged(args, scratch, merge)
            rows[merge.name][count] = spread([merged(args, scratch, merge).seconds for _ in range(args.repeat)])
        remove_models(scratch)
    for times in rows.values():
        times["overhead"] = (times[MANY]["best"] - times[FEW]["best"]) / (MANY - FEW)
    return rows


def many_table(rows):
    """Time per tensor by method."""
    head = ["method", f"{MANY:,} tensors, s", "median", f"{FEW} tensors, s", "median", "µs per tensor", "target"]
    cells = []
    for name, times in rows.items():
        seconds = [number(times[count][kind], 3) for count in (MANY, FEW) for kind in ("best", "median")]
        reached = "reached" if times["overhead"] <= OVERHEAD_LIMIT else "MISSED"
        cells.append([name, *seconds, number(times["overhead"] * 1e6, 1), reached])
    return table(head, cells)


def write_small(directory, count, index):
    """A checkpoint of MANY × ELEMENTS elements in `count` tensors; model 0 is the base, the others differ a little."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = MANY * ELEMENTS // count // 16
    layers = max(1, count // PER_LAYER)
    names = [small_name(i) for i in range(count)] if count > FEW else [f"model.layers.0.part{i}.weight" for i in range(count)]
    # Bits of bf16 numbers near 0.01, in a fixed pattern: low bits differ between the models.
    pattern = bytes(b for i in range(4096) for b in ((i * 37 + index * (i % 3)) % 128, 0x3C))
    with open(directory / "model.safetensors", "wb") as file:
        file.write(header([(name, (rows, 16)) for name in names]))
        whole, rest = divmod(MANY * ELEMENTS * 2, len(pattern))
        file.write(pattern * whole + pattern[:rest])
    write_side_files(directory, {"hidden": 16, "intermediate": 16, "layers": layers, "heads": 1, "vocab": 64})


def small_name(i):
    """Names of a mixture of experts, so that layers and kinds are found in them."""
    layer, place = divmod(i, PER_LAYER)
    if place == PER_LAYER - 1:
        return f"model.layers.{layer}.input_layernorm.weight"
    expert, kind = divmod(place, 3)
    return f"model.layers.{layer}.mlp.experts.{expert}.{('gate', 'up', 'down')[kind]}_proj.weight"


def merged(args, scratch, merge, sample=None):
    """One run of onefold from a clean start; its output is checked for size and removed."""
    (scratch / "recipe.yaml").write_text(merge.recipe(), encoding="utf-8")
    measure.settle(scratch / "out")
    output = scratch / "out" / "model"
    command = [args.onefold, "merge", "recipe.yaml", "-o", str(output), "--force", "--quiet"]
    run = measure.run(command, scratch, {**os.environ, "HF_HUB_OFFLINE": "1"}, sample)
    written, expected = weight_bytes(output), weight_bytes(scratch / "base")
    # Headers may differ by some bytes per tensor; data may not be missing.
    if written < expected * 0.9:
        raise Failed(f"{merge.name}: {written} bytes of weights written, expected about {expected}")
    measure.settle(scratch / "out")
    return run


def remove_models(scratch):
    """Makes room for the next inputs."""
    for model in MODELS:
        shutil.rmtree(scratch / model)


if __name__ == "__main__":
    sys.exit(main())
