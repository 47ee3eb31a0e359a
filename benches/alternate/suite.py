#!/usr/bin/env python3
"""One budget split into rounds of tuning and merging, beside one merge of experts and joint tuning; and the refinement of a merge.

    bash ../adapt/vision/fetch.sh DATA && python ../adapt/vision/prepare.py DATA                        # vision
    bash ../tune/fetch.sh DATA && python ../tune/prepare.py DATA && python ../tune/base.py DATA         # decoder
    python suite.py vision --onefold target/release/onefold --data DATA --seeds 3

`vision` (R1): six picture tasks on a ViT of 1.2 M parameters, data, base and heads those of ../adapt/suite.py. Heads are fitted on the base and
then stay as they are; transformers tells the pictures of the tests. `decoder` (R3): five tasks of ../tune on a decoder of 1 M parameters;
onefold scores the rows of the tests, by accuracy of learnt tokens.

Every way learns from the same rows of each task (`--rows`) for the same number of passes (`--budget`): 1 × 10 epochs and one merge, 2 × 5,
5 × 2, 10 × 1; the experts of 1 × 10 merged once by task arithmetic (λ = 0.3, and the best λ on validation rows) and TIES; one joint training.
Of pictures the joint training has heads of its own, which begin anew. Refinement (PH) begins at the average of the experts and learns from validation rows, five rounds of an epoch.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "merge"))

from table import table  # noqa: E402


def sibling(name, path):
    """A script that has the name of this one."""
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adapt = sibling("adapt_suite", HERE.parent / "adapt/suite.py")

SPLITS = (1, 2, 5, 10)
LAMBDAS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0]
DECODER = ("languages", "gloss", "word", "tags", "phonemes")
# Rows of a task, and rates, as the suites' own fine-tunes have them.
ROWS = {"vision": 1000, "decoder": 2000}
RATES = {"vision": 1e-4, "decoder": 3e-4}


def main():
    """Makes what is missing, scores all of it, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=("vision", "decoder"))
    parser.add_argument("--onefold", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=10, help="epochs of each task")
    parser.add_argument("--rows", type=int, help="of each task, to learn from")
    parser.add_argument("--rounds", type=int, default=5, help="of the refinement")
    parser.add_argument("--tasks", nargs="*", help="some of the suite's")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    args.onefold, args.data = args.onefold.resolve(), args.data.resolve()
    args.rows = args.rows or ROWS[args.suite]
    args.unseen, args.corrupt, args.ways = False, None, None
    kind = {"vision": Vision, "decoder": Decoder}[args.suite]
    kind.base(args)
    scores = {}
    for seed in range(args.seeds):
        for name, of_tasks in kind(args, seed).ways():
            told = ", ".join(f"{task} {100 * value:.1f}" for task, value in of_tasks.items())
            print(f"seed {seed}: {name}: {told}", file=sys.stderr, flush=True)
            scores.setdefault(name, []).append(of_tasks)
    text = report(scores)
    if args.results:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.with_suffix(".json").write_text(json.dumps(scores, indent=1) + "\n")
        args.results.with_suffix(".md").write_text(text + "\n")
    print(text)


