#!/usr/bin/env python3
"""Joint trainings of real tasks by onefold with several balancers and seeds, and what came of each task.

    bash fetch.sh DATA && python prepare.py DATA && python base.py DATA
    python run.py --onefold target/release/onefold --data DATA --seeds 3

For each suite (r3: a decoder of 1 M parameters, five tasks; r2: MiniLM, four) every balancer runs with every seed, in turns, each
run a process of its own. A seed decides the order of rows, so seeds are paired: all balancers see the same rows. What a validation
of all rows says is read from `metrics.jsonl`. Runs that are complete in DATA/runs are not made again.

The target of a task is the loss that `uniform` has, in the mean over seeds, in the middle of the training. Nothing is judged here:
the table says what happened, whoever wins.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

import curves  # noqa: E402
import measure  # noqa: E402
from table import table  # noqa: E402


@dataclass(frozen=True)
class Suite:
    """Tasks and a model."""

    name: str
    steps: int
    # Settings of balancers that depend on the length of the training.
    settings: dict = field(default_factory=dict)


SUITES = {
    # CoBa's window is twice its warm-up, as in its paper, and fits several times into the training.
    "r3": Suite("r3", 1000, {"coba": {"window": 100, "warmup": 50}, "dwa": {"period": 50}}),
    "r2": Suite("r2", 200, {"coba": {"window": 40, "warmup": 20}, "dwa": {"period": 20}}),
}
BALANCERS = ["uniform", "coba", "famo", "dwa"]


@dataclass
class Run:
    """What one training told."""

    # task → [(step, loss, accuracy)]
    curves: dict
    # task → weight of the last line
    weights: dict
    seconds: float
    tokens: int
    # Seconds of the steps alone: those of log lines between which there was no validation.
    tokens_per_second: float

    def best(self, task):
        """Step, loss and accuracy where the loss is least."""
        return min(self.curves[task], key=lambda point: point[1])

    def last(self, task):
        """Those after the last step."""
        return self.curves[task][-1]

    def reached(self, task, target):
        """The first validated step with at most that loss; none if there is none."""
        return next((step for step, loss, _ in self.curves[task] if loss <= target), None)


def main():
    """Runs what is not there yet, prints the tables, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onefold", required=True, type=Path, help="the program")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--suites", nargs="*", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--balancers", nargs="*", default=BALANCERS, help="kinds; `uniform` is needed for the targets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="other than the suites' own, for a trial")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "run.json")
    args = parser.parse_args()
    args.onefold, args.data = args.onefold.resolve(), args.data.resolve()
    if "r3" in args.suites:
        pretrain(args)
    text = [f"# Joint trainings\n\n{machine(args)}\n"]
    figures = {}
    for name in args.suites:
        runs = {kind: [] for kind in args.balancers}
        for seed in range(args.seeds):
            for kind in args.balancers:
                runs[kind].append(once(SUITES[name], kind, seed, args))
        text.append(report(SUITES[name], runs, args))
        drawn = args.results.with_name(f"{name}.svg")
        drawn.parent.mkdir(parents=True, exist_ok=True)
        drawn.write_text(curves.svg(runs, list(runs[args.balancers[0]][0].curves)))
        figures[name] = {kind: [run.__dict__ for run in of] for kind, of in runs.items()}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(figures, indent=1) + "\n")
    args.results.with_suffix(".md").write_text("\n".join(text))
    print("\n".join(text))


def machine(args):
    """What times depend on."""
    facts = measure.machine(args.data)
    version = measure.version([str(args.onefold)]) or "onefold"
    return f"{version}; {facts['cpu']}, {args.threads} threads, load {facts['load']:.1f} at the end; {facts['time']}"


def pretrain(args):
    """The decoder's base, once."""
    directory = args.data / "r3"
    if not (directory / "base/config.json").exists():
        print("pretraining …", file=sys.stderr, flush=True)
        extra = [] if args.steps is None else ["--set", f"steps={args.steps}", "--set", f"schedule.warmup={args.steps // 20}"]
        start = time.perf_counter()
        tune(args, directory, HERE / "recipes/pretrain.yaml", directory / "base", 0, extra)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


def once(suite, kind, seed, args):
    """One training, unless it is there already."""
    steps = args.steps or suite.steps
    out = args.data / "runs" / f"{suite.name}-{kind}-{seed}-{steps}"
    clock = out.with_suffix(".seconds")
    if not clock.exists():
        print(out.name, "…", file=sys.stderr, flush=True)
        settings = {"balancer.kind": kind, "steps": steps}
        settings |= {f"balancer.{key}": value for key, value in suite.settings.get(kind, {}).items()}
        if args.steps:
            settings |= shortened(suite, kind, steps)
        extra = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        start = time.perf_counter()
        tune(args, args.data / suite.name, HERE / f"recipes/{suite.name}.yaml", out, seed, extra)
        clock.write_text(f"{time.perf_counter() - start}\n")
    return read(out / "metrics.jsonl", float(clock.read_text()))


