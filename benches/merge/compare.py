#!/usr/bin/env python3
"""Merges the same models with onefold and with mergekit, and holds both against what the machine can do.

    python compare.py --onefold target/release/onefold --dir DIR

DIR holds what `generate.py DIR` made. For each method of `recipes.py`, in one run: the physical reference (`cat` of all
inputs, `cp` of one model, fsync of the copy), onefold, mergekit. See README.md for what is measured and how.
Exit code: 0 if every target was reached, 1 if not, 2 for bad arguments.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import agreement
import measure
from checkpoint import save_json, weight_bytes, weight_files
from measure import Failed, spread
from recipes import rows
from table import mb, number, table

HERE = Path(__file__).resolve().parent
# Intervals at which memory is polled, in seconds: onefold in a run of its own, mergekit in its timed runs, which
# are long enough not to notice.
FINE, COARSE = 0.002, 0.02
MEMORY_LIMIT = 256e6
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}


def main():
    """Measures every row, prints the table, writes the figures."""
    args = arguments()
    bench = Bench(args)
    results = {"machine": measure.machine(args.dir), "tools": bench.tools(), "models": bench.models(), "rows": {}}
    for merge in bench.chosen:
        print(f"{merge.name} …", file=sys.stderr, flush=True)
        results["rows"][merge.name] = bench.row(merge)
        save_json(args.results, results)
    text = report(results, bench.chosen)
    args.results.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if all(not row["missed"] for row in results["rows"].values()) else 1


def arguments():
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, help="the program")
    parser.add_argument("--mergekit", default="mergekit-yaml", help="the peer's program (default: from PATH)")
    parser.add_argument("--dir", type=Path, required=True, help="what generate.py wrote")
    parser.add_argument("--methods", nargs="+", choices=list(rows()), metavar="ROW", help=", ".join(rows()))
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of onefold and of the reference")
    parser.add_argument("--mergekit-repeat", type=int, default=1, help="timed runs of mergekit")
    parser.add_argument("--skip-mergekit", action="store_true")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "compare.json", help="a table goes beside it")
    args = parser.parse_args()
    args.dir, args.results = args.dir.resolve(), args.results.resolve()
    args.onefold = program(parser, args.onefold)
    args.mergekit = None if args.skip_mergekit else program(parser, args.mergekit)
    for model in ("base", "expert1", "expert2", "expert3"):
        if not weight_files(args.dir / model):
            parser.error(f"no model in {args.dir / model}: run generate.py {args.dir} first")
    if min(args.repeat, args.mergekit_repeat) < 1:
        parser.error("at least one run is needed")
    args.results.parent.mkdir(parents=True, exist_ok=True)
    return args


def program(parser, name):
    """The absolute path of a program."""
    path = shutil.which(name)
    return os.path.abspath(path) if path else parser.error(f"cannot run {name}")


class Bench:
    """What all rows share: where the models are, what was measured of the peer."""

    def __init__(self, args):
        self.args = args
        self.chosen = [rows()[name] for name in args.methods] if args.methods else list(rows().values())
        self.out = args.dir / "out"
        self.environment = {**os.environ, **OFFLINE}
        self.base = agreement.sample(args.dir / "base", args.dir / "base")
        self.peers, self.startup = {}, self.measure_startup() if args.mergekit else None
        # Everything once, so that nothing below reads a disk.
        measure.warm([file for model in ("base", "expert1", "expert2", "expert3") for file in self.files(model)])

    def files(self, model):
        return weight_files(self.args.dir / model)

    def models(self):
        """What generate.py said about the models."""
        path = self.args.dir / "models.json"
        return json.loads(path.read_text()) if path.exists() else None

    def tools(self):
        """Versions, and how long the peer takes to do nothing."""
        tools = {"onefold": measure.version([self.args.onefold])}
        if self.args.mergekit:
            tools |= {"mergekit": peer_versions(self.args.mergekit), "mergekit_startup_seconds": self.startup}
        return tools

    def measure_startup(self):
        """What every run of the peer spends on imports. The first run only warms the page cache."""
        command = [self.args.mergekit, "--help"]
        return spread([measure.run(command, env=self.environment).seconds for _ in range(4)][1:])

    def row(self, merge):
        """All figures of one row."""
        inputs = [file for model in merge.inputs() for file in self.files(model)]
        row = {
            "recipe": merge.recipe(),
            "inputs": merge.inputs(),
            "bytes_in": sum(file.stat().st_size for file in inputs),
            "bytes_out": weight_bytes(self.args.dir / "base"),
            "limit": merge.limit,
        }
        try:
            row |= self.onefold(merge, inputs)
        except (Failed, agreement.Disagreement) as error:
            row["error"] = self.scrub(error)
        if self.args.mergekit and merge.peer_row():
            row["mergekit"] = self.mergekit(rows()[merge.peer_row()])
        row |= self.summary(merge, row)
        return {key: value for key, value in row.items() if key != "sample"}

    def onefold(self, merge, inputs):
        """One run for memory and correctness, then pairs of reference and timed run."""
        command = self.command(merge, self.args.onefold, "merge", merge.name + ".yaml", "-o", str(self.out / "model"))
        measure.settle(self.out)
        watched = measure.run(command, self.args.dir, self.environment, FINE)
        sample = agreement.sample(self.out / "model", self.args.dir / "base")
        references, runs = [], []
        for _ in range(self.args.repeat):
            measure.settle(self.out)
            references.append(measure.reference(inputs, self.files("base")[0], self.out / "copy"))
            measure.settle(self.out)
            runs.append(measure.run(command, self.args.dir, self.environment))
        measure.settle(self.out)
        return {"watched": asdict(watched), "references": references, "runs": list(map(asdict, runs)), "sample": sample}

    def command(self, merge, *words):
        """Writes the recipe beside the models, where relative names lead to them for both tools."""
        (self.args.dir / f"{merge.name}.yaml").write_text(merge.recipe(), encoding="utf-8")
        return [*words, "--force", "--quiet"] if words[1] == "merge" else list(words)

    def mergekit(self, merge):
        """The peer's runs of a row; each row once, however many rows refer to it."""
        if merge.name not in self.peers:
            self.peers[merge.name] = self.measure_mergekit(merge)
        return self.peers[merge.name]

    def measure_mergekit(self, merge):
        command = self.command(merge, self.args.mergekit, merge.name + ".yaml", str(self.out / "model"))
        runs, syncs = [], []
        try:
            for _ in range(self.args.mergekit_repeat):
                measure.settle(self.out)
                runs.append(measure.run(command, self.args.dir, self.environment, COARSE))
                syncs.append(measure.sync(self.out / "model"))
            sample = agreement.sample(self.out / "model", self.args.dir / "base")
        except (Failed, agreement.Disagreement) as error:
            return {"error": self.scrub(error)}
        finally:
            measure.settle(self.out)
        return {"runs": list(map(asdict, runs)), "sync_seconds": syncs, "sample": sample}

    def summary(self, merge, row):
        """What the table shows, from the raw figures."""
        summary, missed = {}, []
        if "runs" in row:
            ours = spread([run["seconds"] for run in row["runs"]])
            limit = spread([reference["seconds"] for reference in row["references"]])
            ratio = {kind: ours[kind] / limit[kind] for kind in ("best", "median")}
            summary |= {"seconds": ours, "reference": limit, "ratio": ratio}
            missed += ["time"] * (ratio["best"] > merge.limit)
            # No process does without anonymous memory: 0 means that nothing was seen.
            missed += ["memory"] * (not 0 < row["watched"]["peak_anonymous"] <= MEMORY_LIMIT)
        else:
            missed.append("failed")
        peer = row.get("mergekit", {})
        if "runs" in peer:
            theirs = spread([run["seconds"] for run in peer["runs"]])
            summary["mergekit_seconds"] = theirs
            summary["mergekit_work_seconds"] = max(0.0, theirs["best"] - self.startup["best"])
            if "runs" in row:
                summary["speedup"] = theirs["best"] / summary["seconds"]["best"]
            if "sample" in row and merge.peer_row() == merge.name and not merge.random:
                summary["distance"] = agreement.distance(row["sample"], peer["sample"], self.base)
        # The samples have served; a copy, because other rows may refer to the same peer.
        if peer:
            summary["mergekit"] = {key: value for key, value in peer.items() if key != "sample"}
        return summary | {"missed": missed}

    def scrub(self, error):
        """An error's text without this machine's paths."""
        return str(error).replace(str(self.args.dir), "DIR").replace(str(Path.home()), "~")