class Bench:
    """All ways with one seed."""

    def __init__(self, args, tasks, seed):
        self.args, self.seed = args, seed
        self.tasks = [task for task in tasks if not args.tasks or task in args.tasks]
        self.work = args.data / "alternate" / args.suite / f"rows-{args.rows}" / f"seed-{seed}"
        self.work.mkdir(parents=True, exist_ok=True)

    def ways(self):
        """Name and accuracies, way after way."""
        budget = self.args.budget
        self.prepare()
        yield "base", self.scored("base", self.base_model)
        experts = {task: self.expert(task) for task in self.tasks}
        yield "experts, each on its task", {task: self.told(out, task, "test") for task, out in experts.items()}
        for rounds in [split for split in SPLITS if budget % split == 0]:
            out = self.alternate(f"{rounds}x{budget // rounds}", rounds, {"epochs": budget // rounds})
            yield f"{rounds} × {budget // rounds}", {task: self.told(self.product(out, task), task, "test") for task in self.tasks}
        yield "task arithmetic, λ = 0.3", self.merged(experts, "task_arithmetic", {"weight": 0.3}, "test")
        sweep = {value: self.merged(experts, "task_arithmetic", {"weight": value}, "valid") for value in LAMBDAS}
        best = max(LAMBDAS, key=lambda value: statistics.fmean(sweep[value].values()))
        yield "task arithmetic, best λ", self.merged(experts, "task_arithmetic", {"weight": best}, "test")
        yield "TIES", self.merged(experts, "ties", {"weight": 1.0, "density": 0.2}, "test")
        joint = self.joint()
        yield "joint tuning", {task: self.told(self.product(joint, task), task, "test") for task in self.tasks}
        start = self.average(experts)
        yield "average of the experts", self.merged(experts, "task_arithmetic", {"weight": 1 / len(self.tasks)}, "test")
        refined = self.alternate(f"refined-{self.args.rounds}", self.args.rounds, {"epochs": 1}, start=start)
        yield f"refined, {self.args.rounds} × 1", {task: self.told(self.product(refined, task), task, "test") for task in self.tasks}

    def recipe(self):
        """What all tunings have in common."""
        return {
            "optimizer": {"kind": "adamw", "lr": RATES[self.args.suite], "weight_decay": 0.1}, "clip": 10,
            "batch": {"examples": 16, "micro": 16, **self.batch}, "checkpoints": {"every": "never", "keep": 1},
        }

    def alternate(self, name, rounds, budget, start=None):
        """What `onefold alternate` makes."""
        tasks = [self.entry(task, refines=start is not None) for task in self.tasks]
        recipe = self.recipe() | {"tasks": tasks, "rounds": rounds, "budget": budget, "base_model": str(start or self.base_model)}
        if start:
            recipe["data"] = "validation"
        return self.made("alternate", name, recipe)

    def expert(self, task):
        """A tuning of one task: a single round of it."""
        recipe = self.recipe() | {
            "tasks": [self.entry(task)], "rounds": 1, "budget": {"epochs": self.args.budget}, "base_model": str(self.base_model),
        }
        return self.made("alternate", f"expert-{task}", recipe)

    def merged(self, experts, method, parameters, part):
        """Accuracies of one merge of the experts."""
        words = "-".join(f"{key}-{value}" for key, value in parameters.items())
        models = [{"model": str(experts[task]), "parameters": parameters} for task in self.tasks]
        recipe = {"merge_method": method, "base_model": str(self.base_model), "models": models}
        return {task: self.of_merge(f"{method}-{words}", recipe, task, part) for task in self.tasks}

    def average(self, experts):
        """The average of the experts' trunks, as a model of its own."""
        weight = {"weight": 1 / len(self.tasks)}
        models = [{"model": str(experts[task]), "parameters": weight} for task in self.tasks]
        recipe = {"merge_method": "task_arithmetic", "base_model": str(self.base_model), "models": models}
        return self.made("merge", "average", self.trunk(recipe))

    def made(self, command, name, recipe):
        """Runs the program, unless what it makes is there."""
        out = self.work / name
        if not (out / "onefold.json").exists():
            path = self.work / f"{name}.yaml"
            path.write_text(json.dumps(recipe))
            words = [str(self.args.onefold), command, str(path), "-o", str(out), "--force", "--quiet", "--seed", str(self.seed)]
            subprocess.run(words, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        return out

    def kept(self, name, task, part, score):
        """A score that is computed once."""
        path = self.work / "scores" / f"{name.replace('/', '--')}-{task}-{part}.json"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(score()))
        return json.loads(path.read_text())


class Vision(Bench):
    """Six picture tasks, each with its head on the base."""

    batch = {}

    @staticmethod
    def base(args):
        """The base is trained once."""
        adapt.base(args, adapt.SUITES["vision"])

    def __init__(self, args, seed):
        super().__init__(args, adapt.SUITES["vision"].tasks, seed)
        self.other = adapt.Bench(args, adapt.SUITES["vision"], seed)
        self.base_model = args.data / adapt.SUITES["vision"].base

    def prepare(self):
        """Fits the heads, as the suite of merges does."""
        self.heads = {task: self.other.head(task) for task in self.tasks}

    def entry(self, task, refines=False):
        """A task of a recipe."""
        rows = {"validation": str(self.other.rows(task, "valid"))} if refines else {"train": str(self.other.rows(task, "train")), "samples": self.args.rows}
        return {"name": task, "head": str(self.heads[task])} | rows

    def product(self, out, task):
        """The model of a task."""
        return out / task if (out / task).is_dir() else out

    def told(self, model, task, part):
        """Accuracy, by transformers."""
        name = str(Path(model).relative_to(self.work))
        return self.kept(name, task, part, lambda: adapt.image_accuracy(self.args.data, model, self.other.rows(task, part)))

    def scored(self, _, __):
        """The base under each head."""
        score = lambda task: adapt.image_accuracy(self.args.data, self.heads[task], self.other.rows(task, "test"))  # noqa: E731
        return {task: self.kept("base", task, "test", lambda task=task: score(task)) for task in self.tasks}

    def of_merge(self, name, recipe, task, part):
        """Accuracy of a merge with the head of a task. The model is not kept."""
        def score():
            made = self.made("merge", f"{name}-{task}", recipe | {"head": {"model": str(self.heads[task]), "tensors": ["classifier"]}})
            found = adapt.image_accuracy(self.args.data, made, self.other.rows(task, part))
            shutil.rmtree(made)
            return found

        return self.kept(name, task, part, score)

    def trunk(self, recipe):
        """The trunks alone are merged: each expert has a head of another size, which the base lacks."""
        models = []
        for model in recipe["models"]:
            bare = Path(str(model["model"]) + "-trunk")
            if not bare.exists():
                strip(Path(model["model"]), bare)
            models.append(model | {"model": str(bare)})
        return recipe | {"models": models}

    def joint(self):
        """One trunk tuned on all tasks, with heads of its own: as many passes over as many rows."""
        tasks = [{"name": task, "train": str(self.other.rows(task, "train")), "samples": self.args.rows} for task in self.tasks]
        recipe = self.recipe() | {"base_model": str(self.base_model), "tasks": tasks, "validation": False, "epochs": self.args.budget}
        examples = 16 * len(self.tasks)
        recipe |= {"schedule": {"kind": "constant", "warmup": 0}, "batch": {"examples": examples, "micro": examples}}
        return self.made("tune", "joint", recipe)


def strip(model, bare):
    """A copy of a classifier without its head."""
    from safetensors.torch import load_file, save_file

    bare.mkdir()
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}, bare / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(model / name, bare)


class Decoder(Bench):
    """Five tasks that a small decoder writes."""

    batch = {"length": 64}

    @staticmethod
    def base(args):
        """The base is pretrained once, as ../tune/run.py does it."""
        made, recipe = args.data / "r3/base", HERE.parent / "tune/recipes/pretrain.yaml"
        if not (made / "config.json").exists():
            shutil.copy(recipe, args.data / "r3")
            words = [str(args.onefold), "tune", recipe.name, "-o", str(made), "--quiet"]
            subprocess.run(words, check=True, cwd=args.data / "r3")

    def __init__(self, args, seed):
        super().__init__(args, DECODER, seed)
        self.base_model = args.data / "r3/base"

    def prepare(self):
        """Nothing has a head of its own."""

    def rows(self, task, part):
        """The file of rows."""
        return str(self.args.data / f"r3/{task}-{part}.jsonl")

    def entry(self, task, refines=False):
        """A task of a recipe."""
        if refines:
            return {"name": task, "validation": self.rows(task, "valid")}
        return {"name": task, "train": self.rows(task, "train"), "samples": self.args.rows}

    def product(self, out, _):
        """One model for all."""
        return out

    def told(self, model, task, part):
        """Accuracy of learnt tokens: what `alternate` says of the model that it begins at."""
        name = str(Path(model).relative_to(self.work)) if Path(model).is_relative_to(self.work) else "base"

        def score():
            tasks = [{"name": task, "train": self.rows(task, "train"), "samples": 16, "validation": self.rows(task, part)}]
            recipe = self.recipe() | {"base_model": str(model), "tasks": tasks, "rounds": 1, "budget": {"steps": 1}}
            out = self.made("alternate", "scoring", recipe)
            found = json.loads((out / "onefold.json").read_text())["result"]["validation"][task]["start"]["accuracy"]
            shutil.rmtree(out)
            return found

        return self.kept(name, task, part, score)

    def scored(self, _, model):
        """The base itself."""
        return {task: self.told(model, task, "test") for task in self.tasks}

    def of_merge(self, name, recipe, task, part):
        """Accuracy of a merge."""
        return self.told(self.made("merge", name, recipe), task, part)

    def trunk(self, recipe):
        """All is trunk."""
        return recipe

    def joint(self):
        """One training of all tasks: as many passes over as many rows."""
        recipe = self.recipe() | {
            "base_model": str(self.base_model), "tasks": [self.entry(task) for task in self.tasks], "validation": False, "epochs": self.args.budget,
        }
        examples = 16 * len(self.tasks)
        recipe |= {"schedule": {"kind": "constant", "warmup": 0}, "batch": {"examples": examples, "micro": examples, **self.batch}}
        return self.made("tune", "joint", recipe)


def report(scores):
    """The table."""
    tasks = list(scores["base"][0])
    lines = []
    for name, runs in scores.items():
        cells = [adapt.spread([100 * run[task] for run in runs]) for task in tasks]
        own = scores["experts, each on its task"]
        shares = [100 * statistics.fmean(run[task] / alone[task] for task in tasks) for run, alone in zip(runs, own)]
        mean = [100 * statistics.fmean(run.values()) for run in runs]
        lines.append([name, *cells, adapt.spread(mean), adapt.spread(shares)])
    return table(["way", *tasks, "mean", "of its expert, %"], lines)


if __name__ == "__main__":
    main()