def shortened(suite, kind, steps):
    """What else has to shrink with a training that is a trial."""
    every = max(1, steps // 4)
    settings = {"validation.every.steps": every, "log": max(1, every // 2), "schedule.warmup": max(1, steps // 20)}
    if kind in suite.settings:
        settings |= {"balancer.window": max(4, steps // 5), "balancer.warmup": max(2, steps // 10)}
    return settings


def tune(args, directory, recipe, out, seed, extra):
    """Runs the program in the directory that the recipe's paths are of, on a copy of the recipe there."""
    copy = directory / recipe.name
    copy.write_text(recipe.read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [args.onefold, "tune", copy.name, "-o", out, "--seed", seed, "--threads", args.threads, "--quiet", *extra]
    try:
        subprocess.run([*map(str, command)], cwd=directory, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, command))}\n{error.stdout[-2000:]}{error.stderr[-2000:]}")


def read(path, seconds):
    """`metrics.jsonl` of a run."""
    curves, weights, rates, tokens, validated = {}, {}, [], 0, True
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if line["kind"] == "validation":
            validated = True
            for task, of in line["tasks"].items():
                curves.setdefault(task, []).append((line["step"], finite(of["loss"]), of["accuracy"]))
        else:
            if not validated:
                rates.append(line["tokens_per_second"])
            tokens, validated = line["tokens"], False
            weights = {task: of["weight"] for task, of in line["tasks"].items()}
    return Run(curves, weights, seconds, tokens, statistics.median(rates) if rates else math.nan)


def finite(loss):
    """A loss that was none counts as the worst."""
    return math.inf if loss is None else loss


def report(suite, runs, args):
    """Both tables of a suite."""
    first = next(iter(runs.values()))[0]
    tasks = list(first.curves)
    steps = args.steps or suite.steps
    middle = min((step for step, _, _ in first.curves[tasks[0]]), key=lambda step: abs(step - steps / 2))
    targets = {task: target(runs.get("uniform"), task, middle) for task in tasks}
    head = ["task", "balancer", "first loss", "best loss", "at step", "last loss", "best acc. %", "last acc. %",
            "steps to target", "last ω"]
    rows = [task_row(task, kind, of, targets[task]) for task in tasks for kind, of in runs.items()]
    overall = ["balancer", "mean loss", "worst task's loss", "mean acc. %", "worst task's acc. %", "all at target",
               "time s", "tokens/s"]
    lines = [overall_row(kind, of, tasks, targets) for kind, of in runs.items()]
    named = ", ".join(f"{task} {value:.4f}" for task, value in targets.items() if value is not None)
    return "\n".join([
        f"## {suite.name}: {steps} steps, {len(first_list(runs))} seeds, mean ± standard deviation", "",
        f"Targets, the losses of `uniform` at step {middle}: {named or 'none, as it did not run'}.", "",
        table(overall, lines), "", table(head, rows), "",
    ])


def first_list(runs):
    """The runs of any balancer."""
    return next(iter(runs.values()))


def target(uniform, task, middle):
    """Mean loss of the uniform runs at a step."""
    if not uniform:
        return None
    return statistics.mean(loss for run in uniform for step, loss, _ in run.curves[task] if step == middle)


def task_row(task, kind, runs, goal):
    """A task under a balancer."""
    best, last = [run.best(task) for run in runs], [run.last(task) for run in runs]
    percent = lambda points: spread([100 * point[2] for point in points], 1)
    best_accuracy = [max(100 * point[2] for point in run.curves[task]) for run in runs]
    return [
        task, kind, spread([run.curves[task][0][1] for run in runs]), spread([point[1] for point in best]),
        spread([point[0] for point in best], 0), spread([point[1] for point in last]), spread(best_accuracy, 1), percent(last),
        reached([run.reached(task, goal) for run in runs] if goal is not None else []), spread([run.weights[task] for run in runs], 3),
    ]


def overall_row(kind, runs, tasks, targets):
    """All tasks under a balancer, after the last step."""
    losses = [[run.last(task)[1] for task in tasks] for run in runs]
    accuracies = [[100 * run.last(task)[2] for task in tasks] for run in runs]
    whole = []
    for run in runs if all(value is not None for value in targets.values()) else []:
        steps = [run.reached(task, targets[task]) for task in tasks]
        whole.append(None if None in steps else max(steps))
    return [
        kind, spread(map(statistics.mean, losses)), spread(map(max, losses)), spread(map(statistics.mean, accuracies), 1),
        spread(map(min, accuracies), 1), reached(whole), spread([run.seconds for run in runs], 0),
        spread([run.tokens_per_second for run in runs], 0),
    ]


def spread(values, digits=4):
    """Mean ± standard deviation."""
    values = list(values)
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values) if math.isfinite(mean) else math.nan:.{digits}f}"


def reached(steps):
    """Mean of the steps, and how many runs got there if not all."""
    there = [step for step in steps if step is not None]
    if not there:
        return "never" if steps else "–"
    mean = f"{statistics.mean(there):.0f}"
    return mean if len(there) == len(steps) else f"{mean} ({len(there)} of {len(steps)})"


if __name__ == "__main__":
    main()