def peer_versions(script):
    """Versions of the peer and what it stands on, asked of the interpreter that its script names."""
    with open(script, "rb") as file:
        interpreter = file.readline().decode(errors="replace").removeprefix("#!").strip()
    code = "import sys, importlib.metadata as m; print(*[p + ' ' + m.version(p) for p in sys.argv[1:]], sep='\\n')"
    packages = ["mergekit", "torch", "transformers", "safetensors"]
    said = subprocess.run([interpreter, "-c", code, *packages], capture_output=True, text=True, check=False)
    return said.stdout.split("\n")[:-1]


HEAD = [
    "row",
    "onefold s",
    "median",
    "reference s",
    "× reference",
    "median",
    "limit",
    "GB/s",
    "anon MB",
    "mergekit s",
    "at work s",
    "speed-up",
    "anon MB ",
    "distance",
    "targets",
]


def report(results, chosen):
    """The table, and a line about the machine and the tools."""
    machine, tools = results["machine"], results["tools"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB, {machine['filesystem']}"]
    lines += [", ".join(filter(None, [tools["onefold"], *tools.get("mergekit", [])]))]
    if "mergekit_startup_seconds" in tools:
        lines += [f"mergekit takes {tools['mergekit_startup_seconds']['best']:.1f} s of every run to start"]
    lines += ["", table(HEAD, [cells(merge.name, results["rows"][merge.name]) for merge in chosen]), ""]
    errors = {name: row.get("error") or row.get("mergekit", {}).get("error") for name, row in results["rows"].items()}
    lines += [f"{name}: {error.splitlines()[-1]}" for name, error in errors.items() if error]
    return "\n".join(lines).rstrip("\n") + "\n"


def cells(name, row):
    """One line of the table."""
    seconds, reference, ratio = (row.get(key, {}) for key in ("seconds", "reference", "ratio"))
    theirs = row.get("mergekit", {}).get("runs", [])
    rate = (row["bytes_in"] + row["bytes_out"]) / 1e9 / seconds["best"] if seconds else None
    return [
        name,
        number(seconds.get("best")),
        number(seconds.get("median")),
        number(reference.get("best")),
        number(ratio.get("best")),
        number(ratio.get("median")),
        number(row["limit"], 1),
        number(rate),
        mb(row.get("watched", {}).get("peak_anonymous")),
        number(row.get("mergekit_seconds", {}).get("best"), 1),
        number(row.get("mergekit_work_seconds"), 1),
        number(row.get("speedup"), 1),
        mb(max((run["peak_anonymous"] for run in theirs), default=None)),
        number(row.get("distance"), 3),
        "MISSED " + ", ".join(row["missed"]) if row["missed"] else "reached",
    ]


if __name__ == "__main__":
    sys.exit(main())
